"""Which statements would cost more the larger the catalog is: what they looked at is judged, not only how."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from blocks.catalog import CatalogDatabase
from tests.growth.crowd import LARGE
from tests.growth.plans import Scan, Statement
from tests.helpers import rows

BY_CUSTOMERS = frozenset({"api_keys", "storage_totals", "age_totals"})
"""Tables that grow with customers, not with what they store: flows may go through them, customers' calls may not."""
FEW_ROWS, FEW_BLOCKS = 500, 100
"""What a statement may look at, of one table, without anything to show for it."""
RANGE_ROWS = 2_000
"""Of a summary of pages, which is read as a whole, and whose entries are ranges of pages."""
BLOCKS_A_SEARCH = 8
"""Levels of an index, with the heap's block and what is dead on the way."""


@dataclass(frozen=True)
class Grown:
    """Tables that the crowd has filled, and what each is called: a partition is its parent. Pages of every index.

    `summaries` are indexes that tell of many pages in one entry, and are always read as a whole.
    """

    tables: Mapping[str, str]
    pages: Mapping[str, int]
    summaries: frozenset[str]

    def but(self, tables: Collection[str]) -> Grown:
        """Without some."""
        return replace(self, tables={name: called for name, called in self.tables.items() if called not in tables})


@dataclass(frozen=True)
class Trouble:
    """A statement that reads what it should not have to."""

    sender: str
    table: str
    why: str
    text: str

    def __str__(self) -> str:
        return f"{self.sender} on {self.table}: {self.why}\n    {self.text[:2000]}"


def measure(catalog: CatalogDatabase) -> Grown:
    """What has grown."""
    tables = rows(
        catalog,
        "SELECT c.relname, coalesce(p.relname, c.relname) AS called FROM pg_class c "
        "  JOIN pg_namespace n ON n.oid = c.relnamespace "
        "  LEFT JOIN pg_inherits i ON i.inhrelid = c.oid LEFT JOIN pg_class p ON p.oid = i.inhparent "
        " WHERE c.relkind = 'r' AND c.reltuples >= :large AND n.nspname IN ('public', 'analytics')",
        large=LARGE,
    )
    indexes = rows(
        catalog,
        "SELECT relname, relpages, amname FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE c.relkind = 'i'",
    )
    return Grown(
        {row.relname: row.called for row in tables},
        {row.relname: row.relpages for row in indexes},
        frozenset(row.relname for row in indexes if row.amname == "brin"),
    )


def judge(statements: Iterable[Statement], grown: Grown) -> Iterator[Trouble]:
    """What is wrong with each of these statements; nothing with those that tests themselves send."""
    for statement in statements:
        if statement.sender.startswith("tests."):
            continue
        for scan in statement.scans:
            if scan.table in grown.tables and (why := _why(scan, grown)):
                yield Trouble(statement.sender, grown.tables[scan.table], why, statement.text)


def _why(scan: Scan, grown: Grown) -> str:
    if not scan.index:
        return f"{scan.how}, {scan.rows:.0f} rows"
    told, what_for = f"{scan.how} of {scan.index}", f"for {scan.returned:.0f} rows ({scan.condition or 'no condition'})"
    if scan.rows > (RANGE_ROWS if scan.index in grown.summaries else FEW_ROWS):
        return f"{told} looked at {scan.rows:.0f} rows {what_for}"
    if scan.searches > FEW_ROWS:
        return f"{told} searched it {scan.searches:.0f} times {what_for}"
    # A condition that an index can check and not search by reads all of it, and shows few rows.
    needed, pages = scan.rows + scan.searches, grown.pages.get(scan.index, 0)
    if scan.index in grown.summaries:
        return ""
    if scan.blocks > FEW_BLOCKS + BLOCKS_A_SEARCH * needed or (pages >= 16 and scan.blocks > pages / 2 + 2 * needed):
        return f"{told} read {scan.blocks} blocks {what_for}"
    return ""
