"""Uploads that were begun and not completed: seen, measured, and given up; nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from uuid import uuid4

import pytest

from blocks.object_store import ObjectStore
from blocks.object_store.clock import store_now
from blocks.object_store.listing import list_prefix
from blocks.object_store.multipart import abort_multipart_upload, list_multipart_uploads, uploaded_bytes
from tests.contract.servers import Server

KEYS = ["processed/1/x", "processed/1/y", "processed/2/x", "temp/é +%20&<x", "x"]


def begin(store: ObjectStore, key: str) -> str:
    return store.s3.create_multipart_upload(Bucket=store.bucket, Key=store.path(key))["UploadId"]


def test_only_ours_are_listed_and_given_up(store: ObjectStore, does: Callable[[str], bool]) -> None:
    neighbour = store.model_copy(update={"prefix": f"{store.prefix}0"})
    theirs = begin(neighbour, "x")
    assert list(list_multipart_uploads(store)) == []
    begun = {(key, begin(store, key)) for key in [*KEYS, "x"]}
    assert does("lists_incomplete_uploads")
    for page_uploads in (2, 1000):
        found = list(list_multipart_uploads(store, page_uploads=page_uploads))
        assert sorted((one.key, one.upload_id) for one in found) == sorted(begun)
    now = store_now(store)
    assert all(abs(now - one.initiated_at) < timedelta(minutes=2) for one in found)
    assert list(list_prefix(store, "")) == [], "an upload is no object until it is completed"
    for one in found:
        abort_multipart_upload(store, one.key, one.upload_id)
        abort_multipart_upload(store, one.key, one.upload_id)
        assert uploaded_bytes(store, one.key, one.upload_id) == 0
    assert list(list_multipart_uploads(store)) == []
    assert [one.upload_id for one in list_multipart_uploads(neighbour)] == [theirs]
    abort_multipart_upload(neighbour, "x", theirs)


def test_a_bucket_in_which_nothing_was_ever_begun(server: Server) -> None:
    if server.is_yours:
        pytest.skip("your buckets have a past")
    fresh = server.store("x", bucket=f"fresh-{uuid4()}")
    fresh.s3.create_bucket(Bucket=fresh.bucket)
    assert list(list_multipart_uploads(fresh)) == []


def test_the_bytes_of_an_upload(store: ObjectStore) -> None:
    upload = begin(store, "a/b")
    for number, size in enumerate((1000, 500), 1):
        store.s3.upload_part(
            Bucket=store.bucket, Key=store.path("a/b"), UploadId=upload, PartNumber=number, Body=b"x" * size
        )
    assert uploaded_bytes(store, "a/b", upload) == 1500
    abort_multipart_upload(store, "a/b", upload)
    assert uploaded_bytes(store, "a/b", upload) == 0
