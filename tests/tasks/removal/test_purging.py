"""Bytes first, then rows: every key has an outcome, and whatever stops a purge, the next one finishes it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import UUID

import pytest

from blocks.catalog import CatalogDatabase
from blocks.catalog.objects import Extent
from blocks.errors import CatalogUnavailableError, LockLostError
from blocks.object_store import ObjectStore
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import put_bytes
from tasks.parallel import in_parallel
from tasks.removal import purging
from tasks.removal.purging import PurgeResult, purge_released
from tasks.stores import OpenLocation
from tests.helpers import assert_sound, execute, one, rows, stored_keys

Release = Callable[..., UUID]
LOGGED = "SELECT count(*) FROM operation_log WHERE operation = 'purge'"


class KilledError(BaseException):
    """Nothing in the project expects it."""


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purging, "PAUSE_SECONDS", 0.0)


@pytest.fixture
def release(catalog: CatalogDatabase, location: OpenLocation, new_job: Callable[[bytes], UUID]) -> Release:
    """A job with its original live, and some objects of 3 bytes that were released."""

    def make(count: int, name: bytes = b"the original") -> UUID:
        job = new_job(name)
        execute(
            catalog,
            "INSERT INTO stored_objects (id, job_id, api_key_id, kind, name, location_id, key, size_bytes, "
            " stored_bytes, sha256, state, verified_at) "
            "SELECT gen_random_uuid(), job_id, api_key_id, 'hls_360p', 's' || n, location_id, "
            "       'processed/' || job_id || '/s' || n, 3, 3, sha256, 'purging', now() "
            "  FROM stored_objects, generate_series(0, :count - 1) n WHERE job_id = :job AND kind = 'original'",
            count=count, job=job,
        )  # fmt: skip
        keys = [f"processed/{job}/s{number}" for number in range(count)]
        in_parallel(lambda key: put_bytes(location.store, key, b"abc", {}), keys, threads=16)
        return job

    return make


def left(catalog: CatalogDatabase) -> set[str]:
    return {row.key for row in rows(catalog, "SELECT key FROM stored_objects WHERE state = 'purging'")}


class Failing:
    """`delete_keys` of a store that removes what it is told, and says of some keys that it could not."""

    def __init__(self, keys: Iterable[str], *, times: int) -> None:
        self.keys, self.times = set(keys), times
        self.calls: list[list[str]] = []

    def __call__(self, store: ObjectStore, keys: list[str]) -> dict[str, str]:
        self.calls.append(keys)
        failed = delete_keys(store, keys)
        if len(self.calls) <= self.times:
            failed |= {key: "SlowDown: later" for key in keys if key in self.keys}
        return failed


def test_nothing_released(catalog: CatalogDatabase, location: OpenLocation, new_job: Callable[[bytes], UUID]) -> None:
    job = new_job(b"live")
    for jobs in (None, [job], []):
        assert purge_released(catalog, location, jobs) == PurgeResult()
    assert len(stored_keys(location)) == 1


def test_every_page_and_nothing_but_what_is_released(
    catalog: CatalogDatabase, location: OpenLocation, release: Release
) -> None:
    job = release(2500)
    batches: list[None] = []
    result = purge_released(catalog, location, None, run="the run", before_batch=lambda: batches.append(None))
    assert result == PurgeResult({job: Extent(2500, 7500)}, {})
    assert (result.objects, result.freed_bytes) == (2500, 7500)
    assert len(batches) == 3
    assert stored_keys(location) == [f"processed/{job}/raw/video_original.mp4"]
    log = rows(catalog, "SELECT run, bytes, before FROM operation_log WHERE operation = 'purge'")
    assert len(log) == 2500
    assert {(row.run, row.bytes) for row in log} == {("the run", 3)}
    assert {row.before["key"] for row in log} == {f"processed/{job}/s{number}" for number in range(2500)}
    assert_sound(catalog, location)


def test_what_never_came_in_does_not_go_out(catalog: CatalogDatabase, location: OpenLocation, release: Release) -> None:
    """A large upload that fails ten times is no ten times its size that a report says was removed."""
    release(2)
    execute(catalog, "UPDATE stored_objects SET verified_at = NULL WHERE name = 's1'")
    purge_released(catalog, location, None)
    assert rows(catalog, "SELECT before ->> 'name', bytes FROM operation_log WHERE operation = 'purge' ORDER BY 1") == [
        ("s0", 3), ("s1", 0),
    ]  # fmt: skip


def test_only_the_jobs_that_are_named(catalog: CatalogDatabase, location: OpenLocation, release: Release) -> None:
    mine, others = release(3, b"mine"), release(2, b"others")
    assert purge_released(catalog, location, [mine]).deleted == {mine: Extent(3, 9)}
    assert left(catalog) == {f"processed/{others}/s{number}" for number in range(2)}
    assert purge_released(catalog, location, [mine]) == PurgeResult()
    assert purge_released(catalog, location, None).deleted == {others: Extent(2, 6)}


def test_what_lies_in_another_store_stays(catalog: CatalogDatabase, location: OpenLocation, release: Release) -> None:
    job = release(2)
    execute(catalog, "INSERT INTO locations (name, store, bucket) VALUES ('cold', 'cold', 'elsewhere')")
    execute(
        catalog,
        "UPDATE stored_objects SET location_id = (SELECT id FROM locations WHERE name = 'cold') WHERE name = 's1'",
    )
    assert purge_released(catalog, location, None).objects == 1
    assert left(catalog) == {f"processed/{job}/s1"}
    assert f"processed/{job}/s1" in stored_keys(location), "the same key in another place is another object"


def test_bytes_that_are_gone_already(catalog: CatalogDatabase, location: OpenLocation, release: Release) -> None:
    job = release(3)
    delete_keys(location.store, [f"processed/{job}/s1"])
    assert purge_released(catalog, location, None) == PurgeResult({job: Extent(3, 9)}, {})


def test_only_what_failed_is_tried_again(
    catalog: CatalogDatabase, location: OpenLocation, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = release(20)
    stubborn = {f"processed/{job}/s3", f"processed/{job}/s7"}
    failing = Failing(stubborn, times=1)
    monkeypatch.setattr(purging, "delete_keys", failing)
    assert purge_released(catalog, location, None) == PurgeResult({job: Extent(20, 60)}, {})
    assert [len(keys) for keys in failing.calls] == [20, 2]
    assert set(failing.calls[1]) == stubborn


def test_what_fails_always_keeps_its_row_for_the_next_call(
    catalog: CatalogDatabase, location: OpenLocation, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = release(20)
    stubborn = {f"processed/{job}/s3", f"processed/{job}/s7"}
    failing = Failing(stubborn, times=purging.TRIES)
    monkeypatch.setattr(purging, "delete_keys", failing)
    result = purge_released(catalog, location, [job])
    assert [len(keys) for keys in failing.calls] == [20, 2, 2]
    assert result == PurgeResult({job: Extent(18, 54)}, dict.fromkeys(stubborn, "SlowDown: later"))
    assert left(catalog) == stubborn
    assert purge_released(catalog, location, [job]) == PurgeResult({job: Extent(2, 6)}, {})
    assert left(catalog) == set()
    assert one(catalog, LOGGED) == 20
    assert_sound(catalog, location)


def test_a_page_that_fails_does_not_stop_the_next(
    catalog: CatalogDatabase, location: OpenLocation, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = release(30)
    monkeypatch.setattr(purging, "MOST_KEYS", 10)
    monkeypatch.setattr(purging, "PARALLEL_BATCHES", 1)
    every = [f"processed/{job}/s{number}" for number in range(30)]
    monkeypatch.setattr(purging, "delete_keys", Failing(every, times=purging.TRIES))
    result = purge_released(catalog, location, None)
    assert (result.objects, len(result.failed)) == (20, 10)
    assert left(catalog) == set(result.failed)


def test_a_store_that_does_not_answer(catalog: CatalogDatabase, location: OpenLocation, release: Release) -> None:
    job = release(3)
    closed = location.store.model_copy(update={"endpoint_url": "http://127.0.0.1:9", "retries": 0})
    result = purge_released(catalog, OpenLocation(location.place, closed, location.capabilities), None)
    assert result.deleted == {}
    assert set(result.failed) == left(catalog) == {f"processed/{job}/s{number}" for number in range(3)}
    assert all("the store did not answer" in why for why in result.failed.values())
    assert one(catalog, LOGGED) == 0


def test_a_catalog_that_does_not_answer(
    catalog: CatalogDatabase, location: OpenLocation, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = release(3)

    def gone(*_: Any, **__: Any) -> list[Any]:
        raise CatalogUnavailableError("the catalog did not answer")

    with monkeypatch.context() as patched:
        patched.setattr(purging, "find_released", gone)
        assert purge_released(catalog, location, [job]).failed == {str(job): "the catalog did not answer"}
        with pytest.raises(CatalogUnavailableError):
            purge_released(catalog, location, None)
        patched.undo()
        patched.setattr(purging, "forget_released", gone)
        assert set(purge_released(catalog, location, None).failed) == left(catalog)
    assert purge_released(catalog, location, None).objects == 3


def test_killed_between_bytes_and_rows(
    catalog: CatalogDatabase, location: OpenLocation, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = release(5)

    def die(*_: Any, **__: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(purging, "forget_released", die)
        with pytest.raises(KilledError):
            purge_released(catalog, location, None)
    assert stored_keys(location) == [f"processed/{job}/raw/video_original.mp4"]
    assert len(left(catalog)) == 5, "the rows still name what may be there"
    assert one(catalog, LOGGED) == 0
    assert purge_released(catalog, location, None) == PurgeResult({job: Extent(5, 15)}, {})
    assert one(catalog, LOGGED) == 5
    assert_sound(catalog, location)


@pytest.mark.parametrize("named", [False, True])
def test_a_lost_lock_ends_it_between_two_batches(
    catalog: CatalogDatabase, location: OpenLocation, release: Release, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    job = release(40)
    monkeypatch.setattr(purging, "MOST_KEYS", 10)
    asked: list[None] = []

    def lost_at_the_third() -> None:
        asked.append(None)
        if len(asked) == 3:
            raise LockLostError("cut")

    with pytest.raises(LockLostError):
        purge_released(catalog, location, [job] if named else None, before_batch=lost_at_the_third)
    assert len(left(catalog)) == 20
    assert one(catalog, LOGGED) == 20, "what was begun is finished, and recorded"
    assert purge_released(catalog, location, None).objects == 20
    assert_sound(catalog, location)


def test_two_purges_at_once(
    catalog: CatalogDatabase, location: OpenLocation, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have read the same page, and both remove its bytes; the rows, and the log's lines, go once."""
    job = release(600)
    both = threading.Barrier(2, timeout=60)

    def together(store: ObjectStore, keys: list[str]) -> dict[str, str]:
        both.wait()
        return delete_keys(store, keys)

    monkeypatch.setattr(purging, "delete_keys", together)
    results: list[PurgeResult] = []
    wanted: Sequence[Sequence[UUID] | None] = (None, [job])
    threads = [
        threading.Thread(target=lambda jobs=jobs: results.append(purge_released(catalog, location, jobs)))  # type: ignore[misc]  # bound here
        for jobs in wanted
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.failed for result in results] == [{}, {}]
    assert left(catalog) == set()
    assert one(catalog, LOGGED) == 600
    assert one(catalog, "SELECT count(DISTINCT object_id) FROM operation_log WHERE operation = 'purge'") == 600
    assert sum(result.freed_bytes for result in results) == 1800, "bytes come back once"
    assert_sound(catalog, location)
