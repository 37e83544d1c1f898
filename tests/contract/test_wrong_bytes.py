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
from blocks.errors import ContentMismatchError, SourceChangedError, StorageError
from blocks.object_store import ObjectStore
from blocks.object_store.block import MIB
from blocks.object_store.listing import list_prefix
from blocks.object_store.multipart import list_multipart_uploads
from blocks.object_store.probing import Capabilities
from blocks.object_store.transfer import exists, hash_object, put_bytes, put_stream
from blocks.policies import IngestPolicy
from tasks.intake.ingest import ingest_videos
from tasks.stores import OpenLocation
from tasks.writing import LocalFile, StoredBlob, Writing, write_object
from tests.helpers import assert_sound, one, sha256, write_video
from tests.wires import OneBit, PartAgain, Short, wired


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


@pytest.mark.parametrize("size", [1000, 11 * MIB])
def test_nothing_short_counts_as_written(location: OpenLocation, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    new, path = new_object(location, content), tmp_path / "a.mp4"
    path.write_bytes(content)
    with wired(location.store, Short()) as behind, pytest.raises(StorageError):
        write_object(replace(location, store=behind), Writing(new, LocalFile(path)))
    assert list(list_multipart_uploads(location.store)) == [], "what was given up leaves no parts"
    write_object(location, Writing(new, LocalFile(path)))
    assert hash_object(location.store, new.key) == (new.sha256, size)


@pytest.mark.parametrize(
    ("number", "part"),
    [
        (2, os.urandom(5 * MIB)),
        (2, os.urandom(5 * MIB + 1)),
        (3, b""),
        (3, b"x"),
        (3, os.urandom(MIB)),
        (9, b"one more"),
    ],
    ids=[
        "another content",
        "longer",
        "the last, empty",
        "the last, cut short",
        "the last, of its length",
        "one too many",
    ],
)
def test_a_part_that_arrives_again_is_not_put_in(
    location: OpenLocation, tmp_path: Path, number: int, part: bytes
) -> None:
    """From a proxy that repeats, or a try that was given up and still comes through: refused, or left out."""
    content = os.urandom(11 * MIB)
    new, path = new_object(location, content), tmp_path / "a.mp4"
    path.write_bytes(content)
    again = PartAgain(location.store, number, part)
    with wired(location.store, again) as behind:
        try:
            write_object(replace(location, store=behind), Writing(new, LocalFile(path)))
        except StorageError:
            write_object(location, Writing(replace(new, key=f"{new.key}.again"), LocalFile(path)))
            new = replace(new, key=f"{new.key}.again")
    assert again.hit
    assert hash_object(location.store, new.key) == (new.sha256, new.size_bytes)


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
