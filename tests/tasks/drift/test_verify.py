"""Every object is read and hashed in its turn; what is wrong is marked, and nothing is ever removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import zstandard

from blocks.catalog import CatalogDatabase, verifying
from blocks.catalog.findings import Found
from blocks.catalog.verifying import Twin
from blocks.errors import ContentMismatchError, InvalidInputError
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import put_bytes, read_bytes
from blocks.policies import IngestPolicy, IntegrityPolicy
from tasks.analytics import findings
from tasks.content import decoded
from tasks.customers import create_key
from tasks.drift import verify
from tasks.drift.verify import Checked, VerifyReport, choose, put_together, verify_batch
from tasks.intake.ingest import ingest_videos
from tasks.stores import OpenLocation
from tests.helpers import assert_sound, execute, one, rows, sha256, stored_keys, write_video

POLICY = IntegrityPolicy()
COUNTERS = "SELECT storage_used_bytes, storage_reserved_bytes FROM api_keys ORDER BY id"
Verify = Callable[..., VerifyReport]


@pytest.fixture
def run(catalog: CatalogDatabase, location: OpenLocation) -> Verify:
    def everything(place: OpenLocation = location, **options: Any) -> VerifyReport:
        live, batches = choose(catalog, place, POLICY, **({"share_percent": 100} | options))
        results = [verify_batch(catalog, place, POLICY, ids, run="the run") for ids in batches]
        return put_together(catalog, location, live, results)

    return everything


def key_of(catalog: CatalogDatabase, job: UUID) -> str:
    return str(one(catalog, "SELECT key FROM stored_objects WHERE job_id = :id", id=job))


def states(catalog: CatalogDatabase) -> dict[UUID, str]:
    return {row.job_id: row.state for row in rows(catalog, "SELECT job_id, state FROM stored_objects")}


def many(catalog: CatalogDatabase, job: UUID, count: int, kind: str = "hls_360p") -> None:
    """Live rows without bytes, verified at different times: the higher the number, the longer ago."""
    execute(
        catalog,
        "INSERT INTO stored_objects (id, job_id, api_key_id, kind, name, location_id, key, size_bytes, stored_bytes, "
        " sha256, state, verified_at) SELECT gen_random_uuid(), job_id, api_key_id, :kind, :kind || n, location_id, "
        " 'processed/' || job_id || '/' || :kind || n, 3, 3, sha256, 'live', now() - make_interval(days => n) "
        "  FROM stored_objects, generate_series(1, :count) n WHERE job_id = :job AND kind = 'original'",
        count=count, job=job, kind=kind,
    )  # fmt: skip


def names(catalog: CatalogDatabase, ids: Sequence[UUID]) -> list[str]:
    found = {row.id: row.name for row in rows(catalog, "SELECT id, name FROM stored_objects")}
    return [found[one] for one in ids]


def test_what_is_sound(
    run: Verify, catalog: CatalogDatabase, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    new_job(b"one")
    new_job(b"three")
    execute(catalog, "UPDATE stored_objects SET verified_at = now() - interval '90 days'")
    before = rows(catalog, "SELECT id, state, generation, etag FROM stored_objects ORDER BY id")
    lines = one(catalog, "SELECT count(*) FROM operation_log")
    report = run()
    assert (report.live, report.sound, report.sound_bytes, report.others) == (2, 2, 8, ())
    assert report.summary() == "2 of 2 objects read (8 B sound): none corrupt or missing"
    assert rows(catalog, "SELECT id, state, generation, etag FROM stored_objects ORDER BY id") == before
    assert one(catalog, "SELECT count(*) FROM operation_log") == lines, "book-keeping is no change"
    assert one(catalog, "SELECT min(verified_at) > now() - interval '1 minute' FROM stored_objects")
    assert_sound(catalog, location)


def test_what_is_not_is_marked_and_nothing_more(
    run: Verify, catalog: CatalogDatabase, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    sound, corrupt, truncated, longer, missing, empty = (new_job(bytes([letter]) * 10) for letter in b"sctlme")
    contents = {corrupt: b"C" * 10, truncated: b"t" * 9, longer: b"l" * 11, empty: b""}
    for job, content in contents.items():
        put_bytes(location.store, key_of(catalog, job), content, {})
    delete_keys(location.store, [key_of(catalog, missing)])
    counters, keys = rows(catalog, COUNTERS), stored_keys(location)
    verified = rows(catalog, "SELECT job_id, verified_at FROM stored_objects ORDER BY job_id")

    report = run()
    wrong = [corrupt, truncated, longer, empty]
    assert {one.job_id: one.result for one in report.others} == {**dict.fromkeys(wrong, "corrupt"), missing: "missing"}
    assert states(catalog) == {sound: "live", **dict.fromkeys(wrong, "corrupt"), missing: "missing"}
    assert report.summary() == (
        "6 of 6 objects read (10 B sound): 4 corrupt, 1 missing; 5 jobs are hurt; 5 are on record as missing or corrupt"
    )
    assert rows(catalog, COUNTERS) == counters
    assert stored_keys(location) == keys
    for job, content in contents.items():
        assert read_bytes(location.store, key_of(catalog, job), at_most=100) == content
    after = dict(tuple(row) for row in rows(catalog, "SELECT job_id, verified_at FROM stored_objects"))
    assert [row.job_id for row in verified if after[row.job_id] != row.verified_at] == [sound]
    log = rows(catalog, "SELECT * FROM operation_log WHERE operation = 'mark'")
    assert {(line.job_id, line.before["state"], line.after["state"]) for line in log} == {
        (job, "live", state) for job, state in states(catalog).items() if job != sound
    }
    assert {(line.run, line.rule) for line in log} == {("the run", "verify")}
    assert_sound(catalog, location)
    again = run()
    assert (again.live, again.sound, again.others) == (1, 1, ()), "what is known is not read again"


def test_objects_of_several_customers(
    run: Verify, catalog: CatalogDatabase, location: OpenLocation, policy: IngestPolicy,
    new_job: Callable[[bytes], UUID], tmp_path: Path,
) -> None:  # fmt: skip
    jobs = [new_job(b"1")]
    for number in range(3):
        key = create_key(catalog, f"other{number}", "10 MiB").customer.label
        video = write_video(tmp_path / f"{number}.mp4", f"of {number}".encode())
        (outcome,) = ingest_videos(catalog, location, policy, api_key=key, sources=[str(video)]).outcomes
        assert outcome.job_id is not None
        jobs.append(outcome.job_id)
    delete_keys(location.store, [key_of(catalog, job) for job in jobs])
    assert len(run().hurt) == 4
    assert set(states(catalog).values()) == {"missing"}


@pytest.mark.parametrize("change", ["moved", "purged", "trashed"])
@pytest.mark.parametrize("when", ["while it is read", "before it is marked"])
def test_a_row_that_changes_meanwhile_is_not_marked(
    run: Verify, catalog: CatalogDatabase, location: OpenLocation, new_job: Callable[[bytes], UUID],
    monkeypatch: pytest.MonkeyPatch, change: str, when: str,
) -> None:  # fmt: skip
    job = new_job(b"content")
    delete_keys(location.store, [key_of(catalog, job)])
    statement = {
        "moved": "UPDATE stored_objects SET generation = generation + 1, key = key || '.new'",
        "purged": "DELETE FROM stored_objects",
        "trashed": "UPDATE stored_objects SET generation = generation + 1, state = 'trashed', trashed_state = 'live'",
    }[change]
    name = "hash_content" if when == "while it is read" else "in_parallel"
    real, done = getattr(verify, name), []

    def then_changed(*arguments: Any, **options: Any) -> Any:
        try:
            return real(*arguments, **options)
        finally:
            if not done:
                done.append(execute(catalog, statement))

    monkeypatch.setattr(verify, name, then_changed)
    report = run()
    assert states(catalog) == {"moved": {job: "live"}, "purged": {}, "trashed": {job: "trashed"}}[change]
    assert one(catalog, "SELECT count(*) FROM operation_log WHERE operation = 'mark'") == 0
    assert [one.result for one in report.others] == ["changed"], "and no alarm is raised"
    assert report.hurt == ()


def test_a_body_that_broke_off_is_read_again(
    run: Verify, catalog: CatalogDatabase, new_job: Callable[[bytes], UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    new_job(b"content")
    real, reads = verify.hash_content, []

    def broken_first(*arguments: Any, **options: Any) -> tuple[str, int]:
        reads.append(None)
        return real(*arguments, **options) if len(reads) > 1 else (sha256(b"cont"), 4)

    monkeypatch.setattr(verify, "hash_content", broken_first)
    assert (run().sound, len(reads)) == (1, 2)


def test_the_oldest_first(catalog: CatalogDatabase, location: OpenLocation, new_job: Callable[[bytes], UUID]) -> None:
    many(catalog, new_job(b"just verified"), 9)
    live, (ids,) = choose(catalog, location, POLICY, share_percent=30)
    assert live == 10
    assert names(catalog, ids) == ["hls_360p9", "hls_360p8", "hls_360p7", "hls_360p6"]
    execute(catalog, "UPDATE stored_objects SET verified_at = NULL WHERE name = 'hls_360p1'")
    _, (ids,) = choose(catalog, location, POLICY, share_percent=0.001)
    assert names(catalog, ids) == ["hls_360p1"], "what was never verified goes before all"


@pytest.mark.parametrize(("weeks", "objects"), [(1, 7), (2, 7), (3, 9), (12, 25), (12, 3), (520, 5)])
def test_all_are_seen_within_the_weeks(
    catalog: CatalogDatabase, location: OpenLocation, new_job: Callable[[bytes], UUID], weeks: int, objects: int
) -> None:
    many(catalog, new_job(b"x"), objects - 1)
    seen: set[UUID] = set()
    for _ in range(min(weeks, objects)):
        live, batches = choose(catalog, location, IntegrityPolicy(verify_within_weeks=weeks))
        ids = [one for batch in batches for one in batch]
        assert 0 < len(ids) <= live // weeks + 1
        seen |= set(ids)
        catalog.transaction(lambda connection, ids=ids: verifying.note_verified(connection, ids))  # type: ignore[misc]  # bound here
    assert len(seen) == objects


def test_batches(catalog: CatalogDatabase, location: OpenLocation, new_job: Callable[[bytes], UUID]) -> None:
    many(catalog, new_job(b"x"), 1199)
    live, batches = choose(catalog, location, POLICY, share_percent=100)
    assert (live, [len(batch) for batch in batches]) == (1200, [500, 500, 200])
    assert len({one for batch in batches for one in batch}) == 1200


def test_nothing_to_verify(run: Verify, catalog: CatalogDatabase, location: OpenLocation) -> None:
    assert choose(catalog, location, POLICY) == (0, [])
    assert run().summary() == "0 of 0 objects read (0 B sound): none corrupt or missing"


def test_kinds(catalog: CatalogDatabase, location: OpenLocation, new_job: Callable[[bytes], UUID]) -> None:
    job = new_job(b"x")
    many(catalog, job, 3)
    many(catalog, job, 2, kind="metadata")
    for kinds, count in (((), 6), (("original",), 1), (("hls_360p", "metadata"), 5), (("audio",), 0)):
        live, batches = choose(catalog, location, POLICY, share_percent=100, kinds=kinds)
        assert (live, sum(len(batch) for batch in batches)) == (count, count)
    with pytest.raises(InvalidInputError, match="'movie' is no kind of object"):
        choose(catalog, location, POLICY, kinds=["original", "movie"])


@pytest.mark.parametrize("share", [0, -1, 100.1, float("nan"), float("inf"), float("-inf")])
def test_bad_shares(catalog: CatalogDatabase, location: OpenLocation, share: float) -> None:
    with pytest.raises(InvalidInputError, match="is outside the limits: more than 0 and up to 100 percent"):
        choose(catalog, location, POLICY, share_percent=share)


CONTENT = b"a transcript, " * 200


def wide(content: bytes) -> bytes:
    """A frame whose window is 16 MiB: sound, and none of ours."""
    settings = zstandard.ZstdCompressionParameters(window_log=24, write_content_size=False)
    frame = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    return frame.compress(content) + frame.flush()


@pytest.mark.parametrize(
    ("stored", "result"),
    [
        (zstandard.compress(CONTENT), "sound"),
        (zstandard.compress(CONTENT, 19), "sound"),
        (zstandard.compress(CONTENT[:-1]), "corrupt"),
        (zstandard.compress(CONTENT + b"x"), "corrupt"),
        (zstandard.compress(bytes(200_000_000)), "corrupt"),
        (zstandard.compress(CONTENT)[:-3], "corrupt"),
        (zstandard.compress(CONTENT)[:3], "corrupt"),
        (b"\xff" + zstandard.compress(CONTENT)[1:], "corrupt"),
        (wide(CONTENT), "corrupt"),
        (CONTENT, "corrupt"),
        (b"", "corrupt"),
    ],
    ids=["frame", "best", "other", "longer", "bomb", "cut", "stub", "header", "window", "plain", "empty"],
)  # fmt: skip
def test_what_is_stored_as_zstd(
    run: Verify, catalog: CatalogDatabase, location: OpenLocation, new_job: Callable[[bytes], UUID], stored: bytes,
    result: str,
) -> None:  # fmt: skip
    job = new_job(CONTENT)
    execute(catalog, "UPDATE stored_objects SET codec = 'zstd', stored_bytes = :size", size=len(stored))
    put_bytes(location.store, key_of(catalog, job), stored, {})
    report = run()
    assert report.sound == (result == "sound")
    assert states(catalog)[job] == ("live" if result == "sound" else "corrupt")
    assert read_bytes(location.store, key_of(catalog, job), at_most=10**6) == stored


@pytest.mark.parametrize(("codec", "stored"), [("identity", b"x" * 11), ("zstd", zstandard.compress(b"x" * 11))])
def test_no_more_is_read_than_the_row_allows(codec: str, stored: bytes) -> None:
    assert b"".join(decoded(iter([stored]), codec, at_most=11)) == b"x" * 11
    with pytest.raises(ContentMismatchError):
        list(decoded(iter([stored]), codec, at_most=10))


def test_jobs_that_are_hurt_and_what_could_heal_them(
    run: Verify, catalog: CatalogDatabase, location: OpenLocation, policy: IngestPolicy,
    new_job: Callable[[bytes], UUID], tmp_path: Path,
) -> None:  # fmt: skip
    shared, alone, both = new_job(b"shared"), new_job(b"alone"), new_job(b"both are lost")
    other = create_key(catalog, "other", "10 MiB").customer.label
    videos = [write_video(tmp_path / f"{name}.mp4", name) for name in (b"shared", b"both are lost")]
    taken = ingest_videos(catalog, location, policy, api_key=other, sources=[str(video) for video in videos]).outcomes
    twins = {outcome.sha256: outcome.job_id for outcome in taken}
    twin, lost = twins[sha256(b"shared")], twins[sha256(b"both are lost")]
    assert twin is not None
    assert lost is not None
    delete_keys(location.store, [key_of(catalog, job) for job in (shared, alone, both, lost)])
    report = run()
    cures = {one.job_id: report.cure(one) for one in report.hurt}
    retake = "the customer's own file: taking it in again heals this job"
    place = f"the same content is in job {twin} of other: main/{key_of(catalog, twin)}"
    assert cures == {shared: place, alone: retake, both: retake, lost: retake}
    assert "4 missing; 4 jobs are hurt" in report.summary()


def test_cures_by_kind() -> None:
    def hurt(kind: str, digest: str = "a") -> Checked:
        return Checked(UUID(int=1), UUID(int=2), kind, "key", "corrupt", "", 5, digest)

    twins = (Twin("a", UUID(int=2), "acme", "key", "main"), Twin("b", UUID(int=3), "other", "another", "main"))
    report = VerifyReport(1, 0, 0, (), twins)
    assert report.cure(hurt("original")).startswith("the customer's own file"), "it is no twin of itself"
    assert report.cure(hurt("metadata")) == "the newest backup that has this hash"
    assert report.cure(hurt("hls_720p")).startswith("register-outputs with the very file; or transcoding the original")
    assert report.cure(hurt("upload")) == "the customer's own file, uploaded anew"
    assert "in job 00000000-0000-0000-0000-000000000003 of other" in report.cure(hurt("hls_720p", "b"))


def test_a_store_that_does_not_answer(
    run: Verify, catalog: CatalogDatabase, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    jobs = [new_job(b"1"), new_job(b"2")]
    before = rows(catalog, "SELECT * FROM stored_objects ORDER BY id")
    closed = location.store.model_copy(update={"endpoint_url": "http://127.0.0.1:9", "retries": 0})
    report = run(OpenLocation(location.place, closed, location.capabilities))
    assert {one.job_id: one.result for one in report.others} == dict.fromkeys(jobs, "unread")
    assert all("the store did not answer" in one.detail for one in report.others)
    assert report.hurt == ()
    assert report.summary() == "2 of 2 objects read (0 B sound): 2 unread"
    assert rows(catalog, "SELECT * FROM stored_objects ORDER BY id") == before


def test_where_nothing_is_there_nothing_is_marked(
    run: Verify, catalog: CatalogDatabase, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    """Its marker is, so that it opens: another bucket under its name, or a copy that has only begun."""
    job = new_job(b"content")
    many(catalog, job, verify.STRANGE)
    # As a whole no place is lost while one object of it is there.
    assert len(run(kinds=["original"]).others) == 0
    report = run(kinds=["hls_360p"])
    assert {one.result for one in report.others} == {"absent"}
    assert report.hurt == ()
    assert findings.of_verification("main", report) == [Found("main", "absent", verify.STRANGE)], "somebody is told"
    (error,) = report.errors
    assert error.startswith(f"main has not one of the {verify.STRANGE} objects that were asked for")
    assert set(rows(catalog, "SELECT state FROM stored_objects")) == {("live",)}
    assert "10 absent; 1 batches came to nothing: main has not one" in report.summary()
    # Beside others that are there they count as lost, and few of them do, too.
    assert len(run().hurt) == verify.STRANGE
    execute(catalog, "DELETE FROM stored_objects WHERE kind = 'hls_360p'")
    many(catalog, job, verify.STRANGE - 1)
    assert len(run(kinds=["hls_360p"]).hurt) == verify.STRANGE - 1
    execute(catalog, "DELETE FROM stored_objects WHERE kind = 'hls_360p'")


def test_an_object_that_comes_back_is_not_missing(
    run: Verify, catalog: CatalogDatabase, location: OpenLocation, new_job: Callable[[bytes], UUID],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    job = new_job(b"content")
    key, real = key_of(catalog, job), verify.fingerprint
    delete_keys(location.store, [key])

    def late(*arguments: Any) -> Any:
        put_bytes(location.store, key, b"content", {})
        return real(*arguments)

    monkeypatch.setattr(verify, "fingerprint", late)
    assert [(one.result, one.detail) for one in run().others] == [("unread", "it was not there, and is")]
    assert states(catalog)[job] == "live"
    assert run().sound == 1


def test_where_nothing_is_its_content_nothing_is_marked(
    run: Verify, catalog: CatalogDatabase, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    """A gateway that gives something else for an hour: the bytes are what they were."""
    many(catalog, new_job(b"content"), verify.STRANGE)
    keys = [row.key for row in rows(catalog, "SELECT key FROM stored_objects WHERE kind = 'hls_360p'")]
    for key in keys:
        put_bytes(location.store, key, b"?", {})
    report = run(kinds=["hls_360p"])
    assert {one.result for one in report.others} == {"garbled"}
    assert findings.of_verification("main", report) == [Found("main", "garbled", verify.STRANGE)], "somebody is told"
    assert "so that none is marked as corrupt" in report.errors[0]
    assert set(rows(catalog, "SELECT state FROM stored_objects")) == {("live",)}
    execute(catalog, "DELETE FROM stored_objects WHERE kind = 'hls_360p'")
    delete_keys(location.store, keys)


def test_what_was_corrupt_and_is_its_content_again_is_live(
    run: Verify, catalog: CatalogDatabase, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    """A store that was mended in its place: nothing else would ever read these bytes again."""
    jobs = [new_job(content) for content in (b"one", b"two", b"three")]
    for job in jobs[:2]:
        put_bytes(location.store, key_of(catalog, job), b"???", {})
    assert {one.job_id for one in run().hurt} == set(jobs[:2])
    put_bytes(location.store, key_of(catalog, jobs[0]), b"one", {})
    report = run()
    assert (report.hurt, report.unsound) == ((), 1)
    assert states(catalog) == {jobs[0]: "live", jobs[1]: "corrupt", jobs[2]: "live"}
