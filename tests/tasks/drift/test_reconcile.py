"""Drift is found, explained, and healed only where it is provable; a listing is never believed alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from blocks.catalog import counters, drift
from blocks.errors import ForeignCatalogError, InvalidInputError, RefusedError, StorageError, StoreUnavailableError
from blocks.object_store import listing
from blocks.object_store.copying import copy
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import put_bytes, read_bytes
from blocks.policies import IngestPolicy
from tasks.drift import judge, reconcile
from tasks.drift.compare import split_jobs
from tasks.drift.judge import explain_drift
from tasks.drift.repairs import apply_repairs
from tasks.intake.ingest import ingest_videos
from tasks.intake.outputs import register_outputs
from tasks.plans import Plan
from tasks.removal.deletion import hold
from tasks.stores import OpenLocation
from tasks.sweeping import Sweep
from tests.helpers import assert_sound, execute, one, rows, stored_keys, write_outputs, write_video
from tests.tasks.drift.drifting import NO_GRACE, POLICY, key_of, look, run, state_of
from tests.wires import Clock, wired


def test_no_drift(
    sweep: Sweep, location: OpenLocation, policy: IngestPolicy, new_job: Callable[[bytes], UUID], tmp_path: Any
) -> None:
    job = new_job(b"1")
    new_job(b"2")
    register_outputs(sweep.catalog, location, policy, job_id=job, outputs=str(write_outputs(tmp_path / "out")))
    (found,) = look(sweep)
    assert (found.listed, found.expected, found.findings, found.counters) == (18, 18, (), ())


def test_every_kind_of_drift_is_found_explained_and_mended(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    catalog, store = sweep.catalog, location.store
    sound, missing, changed, back, healed = (new_job(name * 10) for name in (b"s", b"m", b"c", b"b", b"h"))
    delete_keys(store, [key_of(catalog, missing)])
    put_bytes(store, key_of(catalog, changed), b"others", {})
    execute(catalog, "UPDATE stored_objects SET state = 'missing' WHERE job_id = :id", id=back)
    # The same bytes under another key, with the row's id in their metadata, as an interrupted relocation leaves them.
    object_id, sha256 = rows(catalog, "SELECT id, sha256 FROM stored_objects WHERE job_id = :id", id=healed)[0]
    orphan_key = f"processed/{healed}/raw/video_original.{uuid4()}.mp4"
    attributes = {"object-id": str(object_id), "sha256": sha256}
    copy(store, key_of(catalog, healed), store, orphan_key, size_bytes=10, attributes=attributes)
    delete_keys(store, [key_of(catalog, healed)])
    put_bytes(store, f"processed/{sound}/raw/nobody's", b"12345", {})
    put_bytes(store, "processed/README", b"1234567", {})
    execute(catalog, "UPDATE api_keys SET storage_used_bytes = storage_used_bytes + 7, storage_reserved_bytes = 3")

    found = look(sweep)
    labels = catalog.transaction(drift.labels)
    lines = {line["customer"]: line for line in explain_drift(found, labels) if line["where"] == "main"}
    assert lines["acme"] == {
        "customer": "acme", "where": "main", "healing": "10", "mismatch": "10", "missing": "20", "orphan": "5",
        "returned": "10",
    }  # fmt: skip
    assert lines["nobody's"]["orphan"] == "7"
    counters = next(line for line in explain_drift(found, labels) if line["where"] == "counters")
    assert (counters["counter"], counters["reserved"]) == ("7", "3")

    plan, report = run(sweep)
    assert report.failed == ()
    assert {outcome.result for outcome in report.outcomes} == {"done"}
    assert (plan.objects, report.objects, report.size_bytes) == (4, 2, 12), "two are marked missing"
    states = [state_of(catalog, job) for job in (sound, missing, changed, back, healed)]
    assert states == ["live", "missing", "corrupt", "live", "live"]
    healed_key = key_of(catalog, healed)
    assert healed_key not in (orphan_key, f"processed/{healed}/raw/video_original.mp4"), "no key is written twice"
    assert read_bytes(store, healed_key, at_most=100) == b"h" * 10
    operations = {row.operation for row in rows(catalog, "SELECT operation FROM operation_log WHERE run = 'the run'")}
    assert operations == {"mark", "heal", "remove-orphan", "repair"}
    # A counter is no bytes: what it was and is stands beside it.
    assert one(sweep.catalog, "SELECT sum(bytes) FROM operation_log WHERE operation = 'repair'") == 0
    again, _ = run(sweep)
    assert [item.subject for item in again.items] == [orphan_key], "nobody needs it any more"
    assert run(sweep)[0].items == ()
    assert_sound(catalog, location)


def test_an_orphan_within_its_grace_stays(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    job = new_job(b"1")
    put_bytes(location.store, f"processed/{job}/young", b"12345", {})
    plan, report = run(sweep, timedelta(hours=72))
    assert plan.items == ()
    assert "no row names it" in plan.skipped[0].because
    assert report.outcomes == ()
    assert f"processed/{job}/young" in stored_keys(location)


def test_an_orphan_of_a_job_on_hold_stays(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hold is for all that lies in the job's folder: what no row names may be the evidence."""
    job = new_job(b"1")
    key = f"processed/{job}/720p/older.mp4"
    put_bytes(location.store, key, b"12345", {})
    with monkeypatch.context() as patched:
        # Put on hold between the plan and its doing.
        record = judge.plan_repairs

        def plan_and_hold(*arguments: Any) -> Plan:
            plan = record(*arguments)
            hold(sweep.catalog, job_ids=[str(job)], reason="case 7")
            return plan

        patched.setattr(judge, "plan_repairs", plan_and_hold)
        plan, report = run(sweep)
    assert [(item.action, item.subject) for item in plan.items] == [("remove orphan", key)]
    assert [(one.result, one.error) for one in report.outcomes] == [("skipped", "its job is on hold by now")]
    plan, report = run(sweep)
    assert [(item.rule, item.subject) for item in plan.skipped] == [("hold", key)]
    assert "its job is on hold; no row names it" in plan.skipped[0].because
    assert key in stored_keys(location)
    hold(sweep.catalog, job_ids=[str(job)], reason="", release=True)
    run(sweep)
    assert key not in stored_keys(location)


@pytest.mark.parametrize("off", [timedelta(days=30), timedelta(days=-30)])
def test_nothing_is_an_orphan_where_clocks_disagree(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID], off: timedelta
) -> None:
    put_bytes(location.store, f"processed/{new_job(b'1')}/young", b"12345", {})
    with wired(location.store, Clock(off)) as store:
        behind = replace(sweep, locations=(replace(location, store=store),))
        with pytest.raises(RefusedError, match="one of them is wrong, and nothing is removed for its age"):
            look(behind, timedelta(hours=72))


def test_an_orphans_age_goes_by_the_clock_that_dated_it(sweep: Sweep, location: OpenLocation) -> None:
    off, grace = timedelta(minutes=50), timedelta(hours=72)
    with wired(location.store, Clock(off)) as store:
        before = reconcile.orphans_before(sweep.catalog, replace(location, store=store), grace)
    assert abs(before - (datetime.now(UTC) + off - grace)) < timedelta(minutes=1)


def test_an_orphan_report_that_has_grown_old_removes_nothing_that_somebody_wants(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    job = new_job(b"1")
    names = ("named", "intended", "gone", "still")
    for name in names:
        put_bytes(location.store, f"processed/{job}/{name}", b"12345", {})
    found = look(sweep)
    plan = judge.plan_repairs(found, {})
    assert len(plan.items) == 4
    execute(
        sweep.catalog,
        "INSERT INTO stored_objects (id, job_id, api_key_id, kind, name, location_id, key, size_bytes, stored_bytes, "
        "sha256, state) SELECT gen_random_uuid(), job_id, api_key_id, kind, 'new', location_id, :key, 5, 5, sha256, "
        "'pending' FROM stored_objects",
        key=f"processed/{job}/named",
    )
    execute(
        sweep.catalog,
        "INSERT INTO relocations (id, object_id, job_id, generation, operation, location_id, key) "
        "SELECT gen_random_uuid(), id, job_id, 1, 'tier', location_id, :key FROM stored_objects LIMIT 1",
        key=f"processed/{job}/intended",
    )
    delete_keys(location.store, [f"processed/{job}/gone"])
    report = apply_repairs(sweep, POLICY, found, plan, grace=NO_GRACE)
    results = {outcome.item.subject.rpartition("/")[2]: (outcome.result, outcome.error) for outcome in report.outcomes}
    assert results == {
        "named": ("skipped", "a row names it by now"), "intended": ("skipped", "a row names it by now"),
        "gone": ("skipped", "gone already"), "still": ("done", ""),
    }  # fmt: skip
    # And with a grace again: the report was made without one.
    put_bytes(location.store, f"processed/{job}/still", b"12345", {})
    report = apply_repairs(sweep, POLICY, look(sweep), plan, grace=timedelta(hours=1))
    assert {outcome.result for outcome in report.outcomes if "still" in outcome.item.subject} == {"skipped"}


def only(keys: Callable[[str], bool]) -> Any:
    """A listing that leaves things out, as a broken server's would."""
    whole = listing.list_range

    def part(*arguments: Any, **options: Any) -> Iterator[listing.Listed]:
        return (item for item in whole(*arguments, **options) if keys(item.key))

    return part


def test_a_half_listing_changes_nothing(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [new_job(name) for name in (b"1", b"2", b"3")]
    put_bytes(location.store, f"processed/{jobs[0]}/orphan", b"x", {})
    monkeypatch.setattr(reconcile, "list_range", only(lambda key: str(jobs[1]) not in key))
    with pytest.raises(StoreUnavailableError, match="left out at least 1 objects that exist, such as processed/"):
        look(sweep)
    monkeypatch.setattr(reconcile, "list_range", only(lambda key: False))
    with pytest.raises(StoreUnavailableError, match="left out at least 3 objects"):
        look(sweep)


def test_an_emptied_store_or_catalog_changes_nothing(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    job = new_job(b"1")
    key = key_of(sweep.catalog, job)
    delete_keys(location.store, [key])
    with pytest.raises(RefusedError, match="lists nothing, and the catalog expects 1 objects"):
        look(sweep)
    put_bytes(location.store, key, b"1", {})
    execute(sweep.catalog, "DELETE FROM stored_objects")
    with pytest.raises(RefusedError, match="knows no object at all, and store main holds 1: nothing is changed"):
        look(sweep)
    assert stored_keys(location) == [key]


def test_a_foreign_bucket_loses_no_orphan(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    job = new_job(b"1")
    put_bytes(location.store, f"processed/{job}/orphan", b"x", {})
    found = look(sweep)
    execute(sweep.catalog, "UPDATE catalog_identity SET epoch = epoch + 1")
    with pytest.raises(ForeignCatalogError):
        apply_repairs(sweep, POLICY, found, judge.plan_repairs(found, {}), grace=NO_GRACE)
    assert len(stored_keys(location)) == 2


def test_a_listing_that_fails_halfway(
    sweep: Sweep, new_job: Callable[[bytes], UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    new_job(b"1")
    whole = listing.list_range

    def breaks(*arguments: Any, **options: Any) -> Iterator[listing.Listed]:
        yield from whole(*arguments, **options)
        raise StoreUnavailableError("the connection broke")

    monkeypatch.setattr(reconcile, "list_range", breaks)
    with pytest.raises(StorageError):
        look(sweep)


def test_what_is_written_meanwhile_is_no_drift(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that arrives between the rows and the listing, and one that is purged in between."""
    first = new_job(b"1")
    whole = listing.list_range

    def late(*arguments: Any, **options: Any) -> Iterator[listing.Listed]:
        if one(sweep.catalog, "SELECT count(*) FROM jobs") == 1:
            new_job(b"2")
            delete_keys(location.store, [key_of(sweep.catalog, first)])
            execute(sweep.catalog, "DELETE FROM stored_objects WHERE job_id = :id", id=first)
        return whole(*arguments, **options)

    monkeypatch.setattr(reconcile, "list_range", late)
    _, report = run(sweep)
    assert [(outcome.item.action, outcome.result) for outcome in report.outcomes] == [("mark missing", "skipped")]
    assert_sound(sweep.catalog, location)


def test_rows_under_way_and_in_the_trash(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    pending, purging, trashed = (new_job(name) for name in (b"1", b"2", b"3"))
    for job, state in ((pending, "pending"), (purging, "purging")):
        execute(sweep.catalog, "UPDATE stored_objects SET state = :state WHERE job_id = :id", state=state, id=job)
    delete_keys(location.store, [key_of(sweep.catalog, job) for job in (pending, purging)])
    execute(
        sweep.catalog,
        "UPDATE stored_objects SET state = 'trashed', trashed_state = 'live' WHERE job_id = :id", id=trashed,
    )  # fmt: skip
    assert run(sweep)[0].items == ()
    delete_keys(location.store, [key_of(sweep.catalog, trashed)])
    put_bytes(location.store, f"processed/{pending}/something", b"else", {})
    run(sweep, timedelta(hours=1))
    row = rows(sweep.catalog, "SELECT state, trashed_state FROM stored_objects WHERE job_id = :id", id=trashed)[0]
    assert tuple(row) == ("trashed", "missing"), "undo will bring back exactly that"


def test_ranges_cover_every_key_once(sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID]) -> None:
    jobs = [new_job(bytes([number])) for number in range(30)]
    put_bytes(location.store, f"uploads/{jobs[0]}/x", b"1", {})
    for junk in ("processed/0", "processed/zzz", f"processed/{'f' * 8}", "uploads/{}"):
        put_bytes(location.store, junk, b"1", {})
    everything = sorted(stored_keys(location) + stored_keys(location, "uploads"))
    for count in (1, 2, 3, 7, 64, 200):
        parts = split_jobs(25_000 * count, at_least=1)
        assert len(parts) == count
        listed = [
            item.key
            for part in parts
            for root in ("processed", "uploads")
            for item in listing.list_range(location.store, root, after=part.bounds(root)[0], until=part.bounds(root)[1])
        ]
        assert sorted(listed) == everything
        expected = [
            row.id
            for part in parts
            for row in sweep.catalog.transaction(
                lambda c, part=part: drift.expected_in_range(c, [location.place.id], part.first, part.last)  # type: ignore[misc]
            )
        ]
        assert len(expected) == len(set(expected)) == 30


def test_a_grace_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="grace_hours=0 is outside the limits"):
        reconcile.check_grace(0, POLICY)
    assert reconcile.check_grace(None, POLICY) == timedelta(hours=72)


def test_counters_are_repaired_beside_ingest(
    sweep: Sweep, location: OpenLocation, policy: IngestPolicy, acme: str, tmp_path: Path
) -> None:
    customer = one(sweep.catalog, "SELECT id FROM api_keys")
    execute(sweep.catalog, "UPDATE api_keys SET storage_used_bytes = 1000")

    def ingest(number: int) -> None:
        video = write_video(tmp_path / f"{number}.mp4", bytes([number]) * 10)
        ingest_videos(sweep.catalog, location, policy, api_key=acme, sources=[str(video)])

    threads = [threading.Thread(target=ingest, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        sweep.catalog.transaction(lambda connection: counters.repair_counters(connection, customer, run=""))
    for thread in threads:
        thread.join()
    assert one(sweep.catalog, "SELECT storage_used_bytes FROM api_keys") == 80
    assert sweep.catalog.transaction(counters.counter_drift) == []
