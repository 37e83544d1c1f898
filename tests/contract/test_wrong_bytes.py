"""Bytes that change on their way are noticed: by a store that looks, as the probe saw, or by reading back."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from blocks.catalog import CatalogDatabase
from blocks.catalog.objects import NewObject
from blocks.errors import ContentMismatchError, SourceChangedError
from blocks.object_store import ObjectStore
from blocks.object_store.block import MIB
from blocks.object_store.listing import list_prefix
from blocks.object_store.multipart import list_multipart_uploads
from blocks.object_store.probing import Capabilities
from blocks.object_store.transfer import exists, put_bytes, put_stream
from blocks.policies import IngestPolicy
from tasks.ingest import ingest_videos
from tasks.stores import OpenLocation
from tasks.writing import LocalFile, StoredBlob, Writing, write_object
from tests.helpers import assert_sound, one, sha256, write_video
from tests.wires import OneBit, wired


def new_object(location: OpenLocation, content: bytes) -> NewObject:
    job = uuid4()
    return NewObject(
        uuid4(), job, "original", "raw/a.mp4", location.place.id, f"processed/{job}/raw/a.mp4", len(content),
        sha256(content),
    )  # fmt: skip


@pytest.mark.parametrize(("size", "held"), [(1, True), (1, False), (11 * MIB, False)])
def test_nothing_wrong_counts_as_written(
    location: OpenLocation, capabilities: Capabilities, tmp_path: Path, size: int, held: bool
) -> None:
    content = os.urandom(size)
    new, path = new_object(location, content), tmp_path / "a.mp4"
    path.write_bytes(content)
    writing = Writing(new, LocalFile(path, content if held else None))
    with wired(location.store, OneBit()) as behind:
        told = "received other bytes than were sent" if capabilities.checks_uploads else "holds other bytes than were"
        with pytest.raises(ContentMismatchError, match=told):
            write_object(replace(location, store=behind), writing)
    assert exists(location.store, new.key) != capabilities.checks_uploads
    assert list(list_multipart_uploads(location.store)) == [], "a refused upload leaves no parts"
    write_object(location, writing)


def test_the_store_looks_at_what_the_probe_saw(store: ObjectStore, does: Callable[[str], bool]) -> None:
    body = os.urandom(100)
    with wired(store, OneBit()) as behind:
        for name, checksums in (("refuses_wrong_signed_sha256", False), ("refuses_wrong_checksum_header", True)):
            looks = does(name) or (checksums and does("refuses_wrong_signed_sha256"))
            if looks:
                with pytest.raises(ContentMismatchError, match=f"k in bucket {store.bucket}: the store received other"):
                    put_bytes(behind, "k", body, {}, checksums=checksums)
                assert not exists(store, "k")
            else:
                put_bytes(behind, "other", body, {}, checksums=checksums)
        if does("refuses_wrong_part_checksum"):
            with pytest.raises(ContentMismatchError, match="the store received other bytes than were sent"):
                put_stream(behind, "k", iter([body]), part_bytes=5 * MIB, attributes={}, checksums=True)
            assert not exists(store, "k")


def test_what_changed_under_a_form_is_not_taken_in(location: OpenLocation) -> None:
    new = new_object(location, b"hashed before")
    put_bytes(location.store, "temp/a/blob", b"other by now!", {})
    with pytest.raises(SourceChangedError, match="temp/a/blob was replaced while it was taken in"):
        write_object(location, Writing(new, StoredBlob("temp/a/blob")))


def test_a_bad_wire_takes_in_nothing(
    catalog: CatalogDatabase, location: OpenLocation, policy: IngestPolicy, acme: str, tmp_path: Path
) -> None:
    video = str(write_video(tmp_path / "a.mp4", os.urandom(6 * MIB)))
    with wired(location.store, OneBit()) as behind:
        report = ingest_videos(catalog, replace(location, store=behind), policy, api_key=acme, sources=[video])
    (outcome,) = report.outcomes
    assert not outcome.succeeded
    assert "other bytes than were sent" in str(outcome.error)
    assert one(catalog, "SELECT storage_used_bytes + storage_reserved_bytes FROM api_keys") == 0
    (again,) = ingest_videos(catalog, location, policy, api_key=acme, sources=[video]).outcomes
    assert again.succeeded, again.error
    assert len(list(list_prefix(location.store, "processed"))) == 1
    assert_sound(catalog, location)
