"""Bytes go up and come back the same, under every legal key; or an error says which bucket, and what to do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

from blocks.errors import ContentMismatchError, NotFoundError, RefusedError, SourceChangedError
from blocks.object_store import ObjectStore
from blocks.object_store.block import MIB
from blocks.object_store.copying import copy, copy_as_it_is
from blocks.object_store.deletion import delete_keys
from blocks.object_store.listing import find_etags, list_folders, list_prefix, list_range
from blocks.object_store.multipart import list_multipart_uploads, uploaded_bytes
from blocks.object_store.transfer import (
    exists,
    fingerprint,
    hash_object,
    head,
    put_bytes,
    put_file,
    put_stream,
    read_bytes,
    read_range,
    read_stream,
)
from tests.contract.asking import LEGAL, refusal
from tests.helpers import sha256

ATTRIBUTES = {"Content-Type": "video/mp4", "object-id": str(uuid4()), "sha256": sha256(b"a video")}


@pytest.mark.parametrize("checksums", [False, True])
@pytest.mark.parametrize("size", [0, 1, 5 * MIB, 5 * MIB + 1, 11 * MIB + 3])
def test_a_file(store: ObjectStore, tmp_path: Path, size: int, checksums: bool) -> None:
    content = os.urandom(size)
    path = tmp_path / "film.mp4"
    path.write_bytes(content)
    written = put_file(
        store, "a/film.mp4", path, sha256=sha256(content), size_bytes=size, attributes=ATTRIBUTES, checksums=checksums
    )
    assert written.size_bytes == size
    assert hash_object(store, "a/film.mp4") == (sha256(content), size)
    assert b"".join(read_stream(store, "a/film.mp4")) == content
    found = head(store, "a/film.mp4")
    assert (found.size_bytes, found.etag) == (size, written.etag)
    assert found.metadata.items() >= {"object-id": ATTRIBUTES["object-id"], "sha256": ATTRIBUTES["sha256"]}.items()
    told = store.s3.head_object(Bucket=store.bucket, Key=store.path("a/film.mp4"))
    assert told["ContentType"] == "video/mp4"
    (listed,) = list_prefix(store, "a")
    assert (listed.size_bytes, listed.etag) == (size, written.etag)
    assert fingerprint(store, "a/film.mp4") == (written.etag, found.last_modified)
    assert find_etags(store, ["a/film.mp4", "a/none"]) == {"a/film.mp4": (written.etag, size)}


@pytest.mark.parametrize("checksums", [False, True])
@pytest.mark.parametrize("sizes", [(), (1,), (MIB, 0, 4 * MIB), (3 * MIB, 9 * MIB + 1, 1)])
def test_a_stream_of_unknown_size(store: ObjectStore, sizes: tuple[int, ...], checksums: bool) -> None:
    chunks = [os.urandom(size) for size in sizes]
    written = put_stream(store, "k", iter(chunks), part_bytes=5 * MIB, attributes=ATTRIBUTES, checksums=checksums)
    assert written.size_bytes == sum(sizes)
    assert written.etag == head(store, "k").etag
    assert hash_object(store, "k") == (sha256(b"".join(chunks)), sum(sizes))
    assert head(store, "k").metadata["sha256"] == ATTRIBUTES["sha256"]


def test_ranges(store: ObjectStore) -> None:
    content = os.urandom(1000)
    put_bytes(store, "k", content, {})
    for start, end in ((0, 1), (0, 1000), (999, 1000), (1, 500)):
        assert read_range(store, "k", start, end) == content[start:end]
    assert read_bytes(store, "k", at_most=1000) == content
    with pytest.raises(ContentMismatchError, match="k has 1000 bytes, at most 999 were expected"):
        read_bytes(store, "k", at_most=999)


def test_no_key_is_half_written(store: ObjectStore, tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x" * (6 * MIB)
        raise ContentMismatchError("stop")

    with pytest.raises(ContentMismatchError, match="stop"):
        put_stream(store, "k", broken(), part_bytes=5 * MIB, attributes={})
    path = tmp_path / "changed.mp4"
    for size in (10, 6 * MIB):
        path.write_bytes(os.urandom(size))
        with pytest.raises(SourceChangedError, match="changed.mp4 changed while it was read; nothing of it was stored"):
            put_file(store, "k", path, sha256=sha256(b"before"), size_bytes=size, attributes={})
    assert not exists(store, "k")
    assert list(list_prefix(store, "")) == []
    assert list(list_multipart_uploads(store)) == []


@pytest.mark.parametrize("key", LEGAL)
def test_odd_keys(store: ObjectStore, second: ObjectStore, key: str) -> None:
    content = key.encode()
    written = put_bytes(store, key, content, ATTRIBUTES)
    put_bytes(store, "beside", b"not this one", {})
    assert head(store, key).size_bytes == len(content)
    assert read_bytes(store, key, at_most=1000) == content
    assert read_range(store, key, 0, 1) == content[:1]
    assert key in [listed.key for listed in list_prefix(store, "")]
    folder = key.rpartition("/")[0]
    assert key in [listed.key for listed in list_prefix(store, folder)]
    assert find_etags(store, [key]) == {key: (written.etag, len(content))}
    copy(store, key, second, key, size_bytes=len(content), attributes={"sha256": "new"})
    copy_as_it_is(store, key, second, f"as-it-is/{key}")
    assert read_bytes(second, key, at_most=1000) == read_bytes(second, f"as-it-is/{key}", at_most=1000) == content
    put_stream(store, key, iter([content]), part_bytes=5 * MIB, attributes={})
    assert read_bytes(store, key, at_most=1000) == content
    assert delete_keys(store, [key]) == {}
    assert [listed.key for listed in list_prefix(store, "")] == ["beside"]


def test_a_segment_of_more_than_255_bytes_is_kept_or_refused(store: ObjectStore) -> None:
    key = f"a/{'x' * 256}"
    if because := refusal(lambda: put_bytes(store, key, b"long", {})):
        assert f"in bucket {store.bucket}: " in because
        assert refusal(lambda: read_bytes(store, key, at_most=4))
    else:
        assert read_bytes(store, key, at_most=4) == b"long"


def test_an_object_beside_a_folder_of_its_name_is_whole_or_refused(store: ObjectStore) -> None:
    """No key of the platform is another's folder: servers that keep files hide one of them (MinIO), or refuse it."""
    put_bytes(store, "a/b", b"the object", {})
    if because := refusal(lambda: put_bytes(store, "a/b/c", b"below it", {})):
        assert f"in bucket {store.bucket}: " in because
        assert not exists(store, "a/b/c")
    else:
        # A listing may leave it out: that is why reconcile asks for what it misses.
        assert fingerprint(store, "a/b/c") is not None
        assert read_bytes(store, "a/b/c", at_most=8) == b"below it"
    assert read_bytes(store, "a/b", at_most=10) == b"the object"


READING: dict[str, Callable[[ObjectStore], object]] = {
    "head": lambda store: head(store, "none"),
    "read_bytes": lambda store: read_bytes(store, "none", at_most=1),
    "read_range": lambda store: read_range(store, "none", 0, 1),
    "read_stream": lambda store: list(read_stream(store, "none")),
    "hash_object": lambda store: hash_object(store, "none"),
}
ASKING: dict[str, Callable[[ObjectStore], object]] = {
    "list_prefix": lambda store: list(list_prefix(store, "a")),
    "list_folders": list_folders,
    "list_range": lambda store: list(list_range(store, "a", after="", until=None)),
    "list_range with classes": lambda store: list(list_range(store, "a", after="", until=None, classes=True)),
    "list_multipart_uploads": lambda store: list(list_multipart_uploads(store)),
    "put_bytes": lambda store: put_bytes(store, "k", b"x", {}),
    "put_stream": lambda store: put_stream(store, "k", iter([b"x"]), part_bytes=5 * MIB, attributes={}),
    "copy": lambda store: copy(store, "none", store, "k", size_bytes=1, attributes={}),
    "copy_as_it_is": lambda store: copy_as_it_is(store, "none", store, "k"),
    "delete_keys": lambda store: delete_keys(store, ["k"]),
}


@pytest.mark.parametrize("name", READING)
def test_a_key_that_is_not_there(store: ObjectStore, name: str) -> None:
    with pytest.raises(NotFoundError, match=f"none in bucket {store.bucket}: no such object or bucket"):
        READING[name](store)


def test_asking_for_a_key_that_is_not_there(store: ObjectStore) -> None:
    assert not exists(store, "none")
    assert fingerprint(store, "none") is None
    assert find_etags(store, [f"a/{number}" for number in range(9)]) == {}
    assert uploaded_bytes(store, "none", "no-such-upload") == 0


@pytest.mark.parametrize("name", READING | ASKING)
def test_a_bucket_that_is_not_there(store: ObjectStore, name: str) -> None:
    gone = store.model_copy(update={"bucket": f"not-there-{uuid4()}"})
    # Credentials for one bucket only are refused elsewhere, whether there is something or not.
    with pytest.raises((NotFoundError, RefusedError), match=gone.bucket):
        (READING | ASKING)[name](gone)


@pytest.mark.parametrize("wrong", [{"minio_root_user": "stranger"}, {"minio_root_password": SecretStr("a-guess")}])
@pytest.mark.parametrize("name", READING | ASKING)
def test_wrong_credentials(store: ObjectStore, name: str, wrong: dict[str, Any]) -> None:
    stranger = store.model_copy(update={"credentials": store.credentials.model_copy(update=wrong)})
    with pytest.raises(RefusedError) as caught:
        (READING | ASKING)[name](stranger)
    assert f"in bucket {store.bucket}: the store refuses these credentials" in str(caught.value)
    assert "check the block's credentials" in str(caught.value)
    assert "Signature=" not in str(caught.value)
    assert "a-guess" not in str(caught.value)
