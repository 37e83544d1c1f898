"""Processes that outlive the command that started them, and are found again by pid and start time."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from blocks.errors import TransientError

LOOPBACK = "127.0.0.1"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""A proxy of the environment's knows nothing of this machine's loopback."""


@dataclass(frozen=True)
class Running:
    """A process; the start time tells it from a stranger that got the same pid later.

    On Linux in seconds since the machine started: a clock that is set would move the time of day of it.
    """

    pid: int
    started_at: float


def identify(process: psutil.Process) -> Running:
    """A process to find again."""
    return Running(process.pid, _start(process))


def _start(process: psutil.Process) -> float:
    try:
        after_name = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return process.create_time()
    return int(after_name[19]) / os.sysconf("SC_CLK_TCK")


def start(
    command: list[str], *, log: Path, env: Mapping[str, str], cwd: Path, begun: Callable[[Running], None] | None = None
) -> Running:
    """Start a process in a session of its own, so that Ctrl-C at the terminal does not reach it.

    `begun` hears of it at once: who only hears when it answers forgets one that was waited for and killed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **env},
            cwd=cwd,
        )
    # It is meant to outlive this object, which would otherwise complain about that when it is collected.
    process.returncode = 0
    running = identify(psutil.Process(process.pid))
    if begun is not None:
        begun(running)
    return running


def find(running: Running | None) -> psutil.Process | None:
    """The process, if it is still that one."""
    if running is None:
        return None
    try:
        process = psutil.Process(running.pid)
        alive = abs(_start(process) - running.started_at) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if alive else None


def stop(running: Running | None, *, patience_seconds: float = 15) -> bool:
    """End a process and its children, gently first; returns whether there was anything to end."""
    process = find(running)
    if process is None:
        return False
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return False
    for step in (psutil.Process.terminate, psutil.Process.kill):
        for member in family:
            try:
                # A pid may have changed hands since the list was made; psutil compares start times.
                if member.is_running():
                    step(member)
            except psutil.NoSuchProcess:
                continue
        _, family = psutil.wait_procs(family, timeout=patience_seconds)
        if not family:
            break
    return True


def free_port(preferred: int | None = None, *, taken: frozenset[int] = frozenset()) -> int:
    """A free TCP port on loopback; the preferred one if it is free, so that addresses survive a restart."""
    for port in (preferred, 0, 0, 0, 0):
        if port is None or port in taken:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            found = int(probe.getsockname()[1])
            if found not in taken:
                return found
    raise TransientError("no free port was found on loopback; try again")


def wait_until(ready: Callable[[], bool], *, what: str, running: Running, log: Path, seconds: float) -> None:
    """Wait for a server to answer; one that does not, or is not waited for (Ctrl-C), is ended: none is forgotten.

    Raises:
        TransientError: it ended, or did not answer in time; the message quotes the end of its log.
    """
    deadline = time.monotonic() + seconds
    try:
        while not ready():
            if find(running) is None:
                raise TransientError(f"{what} ended while it started; the end of {log}:\n{tail(log)}")
            if time.monotonic() > deadline:
                raise TransientError(f"{what} did not answer within {seconds:.0f} s; the end of {log}:\n{tail(log)}")
            time.sleep(0.1)
    except BaseException:
        stop(running)
        raise


def answers(url: str) -> bool:
    """Whether an HTTP server gives any answer there."""
    try:
        with _DIRECT.open(url, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def tail(log: Path, lines: int = 15) -> str:
    """The end of a log file."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else "(no log)"
