"""A bucket's own rules: others' stay, ours come back as they were asked for, or it is told who does it instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from blocks.errors import OvertakenError, RefusedError
from blocks.object_store import ObjectStore
from blocks.object_store.lifecycle import Rule, read_rules, same_rule, write_rules
from blocks.object_store.listing import list_folders
from blocks.object_store.transfer import put_bytes
from blocks.policies import RetentionPolicy
from tasks.removal.aging import AGED_PREFIXES
from tasks.removal.lifecycle import apply_rules, plan_lifecycle
from tasks.stores import OpenLocation


@pytest.fixture
def bucket_rules(store: ObjectStore) -> Iterator[list[Rule]]:
    """The bucket's rules before the test, which are its rules afterwards."""
    before = read_rules(store)
    yield before
    write_rules(store, before)
    assert read_rules(store) == before


def theirs(store: ObjectStore, **does: Any) -> Rule:
    """Somebody else's rule, for a prefix that never holds anything, in ten years."""
    prefix = {"Prefix": store.path("nothing/is/here/")}
    return {
        "ID": f"theirs-{uuid4()}",
        "Status": "Enabled",
        "Filter": prefix,
        **(does or {"Expiration": {"Days": 3650}}),
    }


def test_rules_are_kept_and_removed(store: ObjectStore, bucket_rules: list[Rule], does: Callable[[str], bool]) -> None:
    one, other = theirs(store), theirs(store)
    if not does("expiration_rules"):
        with pytest.raises(RefusedError) as caught:
            write_rules(store, [*bucket_rules, one])
        assert store.bucket in str(caught.value)
        assert one["ID"] in str(caught.value)
        assert read_rules(store) == bucket_rules
        return
    write_rules(store, [*bucket_rules, one])
    write_rules(store, [*read_rules(store), other], former=read_rules(store))
    kept = read_rules(store)
    assert kept[: len(bucket_rules)] == bucket_rules
    assert all(any(same_rule(rule, asked) and rule["ID"] == asked["ID"] for rule in kept) for asked in (one, other))
    with pytest.raises(OvertakenError, match=f"bucket {store.bucket} changed while they were planned"):
        write_rules(store, bucket_rules, former=bucket_rules)
    write_rules(store, [*bucket_rules, other], former=kept)
    assert [rule["ID"] for rule in read_rules(store)][len(bucket_rules) :] == [other["ID"]]


@pytest.mark.parametrize(
    ("capability", "action"),
    [
        ("transition_rules", {"Transitions": [{"Days": 3650, "StorageClass": "GLACIER"}]}),
        ("multipart_rules", {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 3650}}),
    ],
)
def test_a_rule_that_the_server_does_not_do_changes_nothing(
    store: ObjectStore, bucket_rules: list[Rule], does: Callable[[str], bool], capability: str, action: Rule
) -> None:
    asked = theirs(store, **action)
    if does(capability):
        write_rules(store, [*bucket_rules, asked])
        assert same_rule(read_rules(store)[-1], asked)
    else:
        with pytest.raises(RefusedError) as caught:
            write_rules(store, [*bucket_rules, asked])
        assert store.bucket in str(caught.value)
        assert asked["ID"] in str(caught.value)
        assert read_rules(store) == bucket_rules


def test_the_policys_rules(location: OpenLocation, bucket_rules: list[Rule], does: Callable[[str], bool]) -> None:
    policy = RetentionPolicy(transition_days=3650, transition_storage_class="GLACIER")
    if does("expiration_rules"):
        write_rules(location.store, [*bucket_rules, theirs(location.store)])
    before = read_rules(location.store)
    report = apply_rules(location, policy)
    wanted = {
        **dict.fromkeys(AGED_PREFIXES, "expiration_rules"),
        "multipart_days": "multipart_rules",
        "transition_days": "transition_rules",
    }
    assert set(report.added) == {name for name, capability in wanted.items() if does(capability)}
    assert set(report.unsupported) == set(wanted) - set(report.added)
    for name in report.unsupported:
        (note,) = (note for note in report.notes if note.startswith(f"{name}: "))
        assert "this server does not do it" in note
        assert note.rpartition("; ")[2] in (
            "cleanup removes what is overdue by itself",
            "cleanup aborts what is overdue by itself",
            "tier-jobs moves objects by itself",
        )
    assert read_rules(location.store)[: len(before)] == before, "others' rules stay where they are"
    again = apply_rules(location, policy)
    assert (again.added, again.changed, again.removed) == ((), (), ())
    assert plan_lifecycle(location, policy).unchanged == again.unchanged


def test_a_server_without_rules_keeps_its_bucket(store: ObjectStore, bucket_rules: list[Rule]) -> None:
    """One that knows no `?lifecycle` takes a removal of the rules for one of the bucket: it is never asked to."""
    put_bytes(store, "a/x", b"x", {})
    write_rules(store, read_rules(store))
    write_rules(store, bucket_rules)
    assert list_folders(store) == ["a"]
