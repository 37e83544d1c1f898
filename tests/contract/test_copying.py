"""Copies inside a server: with attributes of their own, in parts, and as they are."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from blocks.errors import NotFoundError, RefusedError
from blocks.object_store import ObjectStore
from blocks.object_store.block import MIB
from blocks.object_store.copying import copy, copy_as_it_is, same_server
from blocks.object_store.multipart import list_multipart_uploads
from blocks.object_store.transfer import exists, hash_object, head, put_bytes, put_stream
from tests.helpers import sha256

BEFORE = {"Content-Type": "video/mp4", "object-id": "1", "sha256": "before"}
AFTER = {"Content-Type": "text/plain", "object-id": "2", "sha256": "after"}


def about(store: ObjectStore, key: str) -> tuple[str, str, str]:
    """Content type and what the platform writes beside an object's bytes."""
    metadata = head(store, key).metadata
    told = store.s3.head_object(Bucket=store.bucket, Key=store.path(key))
    return told["ContentType"], metadata.get("object-id", ""), metadata.get("sha256", "")


@pytest.mark.parametrize("size", [0, 1, 6 * MIB])
def test_with_attributes_of_its_own(
    store: ObjectStore, second: ObjectStore, does: Callable[[str], bool], size: int
) -> None:
    content = os.urandom(size)
    put_stream(store, "a", iter([content]), part_bytes=5 * MIB, attributes=BEFORE)
    assert does("copy_with_new_metadata")
    for target in (store, second):
        written = copy(store, "a", target, "b/c", size_bytes=size, attributes=AFTER)
        assert (written.size_bytes, written.etag) == (size, head(target, "b/c").etag)
        assert hash_object(target, "b/c") == (sha256(content), size)
        assert about(target, "b/c") == ("text/plain", "2", "after")
    assert about(store, "a") == ("video/mp4", "1", "before")


@pytest.mark.parametrize("size", [5 * MIB + 1, 12 * MIB + 7])
def test_in_parts(store: ObjectStore, second: ObjectStore, does: Callable[[str], bool], size: int) -> None:
    content = os.urandom(size)
    put_stream(store, "a", iter([content]), part_bytes=5 * MIB, attributes=BEFORE)
    limits = {"multipart_copy_threshold_bytes": 5 * MIB, "multipart_copy_part_bytes": 5 * MIB}
    for target in (store.model_copy(update=limits), second.model_copy(update=limits)):
        if does("copies_in_parts"):
            copy(store, "a", target, "b", size_bytes=size, attributes=AFTER)
            assert hash_object(target, "b") == (sha256(content), size)
            assert about(target, "b") == ("text/plain", "2", "after")
            with pytest.raises(NotFoundError, match=f"copying none to c in bucket {target.bucket}"):
                copy(store, "none", target, "c", size_bytes=size, attributes=AFTER)
        else:
            told = f"bucket {target.bucket} does not copy in parts: raise multipart_copy_threshold_bytes"
            with pytest.raises(RefusedError, match=told):
                copy(store, "a", target, "b", size_bytes=size, attributes=AFTER)
            assert not exists(target, "b")
        assert list(list_multipart_uploads(target)) == [], "a copy that failed leaves no parts"


@pytest.mark.parametrize("size", [0, 1, 6 * MIB])
def test_as_it_is(store: ObjectStore, second: ObjectStore, size: int) -> None:
    content = os.urandom(size)
    put_bytes(store, "a", content, BEFORE)
    assert same_server(store, second)
    for target in (store, second):
        copy_as_it_is(store, "a", target, "b/c")
        assert hash_object(target, "b/c") == (sha256(content), size)
        assert about(target, "b/c") == ("video/mp4", "1", "before")
        assert head(target, "b/c").etag == head(store, "a").etag, "by which relocate proves it"


@pytest.mark.parametrize(
    "how",
    [
        lambda source, target: copy(source, "none", target, "b", size_bytes=1, attributes={}),
        lambda source, target: copy_as_it_is(source, "none", target, "b"),
    ],
    ids=["copy", "copy_as_it_is"],
)
def test_nothing_to_copy(
    store: ObjectStore, second: ObjectStore, how: Callable[[ObjectStore, ObjectStore], object]
) -> None:
    with pytest.raises(NotFoundError, match=f"copying none to b in bucket {second.bucket}"):
        how(store, second)
    assert not exists(second, "b")
