"""What a migration tells of what it moved, and of what it did not; and the end of a location."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from blocks.catalog import CatalogDatabase
from blocks.errors import RefusedError, StoreUnavailableError
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import read_bytes
from blocks.policies import RelocationPolicy
from tasks.declaring import retire_location
from tasks.relocation import relocate
from tasks.relocation.migration import (
    Migration,
    check_migration,
    find_jobs,
    fresh_jobs,
    plan_migration,
    tried_in_vain,
)
from tasks.relocation.moving import collect_records, forget_changed, move_batch, report_moves, split, sum_up
from tasks.stores import Locations, OpenLocation
from tests.helpers import execute, one, rows

POLICY = RelocationPolicy()


def test_a_record_tells_no_name_that_a_customer_gave(
    catalog: CatalogDatabase, location: OpenLocation, cold: OpenLocation, locations: Locations, job: UUID
) -> None:
    """It lies there for months, and an erasure does not look for names in it."""
    execute(
        catalog, "UPDATE stored_objects SET kind = 'upload', name = 'uploads/x/our summer.mp3' WHERE kind = 'audio'"
    )
    delete_keys(location.store, [one(catalog, "SELECT key FROM stored_objects WHERE kind = 'upload'")])
    migration = check_migration(Migration(location, cold))
    plan, moves = plan_migration(find_jobs(catalog, migration), migration)
    results = [
        move_batch(catalog, locations, POLICY, batch) for batch in split(moves, POLICY, run="r", records="reports/m/r")
    ]
    told = read_bytes(cold.store, collect_records(cold, results, "reports/m/r.csv"), at_most=10**6).decode()
    (outcome,) = report_moves("migrate-storage", plan, sum_up(results), saved=False).outcomes
    assert outcome.error.startswith("1 objects were not moved; upload: ")
    assert ",upload,failed," in told
    assert "summer" not in told + outcome.error
    execute(catalog, "DELETE FROM stored_objects WHERE kind = 'upload'")


def test_a_job_that_is_not_there_is_told(
    catalog: CatalogDatabase, location: OpenLocation, cold: OpenLocation, job: UUID
) -> None:
    typo = str(uuid4())
    migration = check_migration(Migration(location, cold, job_ids=(str(job), typo)))
    plan, moves = plan_migration(find_jobs(catalog, migration), migration)
    assert [move.job_id for move in moves] == [job]
    assert [(item.subject, item.because) for item in plan.skipped] == [
        (typo, "no such job, or nothing in main of what is asked for")
    ]


@pytest.mark.parametrize("state", ["purging", "pending", "live"])
def test_what_only_waited_for_its_bytes_to_go_is_over_with_their_bucket(
    catalog: CatalogDatabase, location: OpenLocation, cold: OpenLocation, new_job: Callable[[bytes], UUID],
    monkeypatch: pytest.MonkeyPatch, state: str,
) -> None:  # fmt: skip
    """Else no erasure could be done any more, for whatever job: each looks into every location."""
    new_job(b"1")
    execute(catalog, "UPDATE stored_objects SET location_id = :cold, state = :state", cold=cold.place.id, state=state)

    def gone(*_: object) -> None:
        raise StoreUnavailableError("its server is gone")

    monkeypatch.setattr("tasks.declaring.load_block", gone)
    if state == "live":
        with pytest.raises(RefusedError, match="1 objects of customers are on record in location cold: where they are"):
            retire_location(catalog, "cold", gone=True)
        execute(catalog, "UPDATE stored_objects SET location_id = :main", main=location.place.id)
        return
    retire_location(catalog, "cold", gone=True)
    assert rows(catalog, "SELECT state FROM stored_objects") == []
    assert one(catalog, "SELECT retired_at IS NOT NULL FROM locations WHERE name = 'cold'")
    assert one(catalog, "SELECT count(*) FROM operation_log WHERE operation = 'purge'") == 1


def test_what_was_deleted_while_it_was_copied_is_taken_by_the_next_pass(
    catalog: CatalogDatabase, location: OpenLocation, cold: OpenLocation, locations: Locations,
    new_job: Callable[[bytes], UUID], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    new_job(b"x" * 100)
    migration = Migration(location, cold)
    _, moves = plan_migration(find_jobs(catalog, migration), migration)
    real = relocate.copied_as_it_is

    def trashed(*arguments: Any) -> bool:
        execute(
            catalog, "UPDATE stored_objects SET state = 'trashed', trashed_state = 'live', "
            "generation = nextval('generations')",
        )  # fmt: skip
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(relocate, "copied_as_it_is", trashed)
        results = [move_batch(catalog, locations, POLICY, batch) for batch in split(moves, POLICY, run="r")]
    assert [job.changed for job in sum_up(results).values()] == [1]
    assert tried_in_vain(results) == []
    _, more = plan_migration(fresh_jobs(find_jobs(catalog, migration), tried_in_vain(results)), migration)
    forget_changed(results, more)
    results += [move_batch(catalog, locations, POLICY, batch) for batch in split(more, POLICY, run="r")]
    assert [(job.moved, job.changed) for job in sum_up(results).values()] == [(1, 0)]
    assert [row.location_id for row in rows(catalog, "SELECT location_id FROM stored_objects")] == [cold.place.id]
