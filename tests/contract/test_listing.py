"""What a listing shows, in which order, and what is gone from it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest

from blocks.object_store import ObjectStore
from blocks.object_store.deletion import delete_keys
from blocks.object_store.listing import find_etags, list_folders, list_prefix, list_range
from blocks.object_store.transfer import exists, put_bytes
from tasks.drift.compare import JobRange, split_jobs
from tests.contract.asking import LEGAL
from tests.contract.servers import Server

MORE_THAN_A_PAGE = 1_005


def put_all(store: ObjectStore, keys: list[str]) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: put_bytes(store, key, key.encode(), {}), keys))


def test_a_prefix_is_a_whole_folder(store: ObjectStore) -> None:
    put_all(store, ["a/b/1", "a/bc/2", "a/b/c/3", "a0", "a-/4", "a.b", "b"])
    for prefix, keys in {
        "a/b": ["a/b/1", "a/b/c/3"],
        "a": ["a/b/1", "a/b/c/3", "a/bc/2"],
        "a/b/1": [],
        "a0": [],
        "none": [],
        "": ["a-/4", "a.b", "a/b/1", "a/b/c/3", "a/bc/2", "a0", "b"],
    }.items():
        assert sorted(listed.key for listed in list_prefix(store, prefix)) == keys, prefix
        if prefix:
            for classes in (False, True):
                listed = list_range(store, prefix, after="", until=None, classes=classes)
                assert sorted(one.key for one in listed) == keys, prefix
    assert sorted(list_folders(store)) == ["a", "a-"]
    assert sorted(list_folders(store, "a/")) == ["a/b", "a/bc"]
    assert list_folders(store, "none/") == []


def test_the_whole_of_a_bucket(server: Server) -> None:
    if server.is_yours:
        pytest.skip("all of your bucket is not ours to list")
    whole = server.store("", bucket=f"whole-{uuid4()}", prefix="")
    whole.s3.create_bucket(Bucket=whole.bucket)
    assert list(list_prefix(whole, "")) == []
    assert list_folders(whole) == []
    put_all(whole, ["a/1", "b"])
    assert sorted(listed.key for listed in list_prefix(whole, "")) == ["a/1", "b"]
    assert list_folders(whole) == ["a"]
    assert delete_keys(whole, ["a/1", "b"]) == {}


def test_a_neighbour_is_not_seen(store: ObjectStore) -> None:
    neighbour = store.model_copy(update={"prefix": f"{store.prefix}0"})
    put_bytes(neighbour, "a/theirs", b"x", {})
    put_bytes(store, "a/ours", b"x", {})
    assert [listed.key for listed in list_prefix(store, "")] == ["a/ours"]
    assert list_folders(store) == ["a"]
    assert delete_keys(store, ["a/theirs"]) == {}, "a key without an object counts as removed"
    assert exists(neighbour, "a/theirs")


def test_more_than_a_page_in_order_and_removed(store: ObjectStore) -> None:
    keys = [f"processed/{number:05}" for number in range(MORE_THAN_A_PAGE)]
    put_all(store, keys)
    assert [listed.key for listed in list_prefix(store, "processed")] == keys
    assert [one.key for one in list_range(store, "processed", after=keys[1000], until=keys[1003])] == keys[1001:1004]
    with_classes = list_range(store, "processed", after=keys[0], until=None, classes=True)
    assert [one.key for one in with_classes] == keys[1:]
    found = find_etags(store, [*keys[:50], "processed/none"])
    assert {key: size for key, (_, size) in found.items()} == {key: len(key) for key in keys[:50]}
    some = keys[:250]
    assert delete_keys(store, [*some, *(f"processed/never-{number}" for number in range(30))]) == {}
    assert [listed.key for listed in list_prefix(store, "processed")] == keys[250:]
    assert delete_keys(store, keys) == {}
    assert list(list_prefix(store, "")) == []


@pytest.mark.parametrize("classes", [False, True])
def test_jobs_come_in_the_order_of_their_ids(store: ObjectStore, classes: bool) -> None:
    """The order that reconcile takes for granted: ranges of ids, listed side by side, make up the whole folder."""
    jobs = sorted(UUID(int=number * 2**128 // 7 + number) for number in range(7))
    keys = [f"processed/{job}/{name}" for job in jobs for name in ("metadata.json", "raw/video_original.mp4")]
    strange = ["processed/README", "processed/0", "processed/zzz/x"]
    put_all(store, keys + strange)
    parts = split_jobs(100_000, at_least=4)
    assert len(parts) == 4
    seen: list[str] = []
    for part in parts:
        after, until = part.bounds("processed")
        listed = [one.key for one in list_range(store, "processed", after=after, until=until, classes=classes)]
        assert not set(listed) & set(seen), "no object belongs to two ranges"
        seen += listed
    assert sorted(seen) == sorted(keys + strange)
    one = JobRange(0, jobs[3], jobs[3])
    after, until = one.bounds("processed")
    listed = [item.key for item in list_range(store, "processed", after=after, until=until, classes=classes)]
    assert listed == sorted(key for key in keys if str(jobs[3]) in key)


def test_every_key_has_an_outcome(store: ObjectStore) -> None:
    put_all(store, list(LEGAL))
    assert sorted(listed.key for listed in list_prefix(store, "")) == sorted(LEGAL)
    assert delete_keys(store, []) == {}
    assert delete_keys(store, [*LEGAL, "a/never", "never/at all"]) == {}
    assert list(list_prefix(store, "")) == []


def test_what_cannot_be_removed_is_named(store: ObjectStore) -> None:
    """A folder that still holds something is no object: nothing to remove, or an error for that key alone."""
    put_all(store, ["a/b", "c"])
    assert delete_keys(store, ["a", "c"]).keys() <= {"a"}
    assert exists(store, "a/b")
    assert not exists(store, "c")
