"""Bulk downloads: as an archive in the bucket, as files in a folder, and what is left out with its reason."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
import pytest
from zstandard import ZstdCompressor

from blocks.catalog.tables import ObjectKind
from blocks.errors import ContentMismatchError, InvalidInputError, NotFoundError, RefusedError
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import put_bytes
from tasks.customers import create_key, set_disabled
from tasks.downloads import DownloadReport
from tasks.intake.ingest import ingest_videos
from tasks.layout import object_key
from tests.helpers import execute, one, rows, sha256, stored_keys, write_video

FILES_OF_A_JOB = 17
"""The original, two videos, two playlists of three segments, sound, four transcripts, metadata."""


def opened(report: DownloadReport) -> zipfile.ZipFile:
    answer = httpx.get(report.url).raise_for_status()
    assert answer.headers["content-type"] == "application/zip"
    assert f"transcode-flow-{datetime.now(UTC):%Y}-" in answer.headers["content-disposition"]
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    lines = archive.read("SHA256SUMS").decode().splitlines()
    sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    assert [*sums, "SHA256SUMS"] == archive.namelist()
    for name, digest in sums.items():
        assert sha256(archive.read(name)) == digest, name
    return archive


def key_of(catalog, kind: str) -> str:  # type: ignore[no-untyped-def]
    key = one(catalog, "SELECT key FROM stored_objects WHERE kind = :kind ORDER BY name LIMIT 1", kind=kind)
    assert isinstance(key, str)
    return key


def test_all_files_of_two_jobs(download, catalog, location, policy, new_job, job, tmp_path) -> None:  # type: ignore[no-untyped-def]
    other = new_job(b"another film of the same name")
    heard: list[int] = []
    report = download(job_ids=[str(job), other, job], run="the run", progress=heard.append)
    assert (report.files, report.skipped, report.already_there, report.folder) == (FILES_OF_A_JOB + 1, (), 0, "")
    archive = opened(report)
    folder = f"summer_ the film-{str(job)[:8]}"
    for path in (tmp_path / "out").rglob("*.*"):
        assert archive.read(f"{folder}/{path.relative_to(tmp_path / 'out')}") == path.read_bytes()
    assert archive.read(f"{folder}/summer_ the film.mp4") == b"the original"
    assert archive.read(f"summer_ the film-{str(other)[:8]}/summer_ the film.mp4") == b"another film of the same name"
    assert sum(heard) == report.size_bytes == one(catalog, "SELECT sum(size_bytes) FROM stored_objects")
    assert stored_keys(location, "exports") == [report.key]
    assert report.key.startswith("exports/bulk/")
    assert report.expires_at is not None
    assert timedelta(hours=23) < report.expires_at - datetime.now(UTC) < timedelta(hours=25)
    log = rows(
        catalog,
        "SELECT job_id, object_id, run, after, bytes FROM operation_log WHERE operation = 'bulk-download' ORDER BY id",
    )
    assert [(row.job_id, row.object_id, row.run) for row in log] == [(job, None, "the run"), (other, None, "the run")]
    assert [row.after for row in log] == [
        {"export": report.key, "files": FILES_OF_A_JOB, "location": "main"},
        {"export": report.key, "files": 1, "location": "main"},
    ]  # fmt: skip
    assert sum(row.bytes for row in log) == report.size_bytes


def test_chosen_kinds_and_what_is_noted(download, catalog, job) -> None:  # type: ignore[no-untyped-def]
    execute(catalog, "UPDATE jobs SET last_accessed_at = NULL")
    before = rows(catalog, "SELECT id, generation FROM stored_objects ORDER BY id")
    report = download(kinds=["hls_720p", "audio", "audio"])
    assert len(opened(report).namelist()) == 1 + 4 + 1
    noted = rows(catalog, "SELECT name, url_expires_at FROM stored_objects WHERE url_expires_at IS NOT NULL")
    assert {row.name for row in noted} == {"720p/segments/playlist.m3u8", "audio/audio.mp3"}
    assert all(row.url_expires_at - datetime.now(UTC) > timedelta(hours=23) for row in noted)
    assert one(catalog, "SELECT last_accessed_at > clock_timestamp() - interval '1 minute' FROM jobs")
    assert rows(catalog, "SELECT id, generation FROM stored_objects ORDER BY id") == before, "book-keeping only"


def test_a_url_is_not_printed(download) -> None:  # type: ignore[no-untyped-def]
    report = download()
    assert report.url
    assert "Signature" not in repr(report)


def test_bad_input_is_refused_before_anything_is_written(download, location, catalog, acme) -> None:  # type: ignore[no-untyped-def]
    for options, says in (
        ({"job_ids": []}, "nothing to download"),
        ({"job_ids": ["../x"]}, "is no job id"),
        ({"kinds": ["video_4k"]}, "is no kind"),
        ({"target": ""}, "is no target"),
        ({"target": "a\0b"}, "is no target"),
        ({"target": "\ud800"}, "is no target"),
    ):
        with pytest.raises(InvalidInputError, match=says):
            download(**options)
    with pytest.raises(NotFoundError, match="no API key"):
        download(api_key="nobody")
    set_disabled(catalog, api_key=acme, disabled=True)
    with pytest.raises(RefusedError, match="acme has been disabled"):
        download(api_key=acme)
    assert stored_keys(location, "exports") == []
    assert rows(catalog, "SELECT 1 FROM stored_objects WHERE url_expires_at IS NOT NULL") == []
    assert download().files == FILES_OF_A_JOB, "an operator gets a disabled customer's files"


def test_another_keys_job_does_not_exist(download, catalog, location, policy, acme, job, tmp_path) -> None:  # type: ignore[no-untyped-def]
    create_key(catalog, "stranger")
    video = write_video(tmp_path / "theirs.mp4", b"theirs")
    (outcome,) = ingest_videos(catalog, location, policy, api_key="stranger", sources=[str(video)]).outcomes
    theirs = outcome.job_id
    with pytest.raises(NotFoundError, match=f"no job {job} of key stranger"):
        download(api_key="stranger")
    execute(catalog, "UPDATE jobs SET last_accessed_at = NULL")
    report = download(job_ids=[theirs, job], api_key=acme)
    assert report.files == FILES_OF_A_JOB
    assert report.skipped == ((str(theirs), f"no job {theirs} of key acme"),)
    assert one(catalog, "SELECT last_accessed_at FROM jobs WHERE id = CAST(:id AS uuid)", id=str(theirs)) is None
    unknown = uuid4()
    report = download(job_ids=[theirs, unknown, job])
    assert report.files == FILES_OF_A_JOB + 1
    assert report.skipped == ((str(unknown), f"no job {unknown}"),)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("deleted_at = clock_timestamp()", "was deleted on .* undelete-jobs"),
        ("status = 'failed', error_message = 'bad codec'", "is failed: bad codec"),
        ("status = 'cleaned_up'", "is cleaned_up"),
        ("status = 'uploading'", "still being uploaded"),
    ],
)
def test_a_job_that_is_not_readable(download, catalog, new_job, location, job, change: str, says: str) -> None:  # type: ignore[no-untyped-def]
    execute(catalog, f"UPDATE jobs SET {change}")
    with pytest.raises(RefusedError, match=says):
        download()
    assert stored_keys(location, "exports") == []
    report = download(job_ids=[job, new_job(b"a readable one")])
    assert report.files == 1
    assert [name for name, _ in report.skipped] == [str(job)]


def test_objects_that_cannot_be_read_now(download, catalog, location, job) -> None:  # type: ignore[no-untyped-def]
    execute(catalog, "UPDATE stored_objects SET state = 'missing' WHERE kind = 'audio'")
    execute(catalog, "UPDATE stored_objects SET state = 'corrupt' WHERE name LIKE '720p/segments/segment_0001%'")
    execute(catalog, "INSERT INTO locations (name, store, bucket, needs_restore) VALUES ('cold', 'a', 'b', true)")
    execute(
        catalog,
        "UPDATE stored_objects o SET location_id = l.id FROM locations l "
        " WHERE (l.name, o.kind) = ('cold', 'original')",
    )
    report = download()
    assert report.files == FILES_OF_A_JOB - 3 == len(opened(report).namelist()) - 1
    reasons = {name.rpartition("/")[2]: reason for name, reason in report.skipped}
    assert reasons.keys() == {"audio.mp3", "segment_0001.ts", "summer_ the film.mp4"}
    assert "is missing; run explain-object" in reasons["audio.mp3"]
    assert "is corrupt" in reasons["segment_0001.ts"]
    assert "lies in cold, which must restore it first" in reasons["summer_ the film.mp4"]
    with pytest.raises(RefusedError, match="is missing"):
        download(kinds=["audio"])
    with pytest.raises(NotFoundError, match="has no upload; name other kinds"):
        download(kinds=["upload"])


def test_corrupted_bytes_give_the_archive_up(download, catalog, location) -> None:  # type: ignore[no-untyped-def]
    key = key_of(catalog, ObjectKind.TRANSCRIPT_TXT)
    for body, says in ((b"words as TXT", "transcript.txt has SHA-256"), (b"words", "transcript.txt has 5 bytes")):
        put_bytes(location.store, key, body, {})
        with pytest.raises(ContentMismatchError, match=says):
            download()
    put_bytes(location.store, key, b"words as txt and more", {})
    with pytest.raises(ContentMismatchError, match="at most 12 were expected"):
        download()
    assert stored_keys(location, "exports") == []
    assert not location.store.s3.list_multipart_uploads(Bucket=location.store.bucket).get("Uploads")


def test_bytes_that_are_gone_are_left_out_of_the_archive(download, catalog, location) -> None:  # type: ignore[no-untyped-def]
    delete_keys(location.store, [key_of(catalog, ObjectKind.AUDIO)])
    report = download()
    assert len(opened(report).namelist()) == FILES_OF_A_JOB
    ((name, reason),) = report.skipped
    assert name.endswith("audio/audio.mp3")
    assert "run reconcile-quota" in reason
    with pytest.raises(NotFoundError, match="is not in the store"):
        download(kinds=["audio"])
    assert stored_keys(location, "exports") == [report.key]


def test_an_object_that_is_moved_meanwhile(download, catalog, location, job, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    import tasks.downloads

    plan = tasks.downloads._plan

    def moved(*arguments):  # type: ignore[no-untyped-def]
        planned = plan(*arguments)
        key = object_key(job, "audio/audio.moved.mp3")
        put_bytes(location.store, key, ZstdCompressor().compress(b"sound"), {})
        delete_keys(location.store, [object_key(job, "audio/audio.mp3")])
        execute(
            catalog,
            "UPDATE stored_objects SET key = :key, codec = 'zstd', generation = generation + 1 WHERE kind = 'audio'",
            key=key,
        )
        return planned

    # Real bytes and a real row; only the moment is chosen.
    monkeypatch.setattr(tasks.downloads, "_plan", moved)
    assert opened(download(kinds=["audio"])).read(f"summer_ the film-{str(job)[:8]}/audio/audio.mp3") == b"sound"


def test_a_large_object_that_is_moved_while_it_is_read(download, catalog, location, job) -> None:  # type: ignore[no-untyped-def]
    content = os.urandom(40 * 1024**2)
    key, moved_to = object_key(job, "720p/a.mp4"), object_key(job, "720p/b.mp4")
    put_bytes(location.store, key, content, {})
    replace_object(catalog, "video_720p", key, content, len(content), "identity")
    heard: list[int] = []

    def move(size_bytes: int) -> None:
        if not heard:
            # As another process would: this one is inside the client's loop.
            mover.submit(relocate).result()
        heard.append(size_bytes)

    def relocate() -> None:
        put_bytes(location.store, moved_to, content, {})
        delete_keys(location.store, [key])
        execute(catalog, "UPDATE stored_objects SET key = :to WHERE key = :key", to=moved_to, key=key)

    with ThreadPoolExecutor(1) as mover:
        report = download(kinds=["video_720p"], progress=move)
    opened(report)
    assert sum(heard) == report.size_bytes == len(content)


def replace_object(catalog, kind: str, key: str, content: bytes, stored_bytes: int, codec: str) -> None:  # type: ignore[no-untyped-def]
    execute(
        catalog,
        "UPDATE stored_objects SET key = :key, size_bytes = :size, stored_bytes = :stored, sha256 = :sha, "
        "  codec = :codec WHERE kind = :kind",
        kind=kind, key=key, size=len(content), stored=stored_bytes, sha=hashlib.sha256(content).hexdigest(),
        codec=codec,
    )  # fmt: skip


@pytest.mark.parametrize("size_bytes", [0, 5000, 6 * 1024**2])
def test_compressed_objects_come_out_as_they_were(download, catalog, location, job, size_bytes: int) -> None:  # type: ignore[no-untyped-def]
    # Beyond 4 MiB of random bytes it is not read ahead: both ways through.
    content = os.urandom(size_bytes)
    stored = ZstdCompressor(level=19).compress(content)
    key = object_key(job, "transcription/transcript.zst.txt")
    put_bytes(location.store, key, stored, {})
    replace_object(catalog, "transcript_txt", key, content, len(stored), "zstd")
    archive = opened(download(kinds=["transcript_txt"]))
    assert archive.read(archive.namelist()[0]) == content


def test_a_bomb_and_a_broken_frame(download, catalog, location, job) -> None:  # type: ignore[no-untyped-def]
    key = object_key(job, "transcription/transcript.zst.txt")
    bomb = ZstdCompressor().compress(bytes(1024**3))
    heard: list[int] = []
    for stored, says in (
        (bomb, "decodes to more than 1000 bytes; run verify-objects"),
        (b"no frame at all", "cannot be decoded .*; run verify-objects"),
        (ZstdCompressor().compress(bytes(1000))[:-3], "has .* bytes|cannot be decoded"),
    ):
        put_bytes(location.store, key, stored, {})
        replace_object(catalog, "transcript_txt", key, bytes(1000), len(stored), "zstd")
        with pytest.raises(ContentMismatchError, match=says):
            download(kinds=["transcript_txt"], progress=heard.append)
    assert sum(heard) <= 5 * 1024**2, "and not a gibibyte"
    assert stored_keys(location, "exports") == []


def test_many_small_objects(download, catalog, location, job) -> None:  # type: ignore[no-untyped-def]
    count = 1500
    execute(
        catalog,
        "INSERT INTO stored_objects (id, job_id, api_key_id, kind, name, location_id, key, size_bytes, stored_bytes, "
        "  sha256, state) SELECT gen_random_uuid(), j.id, j.api_key_id, 'hls_720p', '720p/segments/s' || n || '.ts', "
        "  o.location_id, o.key || n, o.size_bytes, o.stored_bytes, o.sha256, 'live' "
        "  FROM jobs j JOIN stored_objects o ON o.job_id = j.id AND o.kind = 'audio', "
        "       generate_series(1, :count) n",
        count=count,
    )
    key = object_key(job, "audio/audio.mp3")
    for number in range(1, count + 1):
        put_bytes(location.store, f"{key}{number}", b"sound", {})
    threads = threading.active_count()
    started = time.perf_counter()
    report = download(kinds=["hls_720p"])
    assert time.perf_counter() - started < 30, "and not one after the other"
    assert report.files == count + 4
    assert len(opened(report).namelist()) == count + 5
    assert threading.active_count() <= threads + 1, "its readers are gone"
