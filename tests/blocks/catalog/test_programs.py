"""What counts as an error of PostgreSQL's programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from blocks.catalog.programs import Program, run
from blocks.errors import CatalogUnavailableError, ProgramError

LIMIT = (
    'pg_restore: error: could not execute query: ERROR:  unrecognized configuration parameter "transaction_timeout"\n'
    "Command was: SET transaction_timeout = 0;\n"
)
FULL = 'pg_restore: error: could not execute query: ERROR:  could not extend file "base/1/2": No space left on device\n'
GONE = "pg_restore: error: could not execute query: server closed the connection unexpectedly\n"
IGNORED = "pg_restore: warning: errors ignored on restore: {}\n"


FORGIVEN = "transaction_timeout"


def said(folder: Path, text: str, *, end: str = "exit 1") -> Program:
    """A program that says this, and ends as one that had errors."""
    (folder / "text").write_text(text)
    script = folder / "pg_restore"
    script.write_text(f"#!/bin/sh\necho done\ncat '{folder}/text' >&2\n{end}\n")
    script.chmod(0o755)
    return Program("pg_restore", script, 18)


def test_a_limit_that_an_older_server_does_not_know_is_no_error(tmp_path: Path) -> None:
    program = said(tmp_path, LIMIT * 3 + IGNORED.format(3))
    assert run(program, [], forgiven=FORGIVEN) == b"done\n"
    with pytest.raises(ProgramError, match="unrecognized configuration parameter"):
        run(program, [])


@pytest.mark.parametrize(
    ("text", "end", "why"),
    [
        (LIMIT + FULL + IGNORED.format(2), "exit 1", "No space left"),
        (FULL, "exit 1", "No space left"),
        ("", "exit 1", "exit code 1"),
        (LIMIT, "kill -9 $$", "exit code -9"),
    ],
)
def test_any_other_is_one(tmp_path: Path, text: str, end: str, why: str) -> None:
    with pytest.raises(ProgramError, match=why):
        run(said(tmp_path, text, end=end), [], forgiven=FORGIVEN)


def test_a_server_that_went_away(tmp_path: Path) -> None:
    with pytest.raises(CatalogUnavailableError, match="server closed the connection"):
        run(said(tmp_path, LIMIT + GONE), [], forgiven=FORGIVEN)
