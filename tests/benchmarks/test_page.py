"""The README's table keeps what was not measured again, and never mixes machines."""

from __future__ import annotations

import pytest

from tests.benchmarks.harness import Measured
from tests.benchmarks.page import BEGIN, END, with_figures

TOLD = {"ingest-small": "many files", "ingest-known": "again", "delete": "keys"}
README = f"# Title\n\n{BEGIN}\n\n{END}\n\nthe rest\n"


def measured(row: str, ratio: float = 1.2) -> Measured:
    return Measured(row, "s5cmd cp", 1234.5, 9.876, "files/s", ratio, (ratio - 0.1, ratio + 0.1), 1.0)


def lines(readme: str) -> list[str]:
    return [line for line in readme.splitlines() if line.startswith("| ") and "---" not in line][1:]


def test_figures_with_their_machine_and_day() -> None:
    found = {"ingest-small": [measured("ingest-small"), measured("ingest-small, p99", 0.9)]}
    page = with_figures(README, found, TOLD, "2 cores", "2026-11-25")
    assert "Measured on 2 cores." in page
    assert lines(page) == [
        "| ingest-small: many files | 1,234 | 9.88 (s5cmd cp) | files/s | 1.20 (1.10 to 1.30) | 1 | 2026-11-25 |",
        "| ingest-small, p99 | 1,234 | 9.88 (s5cmd cp) | files/s | **0.90 (0.80 to 1.00)** | 1 | 2026-11-25 |",
    ]
    assert page.startswith("# Title")
    assert page.endswith("the rest\n")


def test_one_row_again_leaves_the_others_as_they_are_in_their_order() -> None:
    first = {name: [measured(name)] for name in TOLD}
    page = with_figures(README, first, TOLD, "2 cores", "2026-11-24")
    again = with_figures(page, {"ingest-known": [measured("ingest-known", 7)]}, TOLD, "2 cores", "2026-11-25")
    assert [line.split(" ")[1].rstrip(":") for line in lines(again)] == list(TOLD)
    assert [line[-12:-2] for line in lines(again)] == ["2026-11-24", "2026-11-25", "2026-11-24"]
    assert with_figures(again, {"ingest-known": [measured("ingest-known", 7)]}, TOLD, "2 cores", "2026-11-25") == again


def test_figures_of_two_machines_do_not_stand_in_one_table() -> None:
    page = with_figures(README, {"delete": [measured("delete")]}, TOLD, "2 cores", "2026-11-24")
    with pytest.raises(ValueError, match="the README's other rows are of '2 cores', this is '64 cores'"):
        with_figures(page, {"ingest-small": [measured("ingest-small")]}, TOLD, "64 cores", "2026-11-25")
    assert "64 cores" in with_figures(page, {"delete": [measured("delete")]}, TOLD, "64 cores", "2026-11-25")
