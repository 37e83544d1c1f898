"""Taking in videos from disk: every outcome, and that whatever happens the catalog and the bytes agree."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from blocks.errors import (
    CatalogUnavailableError,
    ForeignCatalogError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
)
from blocks.object_store.deletion import delete_keys
from blocks.object_store.probing import Capabilities
from blocks.object_store.transfer import put_bytes
from blocks.policies import IngestPolicy
from tasks.customers import set_disabled
from tasks.declaring import probe_store
from tasks.intake import taking_in
from tasks.intake.arrivals import Hashed
from tasks.intake.ingest import BATCH_BYTES, IngestReport, plan_batches
from tasks.intake.sources import Source
from tasks.intake.taking_in import IngestOutcome, take_in
from tasks.layout import IDENTITY_KEY
from tasks.stores import open_location
from tasks.writing import LocalFile
from tests.helpers import execute, one, rows, sha256, stored_keys, write_video

MIB = 1024**2


def test_a_file_becomes_a_job(ingest, catalog, location, tmp_path) -> None:  # type: ignore[no-untyped-def]
    video = write_video(tmp_path / "holiday ☀.mp4", b"x" * 1000)
    (outcome,) = ingest(video).outcomes
    assert (outcome.result, outcome.sent_bytes, outcome.job_status) == ("ingested", 1000, "queued")
    assert stored_keys(location) == [f"processed/{outcome.job_id}/raw/video_original.mp4"]
    head = location.store.s3.head_object(Bucket="videos", Key=location.store.path(stored_keys(location)[0]))
    object_id = one(catalog, "SELECT id FROM stored_objects")
    assert head["Metadata"] == {"object-id": str(object_id), "sha256": sha256(b"x" * 1000)}
    assert one(catalog, "SELECT filename FROM jobs") == "holiday ☀.mp4"
    assert one(catalog, "SELECT operation FROM operation_log WHERE object_id = :id", id=object_id) == "ingest"


def test_a_known_video_sends_nothing(ingest, catalog, tmp_path) -> None:  # type: ignore[no-untyped-def]
    first = write_video(tmp_path / "a.mp4")
    (before,) = ingest(first).outcomes
    (again,) = ingest(write_video(tmp_path / "renamed.mov")).outcomes
    assert (again.result, again.sent_bytes, again.original_job_id) == ("duplicate", 0, before.job_id)
    assert [output.kind for output in again.outputs] == ["original"]
    assert again.job_created_at is not None
    assert one(catalog, "SELECT last_accessed_at IS NOT NULL FROM jobs")


def test_reprocess_makes_a_new_job(ingest, tmp_path) -> None:  # type: ignore[no-untyped-def]
    video = write_video(tmp_path / "a.mp4")
    (before,) = ingest(video).outcomes
    (again,) = ingest(video, reprocess=True).outcomes
    assert again.result == "ingested"
    assert again.job_id != before.job_id


def test_large_files_go_up_in_parts(ingest, location, tmp_path) -> None:  # type: ignore[no-untyped-def]
    content = os.urandom(9 * MIB + 17)
    (outcome,) = ingest(write_video(tmp_path / "large.mkv", content)).outcomes
    assert outcome.result == "ingested", outcome.error
    etag = location.store.s3.head_object(Bucket="videos", Key=location.store.path(stored_keys(location)[0]))["ETag"]
    assert "-" in etag, "a multipart upload"


def test_a_store_that_checks_nothing_is_read_back(ingest, location, tmp_path) -> None:  # type: ignore[no-untyped-def]
    trusting = replace(location, capabilities=Capabilities())
    (outcome,) = ingest(write_video(tmp_path / "a.mp4"), location=trusting).outcomes
    assert outcome.result == "ingested"


def test_good_ones_go_through_beside_bad_ones(ingest, catalog, tmp_path) -> None:  # type: ignore[no-untyped-def]
    good = [write_video(tmp_path / f"{n}.mp4", bytes([n]) * 100) for n in range(5)]
    empty = write_video(tmp_path / "empty.mp4", b"")
    report = ingest(*good, empty, tmp_path / "absent.mp4", "/etc/passwd", tmp_path / "new\nline.mp4")
    assert report.counts == {"ingested": 5, "refused": 4}
    errors = {outcome.source: outcome.error for outcome in report.unsuccessful}
    assert errors[str(empty)] == "empty.mp4 is empty"
    assert "no such file" in errors[str(tmp_path / "absent.mp4")]
    assert "lies under no source root" in errors["/etc/passwd"]
    assert one(catalog, "SELECT count(*) FROM jobs") == 5


@pytest.mark.parametrize("name", ["a\tb.mp4", "a\u202egpm.exe", "x" * 252 + ".mp4"])
def test_file_names_that_are_refused(ingest, catalog, location, tmp_path, name) -> None:  # type: ignore[no-untyped-def]
    manifest = tmp_path / "list.json"
    video = write_video(tmp_path / "fine.mp4")
    manifest.write_text(json.dumps([{"source": str(video), "filename": name}]))
    (outcome,) = ingest(manifest=str(manifest)).outcomes
    assert outcome.result == "refused"
    assert stored_keys(location) == []
    assert one(catalog, "SELECT count(*) FROM jobs") == 0


@pytest.mark.parametrize("name", ["../../etc/x.mp4", "a/b.mp4", "a\\b.mp4", "..", "\x00.mp4"])
def test_file_names_that_are_paths(ingest, location, tmp_path, name) -> None:  # type: ignore[no-untyped-def]
    manifest = tmp_path / "list.jsonl"
    manifest.write_text(json.dumps({"source": str(write_video(tmp_path / "fine.mp4")), "filename": name}))
    (outcome,) = ingest(manifest=str(manifest)).outcomes
    assert outcome.result == "refused"
    assert stored_keys(location) == []


def test_names_with_quotes_and_emoji_are_only_names(ingest, catalog, tmp_path) -> None:  # type: ignore[no-untyped-def]
    name = "'; DROP TABLE jobs; -- 🎬.mp4"
    (outcome,) = ingest(write_video(tmp_path / name)).outcomes
    assert outcome.result == "ingested"
    assert one(catalog, "SELECT filename FROM jobs") == name


def test_expected_hashes(ingest, catalog, location, tmp_path) -> None:  # type: ignore[no-untyped-def]
    right, wrong = write_video(tmp_path / "right.mp4", b"right"), write_video(tmp_path / "wrong.mp4", b"wrong")
    report = ingest(right, wrong, expected_sha256={str(right): sha256(b"right").upper(), "wrong.mp4": sha256(b"other")})
    assert report.counts == {"ingested": 1, "refused": 1}
    assert f"expected was {sha256(b'other')}" in report.unsuccessful[0].error
    assert len(stored_keys(location)) == 1
    with pytest.raises(InvalidInputError, match="names no source"):
        ingest(right, expected_sha256={"nobody.mp4": sha256(b"")})
    with pytest.raises(InvalidInputError, match="is no SHA-256"):
        ingest(right, expected_sha256={str(right): "abc"})


def test_a_source_that_changes_is_not_stored(catalog, location, policy, acme, tmp_path) -> None:  # type: ignore[no-untyped-def]
    customer = next(iter(rows(catalog, "SELECT id FROM api_keys"))).id
    for size in (1000, 11 * MIB):
        video = write_video(tmp_path / f"{size}.mp4", b"a" * size)
        hashed = Hashed(str(video), video.name, sha256(b"a" * size), size, LocalFile(video))
        video.write_bytes(b"b" * size)
        fake = type("C", (), {"id": customer, "label": acme})()
        if size > 10 * MIB:
            execute(catalog, "UPDATE api_keys SET storage_quota_bytes = NULL")
        (outcome,) = take_in(catalog, location, policy, fake, [hashed])
        assert outcome.result == "failed"
        assert "changed while it was read" in outcome.error
    assert stored_keys(location) == []
    assert rows(catalog, "SELECT storage_used_bytes, storage_reserved_bytes FROM api_keys") == [(0, 0)]
    assert one(catalog, "SELECT count(*) FROM stored_objects") == 0
    uploads = location.store.s3.list_multipart_uploads(Bucket="videos", Prefix=location.store.prefix)
    assert uploads.get("Uploads", []) == []


def test_unknown_and_disabled_keys(ingest, catalog, location, tmp_path, acme) -> None:  # type: ignore[no-untyped-def]
    video = write_video(tmp_path / "a.mp4")
    with pytest.raises(NotFoundError, match="no API key 'nobody'; there are: acme"):
        ingest(video, api_key="nobody")
    for hostile in ("' OR 1=1 --", "\0", "x" * 1000, "99999999999999999999"):
        with pytest.raises(NotFoundError):
            ingest(video, api_key=hostile)
    set_disabled(catalog, api_key=acme, disabled=True)
    with pytest.raises(RefusedError, match="acme has been disabled"):
        ingest(video)
    assert stored_keys(location) == []


def test_beyond_the_quota(ingest, catalog, location, tmp_path) -> None:  # type: ignore[no-untyped-def]
    execute(catalog, "UPDATE api_keys SET storage_quota_bytes = 1000")
    small, large = write_video(tmp_path / "s.mp4", b"s" * 400), write_video(tmp_path / "l.mp4", b"l" * 601)
    report = ingest(small, large)
    assert report.counts == {"ingested": 1, "refused": 1}
    assert "600 B is free" in report.unsuccessful[0].error
    assert one(catalog, "SELECT storage_reserved_bytes FROM api_keys") == 0


def test_room_for_outputs_is_asked_for(ingest, catalog, tmp_path) -> None:  # type: ignore[no-untyped-def]
    execute(catalog, "UPDATE api_keys SET storage_quota_bytes = 1000")
    roomy = IngestPolicy(source_roots=str(tmp_path), expected_outputs_ratio=1.5)
    (refused,) = ingest(write_video(tmp_path / "a.mp4", b"a" * 401), policy=roomy).outcomes
    assert "(401 B and 601 B for its outputs)" in refused.error
    (taken,) = ingest(write_video(tmp_path / "b.mp4", b"b" * 400), policy=roomy).outcomes
    assert taken.result == "ingested"
    assert rows(catalog, "SELECT storage_used_bytes, storage_reserved_bytes FROM api_keys") == [(400, 600)]


def test_two_ingests_of_one_file_at_once(ingest, catalog, location, tmp_path) -> None:  # type: ignore[no-untyped-def]
    video = write_video(tmp_path / "a.mp4", os.urandom(3 * MIB))
    reports: list[IngestReport] = []
    threads = [threading.Thread(target=lambda: reports.append(ingest(video))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results = sorted(outcome.result for report in reports for outcome in report.outcomes)
    assert results == ["duplicate"] * 3 + ["ingested"]
    assert len({outcome.job_id for report in reports for outcome in report.outcomes}) == 1
    assert len(stored_keys(location)) == 1


def test_folders(ingest, tmp_path) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "in"
    write_video(folder / "a.mp4", b"a")
    write_video(folder / "deeper" / "b.MOV", b"b")
    write_video(folder / "notes.txt", b"not a video")
    write_video(folder / ".hidden" / "c.mp4", b"c")
    (folder / "link.mp4").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe.mp4")
    report = ingest(folder)
    assert report.counts == {"ingested": 2, "refused": 2}
    assert "symbolic link" in report.unsuccessful[0].error
    assert "neither a file nor a folder" in report.unsuccessful[1].error
    (tmp_path / "nothing").mkdir()
    assert "holds no videos" in ingest(tmp_path / "nothing").outcomes[0].error


def test_a_link_out_of_the_root_is_refused(ingest, tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "out.mp4").symlink_to("/etc/passwd")
    assert "lies under no source root" in ingest(tmp_path / "out.mp4").outcomes[0].error


def test_manifests(ingest, tmp_path) -> None:  # type: ignore[no-untyped-def]
    for name in "abc":
        write_video(tmp_path / f"{name}.mp4", name.encode())
    csv = tmp_path / "list.csv"
    csv.write_text(
        f"source,filename,sha256\n{tmp_path}/a.mp4,first.mp4,{sha256(b'a')}\n{tmp_path}/b.mp4,,{sha256(b'x')}\n"
    )
    report = ingest(manifest=str(csv))
    assert report.counts == {"ingested": 1, "refused": 1}
    assert report.outcomes[0].filename == "first.mp4"
    plain = tmp_path / "list.json"
    plain.write_text(json.dumps([f"{tmp_path}/c.mp4"]))
    assert ingest(manifest=str(plain)).counts == {"ingested": 1}
    for broken in ("{", '{"a": 1}', "[{}]", "[1]"):
        plain.write_text(broken)
        with pytest.raises(InvalidInputError, match="manifest list.json"):
            ingest(manifest=str(plain))
    with pytest.raises(InvalidInputError, match="nothing to take in"):
        ingest()


def test_thousands_in_one_run(ingest, catalog, tmp_path) -> None:  # type: ignore[no-untyped-def]
    for number in range(1500):
        write_video(tmp_path / f"{number}.mp4", f"video {number % 1400}".encode())
    report = ingest(tmp_path)
    assert report.counts == {"ingested": 1400, "duplicate": 100}
    assert one(catalog, "SELECT count(*) FROM jobs WHERE status = 'queued'") == 1400
    # Of the first batch each object reads all jobs before it, as is planned for a table of which nothing is known yet.
    # No such plan is left when the next comes: of all, a million would have been read.
    catalog.disconnect()  # sessions that end tell their figures
    read = one(catalog, "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'jobs'")
    assert read < 500 * 500 / 2 + 40 * 1400


def test_a_missing_original_is_healed_once(ingest, catalog, location, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """By the first of two files with its content; the second is a duplicate by then."""
    videos = [write_video(tmp_path / name, b"precious") for name in ("a.mp4", "b.mp4")]
    ingest(videos[0])
    delete_keys(location.store, stored_keys(location))
    execute(catalog, "UPDATE stored_objects SET state = 'missing', generation = generation + 1")
    assert [outcome.result for outcome in ingest(*videos).outcomes] == ["healed", "duplicate"]


def test_a_missing_original_is_healed(ingest, catalog, location, tmp_path) -> None:  # type: ignore[no-untyped-def]
    video = write_video(tmp_path / "a.mp4", b"precious")
    (before,) = ingest(video).outcomes
    lost = stored_keys(location)[0]
    delete_keys(location.store, [lost])
    execute(catalog, "UPDATE stored_objects SET state = 'missing', generation = generation + 1")
    (healed,) = ingest(video).outcomes
    assert (healed.result, healed.job_id, healed.sent_bytes) == ("healed", before.job_id, 8)
    assert stored_keys(location) != [lost], "no key is ever written twice"
    assert one(catalog, "SELECT state FROM stored_objects") == "live"
    assert one(catalog, "SELECT state FROM relocations") == "swapped"
    assert one(catalog, "SELECT storage_used_bytes FROM api_keys") == 8


def test_what_is_known_needs_no_store(ingest, catalog, location, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """It is told beside what fails, in one batch."""
    known = ingest(write_video(tmp_path / "in" / "a.mp4", b"known")).outcomes[0]
    write_video(tmp_path / "in" / "b.mp4", b"new")
    store = location.store.model_copy(update={"endpoint_url": "http://127.0.0.1:9", "retries": 0})
    first, second = ingest(tmp_path / "in", location=replace(location, store=store)).outcomes
    assert (first.result, first.job_id) == ("duplicate", known.job_id)
    assert (second.result, second.sha256) == ("failed", sha256(b"new"))
    assert "the store did not answer" in second.error
    assert one(catalog, "SELECT count(*) FROM jobs") == 1, "nothing was begun"


def test_a_run_is_reported_though_its_last_look_fails(ingest, catalog, policy, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    outcomes = [
        IngestOutcome("a", "ingested", sha256="1"),
        IngestOutcome("b", "failed", job_status="uploading", sha256="1"),
    ]

    def away(*_: object) -> None:
        raise CatalogUnavailableError("restarting")

    monkeypatch.setattr(taking_in, "_meet_known", away)
    assert taking_in.settle_twins(catalog, None, outcomes) == outcomes


def test_one_video_under_two_names_in_batches_side_by_side(ingest, catalog, policy, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """The second waits for the first, in vain where that is long; at the end of the run it is its duplicate."""
    monkeypatch.setattr(taking_in, "WAIT_FOR_OTHERS_SECONDS", 0)
    write = taking_in.write_objects

    def slowly(*arguments, **options):  # type: ignore[no-untyped-def]
        time.sleep(1)
        return write(*arguments, **options)

    monkeypatch.setattr(taking_in, "write_objects", slowly)
    for name in ("a", "b"):
        write_video(tmp_path / "in" / f"{name}.mp4", b"the same")
    report = ingest(tmp_path / "in", policy=policy.model_copy(update={"batch_files": 1, "parallel_batches": 2}))
    assert report.counts == {"ingested": 1, "duplicate": 1}
    assert len({one.job_id for one in report.outcomes}) == 1
    assert [one.error for one in report.outcomes] == ["", ""]


def test_the_store_stops_answering(ingest, catalog, location, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("tasks.intake.taking_in.require_current", lambda *_: None)  # it answered that last minute
    store = location.store.model_copy(update={"endpoint_url": "http://127.0.0.1:9", "retries": 0})
    (outcome,) = ingest(write_video(tmp_path / "a.mp4"), location=replace(location, store=store)).outcomes
    assert outcome.result == "failed"
    assert "the store did not answer" in outcome.error
    assert one(catalog, "SELECT storage_reserved_bytes FROM api_keys") == 0
    assert one(catalog, "SELECT state FROM stored_objects") == "purging", "the key stays named until it is surely gone"
    assert ingest(write_video(tmp_path / "a.mp4")).counts == {"ingested": 1}


def test_a_bucket_of_another_catalog_is_refused(catalog, location) -> None:  # type: ignore[no-untyped-def]
    store = location.store
    put_bytes(store, IDENTITY_KEY, b"00000000-0000-0000-0000-000000000000 1\n", {})
    with pytest.raises(ForeignCatalogError, match="belongs to catalog"):
        open_location(catalog, store, "main")
    with pytest.raises(ForeignCatalogError, match="belongs to catalog"):
        probe_store(catalog, store, "main")
    delete_keys(store, [IDENTITY_KEY])
    with pytest.raises(ForeignCatalogError, match="carries no catalog id"):
        open_location(catalog, store, "main")


def test_a_raised_epoch_locks_the_old_catalog_out(catalog, location) -> None:  # type: ignore[no-untyped-def]
    open_location(catalog, location.store, "main")
    execute(catalog, "UPDATE catalog_identity SET epoch = epoch + 1")
    with pytest.raises(ForeignCatalogError):
        open_location(catalog, location.store, "main")


def test_a_block_that_points_elsewhere_is_refused(catalog, location) -> None:  # type: ignore[no-untyped-def]
    moved = location.store.model_copy(update={"prefix": "elsewhere"})
    with pytest.raises(InvalidInputError, match="its objects live in"):
        open_location(catalog, moved, "main")


def test_batches_are_bounded_by_count_and_bytes() -> None:
    sources = [Source(str(n), "a.mp4", Path("a"), None, size) for n, size in enumerate([5, 5, 90, 200, 1, None, 1])]
    batches = plan_batches(sources, files=3, size_bytes=100)
    assert [[source.size_bytes for source in batch] for batch in batches] == [[5, 5, 90], [200], [1], [None], [1]]
    assert plan_batches([], files=3, size_bytes=100) == []


def test_of_urls_few_go_together() -> None:
    """Nobody knows how large they are, and a run that is killed begins a batch anew."""
    urls = [Source(f"https://a.example/{n}.mp4", f"{n}.mp4", None, None, None) for n in range(40)]
    assert [len(batch) for batch in plan_batches(urls, files=500, size_bytes=BATCH_BYTES)] == [16, 16, 8]


def test_a_source_above_the_largest_is_refused_before_it_is_read(  # type: ignore[no-untyped-def]
    ingest, catalog, location, policy, tmp_path
) -> None:
    large = write_video(tmp_path / "large.mp4")
    os.truncate(large, 1024**3 + 1)  # nothing of it is on the disk
    small = policy.model_copy(update={"largest_source_gib": 1})
    (outcome,) = ingest(large, policy=small).outcomes
    assert (outcome.result, outcome.error) == (
        "refused", "large.mp4 has 1073741825 bytes, more than the largest allowed, 1 GiB",
    )  # fmt: skip
    assert stored_keys(location) == []
