"""Locations that a service keeps for weeks: retired meanwhile, or taken over by another catalog."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from uuid import UUID, uuid4

import pytest

from blocks.catalog import CatalogDatabase
from blocks.errors import ForeignCatalogError, RefusedError
from blocks.object_store.transfer import put_bytes
from blocks.policies import AccessPolicy, RelocationPolicy
from tasks import downloads, ownership
from tasks.access import issue_download_url
from tasks.declaring import retire_location
from tasks.downloads import bulk_download
from tasks.intake.outputs import register_outputs
from tasks.intake.uploads import complete_upload, issue_upload_url
from tasks.layout import IDENTITY_KEY
from tasks.relocation.rehydrate import rehydrate_job
from tasks.stores import Locations, OpenLocation
from tests.helpers import assert_sound, execute, one, stored_keys, write_video
from tests.tasks.intake.test_uploads import BODY, post


@pytest.fixture
def spare(catalog: CatalogDatabase, declare, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenLocation]:  # type: ignore[no-untyped-def]
    """What a service opened first; its new files go elsewhere by now, so that it can be retired."""
    made: OpenLocation = declare("spare")
    execute(catalog, "UPDATE locations SET moved_to = (SELECT id FROM locations WHERE name = 'main') WHERE id = :id",
            id=made.place.id)  # fmt: skip
    monkeypatch.setattr("tasks.declaring.open_named", lambda *_: made)
    yield made
    assert stored_keys(made, "exports") == []


def test_a_retired_location_takes_nothing_that_is_made_for_a_caller(  # type: ignore[no-untyped-def]
    catalog: CatalogDatabase, location: OpenLocation, spare: OpenLocation, access, acme: str, job: UUID
) -> None:
    """No age rule looks there any more, nor does an erasure."""
    service = Locations(catalog, spare, [location])
    retire_location(catalog, "spare")
    with pytest.raises(RefusedError, match="was retired since it was opened"):
        bulk_download(catalog, service, access, job_ids=[job])
    with pytest.raises(RefusedError, match="was retired since it was opened"):
        issue_download_url(catalog, service, access, api_key=acme, job_id=job, kind="hls_720p")
    assert issue_download_url(catalog, service, access, api_key=acme, job_id=job, kind="original").url


def test_a_location_that_is_retired_while_an_archive_is_made(  # type: ignore[no-untyped-def]
    catalog: CatalogDatabase, location: OpenLocation, spare: OpenLocation, access, job: UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    send = downloads.put_stream

    def send_and_retire(*arguments, **options):  # type: ignore[no-untyped-def]
        retire_location(catalog, "spare")
        return send(*arguments, **options)

    monkeypatch.setattr(downloads, "put_stream", send_and_retire)
    with pytest.raises(RefusedError, match="was retired since it was opened"):
        bulk_download(catalog, Locations(catalog, spare, [location]), access, job_ids=[job])


def test_a_bucket_of_another_catalog_takes_nothing(  # type: ignore[no-untyped-def]
    catalog: CatalogDatabase, location: OpenLocation, access, policy, acme: str, job: UUID, ingest, tmp_path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A restored catalog would take it for orphans, and remove what a customer was told is safe."""
    service = Locations(catalog, location)
    issued = issue_upload_url(catalog, location, access, policy, api_key=acme, filename="a.mp4", size_bytes=len(BODY))
    post(issued, BODY)
    kept = stored_keys(location, "processed")
    put_bytes(location.store, IDENTITY_KEY, f"{uuid4()} 7\n".encode(), {})
    monkeypatch.setattr(ownership, "LOOKED_AT_FOR_SECONDS", 0)
    (outcome,) = ingest(write_video(tmp_path / "b.mp4", b"another")).outcomes
    assert outcome.result == "refused"
    assert "belongs to catalog" in outcome.error
    execute(catalog, "UPDATE stored_objects SET codec = 'zstd' WHERE kind = 'audio'")
    for write in (
        lambda: issue_upload_url(catalog, location, access, policy, api_key=acme, filename="c.mp4", size_bytes=1),
        lambda: complete_upload(catalog, service, policy, api_key=acme, upload_id=issued.upload_id),
        lambda: rehydrate_job(catalog, service, RelocationPolicy(), job_id=job),
        lambda: register_outputs(catalog, location, policy, job_id=job, outputs="temp/worker"),
        lambda: bulk_download(catalog, service, access, job_ids=[job]),
        lambda: issue_download_url(catalog, service, access, api_key=acme, job_id=job, kind="hls_720p"),
    ):
        with pytest.raises(ForeignCatalogError, match="belongs to catalog"):
            write()
    execute(catalog, "UPDATE stored_objects SET codec = 'identity'")
    assert (stored_keys(location, "processed"), stored_keys(location, "exports")) == (kept, [])
    assert one(catalog, "SELECT count(*) FROM stored_objects WHERE state = 'pending'") == 0
    assert_sound(catalog, location)


def test_a_place_that_does_not_answer_keeps_nobody_from_another(
    catalog: CatalogDatabase, location: OpenLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Services keep one of these for all of their threads."""
    asked, answers = Event(), Event()

    def open_slowly(*_: object) -> OpenLocation:
        asked.set()
        assert answers.wait(30)
        return location

    monkeypatch.setattr("tasks.stores.open_named", open_slowly)
    places = Locations(catalog, location)
    with ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(places.named, "cold") for _ in range(2)]
        assert asked.wait(30)
        assert places.of(location.place.id) is location
        assert not any(one.done() for one in slow)
        answers.set()
        assert {one.result().place.name for one in slow} == {"main"}


def test_an_archive_of_what_lies_where_nobody_has_looked_yet(
    catalog: CatalogDatabase, location: OpenLocation, new_job, declare, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """Its location is opened while the archive is uploaded: large files are not read ahead."""
    film = b"a long film" * 600_000
    job = new_job(film)
    cold = declare("cold", tier="cold")
    put_bytes(cold.store, one(catalog, "SELECT key FROM stored_objects"), film, {})
    execute(catalog, "UPDATE stored_objects SET location_id = :cold", cold=cold.place.id)
    monkeypatch.setattr("tasks.stores.load_block", lambda *_: cold.store)  # a block's name, which nobody saved here
    report = bulk_download(catalog, Locations(catalog, location), AccessPolicy(), job_ids=[job], target="exports")
    assert (report.files, report.size_bytes, report.skipped) == (1, len(film), ())
