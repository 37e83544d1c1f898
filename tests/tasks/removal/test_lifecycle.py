"""The rules that the policy asks for, brought to a real bucket that others use too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from blocks.catalog import CatalogDatabase
from blocks.errors import NotFoundError, RefusedError
from blocks.object_store.lifecycle import read_rules, rule_id, write_rules
from blocks.object_store.probing import Capabilities, Finding
from blocks.policies import RetentionPolicy
from tasks.removal.aging import AGED_PREFIXES
from tasks.removal.lifecycle import (
    LifecycleReport,
    apply_all,
    apply_rules,
    plan_all,
    plan_lifecycle,
    plan_rules,
    wanted_rules,
)
from tasks.stores import OpenLocation
from tasks.sweeping import Sweep

ALL = Capabilities(
    tuple(Finding(name, works=True) for name in ("expiration_rules", "transition_rules", "multipart_rules"))
)
DONE = (*AGED_PREFIXES, "multipart_days")
THEIRS = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 30}}


def test_what_the_policy_asks_for() -> None:
    policy = RetentionPolicy(transition_days=90, transition_storage_class="GLACIER")
    wanted = {one.name: one.as_rule() for one in wanted_rules(policy, "a/b", ALL)}
    assert wanted == {
        "temp_days": _expires("temp_days", "a/b/temp/", 8),
        "failed_days": _expires("failed_days", "a/b/failed/", 7),
        "exports_days": _expires("exports_days", "a/b/exports/", 8),
        "probe_days": _expires("probe_days", "a/b/probe/", 1),
        "reports_days": _expires("reports_days", "a/b/reports/", 400),
        "multipart_days": _rule("multipart_days", "a/b/", AbortIncompleteMultipartUpload={"DaysAfterInitiation": 3}),
        "transition_days": _rule(
            "transition_days", "a/b/processed/", Transitions=[{"Days": 90, "StorageClass": "GLACIER"}]
        ),
    }
    prefixes = [one.prefix for one in wanted_rules(RetentionPolicy(), "", ALL)]
    assert prefixes == ["temp/", "failed/", "exports/", "probe/", "reports/", ""]


def _rule(name: str, prefix: str, **does: Any) -> dict[str, Any]:
    return {"ID": rule_id("a/b", name), "Status": "Enabled", "Filter": {"Prefix": prefix}} | does


def _expires(name: str, prefix: str, days: int) -> dict[str, Any]:
    return _rule(name, prefix, Expiration={"Days": days})


def test_what_the_server_is_not_asked_for_says_who_does_it() -> None:
    seen = Capabilities((Finding("expiration_rules", works=True), Finding("transition_rules", False, "NotImplemented")))
    not_asked = {
        one.name: one.unsupported
        for one in wanted_rules(RetentionPolicy(transition_days=90), "", seen)
        if one.unsupported
    }
    assert not_asked.keys() == {"multipart_days", "transition_days"}
    assert "run the flow probe-store; cleanup aborts" in not_asked["multipart_days"]
    assert "does not do it (NotImplemented); tier-jobs moves" in not_asked["transition_days"]


def test_a_plan_compares_by_meaning_and_leaves_others_in_their_place() -> None:
    wanted = wanted_rules(RetentionPolicy(), "a", ALL)
    elsewhere = wanted_rules(RetentionPolicy(), "a:b", ALL)
    kept, changed = wanted[0].as_rule(), wanted[1].as_rule() | {"Status": "Disabled"}
    # As older servers write it.
    kept["Prefix"] = kept.pop("Filter")["Prefix"]
    gone = {"ID": rule_id("a", "of_old"), "Status": "Enabled", "Filter": {"Prefix": "a/x/"}, "Expiration": {"Days": 1}}
    existing = [elsewhere[0].as_rule(), kept, THEIRS, changed, gone, wanted[0].as_rule()]
    plan = plan_rules(existing, wanted, "a")
    assert plan.kept == ("temp_days",)
    assert plan.changed == ("failed_days",)
    assert plan.removed == ("of_old", "temp_days"), "the second of one ID goes"
    assert plan.added == ("exports_days", "probe_days", "reports_days", "multipart_days")
    assert plan.foreign == (elsewhere[0].id, "theirs")
    assert plan.rules[:4] == [elsewhere[0].as_rule(), kept, THEIRS, wanted[1].as_rule()]
    again = plan_rules(plan.rules, wanted, "a")
    assert again.rules == plan.rules
    assert (again.added, again.changed, again.removed) == ((), (), ())


def test_the_embedded_server_gets_all_but_transitions(open_in: Callable[..., OpenLocation]) -> None:
    location = open_in("a")
    write_rules(location.store, [THEIRS])
    planned = plan_lifecycle(location, RetentionPolicy(transition_days=90))
    assert read_rules(location.store) == [THEIRS], "a dry run writes nothing"
    report = apply_rules(location, RetentionPolicy(transition_days=90))
    assert report == planned
    assert report.added == DONE
    assert report.foreign == ("theirs",)
    assert report.unsupported == ("transition_days",)
    assert "tier-jobs moves objects by itself" in report.summary()
    rules = read_rules(location.store)
    assert rules[0] == THEIRS
    assert [one["ID"] for one in rules[1:]] == [rule_id("a", name) for name in DONE]
    assert not any("Transitions" in one for one in rules)


def test_a_second_run_writes_nothing(open_in: Callable[..., OpenLocation]) -> None:
    location = open_in()
    write_rules(location.store, [THEIRS])
    apply_rules(location, RetentionPolicy())
    before = read_rules(location.store)
    written: list[int] = []
    location.store.s3.meta.events.register(
        "before-call.s3.PutBucketLifecycleConfiguration", lambda **_: written.append(1), unique_id="counts"
    )
    report = apply_rules(location, RetentionPolicy())
    location.store.s3.meta.events.unregister("before-call.s3.PutBucketLifecycleConfiguration", unique_id="counts")
    assert written == []
    assert read_rules(location.store) == before
    assert report == LifecycleReport(location.store.bucket, unchanged=DONE, foreign=("theirs",))


def test_a_changed_policy_and_a_hand_changed_rule(open_in: Callable[..., OpenLocation]) -> None:
    location = open_in("a")
    apply_rules(location, RetentionPolicy())
    rules = read_rules(location.store)
    rules[0]["Status"] = "Disabled"
    write_rules(location.store, [*rules, {**rules[0], "ID": rule_id("a", "transition_days")}])
    report = apply_rules(location, RetentionPolicy(failed_days=30))
    assert report.changed == ("temp_days", "failed_days")
    assert report.removed == ("transition_days",)
    assert report.unchanged == ("exports_days", "probe_days", "reports_days", "multipart_days")
    rules = read_rules(location.store)
    assert rules[1]["Expiration"] == {"Days": 30}
    assert {one["Status"] for one in rules} == {"Enabled"}


def test_stores_in_one_bucket_keep_apart(open_in: Callable[..., OpenLocation]) -> None:
    whole, one, longer = open_in(), open_in("a"), open_in("a/b")
    for location in (whole, one, longer):
        report = apply_rules(location, RetentionPolicy())
        assert report.added == DONE
    assert len(read_rules(one.store)) == 3 * len(DONE)
    report = apply_rules(one, RetentionPolicy(temp_days=9))
    assert report.changed == ("temp_days",)
    assert len(report.foreign) == 2 * len(DONE)
    for location in (whole, longer):
        assert plan_lifecycle(location, RetentionPolicy()).unchanged == DONE


def test_a_server_that_does_nothing_of_it_is_not_asked(open_in: Callable[..., OpenLocation]) -> None:
    location = open_in("a", Capabilities())
    report = apply_rules(location, RetentionPolicy())
    assert report.unsupported == DONE
    assert report.added == ()
    assert read_rules(location.store) == []


def test_a_refused_transition_keeps_no_other_rule_out(open_in: Callable[..., OpenLocation]) -> None:
    location = open_in("a", ALL)  # as probed before the server was changed
    policy = RetentionPolicy(transition_days=90)
    for added in (DONE, ()):
        report = apply_rules(location, policy)
        assert report.added == added
        assert report.unsupported == ("transition_days",)
        assert "refuses it" in report.summary()
    assert len(read_rules(location.store)) == len(DONE)


def test_a_transition_that_is_refused_stays_as_it_was() -> None:
    """A class that the server has not keeps the one that works from being dropped."""
    former = wanted_rules(RetentionPolicy(transition_days=90), "a/b", ALL)
    existing = [THEIRS, *(one.as_rule() for one in former)]
    changed = wanted_rules(RetentionPolicy(transition_days=30), "a/b", ALL)
    refused = tuple(
        replace(one, unsupported="it is refused", refused=True) if one.action == "transition" else one
        for one in changed
    )
    changes = plan_rules(existing, refused, "a/b")
    assert changes.rules == existing
    assert (changes.added, changes.changed, changes.removed) == ((), (), ())
    twice = plan_rules([*existing, existing[-1]], refused, "a/b")
    assert twice.rules == existing, "once"
    unasked = tuple(replace(one, refused=False) for one in refused)
    assert plan_rules(existing, unasked, "a/b").removed == ("transition_days",), "of a server that cannot, it goes"


def test_a_refusal_is_no_success(open_in: Callable[..., OpenLocation], catalog: CatalogDatabase) -> None:
    location = open_in("a", ALL)  # as probed before the server was changed
    policy = RetentionPolicy(transition_days=90)
    plan = plan_all(Sweep(catalog, (location,)), policy, {})
    report = apply_all(Sweep(catalog, (location,)), policy, plan)
    results = {one.item.rule: (one.result, one.error) for one in report.outcomes}
    assert {results[name] for name in DONE} == {("done", "")}
    assert results["transition_days"][0] == "failed"
    assert "the server refuses it" in results["transition_days"][1]


def test_a_refusal_of_the_other_rules_is_raised(
    open_in: Callable[..., OpenLocation], monkeypatch: pytest.MonkeyPatch
) -> None:
    location = open_in("a", ALL)
    gone = location.store.model_copy(update={"bucket": f"not-there-{uuid4()}"})
    with pytest.raises(NotFoundError):
        apply_rules(OpenLocation(location.place, gone, ALL), RetentionPolicy())
    stranger = make_store_with_another_secret(location)
    with pytest.raises(RefusedError, match="check the block's credentials"):
        apply_rules(OpenLocation(location.place, stranger, ALL), RetentionPolicy(transition_days=90))


def make_store_with_another_secret(location: OpenLocation) -> Any:
    credentials = location.store.credentials.model_copy(update={"minio_root_user": "nobody"})
    return location.store.model_copy(update={"credentials": credentials})


def test_rules_of_others_that_remove_what_is_kept_are_told(open_in: Callable[..., OpenLocation]) -> None:
    location = open_in("a")
    everything = THEIRS | {"ID": "everything", "Filter": {"Prefix": ""}}
    write_rules(location.store, [everything, THEIRS])
    report = apply_rules(location, RetentionPolicy())
    assert report.foreign == ("everything", "theirs")
    told = "everything is not ours and removes customers' objects under a/%s/: look at it"
    assert report.notes == (told % "processed", told % "uploads")


def test_another_writer_meanwhile_loses_nothing(open_in: Callable[..., OpenLocation]) -> None:
    location = open_in("a")
    reads: list[int] = []

    def another(**_: Any) -> None:
        # Between the read that was planned on and the one right before the write.
        reads.append(1)
        if len(reads) == 1:
            location.store.s3.put_bucket_lifecycle_configuration(
                Bucket=location.store.bucket,
                LifecycleConfiguration={"Rules": [THEIRS]},  # type: ignore[typeddict-item]  # as boto3 gives them
            )

    location.store.s3.meta.events.register("after-call.s3.GetBucketLifecycleConfiguration", another)
    report = apply_rules(location, RetentionPolicy())
    location.store.s3.meta.events.unregister("after-call.s3.GetBucketLifecycleConfiguration", another)
    assert report.added == DONE
    assert report.foreign == ("theirs",)
    assert read_rules(location.store)[0] == THEIRS
