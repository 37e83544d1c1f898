"""Every command with every hostile argument: one line on standard error, exit code 1, no traceback, nothing written.

What typer itself refuses (a word where a number belongs) ends with its own text and exit code 2.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import Result

from tests.hostile.asking import LONGEST_MESSAGE
from tests.hostile.besieged import HERE, Platform
from tests.hostile.commands import APP, BLOCKS, COMMANDS, LOCAL, OWNERS_JOB, hostile, line, run

pytestmark = [pytest.mark.prefect, pytest.mark.slow]


def assert_refused(result: Result) -> None:
    """One line, or typer's own words; no traceback, and nothing that a terminal would obey."""
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code in (1, 2), result.output
    assert "Traceback" not in result.output
    if result.exit_code == 1:
        told, *more = result.stderr.strip().splitlines()
        assert more == [], result.stderr
        assert told.startswith("error: "), told
        assert told.isprintable(), repr(told)
        assert len(told) <= LONGEST_MESSAGE, f"a wall of {len(told)} characters"
    assert result.stdout == "", "a script would take it for the answer"


def test_every_command_and_option_is_in_the_table() -> None:
    assert set(COMMANDS) == set(APP), "a new command belongs into this table"
    for words, command in APP.items():
        known = {*hostile(words), *COMMANDS[words].free}
        assert {one.name for one in command.params} - {"help"} == known, words
        blocks = set(BLOCKS) & known
        assert not blocks or words not in LOCAL


@pytest.mark.parametrize("words", [words for words in COMMANDS if hostile(words)], ids=" ".join)
def test_is_refused_and_nothing_is_written(
    besieged: Platform, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # A stack that was never started: what looks after one must not make it.
    monkeypatch.setenv("TRANSCODE_FLOW_HOME", str(tmp_path / "stack"))
    before = besieged.written()
    for name, values in hostile(words).items():
        for value in values:
            assert_refused(run(besieged, *line(words, name, value)))
    assert besieged.written() == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [("url",), ("explain",), ("key", "quota"), ("backup", "list")], ids=" ".join)
def test_works_with_what_the_table_says(besieged: Platform, words: tuple[str, ...]) -> None:
    reference = {"reference": OWNERS_JOB} if words == ("explain",) else {}
    (name, value), *_ = (reference or COMMANDS[words].arguments or {"catalog": HERE}).items()
    result = run(besieged, *line(words, name, value))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("words", [("key", "list"), ("url",), ("report",)], ids=" ".join)
def test_what_is_no_option_or_one_word_too_many(besieged: Platform, words: tuple[str, ...]) -> None:
    for more in (["--nowhere"], ["--catalog"], ["a", "b", "c", "d", "e"]):
        result = run(besieged, *words, *more)
        assert result.exit_code == 2
        assert "Traceback" not in result.output
