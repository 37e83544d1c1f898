"""Two sides held against each other lose nothing and count nothing twice, and ranges of jobs leave no gap."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise
from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.catalog.drift import ExpectedObject
from blocks.object_store.listing import Listed
from tasks.drift.compare import MOST_RANGES, ROWS_A_RANGE, JobRange, compare, split_jobs
from tasks.layout import OBJECTS

AT = datetime(2026, 5, 1, tzinfo=UTC)
STATES = ["pending", "live", "trashed", "purging", "missing", "corrupt"]
LAST = UUID(int=2**128 - 1)


def listed(key: str = "k", size: int = 5, etag: str | None = "e") -> Listed:
    return Listed(key, size, etag, AT)


def expected(
    key: str = "k", state: str = "live", size: int = 5, etag: str | None = "e", trashed_state: str | None = None
) -> ExpectedObject:
    return ExpectedObject(uuid5(LAST, key), 1, key, state, trashed_state, size, etag, 1)


KEYS = st.sampled_from([f"processed/{number}" for number in range(12)])
SIZES = st.integers(0, 2)
ETAGS = st.sampled_from([None, "", "a", "b"])


@st.composite
def sides(draw: st.DrawFn) -> tuple[list[Listed], list[ExpectedObject]]:
    there = draw(st.lists(st.builds(listed, KEYS, SIZES, ETAGS), unique_by=lambda one: one.key))
    rows = []
    for key in draw(st.lists(KEYS, unique=True)):
        state = draw(st.sampled_from(STATES))
        was = draw(st.sampled_from(["live", "missing", "corrupt"])) if state == "trashed" else None
        rows.append(expected(key, state, draw(SIZES), draw(ETAGS), was))
    return there, rows


@given(sides())
def test_a_comparison_is_a_partition_of_both_sides(given_sides: tuple[list[Listed], list[ExpectedObject]]) -> None:
    there, rows = given_sides
    found = compare(iter(there), rows)
    assert found.listed == len(there)
    assert found.expected == sum(
        row.state not in ("pending", "purging") and "missing" not in (row.state, row.trashed_state) for row in rows
    )
    keys = Counter(
        [one.key for one in (*found.orphans, *found.missing, *found.returned)]
        + [row.key for row, _ in found.mismatched]
    )
    assert not keys or max(keys.values()) == 1
    either = {one.key for one in there} | {row.key for row in rows}
    assert sum(keys.values()) + found.agreeing + found.under_way == len(either)
    assert {one.key for one in found.orphans} == {one.key for one in there} - {row.key for row in rows}
    assert {row.key for row in found.missing} <= {row.key for row in rows} - {one.key for one in there}
    for row in (*found.returned, *(row for row, _ in found.mismatched)):
        assert row.key in {one.key for one in there}
    assert all(row.key == item.key for row, item in found.mismatched)
    assert all(row.state not in ("pending", "purging") for row in (*found.missing, *found.returned))


@given(sides())
def test_the_order_of_a_listing_changes_nothing(given_sides: tuple[list[Listed], list[ExpectedObject]]) -> None:
    there, rows = given_sides
    turned = list(reversed(there))
    one, other = compare(there, rows), compare(turned, list(reversed(rows)))
    assert (one.agreeing, one.under_way) == (other.agreeing, other.under_way)
    for name in ("orphans", "missing", "returned", "mismatched"):
        assert set(getattr(one, name)) == set(getattr(other, name))


@pytest.mark.parametrize(
    ("state", "trashed_state", "present", "absent"),
    [
        ("live", None, "agreeing", "missing"),
        ("pending", None, "under_way", "under_way"),
        ("purging", None, "under_way", "under_way"),
        ("missing", None, "returned", "under_way"),
        ("corrupt", None, "under_way", "missing"),
        ("trashed", "live", "agreeing", "missing"),
        ("trashed", "missing", "returned", "under_way"),
        ("trashed", "corrupt", "under_way", "missing"),
    ],
)
def test_each_state(state: str, trashed_state: str | None, present: str, absent: str) -> None:
    row = expected(state=state, trashed_state=trashed_state)
    for there, place in (([listed()], present), ([], absent)):
        found = compare(there, [row])
        value = getattr(found, place)
        assert value in (1, (row,)), (place, found)
    assert compare([listed()], []).orphans == (listed(),)


@pytest.mark.parametrize(
    ("item", "row", "same"),
    [
        (listed(size=5), expected(size=6), False),
        (listed(etag="a"), expected(etag="b"), False),
        (listed(etag="a"), expected(etag=None), True),
        (listed(etag=None), expected(etag="a"), True),
        (listed(size=4, etag=None), expected(etag=None), False),
        (listed(size=0), expected(size=0), True),
    ],
)
def test_size_and_etag(item: Listed, row: ExpectedObject, same: bool) -> None:
    found = compare([item], [row])
    assert (found.agreeing, found.mismatched) == ((1, ()) if same else (0, ((row, item),)))


@given(st.integers(0, 10**9), st.integers(0, 300))
def test_ranges_cover_all_ids_without_overlap(rows: int, at_least: int) -> None:
    parts = split_jobs(rows, at_least=at_least)
    assert 1 <= len(parts) <= MOST_RANGES
    assert [part.number for part in parts] == list(range(len(parts)))
    assert (parts[0].first, parts[-1].last) == (UUID(int=0), LAST)
    assert all(before.last.int + 1 == after.first.int for before, after in pairwise(parts))
    widths = {part.last.int - part.first.int for part in parts}
    assert max(widths) - min(widths) <= 1


@pytest.mark.parametrize(
    ("rows", "at_least", "count"),
    [
        (0, 3, 1), (ROWS_A_RANGE, 3, 1), (ROWS_A_RANGE + 1, 1, 2), (ROWS_A_RANGE + 1, 3, 3), (10 * ROWS_A_RANGE, 3, 10),
        (10**9, 3, MOST_RANGES), (ROWS_A_RANGE + 1, 1000, MOST_RANGES),
    ],
)  # fmt: skip
def test_as_many_ranges_as_it_takes(rows: int, at_least: int, count: int) -> None:
    assert len(split_jobs(rows, at_least=at_least)) == count


def within(part: JobRange, root: str, key: str) -> bool:
    after, until = part.bounds(root)
    return key > after and (until is None or key <= until)


@given(st.integers(1, 20), st.uuids(), st.sampled_from(OBJECTS), st.text(max_size=20))
def test_a_jobs_keys_lie_in_its_range_alone(count: int, job: UUID, root: str, rest: str) -> None:
    parts = split_jobs(ROWS_A_RANGE * count, at_least=1)
    holding = [part for part in parts if within(part, root, f"{root}/{job}/{rest}")]
    assert [part.first <= job <= part.last for part in holding] == [True]


@given(st.integers(1, 20), st.sampled_from(OBJECTS), st.text())
def test_what_is_no_jobs_folder_lies_in_one_range_too(count: int, root: str, junk: str) -> None:
    parts = split_jobs(ROWS_A_RANGE * count, at_least=1)
    assert sum(within(part, root, f"{root}/{junk}") for part in parts) == 1


def test_bounds_at_the_edges() -> None:
    first, second = split_jobs(2 * ROWS_A_RANGE, at_least=1)
    assert first.bounds("processed") == ("", "processed/7fffffff-ffff-ffff-ffff-ffffffffffff0")
    assert second.bounds("processed") == ("processed/7fffffff-ffff-ffff-ffff-ffffffffffff0", None)
    for part, job in ((first, first.last), (second, second.first), (first, first.first), (second, second.last)):
        assert within(part, "uploads", f"uploads/{job}/x")
    assert JobRange(0, UUID(int=0), LAST).bounds("processed") == ("", None)
