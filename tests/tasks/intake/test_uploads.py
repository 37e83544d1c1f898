"""Upload forms: exactly one size, onto one key, and nothing that is posted later counts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from blocks.errors import (
    ForeignCatalogError,
    InvalidInputError,
    NotFoundError,
    QuotaExceededError,
    RefusedError,
    StorageError,
    StoreUnavailableError,
)
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import put_bytes
from tasks import ownership
from tasks.customers import create_key, set_disabled
from tasks.intake import taking_in, uploads
from tasks.intake.ingest import ingest_videos
from tasks.intake.uploads import IssuedUpload, complete_upload, issue_upload_url
from tasks.layout import IDENTITY_KEY
from tasks.stores import Locations
from tests.helpers import assert_sound, execute, one, rows, sha256, stored_keys, write_video

BODY = b"a customer's own video"


def post(issued: IssuedUpload, body: bytes) -> int:
    return httpx.post(issued.form.url, data=issued.form.fields, files={"file": body}).status_code


@pytest.fixture
def issue(catalog, location, access, policy, acme):  # type: ignore[no-untyped-def]
    def run(**options) -> IssuedUpload:  # type: ignore[no-untyped-def]
        wanted = {"api_key": acme, "filename": "own.mp4", "size_bytes": len(BODY)} | options
        return issue_upload_url(catalog, location, access, policy, **wanted)

    yield run
    assert_sound(catalog, location)


@pytest.fixture
def complete(catalog, location, policy, acme):  # type: ignore[no-untyped-def]
    def run(issued: IssuedUpload, **options):  # type: ignore[no-untyped-def]
        wanted = {"api_key": acme, "upload_id": issued.upload_id} | options
        return complete_upload(catalog, Locations(catalog, location), policy, **wanted)

    return run


def test_a_new_video(issue, complete, catalog, location) -> None:  # type: ignore[no-untyped-def]
    issued = issue()
    assert one(catalog, "SELECT storage_reserved_bytes FROM api_keys") == len(BODY)
    assert post(issued, BODY) < 300
    outcome = complete(issued, expected_sha256=sha256(BODY))
    assert (outcome.result, outcome.sha256) == ("ingested", sha256(BODY))
    assert stored_keys(location) == [f"processed/{outcome.job_id}/raw/video_original.mp4"]
    assert stored_keys(location, "temp") == []
    assert rows(catalog, "SELECT storage_used_bytes, storage_reserved_bytes FROM api_keys") == [(len(BODY), 0)]


def test_posting_again_later_changes_nothing(issue, complete, catalog, location) -> None:  # type: ignore[no-untyped-def]
    issued = issue()
    post(issued, BODY)
    first = complete(issued)
    assert post(issued, BODY[::-1]) < 300, "the form itself still works"
    again = complete(issued)
    assert (again.result, again.job_id) == ("duplicate", first.job_id)
    assert one(catalog, "SELECT sha256 FROM stored_objects") == sha256(BODY)


def test_replaced_between_the_look_and_the_copy(issue, complete, catalog, location, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    issued = issue()
    post(issued, BODY)
    look = uploads.hash_object

    def look_and_replace(store, key):  # type: ignore[no-untyped-def]
        seen = look(store, key)
        post(issued, BODY[::-1])
        return seen

    monkeypatch.setattr(uploads, "hash_object", look_and_replace)
    outcome = complete(issued)
    assert outcome.result == "failed"
    assert "was replaced while it was taken in" in outcome.error
    assert stored_keys(location) == []
    monkeypatch.undo()
    assert complete(issued).sha256 == sha256(BODY[::-1]), "what lies there now can still be taken in"


@pytest.mark.parametrize("body", [BODY[:-1], BODY + b"x", b""])
def test_another_size_is_not_taken(issue, complete, location, body: bytes) -> None:  # type: ignore[no-untyped-def]
    issued = issue()
    assert post(issued, body) >= 400
    with pytest.raises(RefusedError, match="nothing has arrived"):
        complete(issued)


def test_other_content_than_expected_ends_the_upload(issue, complete, catalog, location) -> None:  # type: ignore[no-untyped-def]
    issued = issue()
    post(issued, BODY)
    with pytest.raises(InvalidInputError, match="nothing was stored"):
        complete(issued, expected_sha256="0" * 64)
    assert stored_keys(location, "temp") == []
    assert one(catalog, "SELECT storage_reserved_bytes FROM api_keys") == 0
    with pytest.raises(RefusedError, match="failed before"):
        complete(issued)


def test_an_upload_of_a_known_video(issue, complete, catalog, location, policy, acme, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    video = write_video(tmp_path / "a.mp4", BODY)
    (known,) = ingest_videos(catalog, location, policy, api_key=acme, sources=[str(video)]).outcomes
    issued = issue()
    post(issued, BODY)
    outcome = complete(issued)
    assert (outcome.result, outcome.job_id) == ("duplicate", known.job_id)
    assert one(catalog, "SELECT storage_reserved_bytes FROM api_keys") == 0


@pytest.mark.parametrize("step", ["head", "hash_object"])
def test_asked_again_while_the_first_call_finishes(issue, complete, catalog, monkeypatch, step: str) -> None:  # type: ignore[no-untyped-def]
    """A client whose first call timed out: it is not told to send gigabytes again."""
    issued = issue()
    post(issued, BODY)
    look, first = getattr(uploads, step), []

    def late(store, key):  # type: ignore[no-untyped-def]
        monkeypatch.setattr(uploads, step, look)
        first.append(complete(issued))
        return look(store, key)

    monkeypatch.setattr(uploads, step, late)
    again = complete(issued)
    assert (first[0].result, again.result, again.job_id) == ("ingested", "duplicate", first[0].job_id)
    assert one(catalog, "SELECT count(*) FROM jobs") == 1


def test_what_was_taken_in_before_is_still_compared(issue, complete, catalog, new_job) -> None:  # type: ignore[no-untyped-def]
    for beside in ({}, {"job_id": new_job(), "filename": "thumb.png"}):
        issued = issue(**beside)
        post(issued, BODY)
        complete(issued)
        assert complete(issued, expected_sha256=sha256(BODY)).sha256 == sha256(BODY)
        with pytest.raises(InvalidInputError, match=f"taken in before, with SHA-256 {sha256(BODY)}; expected was 0000"):
            complete(issued, expected_sha256="0" * 64)
    execute(catalog, "UPDATE stored_objects SET state = 'trashed', trashed_state = 'live'")
    execute(catalog, "UPDATE jobs SET deleted_at = now(), purge_after = now() + interval '1 day'")
    with pytest.raises(RefusedError, match="deleted"):
        complete(issued)


def test_a_file_beside_a_job(issue, complete, catalog, location, new_job) -> None:  # type: ignore[no-untyped-def]
    job = new_job()
    issued = issue(job_id=job, filename="thumb ☀.jpg")
    post(issued, BODY)
    assert complete(issued).job_id == job
    assert stored_keys(location, "uploads") == [f"uploads/{job}/{issued.upload_id}"]
    assert complete(issued).result == "duplicate"
    assert one(catalog, "SELECT name FROM stored_objects WHERE kind = 'upload'").endswith("/thumb ☀.jpg")


def test_a_broken_off_completion_is_done_again(issue, complete, catalog, location, new_job, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    job = new_job()
    issued = issue(job_id=job)
    post(issued, BODY)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(uploads, "make_live", killed)
    with pytest.raises(KeyboardInterrupt):
        complete(issued)
    monkeypatch.undo()
    assert complete(issued).result == "ingested"
    live = rows(catalog, "SELECT key FROM stored_objects WHERE kind = 'upload' AND state = 'live'")
    assert [row.key for row in live] != [f"uploads/{job}/{issued.upload_id}"], "no key is ever written twice"


def test_quota_is_taken_when_the_form_is_issued(issue, catalog) -> None:  # type: ignore[no-untyped-def]
    execute(catalog, "UPDATE api_keys SET storage_quota_bytes = :size", size=len(BODY) + 5)
    issue()
    with pytest.raises(QuotaExceededError, match="5 B is free"):
        issue()
    assert one(catalog, "SELECT count(*) FROM uploads") == 1


def test_a_lapsed_form_is_admitted_again_or_not_at_all(issue, complete, catalog, location, new_job) -> None:  # type: ignore[no-untyped-def]
    job = new_job()
    late, too_late = issue(job_id=job), issue(job_id=job)
    for issued in (late, too_late):
        post(issued, BODY)
    execute(catalog, "UPDATE reservations SET expires_at = clock_timestamp()")
    issue(size_bytes=1)  # an admission, which drops what has lapsed
    assert complete(late).result == "ingested"
    execute(catalog, "UPDATE api_keys SET storage_quota_bytes = storage_used_bytes")
    with pytest.raises(QuotaExceededError):
        complete(too_late)
    assert len(stored_keys(location, "uploads")) == 1


@pytest.mark.parametrize("size", [0, -1, 5 * 1024**3 + 1, 2**63])
def test_sizes_that_are_refused(issue, catalog, size: int) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises((InvalidInputError, RefusedError)):
        issue(size_bytes=size)
    assert one(catalog, "SELECT count(*) FROM reservations") == 0


@pytest.mark.parametrize("name", ["", "..", "a/b.mp4", "a\0.mp4", "x" * 300])
def test_names_that_are_refused(issue, name: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidInputError):
        issue(filename=name)


def test_other_peoples_uploads_and_jobs(issue, complete, catalog, acme, new_job) -> None:  # type: ignore[no-untyped-def]
    create_key(catalog, "stranger")
    issued, job = issue(), new_job()
    with pytest.raises(NotFoundError, match="no upload"):
        complete(issued, api_key="stranger")
    with pytest.raises(NotFoundError, match="no job"):
        issue(api_key="stranger", job_id=job)
    with pytest.raises(InvalidInputError, match="is no upload id"):
        complete(issued, upload_id="../x")
    set_disabled(catalog, api_key=acme, disabled=True)
    with pytest.raises(RefusedError, match="disabled"):
        issue()
    with pytest.raises(RefusedError, match="disabled"):
        complete(issued)


def test_the_form_is_not_printed(issue) -> None:  # type: ignore[no-untyped-def]
    assert "policy" not in repr(issue()).lower()


def test_a_killed_completion_keeps_the_blob_until_somebody_takes_it_in(  # type: ignore[no-untyped-def]
    issue, complete, catalog, location, monkeypatch
) -> None:
    issued = issue()
    post(issued, BODY)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(taking_in, "write_objects", killed)
    monkeypatch.setattr(taking_in, "WAIT_FOR_OTHERS_SECONDS", 0)
    with pytest.raises(KeyboardInterrupt):
        complete(issued)
    monkeypatch.undo()
    monkeypatch.setattr(taking_in, "WAIT_FOR_OTHERS_SECONDS", 0)
    early = complete(issued)
    until = one(catalog, "SELECT max(expires_at) AT TIME ZONE 'UTC' FROM reservations WHERE job_id IS NOT NULL")
    assert (early.result, early.error) == (
        "failed", "another run is uploading this video; ask again when it is through, or after "
        f"{until:%Y-%m-%d %H:%M:%S} UTC: if that run was killed, this video is free then",
    )  # fmt: skip
    assert len(stored_keys(location, "temp")) == 1, "the only copy there is"
    assert one(catalog, "SELECT status FROM uploads") == "open"
    execute(catalog, "UPDATE reservations SET expires_at = clock_timestamp()")
    assert complete(issued).result == "ingested"


def test_expected_hashes_are_looked_at_first(issue, complete, location) -> None:  # type: ignore[no-untyped-def]
    issued = issue()
    post(issued, BODY)
    with pytest.raises(InvalidInputError, match="is no SHA-256"):
        complete(issued, expected_sha256="nonsense")
    assert len(stored_keys(location, "temp")) == 1
    assert complete(issued, expected_sha256=sha256(BODY).upper()).result == "ingested"


def test_two_completions_at_once(issue, complete, catalog, new_job) -> None:  # type: ignore[no-untyped-def]
    job = new_job()
    for options in ({}, {"job_id": job, "filename": "thumb.jpg"}):
        issued = issue(**options)
        post(issued, BODY + str(options).encode()[:0])
        with ThreadPoolExecutor(3) as pool:
            calls = [pool.submit(complete, issued) for _ in range(3)]
        results = [call.exception() or call.result() for call in calls]
        assert [r for r in results if isinstance(r, Exception) and not isinstance(r, StorageError)] == []
        assert any(not isinstance(r, Exception) and r.succeeded for r in results), results
        assert all("took over" in str(r) for r in results if isinstance(r, Exception)), "the job is as it was"


def test_a_file_whose_copy_fails_is_completed_by_the_next_call(  # type: ignore[no-untyped-def]
    issue, complete, catalog, location, new_job, monkeypatch
) -> None:
    job = new_job()
    issued = issue(job_id=job, filename="thumbnail.jpg")
    assert post(issued, BODY) == 204

    def away(*_: object, **__: object) -> None:
        raise StoreUnavailableError("it does not answer")

    with monkeypatch.context() as patched:
        patched.setattr("tasks.writing.copy", away)
        with pytest.raises(StoreUnavailableError):
            complete(issued)
    assert rows(catalog, "SELECT status FROM uploads") == [("open",)]
    assert one(catalog, "SELECT count(*) FROM stored_objects WHERE kind = 'upload' AND state <> 'purging'") == 0
    complete(issued)
    assert one(catalog, "SELECT state FROM stored_objects WHERE kind = 'upload' AND state <> 'purging'") == "live"
    assert one(catalog, "SELECT storage_reserved_bytes FROM api_keys") == 0


def test_a_job_that_is_erased_while_its_form_is_made(issue, catalog, location, new_job, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    job = new_job()
    reserve = uploads.reserve_now

    def slowly(*arguments: object) -> bool:
        held: bool = reserve(*arguments)
        execute(catalog, "DELETE FROM stored_objects")
        execute(catalog, "DELETE FROM source_hits")
        execute(catalog, "DELETE FROM jobs")
        delete_keys(location.store, stored_keys(location))
        return held

    monkeypatch.setattr(uploads, "reserve_now", slowly)
    with pytest.raises(NotFoundError, match="no job"):
        issue(job_id=job)
    assert one(catalog, "SELECT storage_reserved_bytes FROM api_keys") == 0


def test_what_arrived_in_a_bucket_that_is_anothers_now_stays(issue, complete, location, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    issued = issue()
    post(issued, BODY)
    put_bytes(location.store, IDENTITY_KEY, b"00000000-0000-0000-0000-000000000000 1\n", {})
    monkeypatch.setattr(ownership, "LOOKED_AT_FOR_SECONDS", 0)
    with pytest.raises(ForeignCatalogError):
        complete(issued, expected_sha256="0" * 64)
    assert len(stored_keys(location, "temp")) == 1
