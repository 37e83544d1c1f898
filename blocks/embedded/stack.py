"""The embedded stack as one thing: start what is not running, say where it is, stop all of it."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import SecretStr

from blocks.embedded import postgres, prefect_server, processes
from blocks.embedded.processes import LOOPBACK, Running
from blocks.embedded.seaweedfs import PORTS, start_seaweedfs
from blocks.errors import InvalidInputError

LONGEST_SOCKET_FOLDER = 90
"""A Unix socket's path ends at about 107 bytes, and PostgreSQL adds its file name."""


@dataclass
class _State:
    """What is remembered between commands, in `stack.json` (readable by its owner only: it holds the S3 secret)."""

    ports: dict[str, int] = field(default_factory=dict)
    access_key: str = ""
    secret_key: str = ""
    processes: dict[str, Running] = field(default_factory=dict)
    kept: bool = False


@dataclass(frozen=True)
class Endpoints:
    """Where the parts of a running stack are."""

    postgres_folder: Path
    s3_url: str
    access_key: str
    secret_key: SecretStr
    prefect_url: str


class Stack:
    """All servers under one folder. Every method can be called at any time, from any process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.data = self.folder / "pg"

    def start(self, *, prefect: bool = True, say: Callable[[str], None] = lambda line: None) -> Endpoints:
        """Start every part that is not running; addresses stay what they were, unless somebody took a port.

        Raises:
            InvalidInputError: the folder's path is too long for a socket in it.
        """
        if len(os.fsencode(self.data)) > LONGEST_SOCKET_FOLDER:
            raise InvalidInputError(
                f"the path {self.data} is too long for PostgreSQL's socket ({LONGEST_SOCKET_FOLDER} bytes at most); "
                "set TRANSCODE_FLOW_HOME to a shorter folder"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._state() as state:
            # What was killed since is nobody's wish any more.
            state.kept = state.kept and any(processes.find(one) for one in state.processes.values())
            say("PostgreSQL")
            state.processes["postgres"] = postgres.start(self.data)
            self._save(state)
            if processes.find(state.processes.get("s3")) is None:
                say("S3 server (SeaweedFS)")
                self._choose_ports(state, PORTS)
                state.processes["s3"] = start_seaweedfs(
                    self.folder / "s3",
                    {name: state.ports[name] for name in PORTS},
                    access_key=state.access_key,
                    secret_key=state.secret_key,
                    log=self.log("s3"),
                    begun=lambda running: self._remember(state, "s3", running),
                )
            if prefect and processes.find(state.processes.get("prefect")) is None:
                say("Prefect server (its first start takes 15 s)")
                before = state.ports.get("prefect")
                self._choose_ports(state, ("prefect",))
                if state.ports["prefect"] != before:
                    # It would ask at the old address for ever.
                    processes.stop(state.processes.pop("worker", None))
                self.create_database("prefect")
                state.processes["prefect"] = prefect_server.start_prefect(
                    self.folder / "prefect", state.ports["prefect"], self.data, log=self.log("prefect"),
                    begun=lambda running: self._remember(state, "prefect", running),
                )  # fmt: skip
        return self.endpoints()

    def start_worker(self, cwd: Path) -> None:
        """Start the worker, if none is running."""
        with self._state() as state:
            if processes.find(state.processes.get("worker")) is None:
                state.processes["worker"] = prefect_server.start_worker(
                    self.folder / "prefect", state.ports["prefect"], log=self.log("worker"), cwd=cwd
                )

    def stop(self) -> list[str]:
        """Stop everything, by pid, in the order of who needs whom; returns what was running."""
        if not (self.folder / "stack.json").exists():
            return ["postgres"] if postgres.stop(self.data) else []
        stopped = []
        with self._state() as state:
            for name in ("worker", "prefect", "s3"):
                if processes.stop(state.processes.pop(name, None)):
                    stopped.append(name)
            if postgres.stop(self.data):
                stopped.append("postgres")
            state.processes.clear()
            state.kept = False
        return stopped

    def keep(self) -> None:
        """Somebody wants it to go on: who started it for a while only does not stop it."""
        with self._state() as state:
            state.kept = True

    @property
    def kept(self) -> bool:
        """Whether what runs is to go on."""
        return self._read().kept

    def status(self) -> dict[str, int | None]:
        """Each part's pid, or None where it is not running."""
        state = self._read()
        found = {name: processes.find(state.processes.get(name)) for name in ("s3", "prefect", "worker")}
        running = postgres.read_pid(self.data)
        return {"postgres": running.pid if running else None} | {
            name: process.pid if process else None for name, process in found.items()
        }

    def endpoints(self) -> Endpoints:
        """Where the parts are (or will be)."""
        state = self._read()
        return Endpoints(
            postgres_folder=self.data,
            s3_url=f"http://{LOOPBACK}:{state.ports.get('s3', 0)}",
            access_key=state.access_key,
            secret_key=SecretStr(state.secret_key),
            prefect_url=f"http://{LOOPBACK}:{state.ports.get('prefect', 0)}",
        )

    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to talk to this stack's Prefect server."""
        return prefect_server.environment(self.folder / "prefect", self._read().ports["prefect"])

    def log(self, name: str) -> Path:
        """Where a part writes its log."""
        return self.folder / "logs" / f"{name}.log"

    def _choose_ports(self, state: _State, names: tuple[str, ...]) -> None:
        for name in names:
            others = frozenset(port for other, port in state.ports.items() if other != name)
            state.ports[name] = processes.free_port(state.ports.get(name), taken=others)

    def create_database(self, name: str) -> None:
        """Create a database on the running server, if it is not there."""
        import psycopg2

        connection = psycopg2.connect(host=str(self.data), user="postgres", dbname="postgres")
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
                if cursor.fetchone() is None:
                    cursor.execute(f'CREATE DATABASE "{name}"')
        finally:
            connection.close()

    @contextmanager
    def _state(self) -> Iterator[_State]:
        """The state, for one command at a time; saved whatever happens, so that no process is forgotten."""
        with (self.folder / "stack.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self._read()
            if not state.secret_key:
                state.access_key, state.secret_key = secrets.token_hex(10), secrets.token_hex(20)
            try:
                yield state
            finally:
                self._save(state)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """For what is made in several steps: a second command waits until the first is through."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "up.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _remember(self, state: _State, name: str, running: Running) -> None:
        state.processes[name] = running
        self._save(state)

    def _read(self) -> _State:
        try:
            stored = json.loads((self.folder / "stack.json").read_text())
            known = {name: Running(**one) for name, one in stored.pop("processes").items()}
            return _State(processes=known, **stored)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return _State()

    def _save(self, state: _State) -> None:
        target, fresh = self.folder / "stack.json", self.folder / "stack.json.new"
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(asdict(state), file)
        fresh.replace(target)
