"""Readers while objects move: URLs work to their end, and downloads find every file."""

from __future__ import annotations

import threading

import httpx

from tasks.access import issue_download_url
from tasks.downloads import bulk_download
from tasks.relocation.intents import recover
from tests.helpers import execute, rows
from tests.tasks.relocation.moves import everything, results, sweep_of


def test_an_old_url_works_to_its_end(  # type: ignore[no-untyped-def]
    move, catalog, location, cold, locations, job, access
) -> None:
    """hot → cold → hot while a URL is still valid, with cleanups between."""
    url = issue_download_url(catalog, locations, access, api_key="acme", job_id=job, kind="original").url
    stream = issue_download_url(catalog, locations, access, api_key="acme", job_id=job, kind="hls_720p").url
    segments = [line for line in httpx.get(stream).text.splitlines() if line.startswith("http")]
    for target, minutes in ((cold, 59), (location, 0)):
        assert set(results(move(target))) == {"moved"}
        passed = f"{minutes} minutes"
        execute(catalog, "UPDATE relocations SET release_after = release_after - CAST(:m AS interval)", m=passed)
        recover(sweep_of(catalog, location, cold))
        for each in (url, *segments):
            assert httpx.get(each).status_code == 200
    execute(catalog, "UPDATE relocations SET release_after = now() - interval '1 s'")
    recover(sweep_of(catalog, location, cold))
    assert {httpx.get(each).status_code for each in (url, *segments)} == {404}
    fresh = issue_download_url(catalog, locations, access, api_key="acme", job_id=job, kind="original").url
    assert httpx.get(fresh).content == b"the original"


def test_a_segments_url_is_noted_on_its_playlist(move, catalog, locations, job, access) -> None:  # type: ignore[no-untyped-def]
    issue_download_url(catalog, locations, access, api_key="acme", job_id=job, kind="hls_360p", expires_in=7200)
    move()
    for row in rows(
        catalog,
        "SELECT o.name, r.release_after > now() + interval '2 hours' AS kept FROM relocations r "
        "  JOIN stored_objects o ON o.id = r.object_id",
    ):
        assert row.kept == row.name.startswith("360p/segments"), row.name


def test_urls_are_served_while_everything_moves(  # type: ignore[no-untyped-def]
    move, catalog, location, cold, locations, job, access
) -> None:
    """Readers never meet a refusal or a missing object, and every URL works, however often the objects move."""
    done, errors, served = threading.Event(), [], [0]

    def look_at(kind: str, player: httpx.Client) -> None:
        issued = issue_download_url(catalog, locations, access, api_key="acme", job_id=job, kind=kind)
        answer = player.get(issued.url)
        assert answer.status_code == 200, (kind, answer.status_code)
        for line in answer.text.splitlines() if kind == "hls_720p" else ():
            if line.startswith("http"):
                assert player.get(line).status_code == 200, line

    def read() -> None:
        with httpx.Client() as player:
            while not done.is_set():
                try:
                    for kind in ("original", "audio", "hls_720p"):
                        look_at(kind, player)
                        served[0] += 1
                except Exception as error:
                    errors.append(error)
                    return

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(12):
        moved = move(cold if number % 2 == 0 else location)
        assert results(moved).get("failed", 0) == 0
        recover(sweep_of(catalog, location, cold))
    done.set()
    for reader in readers:
        reader.join()
    assert errors == []
    assert served[0] > 20


def test_downloads_read_from_wherever_a_file_is(move, catalog, location, cold, locations, job, access) -> None:  # type: ignore[no-untyped-def]
    half = everything(catalog)[::2]
    move(rows=half)
    report = bulk_download(catalog, locations, access, job_ids=[job])
    assert (report.files, report.skipped) == (len(everything(catalog)), ())
