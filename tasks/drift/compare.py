"""One range of jobs: what the store lists against what the catalog expects. The comparison is pure and streams."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from uuid import UUID

from blocks.catalog.drift import ExpectedObject
from blocks.object_store.listing import Listed

ROWS_A_RANGE = 25_000
MOST_RANGES = 200
"""Prefect runs: one a range."""


@dataclass(frozen=True)
class JobRange:
    """Jobs whose ids lie from `first` to `last`, both included."""

    number: int
    first: UUID
    last: UUID

    def bounds(self, root: str) -> tuple[str, str | None]:
        """The keys between which these jobs' objects lie: behind the first, up to the second.

        The outermost ranges have no bound, so that what is no job's folder at all is seen as well.
        """
        after = "" if self.first.int == 0 else f"{root}/{UUID(int=self.first.int - 1)}0"
        until = None if self.last.int == 2**128 - 1 else f"{root}/{self.last}0"
        return after, until


def split_jobs(rows: int, *, at_least: int) -> tuple[JobRange, ...]:
    """Ranges of about equally many jobs; ids are random, so that equal ranges hold equally many."""
    count = max(1, min(MOST_RANGES, max(at_least if rows > ROWS_A_RANGE else 1, -(-rows // ROWS_A_RANGE))))
    edges = [number * 2**128 // count for number in range(count + 1)]
    return tuple(JobRange(number, UUID(int=edges[number]), UUID(int=edges[number + 1] - 1)) for number in range(count))


@dataclass(frozen=True)
class Compared:
    """A partition of both sides: everything listed and everything expected is counted in exactly one place.

    `expected` are the rows that must have bytes; of very many orphans all beyond the first ones are only counted.
    """

    listed: int
    expected: int
    agreeing: int
    under_way: int
    orphans: tuple[Listed, ...]
    missing: tuple[ExpectedObject, ...]
    returned: tuple[ExpectedObject, ...]
    mismatched: tuple[tuple[ExpectedObject, Listed], ...]
    more_orphans: int = 0
    reclassed: tuple[tuple[ExpectedObject, Listed], ...] = ()
    """Of those that agree: found in another storage class than their location's."""


def compare(
    listed: Iterable[Listed],
    expected: Sequence[ExpectedObject],
    *,
    most_orphans: int | None = None,
    classes: Mapping[str, int] = MappingProxyType({}),
) -> Compared:
    """Hold a listing against the rows that were read before it began.

    `classes` tells the location of each storage class, where a bucket holds several; empty, nobody looks at classes.
    """
    rows = {row.key: row for row in expected}
    seen = agreeing = under_way = more_orphans = 0
    orphans: list[Listed] = []
    returned: list[ExpectedObject] = []
    mismatched: list[tuple[ExpectedObject, Listed]] = []
    reclassed: list[tuple[ExpectedObject, Listed]] = []
    for item in listed:
        seen += 1
        row = rows.pop(item.key, None)
        if row is None and most_orphans is not None and len(orphans) >= most_orphans:
            more_orphans += 1
        elif row is None:
            orphans.append(item)
        elif row.state in ("pending", "purging") or (row.trashed_state or row.state) == "corrupt":
            under_way += 1  # expected to be as it is: on its way, or known to be wrong
        elif (row.trashed_state or row.state) == "missing":
            returned.append(row)
        elif item.size_bytes != row.stored_bytes or (row.etag and item.etag and item.etag != row.etag):
            mismatched.append((row, item))
        else:
            agreeing += 1
            if classes and classes.get(item.storage_class or "") != row.location_id:
                reclassed.append((row, item))
    missing = []
    for row in rows.values():
        if row.state in ("pending", "purging") or (row.trashed_state or row.state) == "missing":
            under_way += 1
        else:
            missing.append(row)
    with_bytes = sum(
        row.state not in ("pending", "purging") and (row.trashed_state or row.state) != "missing" for row in expected
    )
    return Compared(
        seen, with_bytes, agreeing, under_way, tuple(orphans), tuple(missing), tuple(returned), tuple(mismatched),
        more_orphans, tuple(reclassed),
    )  # fmt: skip
