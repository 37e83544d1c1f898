"""Back to hot and decompressed: asked for, or by itself when a URL is wanted that a place or encoding cannot serve."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest

from blocks.catalog.moving import Wanted, forget_marks
from blocks.errors import InvalidInputError, NotFoundError, RefusedError, StoreUnavailableError
from blocks.policies import CompressionPolicy, RelocationPolicy
from tasks.access import issue_download_url
from tasks.relocation import rehydrate
from tasks.relocation.compression import find_compressible, plan_compression
from tasks.relocation.moving import COMPRESSED, Mark, Move, Recipe, look_anew, mark_through, move_batch, split, sum_up
from tasks.relocation.rehydrate import rehydrate_job
from tasks.relocation.relocate import relocate
from tasks.relocation.rewriting import Target
from tasks.removal.deletion import hold
from tasks.stores import Locations
from tasks.sweeping import Sweep
from tests.helpers import assert_sound, execute, one, rows
from tests.tasks.relocation.test_relocate import WHY, everything

POLICY = RelocationPolicy()
RULES = CompressionPolicy(after_days=1, idle_days=0, smallest_bytes=0, least_gain_percent=0, sample_objects=0)


@pytest.fixture
def compressed(catalog, location, cold, locations, job, tmp_path):  # type: ignore[no-untyped-def]
    """The job, its texts compressed by the policy's own way; sound at the end."""
    execute(catalog, "UPDATE jobs SET completed_at = now() - interval '100 days'")
    # As small as a test's playlists are, zstd makes none of them smaller but these.
    sweep = Sweep(catalog, (location, cold))
    planned = plan_compression(find_compressible(sweep, locations, RULES), RULES)
    results = [move_batch(catalog, locations, POLICY, batch) for batch in split(planned.moves, POLICY, run="a run")]
    mark_through(catalog, planned.moves, sum_up(results))
    assert rows(catalog, "SELECT DISTINCT name FROM stored_objects WHERE codec = 'zstd'"), "something is compressed"
    assert one(catalog, "SELECT compressed_at IS NOT NULL FROM jobs")
    yield job
    assert_sound(catalog, location, cold)


def test_a_url_of_what_is_compressed(compressed, catalog, locations, access) -> None:  # type: ignore[no-untyped-def]
    """The stored bytes for one who decodes zstd; for others it is decompressed first, and stays so."""
    wanted = {"api_key": "acme", "job_id": compressed, "kind": "hls_720p"}
    playlist = issue_download_url(catalog, locations, access, **wanted)
    assert "#EXTM3U" in httpx.get(playlist.url).text, "a playlist is made anew, whatever it is stored as"
    assert rows(catalog, "SELECT 1 FROM stored_objects WHERE codec = 'zstd'")
    execute(catalog, "UPDATE stored_objects SET kind = 'metadata' WHERE name = '360p/segments/playlist.m3u8'")
    execute(catalog, "UPDATE stored_objects SET kind = 'upload' WHERE name = 'metadata.json'")
    wanted["kind"] = "metadata"
    with httpx.stream(
        "GET", issue_download_url(catalog, locations, access, accept_encoding="zstd", **wanted).url
    ) as raw:
        assert raw.headers["content-encoding"] == "zstd"
    assert one(catalog, "SELECT codec FROM stored_objects WHERE kind = 'metadata'") == "zstd"
    url = issue_download_url(catalog, locations, access, accept_encoding="gzip", **wanted).url
    assert httpx.get(url).text.startswith("#EXTM3U")
    assert one(catalog, "SELECT codec FROM stored_objects WHERE kind = 'metadata'") == "identity"
    assert rows(catalog, "SELECT tier, compressed_at FROM jobs") == [("hot", None)], "it is looked at again when idle"


def test_the_whole_job_comes_back(compressed, catalog, location, cold, locations) -> None:  # type: ignore[no-untyped-def]
    relocate(catalog, locations, POLICY, everything(catalog), Target(cold), WHY)
    execute(catalog, "UPDATE jobs SET tier = 'cold'")
    report = rehydrate_job(catalog, locations, POLICY, job_id=compressed)
    assert (len(report.moved), report.others) == (len(everything(catalog)), ())
    assert {(row.location_id, row.codec) for row in everything(catalog)} == {(location.place.id, "identity")}
    assert rows(catalog, "SELECT tier, compressed_at, last_accessed_at > now() - interval '1 minute' FROM jobs") == [
        ("hot", None, True)
    ]
    again = rehydrate_job(catalog, locations, POLICY, job_id=compressed)
    assert (again.moved, again.there) == ((), len(everything(catalog)))
    assert "were there" in again.summary()


def test_what_is_lost_is_told_among_what_comes_back(catalog, locations, job) -> None:  # type: ignore[no-untyped-def]
    execute(catalog, "UPDATE stored_objects SET state = 'missing' WHERE kind = 'original'")
    report = rehydrate_job(catalog, locations, POLICY, job_id=job)
    ((lost, why),) = [(one.name, one.error) for one in report.others]
    assert (lost, report.there) == ("raw/video_original.mp4", len(everything(catalog)))
    assert "it is missing; explain-object says what could heal it" in why
    assert lost in report.summary()
    (only,) = rehydrate_job(catalog, locations, POLICY, job_id=job, kinds=["original"]).others
    assert only.result == "failed"


def test_a_place_that_customers_do_not_reach(catalog, location, declare, job, access) -> None:  # type: ignore[no-untyped-def]
    inner = declare("inner", tier="warm", serves_urls=False)
    locations = Locations(catalog, location, [inner])
    relocate(catalog, locations, POLICY, everything(catalog), Target(inner), WHY)
    for kind in ("audio", "hls_360p"):
        issued = issue_download_url(catalog, locations, access, api_key="acme", job_id=job, kind=kind)
        assert issued.url.startswith(location.store.endpoint_url)
        for line in httpx.get(issued.url).text.splitlines() if kind == "hls_360p" else ():
            assert not line.startswith("http") or httpx.get(line).status_code == 200
    home = {row.kind for row in everything(catalog) if row.location_id == location.place.id}
    assert home == {"audio", "hls_360p"}, "only what was asked for"
    assert_sound(catalog, location, inner)


def test_a_place_that_restores_first(catalog, location, declare, job, access) -> None:  # type: ignore[no-untyped-def]
    glacier = declare("glacier", tier="cold", needs_restore=True)
    locations = Locations(catalog, location, [glacier])
    relocate(catalog, locations, POLICY, everything(catalog), Target(glacier), WHY)
    way_out = "lies in glacier, which must restore it first: .* run rehydrate-job with restored"
    for kind in ("audio", "hls_720p"):
        with pytest.raises(RefusedError, match=way_out):
            issue_download_url(catalog, locations, access, api_key="acme", job_id=job, kind=kind)
    with pytest.raises(RefusedError, match=way_out):
        rehydrate_job(catalog, locations, POLICY, job_id=job)
    assert rehydrate_job(catalog, locations, POLICY, job_id=job, kinds=["audio"], restored=True).moved
    assert issue_download_url(catalog, locations, access, api_key="acme", job_id=job, kind="audio").url
    assert_sound(catalog, location, glacier)


NOW = "SELECT clock_timestamp()"


def test_a_job_that_was_asked_for_since_the_plan_is_left_alone(catalog, location, cold, locations, job) -> None:  # type: ignore[no-untyped-def]
    execute(catalog, "UPDATE jobs SET completed_at = now() - interval '100 days', last_accessed_at = NULL")
    idle_before = one(catalog, "SELECT now() - interval '30 days'")
    recipe = Recipe(Wanted((location.place.id,)), "cold", "tier-jobs", "cold_after_days", idle_before=idle_before)
    mark = Mark("cold", idle_before, one(catalog, NOW))
    for asked, moved in (("now()", False), ("NULL", True)):
        execute(catalog, f"UPDATE jobs SET last_accessed_at = {asked}")
        moves = [Move(job, 1, 1, recipe, mark)]
        results = [move_batch(catalog, locations, POLICY, batch) for batch in split(moves, POLICY, run="a run")]
        mark_through(catalog, moves, sum_up(results))
        assert bool(sum_up(results)[job].moved) is moved
        assert one(catalog, "SELECT tier FROM jobs") == ("cold" if moved else "hot")
    assert_sound(catalog, location, cold)


def test_a_job_that_was_in_the_trash_meanwhile_is_not_through(catalog, location, cold, locations, job) -> None:  # type: ignore[no-untyped-def]
    """Nothing of it was moved: out of the trash again it would never be looked at."""
    execute(catalog, "UPDATE jobs SET completed_at = now() - interval '100 days', last_accessed_at = NULL")
    idle_before = one(catalog, "SELECT now() - interval '30 days'")
    recipe = Recipe(Wanted((location.place.id,)), "cold", "tier-jobs", "cold_after_days", idle_before=idle_before)
    moves = [
        Move(job, 1, 1, recipe, Mark("cold", idle_before, one(catalog, NOW))),
        Move(job, 1, 1, recipe, Mark(COMPRESSED, idle_before, one(catalog, NOW))),
    ]
    execute(catalog, "UPDATE jobs SET deleted_at = now(), purge_after = now() + interval '7 days'")
    results = [move_batch(catalog, locations, POLICY, batch) for batch in split(moves, POLICY, run="a run")]
    mark_through(catalog, moves, sum_up(results))
    assert rows(catalog, "SELECT tier, compressed_at FROM jobs") == [("hot", None)]
    execute(catalog, "UPDATE jobs SET deleted_at = NULL, purge_after = NULL")


@pytest.fixture
def unserved(catalog, location, declare, job) -> Iterator[Locations]:  # type: ignore[no-untyped-def]
    """All of the job lies where no URL serves it; sound at the end."""
    inner = declare("inner", tier="cold", serves_urls=False)
    locations = Locations(catalog, location, [inner])
    relocate(catalog, locations, POLICY, everything(catalog), Target(inner), WHY)
    yield locations
    assert_sound(catalog, location, inner)


def test_who_asks_for_the_same_waits_for_the_first(  # type: ignore[no-untyped-def]
    catalog, unserved, job, access, monkeypatch
) -> None:
    """Each of ten viewers would copy all of a large video, with the memory and the threads of a night's run."""
    moved: list[int] = []

    def slowly(catalog, locations, policy, objects, *rest):  # type: ignore[no-untyped-def]
        moved.append(len(objects))
        time.sleep(0.3)
        return relocate(catalog, locations, policy, objects, *rest)

    monkeypatch.setattr("tasks.relocation.rehydrate.relocate", slowly)
    asked = {"api_key": "acme", "job_id": job, "kind": "audio"}
    with ThreadPoolExecutor(6) as pool:
        urls = [pool.submit(issue_download_url, catalog, unserved, access, **asked) for _ in range(6)]
        assert {httpx.get(one.result().url).content for one in urls} == {b"sound"}
    assert moved == [1]
    assert rehydrate._TURNS._locks == {}, "nothing is kept of it"


def test_who_waited_for_one_that_failed_does_not_do_it_all_again(  # type: ignore[no-untyped-def]
    catalog, unserved, job, access, monkeypatch
) -> None:
    tried: list[int] = []

    def fails(*_):  # type: ignore[no-untyped-def]
        tried.append(1)
        time.sleep(0.3)
        raise StoreUnavailableError("it went away")

    monkeypatch.setattr("tasks.relocation.rehydrate.relocate", fails)
    asked = {"api_key": "acme", "job_id": job, "kind": "audio"}
    with ThreadPoolExecutor(4) as pool:
        urls = [pool.submit(issue_download_url, catalog, unserved, access, **asked) for _ in range(4)]
        errors = {str(one.exception()) for one in urls}
    assert errors == {"it went away", "audio/audio.mp3 was being brought back, and that failed; ask again"}
    assert len(tried) == 1


def test_all_jobs_are_looked_at_anew(catalog, location, new_job, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    for number in range(5):
        new_job(b"%d" % number)
    execute(catalog, "UPDATE jobs SET tier = 'cold', compressed_at = now()")
    monkeypatch.setattr("tasks.relocation.moving.forget_marks", partial(forget_marks, most=2))
    look_anew(catalog, "tier")
    assert rows(catalog, "SELECT DISTINCT tier, compressed_at IS NULL FROM jobs") == [("hot", False)]
    look_anew(catalog, "compressed_at")
    assert rows(catalog, "SELECT DISTINCT compressed_at FROM jobs") == [(None,)]


def test_what_is_refused(catalog, locations, job) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidInputError, match="no job id"):
        rehydrate_job(catalog, locations, POLICY, job_id="../x")
    with pytest.raises(InvalidInputError, match="no kind"):
        rehydrate_job(catalog, locations, POLICY, job_id=job, kinds=["video'; --"])
    with pytest.raises(NotFoundError, match="no upload that could be brought back"):
        rehydrate_job(catalog, locations, POLICY, job_id=job, kinds=["upload"])
    with pytest.raises(NotFoundError, match="no location of the tier warm"):
        rehydrate_job(catalog, locations, POLICY, job_id=job, tier="warm")
    hold(catalog, job_ids=[str(job)], reason="case 7")
    with pytest.raises(RefusedError, match="on hold"):
        rehydrate_job(catalog, locations, POLICY, job_id=job)


def test_wanted_is_a_value() -> None:
    """Batches travel between processes, and recipes are told apart by what they are."""
    assert Recipe(Wanted((1,)), "a", "o", "r") == Recipe(Wanted((1,)), "a", "o", "r")


def test_what_is_hotter_than_was_asked_for_stays(catalog, location, declare, job) -> None:  # type: ignore[no-untyped-def]
    warm, cold = declare("warm", tier="warm"), declare("frozen", tier="cold")
    locations = Locations(catalog, location, [warm, cold])
    some = everything(catalog)[:3]
    relocate(catalog, locations, POLICY, some, Target(cold), WHY)
    report = rehydrate_job(catalog, locations, POLICY, job_id=job, tier="warm")
    assert (len(report.moved), report.there) == (3, len(everything(catalog)) - 3)
    assert {row.location_id for row in everything(catalog)} == {location.place.id, warm.place.id}


def test_what_is_there_already_is_left_there_from_now_on(catalog, locations, job) -> None:  # type: ignore[no-untyped-def]
    execute(catalog, "UPDATE jobs SET last_accessed_at = now() - interval '200 days', tier = 'warm'")
    assert rehydrate_job(catalog, locations, POLICY, job_id=job).moved == ()
    assert rows(catalog, "SELECT tier, last_accessed_at > now() - interval '1 minute' FROM jobs") == [("hot", True)]


def test_a_store_that_does_not_answer_is_asked_again(compressed, catalog, locations, access, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """A URL of what cannot be brought back now may be had later: the caller is told so."""

    def down(*_: object, **__: object) -> None:
        raise StoreUnavailableError("down")

    execute(catalog, "UPDATE stored_objects SET kind = 'upload' WHERE kind = 'metadata'")
    execute(catalog, "UPDATE stored_objects SET kind = 'metadata' WHERE name = '360p/segments/playlist.m3u8'")
    monkeypatch.setattr("tasks.relocation.relocate.write_elsewhere", down)
    with pytest.raises(StoreUnavailableError, match="playlist.m3u8 could not be brought back: down"):
        issue_download_url(catalog, locations, access, api_key="acme", job_id=compressed, kind="metadata")
