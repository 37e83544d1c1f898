"""What lies in a place, and which jobs are large, told without looking at every row: it must be what the rows say."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from blocks.catalog import CatalogDatabase
from blocks.catalog.locations import retire, stored_in
from blocks.catalog.moving import Wanted, jobs_in_places, unmovable
from blocks.catalog.selection import JobFilter, select_jobs
from blocks.catalog.verifying import count_live
from blocks.errors import RefusedError
from tasks.customers import create_key
from tasks.stores import OpenLocation
from tests.helpers import execute, one, rows

STATES = ("live", "missing", "corrupt", "pending", "purging", "trashed", "trashed missing")


@pytest.fixture
def some(catalog: CatalogDatabase, location: OpenLocation, new_job: Callable[[bytes], UUID]) -> list[UUID]:
    """A job in each state."""
    jobs = [new_job(name.encode()) for name in STATES]
    for job, name in zip(jobs, STATES, strict=True):
        state, _, before = name.partition(" ")
        execute(
            catalog, "UPDATE stored_objects SET state = :state, trashed_state = :before WHERE job_id = :job",
            state=state, before=(before or "live") if state == "trashed" else None, job=job,
        )  # fmt: skip
    return jobs


def counted(catalog: CatalogDatabase) -> dict[int, tuple[int, int]]:
    """By the rows themselves."""
    found = rows(catalog, "SELECT location_id, count(*), sum(stored_bytes)::bigint FROM stored_objects GROUP BY 1")
    return {row[0]: (row[1], row[2]) for row in found}


def test_totals_tell_what_lies_in_a_place(
    catalog: CatalogDatabase, location: OpenLocation, some: list[UUID], new_job: Callable[[bytes], UUID]
) -> None:
    place = location.place.id

    def live(*kinds: str) -> int:
        return catalog.transaction(lambda connection: count_live(connection, place, kinds=kinds))

    assert catalog.transaction(stored_in) == counted(catalog)
    assert (live(), live("original"), live("audio")) == (1, 1, 0)
    execute(catalog, "SELECT fold_storage_changes()")
    assert catalog.transaction(stored_in) == counted(catalog)
    assert live() == 1
    new_job(b"after the fold")
    assert catalog.transaction(stored_in) == counted(catalog)
    assert live() == 2
    execute(catalog, "DELETE FROM stored_objects")
    assert catalog.transaction(stored_in) == {}
    assert live() == 0


def test_what_cannot_be_moved_is_counted_by_state(
    catalog: CatalogDatabase, location: OpenLocation, some: list[UUID]
) -> None:
    found = catalog.transaction(lambda connection: unmovable(connection, location.place.id))
    assert found == [("corrupt", 1), ("missing", 2), ("pending", 1), ("purging", 1)]
    assert catalog.transaction(lambda connection: unmovable(connection, location.place.id + 1)) == []


def test_jobs_of_a_place_by_customer_and_age(
    catalog: CatalogDatabase, location: OpenLocation, some: list[UUID]
) -> None:
    other = create_key(catalog, "other").customer.id
    mine, old = one(catalog, "SELECT api_key_id FROM jobs LIMIT 1"), some[STATES.index("trashed")]
    execute(catalog, "UPDATE jobs SET created_at = now() - interval '9 days' WHERE id = :job", job=old)
    before = datetime.now(UTC) - timedelta(days=5)
    wanted = Wanted((location.place.id,), states=("live", "trashed"))

    def found(chosen: JobFilter) -> set[UUID]:
        listed = catalog.transaction(
            lambda connection: jobs_in_places(connection, wanted, chosen, after=(0, UUID(int=0)))
        )
        return {job.id for job in listed}

    both = {some[0], old}
    assert found(JobFilter()) == both
    assert found(JobFilter(customer_id=mine)) == both
    assert found(JobFilter(customer_id=other)) == set()
    assert found(JobFilter(created_before=before)) == {old}
    assert found(JobFilter(customer_id=other, created_before=before)) == set()
    assert found(JobFilter(job_ids=(some[0],), created_before=before)) == set()
    assert found(JobFilter(job_ids=(old,), customer_id=mine)) == {old}


def test_a_place_that_holds_something_is_not_retired(
    catalog: CatalogDatabase, location: OpenLocation, some: list[UUID]
) -> None:
    # Of one that is gone from the totals, as where somebody had switched triggers off, the row still counts.
    execute(catalog, "DELETE FROM storage_changes")
    with pytest.raises(RefusedError, match="still holds"):
        catalog.transaction(lambda connection: retire(connection, location.place))


@pytest.mark.parametrize("folded", [False, True])
def test_large_jobs_are_found_whatever_state_they_are_in(
    catalog: CatalogDatabase, some: list[UUID], *, folded: bool
) -> None:
    if folded:
        execute(catalog, "SELECT fold_storage_changes()")
    execute(catalog, "UPDATE jobs SET deleted_at = now() WHERE id = ANY (:ids)", ids=some[-2:])
    largest = one(catalog, "SELECT max(size_bytes) FROM stored_objects")
    for size in (1, len(b"trashed"), largest, largest + 1):
        # Released bytes are nobody's any more.
        by_rows = rows(
            catalog,
            "SELECT job_id FROM stored_objects WHERE state <> 'purging' GROUP BY 1 HAVING sum(size_bytes) >= :size",
            size=size,
        )  # fmt: skip
        found = catalog.transaction(
            lambda connection, size=size: select_jobs(connection, JobFilter(at_least_bytes=size))
        )  # type: ignore[misc]  # bound here
        assert {job.id for job in found} == {row.job_id for row in by_rows}
