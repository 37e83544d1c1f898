"""Locations as services keep them open: one that was retired meanwhile takes nothing new."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from blocks.catalog import CatalogDatabase
from blocks.catalog.objects import NewObject, insert_pending
from blocks.errors import RefusedError
from blocks.policies import AccessPolicy, IngestPolicy
from tasks.ingest import ingest_videos
from tasks.stores import OpenLocation, retire_location
from tasks.uploads import issue_upload_url
from tests.helpers import execute, one, write_video


@pytest.fixture
def spare(catalog: CatalogDatabase, location: OpenLocation, declare, monkeypatch) -> OpenLocation:  # type: ignore[no-untyped-def]
    """A location that could be retired: new files go elsewhere."""
    made: OpenLocation = declare("spare")
    execute(catalog, "UPDATE locations SET moved_to = :main WHERE name = 'spare'", main=location.place.id)
    monkeypatch.setattr("tasks.stores.open_named", lambda *_: made)  # a block's name, which nobody saved here
    return made


def test_what_was_open_before_it_was_retired_takes_nothing_new(
    catalog: CatalogDatabase, spare: OpenLocation, policy: IngestPolicy, access: AccessPolicy, acme: str, tmp_path: Path
) -> None:
    retire_location(catalog, "spare")
    (outcome,) = ingest_videos(
        catalog, spare, policy, api_key=acme, sources=[str(write_video(tmp_path / "a.mp4"))]
    ).outcomes
    assert outcome.error == "the location was retired since it was opened, and takes no new files: open it anew"
    with pytest.raises(RefusedError, match="retired since it was opened"):
        issue_upload_url(catalog, spare, access, policy, api_key=acme, filename="a.mp4", size_bytes=10)
    assert one(catalog, "SELECT count(*) FROM stored_objects") + one(catalog, "SELECT count(*) FROM uploads") == 0
    assert one(catalog, "SELECT storage_reserved_bytes FROM api_keys") == 0


def test_whoever_is_writing_into_it_is_waited_for(
    catalog: CatalogDatabase, spare: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    job = new_job(b"1")
    new = NewObject(uuid4(), job, "upload", "uploads/x/a", spare.place.id, f"uploads/{job}/x", 1, "0" * 64)
    with ThreadPoolExecutor(1) as pool:
        with catalog.engine.begin() as connection:
            insert_pending(connection, one(catalog, "SELECT id FROM api_keys"), [new])
            retiring = pool.submit(retire_location, catalog, "spare")
            time.sleep(0.3)
            assert not retiring.done()
        with pytest.raises(RefusedError, match="still holds 1 objects"):
            retiring.result()
