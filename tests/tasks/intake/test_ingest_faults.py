"""Ingest that is killed, cut off or contradicted: what is left, and that the next run takes over."""

from __future__ import annotations

import errno
import os

import pytest

from blocks.errors import (
    CatalogUnavailableError,
    StoreUnavailableError,
)
from blocks.object_store.deletion import delete_keys
from tasks.customers import create_key, set_quota
from tasks.intake import healing, taking_in
from tasks.intake.ingest import ingest_videos
from tests.helpers import assert_sound, execute, one, rows, run_elsewhere, stored_keys, write_video


@pytest.mark.slow
def test_a_killed_ingest_is_taken_over(catalog, location, policy, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """SIGKILL between the pending row and the commit: the reservation lapses, and the next ingest starts anew."""
    create_key(catalog, "crashing", "10 MiB")
    video = write_video(tmp_path / "a.mp4", b"v" * 1000)
    died = run_elsewhere(
        catalog, location,
        "import os, tasks.intake.taking_in\n"
        "tasks.intake.taking_in.commit_arrivals = lambda *_, **__: os.kill(os.getpid(), 9)\n"
        "from tasks.intake.ingest import ingest_videos\n"
        f"ingest_videos(catalog, location, IngestPolicy(source_roots={str(tmp_path)!r}), api_key='crashing', "
        f"sources=[{str(video)!r}])",
    )  # fmt: skip
    assert died.returncode == -9, died.stderr
    assert [row.state for row in rows(catalog, "SELECT state FROM stored_objects")] == ["pending"]
    assert len(stored_keys(location)) == 1, "the bytes were there already"
    execute(catalog, "UPDATE reservations SET expires_at = clock_timestamp()")
    report = ingest_videos(catalog, location, policy, api_key="crashing", sources=[str(video)])
    assert report.counts == {"ingested": 1}
    states = sorted(row.state for row in rows(catalog, "SELECT state FROM stored_objects"))
    assert states == ["live", "purging"], "what the dead run wrote is released, for cleanup to remove"
    assert_sound(catalog, location)


def lose(catalog, location) -> str:  # type: ignore[no-untyped-def]
    """An object's bytes disappear, and verification noticed."""
    (lost,) = stored_keys(location)
    delete_keys(location.store, [lost])
    execute(catalog, "UPDATE stored_objects SET state = 'missing', generation = generation + 1")
    return lost


def test_a_heal_whose_commit_got_no_answer_keeps_the_bytes(  # type: ignore[no-untyped-def]
    ingest, catalog, location, tmp_path, monkeypatch
) -> None:
    video = write_video(tmp_path / "a.mp4", b"precious")
    ingest(video)
    lose(catalog, location)
    swap = healing.swap

    def swap_and_hang_up(connection, *arguments, **options):  # type: ignore[no-untyped-def]
        catalog.transaction(lambda other: swap(other, *arguments, **options))
        raise CatalogUnavailableError("the answer to COMMIT was lost")

    monkeypatch.setattr(healing, "swap", swap_and_hang_up)
    assert ingest(video).counts == {"failed": 1}
    assert one(catalog, "SELECT state FROM stored_objects") == "live"
    assert len(stored_keys(location)) == 1


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (StoreUnavailableError("503"), "its stored bytes are missing: 503"),
        (FileNotFoundError(2, "No such file or directory", "/inbox/a.mp4"),
         "its stored bytes are missing: a.mp4 cannot be read any more: No such file or directory"),
    ],
)  # fmt: skip
def test_a_heal_that_fails_is_no_success(  # type: ignore[no-untyped-def]
    ingest, catalog, location, tmp_path, monkeypatch, error: Exception, told: str
) -> None:
    video = write_video(tmp_path / "a.mp4", b"precious")
    ingest(video)
    lose(catalog, location)

    def refused(*_: object) -> None:
        raise error

    monkeypatch.setattr(healing, "write_object", refused)
    (outcome, other) = ingest(video, write_video(tmp_path / "b.mp4", b"another")).outcomes
    assert (outcome.succeeded, outcome.error) == (False, told)
    assert other.result == "ingested", "the others of its run go on"
    assert one(catalog, "SELECT state FROM relocations") == "done", "given up, and nothing is left of it"


def test_a_video_that_a_dead_run_was_uploading_is_no_duplicate(ingest, catalog, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    video = write_video(tmp_path / "a.mp4")
    monkeypatch.setattr(taking_in, "WAIT_FOR_OTHERS_SECONDS", 0)
    monkeypatch.setattr(taking_in, "commit_arrivals", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ingest(video)
    monkeypatch.undo()
    monkeypatch.setattr(taking_in, "WAIT_FOR_OTHERS_SECONDS", 0)
    (outcome,) = ingest(video).outcomes
    assert (outcome.result, outcome.job_status) == ("failed", "uploading")
    execute(catalog, "UPDATE reservations SET expires_at = clock_timestamp()")
    assert ingest(video).counts == {"ingested": 1}


def test_one_batchs_trouble_is_not_the_others(ingest, catalog, policy, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    videos = [write_video(tmp_path / f"{n}.mp4", bytes([n]) * 50) for n in range(6)]
    commit, calls = taking_in.commit_arrivals, []

    def second_fails(*arguments, **options):  # type: ignore[no-untyped-def]
        calls.append(1)
        if len(calls) == 2:
            raise CatalogUnavailableError("PostgreSQL went away")
        return commit(*arguments, **options)

    monkeypatch.setattr(taking_in, "commit_arrivals", second_fails)
    small_batches = policy.model_copy(update={"batch_files": 2, "parallel_batches": 1})
    report = ingest(*videos, policy=small_batches)
    assert report.counts == {"ingested": 4, "failed": 2}
    assert {outcome.error for outcome in report.unsuccessful} == {"PostgreSQL went away"}


def test_the_same_video_twice_in_a_run_shares_its_fate(  # type: ignore[no-untyped-def]
    catalog, ingest, acme, tmp_path, monkeypatch
) -> None:
    """Refused for want of quota, or lost on its way: the second is no duplicate of what is not there."""
    videos = [write_video(tmp_path / name, b"the same") for name in ("a.mp4", "b.mp4")]
    set_quota(catalog, api_key=acme, quota="1")
    assert ingest(*videos).counts == {"refused": 2}
    set_quota(catalog, api_key=acme, quota="1 MiB")

    def lost(*_: object, **__: object) -> None:
        raise StoreUnavailableError("the line is cut")

    with monkeypatch.context() as patched:
        patched.setattr("tasks.writing.put_file", lost)
        report = ingest(*videos)
    assert report.counts == {"failed": 2}
    assert {outcome.error for outcome in report.outcomes} == {"the line is cut"}
    assert sorted(ingest(*videos).counts) == ["duplicate", "ingested"]


@pytest.mark.parametrize(
    ("meanwhile", "told"),
    [
        ("UPDATE jobs SET deleted_at = now(), purge_after = now() + interval '7 days'", "was deleted while it was"),
        ("UPDATE jobs SET status = 'failed'", "another run took this job over"),
        ("UPDATE api_keys SET disabled_at = now()", "the reservation lapsed, and API key acme was disabled"),
        ("UPDATE api_keys SET storage_quota_bytes = 3", "the reservation lapsed, and quota exceeded"),
    ],
)
def test_who_comes_too_late_is_told_why(  # type: ignore[no-untyped-def]
    ingest, catalog, location, tmp_path, monkeypatch, meanwhile: str, told: str
) -> None:
    commit = taking_in.commit_arrivals

    def late(connection, *arguments, **options):  # type: ignore[no-untyped-def]
        execute(catalog, "UPDATE reservations SET expires_at = clock_timestamp()")
        execute(catalog, "SELECT reserve_storage(id, '{}', '{}', '{}', '{}') FROM api_keys")  # which ends it
        execute(catalog, meanwhile)
        return commit(connection, *arguments, **options)

    monkeypatch.setattr(taking_in, "commit_arrivals", late)
    (outcome,) = ingest(write_video(tmp_path / "a.mp4")).outcomes
    assert not outcome.succeeded
    assert told in outcome.error
    assert one(catalog, "SELECT storage_used_bytes + storage_reserved_bytes FROM api_keys") == 0


@pytest.mark.parametrize(("error", "result"), [(errno.EIO, "failed"), (errno.EACCES, "refused")])
def test_a_disk_that_cannot_be_read_is_for_another_time(ingest, tmp_path, monkeypatch, error: int, result: str) -> None:  # type: ignore[no-untyped-def]
    def unreadable(*_: object) -> None:
        raise OSError(error, os.strerror(error), "a.mp4")

    monkeypatch.setattr("tasks.intake.ingest.hash_file", unreadable)
    (outcome,) = ingest(write_video(tmp_path / "a.mp4")).outcomes
    assert outcome.result == result
