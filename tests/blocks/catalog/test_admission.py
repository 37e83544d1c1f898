"""Invariants 2 and 3: no admission past the quota, and one job for one video of one customer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy.exc import IntegrityError

from blocks.catalog import CatalogDatabase
from blocks.catalog.admission import ABANDONED, Admission, Arrival, admit, reserve, settle
from blocks.catalog.jobs import Arrived, commit_arrivals
from blocks.catalog.objects import NewObject, Verified
from blocks.errors import RefusedError
from tasks.customers import create_key, set_disabled
from tests.helpers import execute, one, rows

HOUR = timedelta(hours=1)


@pytest.fixture
def key(catalog: CatalogDatabase) -> int:
    execute(catalog, "INSERT INTO locations (name, store, bucket) VALUES ('main', 'main', 'videos')")
    return create_key(catalog, "edge", 1000).customer.id


def arrival(sha256: str, size: int = 100, lifetime: timedelta = HOUR) -> Arrival:
    job = uuid4()
    new = NewObject(uuid4(), job, "original", "raw/video_original.mp4", 1, f"processed/{job}/raw", size, sha256)
    return Arrival("a.mp4", new, size, lifetime)


def let_in(catalog: CatalogDatabase, key: int, *arrivals: Arrival, reprocess: bool = False) -> Admission:
    return catalog.transaction(lambda connection: admit(connection, key, arrivals, reprocess=reprocess))


def commit(catalog: CatalogDatabase, key: int, one_arrival: Arrival, keep: int = 0) -> dict[UUID, str]:
    original = one_arrival.original
    arrived = Arrived(original.job_id, Verified(original.id, "etag"), original.size_bytes, keep, {})
    return catalog.transaction(
        lambda connection: commit_arrivals(connection, key, [arrived], keep_for=HOUR, run="t", operation="ingest")
    )


def at_once(count: int, work: Callable[[int], object]) -> list[object]:
    """The same thing in many threads, started together."""
    start, results = threading.Barrier(count, timeout=60), []

    def run(number: int) -> None:
        start.wait()
        try:
            results.append(work(number))
        except BaseException as error:
            results.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_64_uploads_at_the_edge_overshoot_by_nothing(catalog: CatalogDatabase, key: int) -> None:
    results = at_once(64, lambda n: let_in(catalog, key, arrival(f"{n:064x}")))
    assert all(isinstance(result, Admission) for result in results), results
    assert sum(len(result.admitted) for result in results) == 10
    assert one(catalog, "SELECT storage_reserved_bytes FROM api_keys") == 1000
    assert one(catalog, "SELECT count(*) FROM jobs") == 10


def test_64_lapsed_reservations_make_room_once(catalog: CatalogDatabase, key: int) -> None:
    """The trap: a sum over unexpired reservations inside the UPDATE admitted 32 against a quota of 10."""
    held = [(uuid4(), None, 100, timedelta(0)) for _ in range(10)]
    catalog.transaction(lambda connection: reserve(connection, key, held))
    results = at_once(64, lambda n: catalog.transaction(lambda c: reserve(c, key, [(uuid4(), None, 100, HOUR)])))
    assert sum(len(result) for result in results) == 10
    assert one(catalog, "SELECT storage_reserved_bytes FROM api_keys") == 1000
    assert one(catalog, "SELECT sum(bytes) FROM reservations") == 1000


def test_settling_and_reserving_at_once(catalog: CatalogDatabase, key: int) -> None:
    def both(number: int) -> int:
        mine = uuid4()
        admitted = catalog.transaction(lambda c: reserve(c, key, [(mine, None, 100, HOUR)]))
        catalog.transaction(lambda c: settle(c, key, {mine: 30 if number % 2 else 0}, keep_for=HOUR))
        return len(admitted)

    at_once(48, both)
    reserved = one(catalog, "SELECT storage_reserved_bytes FROM api_keys")
    assert reserved == one(catalog, "SELECT coalesce(sum(bytes), 0) FROM reservations") <= 1000


def test_what_fits_goes_in_beside_what_does_not(catalog: CatalogDatabase, key: int) -> None:
    big, small = arrival("a" * 64, size=5000), arrival("b" * 64, size=900)
    result = let_in(catalog, key, big, small)
    assert result.admitted == {small.original.job_id}
    assert "4.9 KiB asked > 1000 B" in result.refused[big.original.job_id]
    assert "100 B is free" in result.refused[big.original.job_id]


def test_unlimited_zero_and_disabled(catalog: CatalogDatabase, key: int) -> None:
    unlimited = create_key(catalog, "unlimited").customer.id
    nothing = create_key(catalog, "nothing", 0).customer.id
    assert let_in(catalog, unlimited, arrival("a" * 64, size=5 * 1024**4)).admitted
    assert let_in(catalog, nothing, arrival("a" * 64, size=1)).refused
    set_disabled(catalog, api_key="edge", disabled=True)
    with pytest.raises(RefusedError, match="edge has been disabled"):
        let_in(catalog, key, arrival("a" * 64))
    assert not catalog.transaction(lambda c: reserve(c, key, [(uuid4(), None, 1, HOUR)]))


def test_negative_reservations_are_refused(catalog: CatalogDatabase, key: int) -> None:
    with pytest.raises(IntegrityError, match="is refused"):
        catalog.transaction(lambda c: reserve(c, key, [(uuid4(), None, -1, HOUR)]))


def test_two_ingests_of_one_video_make_one_job(catalog: CatalogDatabase, key: int) -> None:
    results = at_once(16, lambda n: let_in(catalog, key, arrival("c" * 64)))
    admitted = {job for result in results for job in result.admitted}
    assert len(admitted) == 1
    known = [job.job_id for result in results for job in result.known.values()]
    assert known == list(admitted) * 15
    assert one(catalog, "SELECT storage_reserved_bytes FROM api_keys") == 100


def test_the_same_bytes_twice_in_one_batch(catalog: CatalogDatabase, key: int) -> None:
    first, second = arrival("d" * 64), arrival("d" * 64)
    result = let_in(catalog, key, first, second)
    assert result.admitted == {first.original.job_id}
    assert result.known[second.original.job_id].job_id == first.original.job_id


def test_another_customers_video_is_no_duplicate(catalog: CatalogDatabase, key: int) -> None:
    other = create_key(catalog, "other").customer.id
    assert let_in(catalog, key, arrival("e" * 64)).admitted
    assert let_in(catalog, other, arrival("e" * 64)).admitted


def test_the_index_alone_keeps_one_job(catalog: CatalogDatabase, key: int) -> None:
    statement = (
        "INSERT INTO jobs (id, api_key_id, status, filename, source_file_hash, reprocess, deleted_at) "
        "VALUES (gen_random_uuid(), :key, :status, 'a.mp4', repeat('f', 64), :reprocess, :deleted)"
    )
    execute(catalog, statement, key=key, status="queued", reprocess=False, deleted=None)
    for status, reprocess, deleted in (("failed", False, None), ("cleaned_up", False, None), ("queued", True, None),
                                       ("completed", False, "2026-01-01")):  # fmt: skip
        execute(catalog, statement, key=key, status=status, reprocess=reprocess, deleted=deleted)
    with pytest.raises(IntegrityError, match="jobs_one_per_source"):
        execute(catalog, statement, key=key, status="uploading", reprocess=False, deleted=None)


def test_an_abandoned_upload_gives_way(catalog: CatalogDatabase, key: int) -> None:
    abandoned = arrival("1" * 64, lifetime=timedelta(0))
    let_in(catalog, key, abandoned)
    newcomer = arrival("1" * 64)
    assert let_in(catalog, key, newcomer).admitted == {newcomer.original.job_id}
    status, why = rows(catalog, "SELECT status, error_message FROM jobs WHERE id = :id", id=abandoned.original.job_id)[
        0
    ]
    assert (status, why) == ("failed", ABANDONED)
    # The slept-past writer wakes up: it is fenced off, and its reservation is not taken twice.
    assert "took this job over" in commit(catalog, key, abandoned)[abandoned.original.job_id]
    assert commit(catalog, key, newcomer) == {}
    assert one(catalog, "SELECT storage_used_bytes FROM api_keys") == 100
    assert one(catalog, "SELECT storage_reserved_bytes FROM api_keys") == 0


def test_a_commit_after_a_lapsed_reservation_is_admitted_again(catalog: CatalogDatabase, key: int) -> None:
    slow, quick = arrival("2" * 64, size=600, lifetime=timedelta(0)), arrival("3" * 64, size=600)
    let_in(catalog, key, slow)
    assert let_in(catalog, key, quick).admitted, "what lapsed holds nothing"
    assert "the reservation lapsed, and quota exceeded" in commit(catalog, key, slow)[slow.original.job_id]
    assert commit(catalog, key, quick) == {}
    assert rows(catalog, "SELECT storage_used_bytes, storage_reserved_bytes FROM api_keys") == [(600, 0)]


def test_room_for_outputs_is_kept_after_the_commit(catalog: CatalogDatabase, key: int) -> None:
    job = arrival("4" * 64, size=100)
    let_in(catalog, key, job)
    assert commit(catalog, key, job, keep=40) == {}
    assert rows(catalog, "SELECT storage_used_bytes, storage_reserved_bytes FROM api_keys") == [(100, 40)]


def test_reprocess_makes_another_job(catalog: CatalogDatabase, key: int) -> None:
    let_in(catalog, key, arrival("5" * 64))
    assert let_in(catalog, key, arrival("5" * 64), reprocess=True).admitted
