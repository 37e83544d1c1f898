"""Download URLs: every kind, who may have one, and what a URL gives."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from urllib.parse import urljoin

import httpx
import pytest

from blocks.catalog.access import hand_out_hls
from blocks.catalog.tables import ObjectKind
from blocks.errors import ContentMismatchError, InvalidInputError, NotFoundError, RefusedError
from blocks.object_store.transfer import put_bytes, read_bytes
from blocks.policies import AccessPolicy
from tasks.access import _accepted, issue_download_url
from tasks.content import encode_whole
from tasks.customers import create_key, set_disabled
from tasks.intake.outputs import register_outputs
from tasks.intake.uploads import complete_upload, issue_upload_url
from tasks.stores import Locations
from tests.helpers import execute, one, rows, sha256, write_outputs
from tests.tasks.relocation.moves import everything


@pytest.fixture
def job(catalog, location, policy, new_job, tmp_path):  # type: ignore[no-untyped-def]
    made = new_job()
    register_outputs(catalog, location, policy, job_id=made, outputs=str(write_outputs(tmp_path / "out")))
    return made


@pytest.fixture
def issue(catalog, location, access, acme, job):  # type: ignore[no-untyped-def]
    def run(**options):  # type: ignore[no-untyped-def]
        wanted = {"api_key": acme, "job_id": job, "kind": "original"} | options
        return issue_download_url(catalog, Locations(catalog, location), access, **wanted)

    return run


def test_every_kind_comes_back_as_it_was(issue, catalog, location, access, policy, acme, job) -> None:  # type: ignore[no-untyped-def]
    upload = issue_upload_url(
        catalog, location, access, policy, api_key=acme, filename="thumb.jpg", size_bytes=5, job_id=job
    )
    httpx.post(upload.form.url, data=upload.form.fields, files={"file": b"thumb"}).raise_for_status()
    complete_upload(catalog, Locations(catalog, location), policy, api_key=acme, upload_id=upload.upload_id)
    for kind in ObjectKind:
        if kind.is_hls:
            continue
        issued = issue(kind=kind)
        answer = httpx.get(issued.url)
        assert answer.status_code == 200, kind
        assert sha256(answer.content) == issued.sha256, kind


@pytest.mark.parametrize("size", ["360p", "720p"])
def test_a_playlist_plays_from_beginning_to_end(issue, size: str) -> None:  # type: ignore[no-untyped-def]
    issued = issue(kind=f"hls_{size}")
    assert issued.files == 4
    answer = httpx.get(issued.url)
    assert answer.headers["content-type"] == "application/vnd.apple.mpegurl"
    links = [line for line in answer.text.splitlines() if line and not line.startswith("#")]
    assert len(links) == 3
    for number, link in enumerate(links):
        assert httpx.get(urljoin(issued.url, link)).content == f"{size} segment_{number:04d}.ts".encode()


def test_names_a_browser_saves_under(issue) -> None:  # type: ignore[no-untyped-def]
    assert issue().filename == "summer: the film.mp4"
    assert issue(kind="video_720p").filename == "summer: the film_720p.mp4"
    assert issue(kind="transcript_srt").filename == "summer: the film_transcript.srt"
    disposition = httpx.get(issue(kind="audio").url).headers["content-disposition"]
    assert "summer%3A%20the%20film_audio.mp3" in disposition


def test_both_times_are_kept(issue, catalog) -> None:  # type: ignore[no-untyped-def]
    issued = issue(expires_in=7200)
    row = rows(catalog, "SELECT url_expires_at FROM stored_objects WHERE kind = 'original'")[0]
    assert abs((row.url_expires_at - issued.expires_at).total_seconds()) < 1
    assert timedelta(minutes=119) < issued.expires_at - datetime.now(UTC) < timedelta(minutes=121)
    assert one(catalog, "SELECT last_accessed_at > clock_timestamp() - interval '1 minute' FROM jobs")
    before = one(catalog, "SELECT generation FROM stored_objects WHERE kind = 'original'")
    issue(expires_in=60)
    after = rows(catalog, "SELECT url_expires_at, generation FROM stored_objects WHERE kind = 'original'")[0]
    assert after == (row.url_expires_at, before), (
        "a shorter URL takes nothing from a longer one; book-keeping is no change"
    )


def test_an_hour_unless_asked_and_within_limits(issue) -> None:  # type: ignore[no-untyped-def]
    assert timedelta(minutes=59) < issue().expires_at - datetime.now(UTC) < timedelta(minutes=61)
    for seconds in (0, -1, 9, 168 * 3600 + 1):
        with pytest.raises(InvalidInputError, match="outside the limits"):
            issue(expires_in=seconds)


def test_a_default_that_is_longer_than_the_longest(catalog, location, acme, job) -> None:  # type: ignore[no-untyped-def]
    policy = AccessPolicy(longest_download_hours=1, download_minutes=300)
    issued = issue_download_url(
        catalog, Locations(catalog, location), policy, api_key=acme, job_id=job, kind="original"
    )
    assert issued.expires_at - datetime.now(UTC) < timedelta(minutes=61)


@pytest.mark.parametrize("state", ["missing", "corrupt"])
def test_an_older_file_is_not_the_last_one(  # type: ignore[no-untyped-def]
    issue, catalog, location, access, policy, acme, job, state: str
) -> None:
    for name in ("first.png", "last.png"):
        upload = issue_upload_url(
            catalog, location, access, policy, api_key=acme, filename=name, size_bytes=5, job_id=job
        )
        httpx.post(upload.form.url, data=upload.form.fields, files={"file": b"thumb"}).raise_for_status()
        complete_upload(catalog, Locations(catalog, location), policy, api_key=acme, upload_id=upload.upload_id)
    assert issue(kind="upload").filename == "last.png"
    lost = one(catalog, "SELECT name FROM stored_objects WHERE name LIKE '%/last.png'")
    first = one(catalog, "SELECT name FROM stored_objects WHERE name LIKE '%/first.png'")
    execute(catalog, "UPDATE stored_objects SET state = :state WHERE name = :name", state=state, name=lost)
    with pytest.raises(RefusedError, match=f"last.png of job .* is {state}"):
        issue(kind="upload")
    assert issue(kind="upload", name=first).filename == "first.png"
    execute(catalog, "UPDATE stored_objects SET state = 'pending' WHERE name = :name", name=lost)
    assert issue(kind="upload").filename == "first.png", "one that is only being written is not there yet"


def test_a_playlist_has_no_other_name(issue) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidInputError, match="hls_720p is handed out by its playlist"):
        issue(kind="hls_720p", name="720p/segments/segment_0000.ts")


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("zstd", {"zstd"}), ("gzip, zstd;q=1.0", {"gzip", "zstd"}), ("identity, zstd;q=0", {"identity"}),
        ("zstd; q=0.000, br", {"br"}), ("zstd;q=0.5", {"zstd"}), ("", {""}),
    ],
)  # fmt: skip
def test_what_a_caller_decodes(header: str, wanted: set[str]) -> None:
    assert _accepted(header) == wanted


def test_who_gets_none(issue, catalog, acme, job) -> None:  # type: ignore[no-untyped-def]
    create_key(catalog, "stranger")
    with pytest.raises(NotFoundError, match="of key stranger"):
        issue(api_key="stranger")
    for hostile in ("nobody", "", "' OR 1=1 --", "\0"):
        with pytest.raises(NotFoundError, match="no API key"):
            issue(api_key=hostile)
    for nonsense in ("../x", "1", "\0", "00000000000000000000000000000000"):
        with pytest.raises(InvalidInputError, match="is no job id"):
            issue(job_id=nonsense)
    with pytest.raises(InvalidInputError, match="is no kind"):
        issue(kind="video_4k")
    with pytest.raises(NotFoundError, match="has no upload; it has: audio, hls_360p"):
        issue(kind="upload")
    with pytest.raises(NotFoundError):
        issue(name="nothing/of/the/kind")
    set_disabled(catalog, api_key=acme, disabled=True)
    with pytest.raises(RefusedError, match="acme has been disabled"):
        issue()
    set_disabled(catalog, api_key=acme, disabled=False)
    assert issue().url


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("UPDATE jobs SET deleted_at = clock_timestamp()", "was deleted on .* undelete-jobs"),
        ("UPDATE jobs SET status = 'failed', error_message = 'bad codec'", "is failed: bad codec"),
        ("UPDATE jobs SET status = 'cleaned_up'", "is cleaned_up"),
        ("UPDATE jobs SET status = 'uploading'", "still being uploaded"),
        ("UPDATE stored_objects SET state = 'missing'", "original of job .* is missing"),
        ("UPDATE locations SET needs_restore = true", "must restore it first"),
    ],
)
def test_what_is_not_handed_out(issue, catalog, change: str, says: str) -> None:  # type: ignore[no-untyped-def]
    execute(catalog, change)
    before = rows(catalog, "SELECT last_accessed_at FROM jobs")
    with pytest.raises(RefusedError, match=says):
        issue()
    assert rows(catalog, "SELECT url_expires_at FROM stored_objects WHERE kind = 'original'") == [(None,)]
    assert rows(catalog, "SELECT last_accessed_at FROM jobs") == before or "state" in change or "locations" in change


def test_compressed_objects_of_a_held_job_only_for_who_decodes(issue, catalog) -> None:  # type: ignore[no-untyped-def]
    execute(catalog, "UPDATE stored_objects SET codec = 'zstd' WHERE kind = 'transcript_txt'")
    execute(catalog, "UPDATE jobs SET hold = 'case 7'")
    with pytest.raises(RefusedError, match="on hold .*accept_encoding=zstd"):
        issue(kind="transcript_txt", accept_encoding="gzip, br")
    with httpx.stream("GET", issue(kind="transcript_txt", accept_encoding="gzip, zstd;q=1.0").url) as answer:
        assert answer.headers["content-encoding"] == "zstd"


def test_a_url_ends_and_cannot_be_altered(issue, job) -> None:  # type: ignore[no-untyped-def]
    url = issue().url
    assert httpx.get(url.replace("raw/video_original.mp4", "audio/audio.mp3")).status_code in (400, 403)
    assert httpx.get(url.replace("X-Amz-Expires=3600", "X-Amz-Expires=36000")).status_code in (400, 403)
    assert httpx.get(url.partition("?")[0]).status_code == 403
    assert httpx.put(url, content=b"mine now").status_code in (400, 403, 405)


def test_urls_and_secrets_are_not_printed(issue) -> None:  # type: ignore[no-untyped-def]
    assert "X-Amz-Signature" not in repr(issue())


def test_handing_out_many_segments_is_one_statement(issue, catalog, acme, job) -> None:  # type: ignore[no-untyped-def]
    execute(
        catalog,
        "INSERT INTO stored_objects (id, job_id, api_key_id, kind, name, location_id, key, size_bytes, stored_bytes, "
        "  sha256, state) SELECT gen_random_uuid(), j.id, j.api_key_id, 'hls_720p', "
        "  '720p/segments/s' || n || '.ts', 1, "
        "  'processed/' || j.id || '/s' || n, 1, 1, repeat('0', 64), 'live' FROM jobs j, generate_series(1, 2000) n",
    )
    started = time.perf_counter()
    playlist = "720p/segments/playlist.m3u8"
    _, segments = catalog.transaction(
        lambda c: hand_out_hls(
            c, api_key=acme, job_id=job, kind="hls_720p", playlist=playlist, lasts=timedelta(hours=1)
        )
    )
    assert len(segments) == 2003
    assert time.perf_counter() - started < 30, "and not one after the other"


def test_hostile_names(issue) -> None:  # type: ignore[no-untyped-def]
    for hostile in ("\ud800", "\0", "'; --", "x" * 5000):
        with pytest.raises(NotFoundError):
            issue(name=hostile)
        with pytest.raises(NotFoundError):
            issue(api_key=hostile)


@pytest.mark.parametrize("codec", ["identity", "zstd"])
def test_a_playlist_that_is_cut_is_not_handed_out(catalog, location, locations, job, access, codec: str) -> None:  # type: ignore[no-untyped-def]
    """A frame that ends too early raises nothing by itself, and a player would show half of the video."""
    (row,) = [one for one in everything(catalog) if one.name == "720p/segments/playlist.m3u8"]
    whole = read_bytes(location.store, row.key, at_most=10**6)
    stored = whole if codec == "identity" else encode_whole(whole, level=3)
    execute(catalog, "UPDATE stored_objects SET codec = :codec WHERE id = :id", codec=codec, id=row.id)
    put_bytes(location.store, row.key, stored[: len(stored) - 12], {})
    with pytest.raises(ContentMismatchError, match=f"the playlist of job {job}: .*run verify-objects"):
        issue_download_url(catalog, locations, access, api_key="acme", job_id=job, kind="hls_720p")
