"""Whether a dump is one: pg_restore reads its table of contents while it streams past."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress

from blocks.catalog.programs import Program, running
from blocks.errors import DamagedBackupError, ProgramError


def listed(chunks: Iterator[bytes], program: Program) -> Iterator[bytes]:
    """The same chunks; at their end pg_restore has found a table of contents at their beginning.

    Raises:
        DamagedBackupError: it has not.
    """
    # A file, because a pipe nobody reads would stop the program, and with it the stream.
    with tempfile.TemporaryFile() as table:
        failed: list[BaseException] = []
        try:
            with running(program, ["--list"], stdin=subprocess.PIPE, stdout=table) as process:
                assert process.stdin is not None  # noqa: S101 -- it is a pipe
                wanted = True
                for chunk in _noting(chunks, failed):
                    if wanted:
                        # It stops reading when it has the table.
                        try:
                            process.stdin.write(chunk)
                        except BrokenPipeError:
                            wanted = False
                    yield chunk
                with suppress(BrokenPipeError):
                    process.stdin.flush()
        except ProgramError as error:
            if error in failed:
                raise  # pg_dump's, not pg_restore's
            raise DamagedBackupError(f"the dump has no table of contents: {error}") from error
        table.seek(0)
        if b"TABLE DATA" not in table.read():
            raise DamagedBackupError("the dump's table of contents names no table")


def _noting(chunks: Iterator[bytes], failed: list[BaseException]) -> Iterator[bytes]:
    try:
        yield from chunks
    except Exception as error:
        failed.append(error)
        raise
