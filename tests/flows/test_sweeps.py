"""Each sweep as a flow on a real Prefect server: dry run and real, beside another one, and with its connection cut."""

from __future__ import annotations

import contextvars
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from blocks.catalog import CatalogDatabase
from blocks.catalog.restored import freeze, read_freeze, thaw
from blocks.catalog.sweeps import sweep_lock
from blocks.errors import (
    InvalidInputError,
    LeftOutError,
    LockLostError,
    NotFoundError,
    RefusedError,
    StoreUnavailableError,
)
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import put_bytes
from blocks.policies import AccessPolicy
from flows.common import planned
from tasks.stores import OpenLocation
from tasks.sweeping import Sweep
from tests.flows.conftest import save_policy
from tests.flows.test_flows import latest_artifact
from tests.helpers import execute, one, rows, stored_keys

pytestmark = pytest.mark.prefect


def artifact(api: str, key: str) -> list[dict[str, Any]]:
    return list(json.loads(latest_artifact(api, key)["data"]))


def make_failed(catalog: CatalogDatabase, *jobs: UUID) -> None:
    execute(
        catalog,
        "UPDATE jobs SET status = 'failed', updated_at = now() - interval '8 days' "
        " WHERE id = ANY (CAST(:ids AS uuid[]))",
        ids=[str(job) for job in jobs],
    )


def test_cleanup(
    saved: str, catalog: CatalogDatabase, location: OpenLocation, new_jobs: Callable[[int], list[UUID]]
) -> None:
    from flows.cleanup import cleanup

    jobs = new_jobs(3)
    make_failed(catalog, *jobs[:2])
    dry = cleanup(dry_run=True, return_state=True)
    assert (dry.name, dry.message) == (
        "DryRun", "dry run, nothing is changed: cleanup: 2 objects, 14 B (2 by failed_days)",
    )  # fmt: skip
    planned_rows = artifact(saved, "cleanup-plan")
    assert [row["what"] for row in planned_rows] == ["all", "purge job", "purge job"]
    assert len(stored_keys(location)) == 3

    state = cleanup(return_state=True)
    assert state.name == "Completed"
    assert "2 done; 2 objects, 14 B" in str(state.message)
    assert [row["result"] for row in artifact(saved, "cleanup")] == ["all", "done", "done"]
    assert len(stored_keys(location)) == 1
    assert cleanup(return_state=True).message == "cleanup: nothing to do"
    runs = rows(catalog, "SELECT DISTINCT run FROM operation_log WHERE operation = 'purge'")
    assert [len(row.run) for row in runs] == [36]
    with pytest.raises(InvalidInputError, match="lies in the future"):
        cleanup(as_of="2100-01-01T00:00:00Z")
    with pytest.raises(NotFoundError, match="no location 'nowhere' in the catalog; there are: main"):
        cleanup(stores=["nowhere"])


def test_a_store_that_is_down_keeps_no_sweep_from_the_others(
    cold: str, catalog: CatalogDatabase, location: OpenLocation, new_jobs: Callable[[int], list[UUID]]
) -> None:
    """And the run fails all the same: an operator hears of it."""
    from flows.apply_lifecycle import apply_lifecycle
    from flows.cleanup import cleanup
    from flows.compress_jobs import compress_jobs
    from flows.reconcile_quota import reconcile_quota

    jobs = new_jobs(2)
    make_failed(catalog, jobs[0])
    put_bytes(location.store, "processed/old/orphan", b"?", {})
    dry = cleanup(dry_run=True, return_state=True)
    assert dry.name == "DryRun"
    left = [row for row in artifact(cold, "cleanup-plan") if row["what"] == "left alone"]
    assert [(row["rule"], row["subject"]) for row in left] == [("left out", "cold")]
    state = cleanup(return_state=True)
    assert state.is_failed()
    assert "1 done; 1 objects, 7 B" in str(state.message)
    assert "cold was left out: " in str(state.message)
    assert len(stored_keys(location)) == 2
    for flow in (reconcile_quota, apply_lifecycle, compress_jobs):
        with pytest.raises(LeftOutError, match="cold was left out: "):
            flow()
    assert [(row["where"], row["young orphan"]) for row in artifact(cold, "reconcile-drift")] == [("main", "1")]
    delete_keys(location.store, ["processed/old/orphan"])
    with pytest.raises(StoreUnavailableError):
        cleanup(stores=["main", "cold"])


def test_the_trash_needs_no_store(cold: str, catalog: CatalogDatabase, new_jobs: Callable[[int], list[UUID]]) -> None:
    from flows.delete_jobs import delete_jobs
    from flows.undelete_jobs import undelete_jobs

    (job,) = map(str, new_jobs(1))
    assert delete_jobs(job_ids=[job], dry_run=False, return_state=True).name == "Completed"
    assert one(catalog, "SELECT deleted_at IS NOT NULL FROM jobs")
    assert undelete_jobs(job_ids=[job], dry_run=False, return_state=True).name == "Completed"
    assert one(catalog, "SELECT deleted_at IS NULL FROM jobs")
    with pytest.raises(StoreUnavailableError):
        delete_jobs(job_ids=[job], purge_now=True)


def test_two_sweeps_of_one_store(
    saved: str, catalog: CatalogDatabase, location: OpenLocation, new_jobs: Callable[[int], list[UUID]]
) -> None:
    """The second one ends at once and names the first; customers' flows do not wait for either."""
    from flows.cleanup import cleanup
    from flows.reconcile_quota import reconcile_quota

    new_jobs(1)
    with sweep_lock(catalog, [location.place.id], holder="reconcile-quota 42", wait=timedelta(0)):
        for flow in (cleanup, reconcile_quota):
            state = flow(return_state=True)
            assert state.name == "Skipped"
            assert "reconcile-quota 42 (since " in str(state.message)
        assert reconcile_quota(repair=False, return_state=True).name == "DryRun", "a look takes no lock"
        new_jobs(2)
    assert cleanup(return_state=True).name == "Completed"


def test_two_real_runs_at_once(
    saved: str, catalog: CatalogDatabase, location: OpenLocation, new_jobs: Callable[[int], list[UUID]]
) -> None:
    from flows.cleanup import cleanup

    make_failed(catalog, *new_jobs(6))
    names: list[str] = []

    def run() -> None:
        names.append(cleanup(return_state=True).name)

    # Prefect's settings are the context's, which a thread does not inherit.
    threads = [threading.Thread(target=contextvars.copy_context().run, args=(run,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "Completed" in names
    assert set(names) <= {"Completed", "Skipped"}
    assert stored_keys(location) == []
    assert one(catalog, "SELECT count(*) FROM operation_log WHERE operation = 'purge'") == 6


def test_a_run_whose_connection_is_cut_stops_and_the_next_one_finishes(
    saved: str, catalog: CatalogDatabase, location: OpenLocation, new_jobs: Callable[[int], list[UUID]],
    sql: Callable[[str], None], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from flows.cleanup import cleanup
    from tasks.removal import cleanup as work

    make_failed(catalog, *new_jobs(3))
    purge = work.purge_released

    def cut(*arguments: Any, **options: Any) -> Any:
        # In the middle: rows are released, no byte is removed yet.
        sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name LIKE 'cleanup %' AND datname = 'postgres'"
        )
        return purge(*arguments, **options)

    monkeypatch.setattr(work, "purge_released", cut)
    with pytest.raises(LockLostError, match="the connection that held this sweep's lock was cut"):
        cleanup()
    assert len(stored_keys(location)) == 3
    assert {row.state for row in rows(catalog, "SELECT state FROM stored_objects")} == {"purging"}
    monkeypatch.undo()
    assert "3 objects" in str(cleanup(return_state=True).message)
    assert stored_keys(location) == []


def test_a_scheduled_run_waits(
    saved: str, catalog: CatalogDatabase, location: OpenLocation, new_jobs: Callable[[int], list[UUID]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from flows.cleanup import cleanup

    monkeypatch.setattr(planned, "is_scheduled", lambda: True)
    make_failed(catalog, *new_jobs(1))
    holding, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with sweep_lock(catalog, [location.place.id], holder="another", wait=timedelta(0)):
            holding.set()
            let_go.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holding.wait(30)
    timer = threading.Timer(2, let_go.set)
    timer.start()
    assert cleanup(return_state=True).name == "Completed"
    thread.join()
    assert stored_keys(location) == []


def test_reconcile(
    saved: str, catalog: CatalogDatabase, location: OpenLocation, new_jobs: Callable[[int], list[UUID]]
) -> None:
    from flows.reconcile_quota import reconcile_quota

    (job,) = new_jobs(1)
    put_bytes(location.store, f"processed/{job}/orphan", b"12345", {})
    execute(catalog, "UPDATE api_keys SET storage_used_bytes = 99")
    assert reconcile_quota(repair=False, return_state=True).name == "DryRun"
    drift = {row["where"]: row for row in artifact(saved, "reconcile-drift")}
    assert drift["main"]["young orphan"] == "5"
    assert drift["counters"]["counter"] == "92"
    state = reconcile_quota(return_state=True)
    assert state.name == "Completed"
    assert one(catalog, "SELECT storage_used_bytes FROM api_keys") == 7
    assert f"processed/{job}/orphan" in stored_keys(location), "it is young"
    with pytest.raises(InvalidInputError, match="grace_hours"):
        reconcile_quota(grace_hours=0)
    # There is something, but nothing of what should be: another folder, as likely as a loss.
    delete_keys(location.store, [one(catalog, "SELECT key FROM stored_objects")])
    with pytest.raises(RefusedError, match="holds none of the 1 objects that the catalog expects there: this has to"):
        reconcile_quota()
    assert one(catalog, "SELECT state FROM stored_objects") == "live"
    execute(catalog, "DELETE FROM stored_objects")
    with pytest.raises(RefusedError, match="knows no object at all, and store main holds"):
        reconcile_quota()
    delete_keys(location.store, stored_keys(location))


def test_verify(
    saved: str, catalog: CatalogDatabase, location: OpenLocation, new_jobs: Callable[[int], list[UUID]]
) -> None:
    from flows.verify_objects import verify_objects

    jobs = new_jobs(3)
    key = one(catalog, "SELECT key FROM stored_objects WHERE job_id = :id", id=jobs[0])
    put_bytes(location.store, key, b"VIDEO 0", {})
    state = verify_objects(share=100, return_state=True)
    assert state.name == "Partial"
    assert "3 of 3 objects read (14 B sound): 1 corrupt; 1 jobs are hurt; 1 are on record" in str(state.message)
    (row,) = artifact(saved, "verify-objects")
    assert (row["result"], row["job"]) == ("corrupt", str(jobs[0]))
    assert "taking it in again" in row["what could heal it"]
    assert verify_objects(share=100, return_state=True).name == "Completed"
    assert len(stored_keys(location)) == 3
    execute(catalog, "UPDATE stored_objects SET state = 'missing' WHERE key = :key", key=key)


def test_lifecycle(saved: str, catalog: CatalogDatabase, location: OpenLocation) -> None:
    from flows.apply_lifecycle import apply_lifecycle

    put_bytes(location.store, "temp/a/blob", b"12345", {})
    assert apply_lifecycle(dry_run=True, return_state=True).name == "DryRun"
    reach = {row["rule"]: row for row in artifact(saved, "lifecycle-reach")}
    assert set(reach) == {"temp_days", "failed_days", "exports_days", "probe_days", "reports_days", "multipart_days"}
    assert reach["temp_days"]["done by"] == "the server"
    try:
        assert apply_lifecycle(return_state=True).name == "Completed"
        assert str(apply_lifecycle(return_state=True).message).startswith("apply-lifecycle: nothing to do")
    finally:
        location.store.s3.delete_bucket_lifecycle(Bucket=location.store.bucket)


def test_delete_undelete_hold_explain(
    saved: str, catalog: CatalogDatabase, location: OpenLocation, new_jobs: Callable[[int], list[UUID]]
) -> None:
    from flows.delete_jobs import delete_jobs
    from flows.explain_object import explain_object
    from flows.hold_jobs import hold_jobs
    from flows.undelete_jobs import undelete_jobs

    held, gone = (str(job) for job in new_jobs(2))
    hold_jobs(job_ids=[held], reason="case 7")
    assert delete_jobs(job_ids=[held, gone], return_state=True).name == "DryRun", "unless asked otherwise"
    state = delete_jobs(job_ids=[held, gone], dry_run=False, return_state=True)
    assert "1 done" in str(state.message)
    assert one(catalog, "SELECT state FROM stored_objects WHERE job_id = :id", id=held) == "live"
    assert one(catalog, "SELECT state FROM stored_objects WHERE job_id = :id", id=gone) == "trashed"
    key = one(catalog, "SELECT key FROM stored_objects WHERE job_id = :id", id=gone)
    told = explain_object(reference=key, return_state=True)
    assert "in the trash; undelete-jobs brings it back until" in str(told.message)
    assert [row["what"].split()[0] for row in artifact(saved, "explain-object")] == ["original", "trash", "ingest"]
    assert "1 done" in str(undelete_jobs(api_key="acme", return_state=True).message)
    assert one(catalog, "SELECT state FROM stored_objects WHERE job_id = :id", id=gone) == "live"
    with pytest.raises(InvalidInputError, match="nothing is asked for"):
        delete_jobs()


def test_bulk_download(
    saved: str, catalog: CatalogDatabase, new_jobs: Callable[[int], list[UUID]], tmp_path: Path
) -> None:
    from flows.bulk_download import bulk_download

    jobs = [str(job) for job in new_jobs(2)]
    assert bulk_download(job_ids=jobs, return_state=True).name == "Completed"
    link = latest_artifact(saved, "bulk-download")
    url = link["data"].partition("](")[2].rstrip(")")
    assert httpx.get(url).content[:2] == b"PK"
    with pytest.raises(RefusedError, match="download_roots"):
        bulk_download(job_ids=jobs, target=str(tmp_path / "there"))
    save_policy(AccessPolicy(download_roots=str(tmp_path)))
    bulk_download(job_ids=jobs, target=str(tmp_path / "there"))
    assert len(list((tmp_path / "there").rglob("*.mp4"))) == 2


@pytest.mark.parametrize("confirmed", [False, True])
def test_a_restore_while_a_run_waits_for_its_turn(
    saved: str,
    catalog: CatalogDatabase,
    location: OpenLocation,
    new_jobs: Callable[[int], list[UUID]],
    monkeypatch: pytest.MonkeyPatch,
    confirmed: bool,
) -> None:
    """It was let in before the freeze, and holds the lock after it: nothing is released."""
    from flows.cleanup import cleanup

    make_failed(catalog, *new_jobs(2))
    held = planned._held

    @contextmanager
    def held_after_a_restore(*arguments: Any, **options: Any) -> Iterator[Sweep]:
        with held(*arguments, **options) as sweep:
            catalog.transaction(lambda connection: freeze(connection, backup="b", epoch=7, run="restore"))
            if confirmed:
                seen = catalog.transaction(read_freeze)
                assert seen is not None
                catalog.transaction(lambda connection: thaw(connection, seen, run="confirm"))
            yield sweep

    monkeypatch.setattr(planned, "_held", held_after_a_restore)
    state = cleanup(return_state=True)
    assert state.name == ("Failed" if confirmed else "Skipped")
    assert ("was restored since this run opened main" if confirmed else "nobody has confirmed it") in str(state.message)
    assert one(catalog, "SELECT count(*) FROM stored_objects WHERE state = 'live'") == 2
