"""Totals that are kept as things change are the sums of what there is, whatever happened in which order."""

from __future__ import annotations

import random
import threading
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from blocks.catalog import CatalogDatabase
from blocks.catalog.housekeeping import tidy_totals
from blocks.errors import StorageError
from tasks.stores import OpenLocation
from tests.helpers import assert_totals, execute, one, rows


def add_job(catalog: CatalogDatabase, location: OpenLocation, key: int, sizes: list[int], **job: object) -> UUID:
    job_id = uuid4()
    given = {"status": "completed", "at": datetime.now(UTC), **job}
    execute(
        catalog,
        "INSERT INTO jobs (id, api_key_id, status, filename, created_at, completed_at) "
        "VALUES (CAST(:id AS uuid), :key, :status, 'film.mp4', :at, CASE :status WHEN 'completed' THEN :at END)",
        id=str(job_id), key=key, **given,
    )  # fmt: skip
    execute(
        catalog,
        "INSERT INTO stored_objects (id, job_id, api_key_id, kind, name, location_id, key, size_bytes, stored_bytes, "
        "  sha256, state) SELECT gen_random_uuid(), CAST(:job AS uuid), :key, "
        "  CASE n WHEN 1 THEN 'original' ELSE 'hls_720p' END, 'file ' || n, :location, "
        "  'processed/' || :job || '/' || n, size, size, repeat(md5(:job || n), 2), 'live' "
        "  FROM unnest(CAST(:sizes AS bigint[])) WITH ORDINALITY s (size, n)",
        job=str(job_id), key=key, location=location.place.id, sizes=sizes,
    )  # fmt: skip
    return job_id


@pytest.fixture
def key(catalog: CatalogDatabase, acme: str) -> int:
    return int(one(catalog, "SELECT id FROM api_keys"))


CHANGES = (
    "UPDATE stored_objects SET state = 'trashed', trashed_state = state WHERE job_id = CAST(:job AS uuid) "
    "   AND state IN ('live', 'missing', 'corrupt')",
    "UPDATE stored_objects SET state = trashed_state, trashed_state = NULL WHERE job_id = CAST(:job AS uuid) "
    "   AND state = 'trashed'",
    "UPDATE stored_objects SET codec = 'zstd', stored_bytes = size_bytes / 2 WHERE job_id = CAST(:job AS uuid)",
    "UPDATE stored_objects SET state = 'missing' WHERE job_id = CAST(:job AS uuid) AND state = 'live' "
    "   AND kind = 'original'",
    "UPDATE stored_objects SET url_expires_at = clock_timestamp() WHERE job_id = CAST(:job AS uuid)",
    "UPDATE stored_objects SET location_id = (SELECT max(id) FROM locations) WHERE job_id = CAST(:job AS uuid)",
    "UPDATE stored_objects SET state = 'purging', trashed_state = NULL WHERE job_id = CAST(:job AS uuid) "
    "   AND name LIKE '%2'",
    "DELETE FROM stored_objects WHERE job_id = CAST(:job AS uuid) AND state = 'purging'",
    "DELETE FROM stored_objects WHERE job_id = CAST(:job AS uuid)",
    "UPDATE jobs SET last_accessed_at = clock_timestamp() - interval '3 days' WHERE id = CAST(:job AS uuid)",
    "SELECT fold_storage_changes(), :job",
)


@pytest.mark.parametrize("seed", range(6))
def test_any_changes_in_any_order(catalog: CatalogDatabase, location: OpenLocation, key: int, seed: int) -> None:
    execute(
        catalog, "INSERT INTO locations (name, store, bucket, prefix, tier) VALUES ('cold', 'main', 'cold', '', 'cold')"
    )
    chance = random.Random(seed)
    jobs = [add_job(catalog, location, key, chance.sample(range(1, 10_000), 4)) for _ in range(5)]
    for _ in range(40):
        execute(catalog, chance.choice(CHANGES), job=str(chance.choice(jobs)))
        if chance.random() < 0.2:
            assert_totals(catalog)
    assert_totals(catalog)
    before = rows(catalog, "SELECT * FROM job_totals ORDER BY 1")
    execute(catalog, "SELECT recount_storage()")
    assert_totals(catalog)
    assert rows(catalog, "SELECT * FROM job_totals ORDER BY 1") == before


def test_a_change_that_moves_nothing_is_not_noted(catalog: CatalogDatabase, location: OpenLocation, key: int) -> None:
    add_job(catalog, location, key, [10, 20])
    execute(catalog, "SELECT fold_storage_changes()")
    execute(catalog, "UPDATE stored_objects SET url_expires_at = clock_timestamp(), verified_at = clock_timestamp()")
    assert one(catalog, "SELECT count(*) FROM storage_changes") == 0


def test_writers_and_folds_at_the_same_time(catalog: CatalogDatabase, location: OpenLocation, key: int) -> None:
    errors: list[BaseException] = []

    def attempt(work) -> None:  # type: ignore[no-untyped-def]
        try:
            for number in range(15):
                work(number)
        except BaseException as error:
            errors.append(error)

    def write(number: int) -> None:
        job = add_job(catalog, location, key, [number + 1, 7])
        execute(catalog, CHANGES[0], job=str(job))

    def fold(number: int) -> None:
        execute(catalog, "SELECT fold_storage_changes('-infinity')")

    threads = [threading.Thread(target=attempt, args=(work,)) for work in (write, write, write, fold, fold)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert_totals(catalog)
    assert one(catalog, "SELECT sum(objects)::bigint FROM storage_totals WHERE state = 'trashed'") == 3 * 15 * 2


def test_a_rolled_back_change_is_none(catalog: CatalogDatabase, location: OpenLocation, key: int) -> None:
    job = add_job(catalog, location, key, [10])

    def work(connection):  # type: ignore[no-untyped-def]
        connection.exec_driver_sql(f"DELETE FROM stored_objects WHERE job_id = '{job}'")
        connection.exec_driver_sql("SELECT fold_storage_changes()")
        raise StorageError("no")

    with pytest.raises(StorageError):
        catalog.transaction(work)
    assert_totals(catalog)
    assert one(catalog, "SELECT sum(objects)::bigint FROM job_totals") == 1


def test_a_night_without_figures_folds_and_forgets(catalog: CatalogDatabase, location: OpenLocation, key: int) -> None:
    add_job(catalog, location, key, [10])
    execute(
        catalog,
        "INSERT INTO findings (at, run, operation, location, finding, objects) VALUES "
        "  (clock_timestamp() - interval '401 days', 'r', 'o', 'l', 'old', 1), "
        "  (clock_timestamp(), 'r', 'o', 'l', 'new', 1)",
    )
    catalog.transaction(lambda connection: tidy_totals(connection, keep=timedelta(days=400)))
    assert one(catalog, "SELECT count(*) FROM storage_changes") == 0
    assert rows(catalog, "SELECT finding FROM findings") == [("new",)]


def test_totals_of_a_catalog_that_had_none(catalog: CatalogDatabase, location: OpenLocation, key: int) -> None:
    add_job(catalog, location, key, [10, 20])
    execute(catalog, "DELETE FROM storage_changes")
    with pytest.raises(AssertionError):
        assert_totals(catalog)
    execute(catalog, "SELECT recount_storage()")
    assert_totals(catalog)
