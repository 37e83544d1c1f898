"""What the platform does with a store, whole: taken in, handed out, moved, given up, held against the catalog."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from blocks.catalog import CatalogDatabase, drift
from blocks.errors import RefusedError
from blocks.object_store.block import MIB
from blocks.object_store.copying import copy
from blocks.object_store.deletion import delete_keys
from blocks.object_store.listing import list_prefix
from blocks.object_store.multipart import list_multipart_uploads
from blocks.object_store.transfer import put_bytes
from blocks.policies import AccessPolicy, IngestPolicy, IntegrityPolicy, RelocationPolicy, RetentionPolicy
from tasks.access import issue_download_url
from tasks.drift import judge, reconcile
from tasks.drift.repairs import apply_repairs
from tasks.intake.ingest import ingest_videos
from tasks.intake.outputs import register_outputs
from tasks.plans import Plan, Report
from tasks.relocation.intents import recover
from tasks.relocation.migration import Migration, check_migration, find_jobs, plan_migration, take_over
from tasks.relocation.moving import collect_records, move_batch, split, sum_up
from tasks.relocation.relocate import relocate
from tasks.relocation.rewriting import Target
from tasks.removal.cleanup import apply_cleanup, find_due
from tasks.removal.cleanup_plan import plan_cleanup
from tasks.removal.deletion import (
    Wanted,
    apply_deletion,
    apply_erasure,
    apply_undelete,
    plan_deletion,
    plan_undelete,
    select,
)
from tasks.stores import Locations, OpenLocation
from tasks.sweeping import Sweep
from tests.helpers import assert_sound, execute, one, rows, sha256, stored_keys, write_outputs, write_video
from tests.tasks.relocation.moves import WHY, end_urls, everything, results

CONTENT = os.urandom(11 * MIB + 5)
"""A video of three parts."""
TEXT = b"and so on, and so forth; " * 400
NO_GRACE = timedelta(seconds=-5)


@pytest.fixture
def job(catalog: CatalogDatabase, location: OpenLocation, policy: IngestPolicy, acme: str, tmp_path: Path) -> UUID:
    """A job with everything that belongs to one."""
    execute(catalog, "UPDATE api_keys SET storage_quota_bytes = NULL")
    video = write_video(tmp_path / "summer: the film.mp4", CONTENT)
    first, again = (
        ingest_videos(catalog, location, policy, api_key=acme, sources=[str(video)]).outcomes[0] for _ in range(2)
    )
    assert (first.result, again.result) == ("ingested", "duplicate"), first.error
    assert first.job_id is not None
    outputs = write_outputs(tmp_path / "out")
    (outputs / "transcription" / "transcript.txt").write_bytes(TEXT)
    register_outputs(catalog, location, policy, job_id=first.job_id, outputs=str(outputs))
    return first.job_id


@pytest.fixture
def sweep(catalog: CatalogDatabase, location: OpenLocation, beside: OpenLocation, monkeypatch, tmp_path) -> Sweep:  # type: ignore[no-untyped-def]
    # Scratch folders of this test's own: the real one may hold somebody's work.
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return Sweep(catalog, (location, beside), run="the run")


def download(catalog: CatalogDatabase, locations: Locations, job: UUID, kind: str, **asked: Any) -> httpx.Response:
    issued = issue_download_url(catalog, locations, AccessPolicy(), api_key="acme", job_id=job, kind=kind, **asked)
    return httpx.get(issued.url, timeout=30)


def cleaned(sweep: Sweep) -> tuple[Plan, Report]:
    facts = find_due(sweep, RetentionPolicy())
    plan = plan_cleanup(facts)
    report = apply_cleanup(sweep, RetentionPolicy(), facts, plan)
    assert report.failed == ()
    return plan, report


def reconciled(catalog: CatalogDatabase, location: OpenLocation) -> dict[str, str]:
    """What was found, by key; provable things are mended."""
    policy = IntegrityPolicy()
    parts = [
        reconcile.look_through(catalog, location, policy, part, grace=NO_GRACE)
        for part in reconcile.plan_ranges(catalog, location, policy)
    ]
    found = judge.put_together(catalog, [(location, parts)])
    plan = judge.plan_repairs(found, catalog.transaction(drift.labels))
    report = apply_repairs(Sweep(catalog, (location,)), policy, found, plan, grace=NO_GRACE)
    assert report.failed == ()
    return {finding.key: finding.what for finding in found[0].findings}


def test_handed_out(catalog: CatalogDatabase, location: OpenLocation, job: UUID, does: Callable[[str], bool]) -> None:
    locations = Locations(catalog, location)
    original = download(catalog, locations, job, "original")
    assert sha256(original.content) == sha256(CONTENT)
    if does("presigned_filename"):
        assert "summer%3A%20the%20film.mp4" in original.headers["content-disposition"]
    assert download(catalog, locations, job, "audio").content == b"sound"
    playlist = download(catalog, locations, job, "hls_360p").text
    segments = [line for line in playlist.splitlines() if line and not line.startswith("#")]
    assert [httpx.get(url, timeout=30).content for url in segments] == [
        f"360p segment_{number:04d}.ts".encode() for number in range(3)
    ]
    assert_sound(catalog, location)


def test_migrated_to_another_place_and_back(
    catalog: CatalogDatabase, location: OpenLocation, beside: OpenLocation, job: UUID, sweep: Sweep
) -> None:
    locations, policy = Locations(catalog, location, [beside]), RelocationPolicy()
    contents = sorted((row.sha256, row.size_bytes) for row in everything(catalog))
    for source, target in ((location, beside), (beside, location)):
        migration = check_migration(Migration(source, target))
        plan, moves = plan_migration(find_jobs(catalog, migration), migration)
        assert plan.objects == len(contents)
        take_over(catalog, migration)
        batches = split(moves, policy, run="the run", records="reports/migrate-storage/the-run")
        moved = [move_batch(catalog, locations, policy, batch) for batch in batches]
        (done,) = sum_up(moved).values()
        assert (done.moved, done.failed, done.error) == (len(contents), 0, "")
        collect_records(target, moved, "reports/migrate-storage/the-run.csv")
        assert [key.key for key in list_prefix(target.store, "reports")] == ["reports/migrate-storage/the-run.csv"]
        assert sorted((row.sha256, row.size_bytes) for row in everything(catalog)) == contents
        assert {row.location_id for row in everything(catalog)} == {target.place.id}
        assert sha256(download(catalog, locations, job, "original").content) == sha256(CONTENT)
        assert reconciled(catalog, target) == {}
        end_urls(catalog)
        assert recover(sweep).objects == len(contents)
        assert stored_keys(source) == []
    assert_sound(catalog, location, beside)


def test_large_objects_move_however_the_server_copies(
    catalog: CatalogDatabase, location: OpenLocation, beside: OpenLocation, job: UUID, does: Callable[[str], bool]
) -> None:
    """Past the limit a server copies in parts; one that does not is read from and written to."""
    limits = {"multipart_copy_threshold_bytes": 5 * MIB, "multipart_copy_part_bytes": 5 * MIB}
    small = OpenLocation(beside.place, beside.store.model_copy(update=limits), beside.capabilities)
    locations = Locations(catalog, location, [small])
    moved = relocate(catalog, locations, RelocationPolicy(), everything(catalog), Target(small), WHY)
    assert results(moved) == {"moved": len(moved)}
    assert does("copies_in_parts") or list(list_multipart_uploads(beside.store)) == []
    assert_sound(catalog, location, beside)


def test_compressed_for_those_who_decode(
    catalog: CatalogDatabase, location: OpenLocation, job: UUID, does: Callable[[str], bool]
) -> None:
    locations = Locations(catalog, location)
    text = [row for row in everything(catalog) if row.kind == "transcript_txt"]
    relocated = relocate(catalog, locations, RelocationPolicy(), text, Target(location, "zstd"), WHY)
    assert results(relocated) == {"moved": 1}
    packed = download(catalog, locations, job, "transcript_txt", accept_encoding="zstd")
    assert packed.content == TEXT
    # Where a URL cannot say how to decode it, or nobody said that he can, it is brought back first.
    codec = one(catalog, "SELECT codec FROM stored_objects WHERE kind = 'transcript_txt'")
    assert codec == ("zstd" if does("presigned_encoding") else "identity")
    assert download(catalog, locations, job, "transcript_txt").content == TEXT
    assert one(catalog, "SELECT codec FROM stored_objects WHERE kind = 'transcript_txt'") == "identity"
    assert_sound(catalog, location)


def test_given_up_and_brought_back(
    catalog: CatalogDatabase, location: OpenLocation, beside: OpenLocation, job: UUID, sweep: Sweep
) -> None:
    wanted = Wanted((str(job),))
    assert not apply_deletion(sweep, RetentionPolicy(), plan_deletion(select(catalog, wanted))).failed
    with pytest.raises(RefusedError):
        download(catalog, Locations(catalog, location), job, "original")
    assert not apply_undelete(sweep, plan_undelete(select(catalog, wanted))).failed
    assert sha256(download(catalog, Locations(catalog, location), job, "original").content) == sha256(CONTENT)
    assert_sound(catalog, location, beside)
    assert not apply_deletion(sweep, RetentionPolicy(), plan_deletion(select(catalog, wanted))).failed
    execute(catalog, "UPDATE jobs SET purge_after = now() - interval '1 s'")
    plan, report = cleaned(sweep)
    assert [item.rule for item in plan.items] == ["trash_days"]
    assert report.objects > 10
    assert stored_keys(location) == []
    assert one(catalog, "SELECT storage_used_bytes FROM api_keys") == 0
    assert_sound(catalog, location, beside)


def test_erased_at_once(
    catalog: CatalogDatabase, location: OpenLocation, beside: OpenLocation, job: UUID, sweep: Sweep
) -> None:
    download(catalog, Locations(catalog, location), job, "hls_720p")
    assert list(list_prefix(location.store, "exports"))
    plan = plan_deletion(select(catalog, Wanted((str(job),))), purge_now=True)
    assert not apply_erasure(sweep, plan).failed
    assert [listed.key for listed in list_prefix(location.store, "")] == ["transcode-flow.catalog"]
    assert_sound(catalog, location, beside)


def test_drift_is_found_and_mended(catalog: CatalogDatabase, location: OpenLocation, job: UUID) -> None:
    assert reconciled(catalog, location) == {}
    store = location.store
    texts = rows(catalog, "SELECT id, key, sha256, size_bytes FROM stored_objects WHERE kind LIKE 'transcript%'")
    lost, moved = texts[:2]
    only_copy, nobodys = f"processed/{job}/{uuid4()}", f"processed/{uuid4()}/x"
    # The same bytes under another key, with the row's id in their metadata, as an interrupted relocation leaves them.
    attributes = {"object-id": str(moved.id), "sha256": moved.sha256}
    copy(store, moved.key, store, only_copy, size_bytes=moved.size_bytes, attributes=attributes)
    assert delete_keys(store, [lost.key, moved.key]) == {}
    put_bytes(store, nobodys, b"nobody's", {})
    assert reconciled(catalog, location) == {
        lost.key: "missing", moved.key: "missing", only_copy: "healing", nobodys: "orphan",
    }  # fmt: skip
    states = {row.id: row.state for row in rows(catalog, "SELECT id, state FROM stored_objects")}
    assert (states[lost.id], states[moved.id]) == ("missing", "live"), "what carries a row's id is never an orphan"
    assert reconciled(catalog, location) == {only_copy: "orphan"}, "nobody needs it any more"
    assert reconciled(catalog, location) == {}
    assert_sound(catalog, location)


def test_what_was_begun_and_left_is_cleaned_up(
    catalog: CatalogDatabase, location: OpenLocation, beside: OpenLocation, sweep: Sweep, does: Callable[[str], bool]
) -> None:
    key = location.store.path("processed/x")
    location.store.s3.create_multipart_upload(Bucket=location.store.bucket, Key=key)
    put_bytes(location.store, "temp/old/blob", b"x", {})
    facts = find_due(sweep, RetentionPolicy(), dry_run=True)
    assert plan_cleanup(facts).items == (), "young"
    assert does("lists_incomplete_uploads")
    later = facts.now + timedelta(days=4)
    plan = plan_cleanup(find_due(sweep, RetentionPolicy(), as_of=later, dry_run=True))
    assert {item.rule for item in plan.items} == {"temp_days", "multipart_days"}
    facts = find_due(sweep, RetentionPolicy(), as_of=later, dry_run=True)
    assert apply_cleanup(sweep, RetentionPolicy(), facts, plan_cleanup(facts)).failed == ()
    assert list(list_multipart_uploads(location.store)) == []
    assert list(list_prefix(location.store, "temp")) == []
    assert_sound(catalog, location, beside)
