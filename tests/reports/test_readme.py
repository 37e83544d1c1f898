"""What the README tells analysts and operators, held against the database and the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from blocks import policies
from blocks.catalog import CatalogDatabase
from blocks.policies import BackupPolicy
from flows.common import events
from flows.common.alarms import wanted
from tests.benchmarks.__main__ import told
from tests.benchmarks.page import BEGIN, END
from tests.helpers import one, rows

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
PAGE = README.partition("## For analysts")[2].partition("\n## ")[0]
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, flags=re.DOTALL)


def test_every_table_with_every_column(played: CatalogDatabase) -> None:
    told = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| (.+) \|$", PAGE, flags=re.MULTILINE))
    there = {
        row.name: ", ".join(f"`{column}`" for column in row.columns)
        for row in rows(
            played,
            "SELECT table_name AS name, array_agg(CAST(column_name AS text) ORDER BY ordinal_position) AS columns "
            "  FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name) "
            " WHERE table_schema = 'analytics' AND table_type = 'BASE TABLE' GROUP BY 1",
        )
    }
    assert told == there


def test_every_view(played: CatalogDatabase) -> None:
    views = rows(played, "SELECT table_name FROM information_schema.views WHERE table_schema = 'analytics'")
    assert [row.table_name for row in views if f"`{row.table_name}`" not in PAGE] == []


@pytest.mark.parametrize("number", range(3))
def test_the_ready_queries(played: CatalogDatabase, number: int) -> None:
    assert len(QUERIES) == 3
    assert rows(played, QUERIES[number])


def test_who_will_be_full_soon(played: CatalogDatabase) -> None:
    soon = rows(played, QUERIES[0])
    assert all(row.earliest < 60 for row in soon)
    assert len(soon) == one(
        played, "SELECT count(*) FROM analytics.customers WHERE day = '2026-11-20' AND days_until_full_low < 60"
    )


def test_every_event_and_every_alarm() -> None:
    told = README.partition("### In the Prefect UI")[2].partition("\n## ")[0]
    names = [value for name, value in vars(events).items() if name.isupper() and isinstance(value, str)]
    assert [name for name in names if name != events.EVENTS and f"`{name}`" not in told] == []
    assert [name for name in wanted(BackupPolicy()) if f"`{name}`" not in told] == []


def test_every_row_has_its_figures_and_no_other_has() -> None:
    table = README.partition(BEGIN)[2].partition(END)[0]
    assert re.search(r"^Measured on \d+ cores, ", table, re.MULTILINE)
    lines = re.findall(r"^\| (?!row |---)(.*)$", table, re.MULTILINE)
    assert [line for line in lines if not line.startswith(tuple(told()))] == []
    assert [name for name in told() if not any(line.startswith(name) for line in lines)] == []


def test_every_field_of_every_policy_with_its_default() -> None:
    lines = README.partition("## Policies")[2].partition("\n## ")[0]
    classes = policies.POLICIES
    assert len(classes) == 9
    for policy in classes:
        fields = [f"`{name}` {_said(field.default)}" for name, field in policy.model_fields.items()]
        assert f"| {policy.get_block_type_slug().replace('-', ' ').title()} | {', '.join(fields)} |" in lines


def _said(value: object) -> str:
    if value is False:
        return "off"
    return f"{value:g}" if isinstance(value, int | float) else f"`{value}`" if value else "empty"
