"""Keys that S3 takes and clients stumble over: one that a worker wrote must not keep a whole place from being swept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from blocks.object_store import ObjectStore
from blocks.object_store.deletion import delete_keys
from blocks.object_store.listing import list_prefix, list_range
from blocks.object_store.transfer import fingerprint, put_bytes
from tests.line import Answer, Call, Fault, Verdict
from tests.wires import wired


class Slashes(Fault):
    """A server that keeps `x//b` apart from `x/b`, as AWS and Ceph do; ours takes them for one."""

    async def after(self, call: Call, answer: Answer | None) -> Verdict | Answer:
        assert answer is not None
        return replace(answer, body=answer.body.replace(b"x/b", b"x//b")) if "list-type=2" in call.what else answer


@pytest.fixture
def odd(store: ObjectStore) -> Iterator[ObjectStore]:
    for key in ("x/a", "x/b", "x/c"):
        put_bytes(store, f"failed/{key}", b"1", {})
    with wired(store, Slashes()) as wire:
        yield wire


def test_a_key_that_is_no_path_is_listed_among_the_others(odd: ObjectStore) -> None:
    keys = ["failed/x/a", "failed/x//b", "failed/x/c"]
    assert sorted(one.key for one in list_prefix(odd, "failed")) == sorted(keys)
    assert {one.key for one in list_range(odd, "failed", after="failed/x/a", until=None)} == set(keys[1:])
    seen = fingerprint(odd, "failed/x//b")
    assert seen is not None
    assert seen[0] == fingerprint(odd, "failed/x/b")[0]  # type: ignore[index]  # it is there
    assert fingerprint(odd, "failed/x//nothing") is None
    assert delete_keys(odd, keys) == {}
    assert list(list_prefix(odd, "failed")) == []


def test_a_key_that_no_xml_can_name_keeps_no_other_one(store: ObjectStore) -> None:
    keys = ["failed/a\x01b", "failed/c\nd", "failed/e"]
    for key in keys:
        store.s3.put_object(Bucket=store.bucket, Key=store.path(key), Body=b"1")
    assert delete_keys(store, keys) == {}
    assert list(list_prefix(store, "failed")) == []
