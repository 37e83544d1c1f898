"""Moving bytes against a real server."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from blocks.errors import ContentMismatchError, NotFoundError, RefusedError, StoreUnavailableError
from blocks.object_store import ObjectStore
from blocks.object_store.copying import copy
from blocks.object_store.deletion import delete_keys
from blocks.object_store.listing import list_prefix
from blocks.object_store.transfer import (
    exists,
    hash_object,
    head,
    put_bytes,
    put_file,
    put_stream,
    read_bytes,
    read_stream,
)
from tests.helpers import sha256

MIB = 1024**2


@pytest.mark.parametrize("checksums", [False, True])
@pytest.mark.parametrize("size", [1, 5 * MIB, 5 * MIB + 1, 16 * MIB + 3])
def test_a_file_and_its_metadata(store: ObjectStore, tmp_path: Path, size: int, checksums: bool) -> None:
    content = os.urandom(size)
    path = tmp_path / "f"
    path.write_bytes(content)
    attributes = {"Content-Type": "video/mp4", "sha256": sha256(content)}
    written = put_file(
        store, "k/f.mp4", path, sha256=sha256(content), size_bytes=size, attributes=attributes, checksums=checksums
    )
    assert written.size_bytes == size
    assert hash_object(store, "k/f.mp4") == (sha256(content), size)
    assert head(store, "k/f.mp4").metadata == {"sha256": sha256(content)}
    assert b"".join(read_stream(store, "k/f.mp4")) == content


def test_an_exception_in_a_stream_leaves_nothing(store: ObjectStore) -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield b"x" * (6 * MIB)
        raise ContentMismatchError("stop")

    with pytest.raises(ContentMismatchError, match="stop"):
        put_stream(store, "k", broken(), part_bytes=5 * MIB, attributes={})
    assert not exists(store, "k")
    uploads = store.s3.list_multipart_uploads(Bucket=store.bucket, Prefix=store.prefix)
    assert uploads.get("Uploads", []) == []


def test_large_objects_are_copied_in_parts(store: ObjectStore) -> None:
    small_limit = store.model_copy(
        update={"multipart_copy_threshold_bytes": 5 * MIB, "multipart_copy_part_bytes": 5 * MIB}
    )
    content = os.urandom(12 * MIB + 7)
    put_stream(store, "a", iter([content]), part_bytes=5 * MIB, attributes={"about": "before"})
    written = copy(small_limit, "a", small_limit, "b", size_bytes=len(content), attributes={"about": "after"})
    assert written.etag is not None
    assert written.etag.endswith("-3")
    assert hash_object(store, "b") == (hashlib.sha256(content).hexdigest(), len(content))
    assert head(store, "b").metadata == {"about": "after"}


def test_deleting_says_what_stayed(store: ObjectStore) -> None:
    keys = [f"d/{number}" for number in range(1005)]
    for key in keys[:20]:
        put_bytes(store, key, b"x", {})
    assert delete_keys(store, keys) == {}, "a key without an object counts as removed"
    assert list(list_prefix(store, "d")) == []
    assert delete_keys(store, []) == {}


def test_a_listing_is_of_whole_folders(store: ObjectStore) -> None:
    for key in ("a/b/1", "a/bc/2", "a/b/c/3"):
        put_bytes(store, key, b"x", {})
    assert sorted(listed.key for listed in list_prefix(store, "a/b")) == ["a/b/1", "a/b/c/3"]


def test_errors_name_the_place_and_no_secret(store: ObjectStore) -> None:
    with pytest.raises(NotFoundError, match="looking at nothing in bucket videos"):
        head(store, "nothing")
    with pytest.raises(NotFoundError, match="reading nothing"):
        read_bytes(store, "nothing", at_most=1)
    put_bytes(store, "ten", b"0123456789", {})
    with pytest.raises(ContentMismatchError, match="at most 9"):
        read_bytes(store, "ten", at_most=9)
    away = store.model_copy(update={"endpoint_url": "http://127.0.0.1:9", "retries": 0})
    with pytest.raises(StoreUnavailableError, match="did not answer"):
        put_bytes(away, "x", b"x", {})
    wrong = store.model_copy(
        update={"credentials": store.credentials.model_copy(update={"minio_root_user": "stranger"})}
    )
    for refused in (lambda: put_bytes(wrong, "x", b"x", {}), lambda: head(wrong, "ten")):
        with pytest.raises(RefusedError) as caught:
            refused()
        assert "Signature=" not in str(caught.value)


def test_a_secret_that_was_saved_as_asterisks(store: ObjectStore) -> None:
    """What Prefect's newer block pages do to nested credentials must not become URLs that answer 403."""
    hidden = store.credentials.model_copy(update={"minio_root_password": SecretStr("********")})
    with pytest.raises(RefusedError, match="select its credentials block again"):
        put_bytes(store.model_copy(update={"credentials": hidden}), "x", b"x", {})


def test_a_missing_bucket(store: ObjectStore) -> None:
    with pytest.raises(NotFoundError):
        put_bytes(store.model_copy(update={"bucket": "not-there"}), "x", b"x", {})
