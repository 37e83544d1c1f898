"""Plans and reports as numbers: what is too large, what an approval covers, what one line says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.policies import GIB, SafetyPolicy
from tasks.plans import Approval, Item, Outcome, Plan, Report, RuleSum, over_caps, sum_by_rule

RULES = st.sampled_from(["trash_days", "failed_days", "temp_days"])
ITEMS = st.lists(
    st.builds(
        Item,
        action=st.just("purge job"),
        rule=RULES,
        subject=st.uuids().map(str),
        because=st.just("old"),
        objects=st.integers(0, 10**6),
        size_bytes=st.integers(0, 10**15),
    )
)


def plan_of(objects: int, size_bytes: int = 0) -> Plan:
    return Plan("cleanup", (Item("purge job", "trash_days", "a job", "old", "acme", objects, size_bytes),))


def caps(**changed: int) -> SafetyPolicy:
    """Caps that nothing reaches, but for those that a test names."""
    loose = {"most_objects": 10**9, "most_gib": 10**6, "most_percent": 100, "percent_from_objects": 0}
    return SafetyPolicy(**(loose | changed))


@pytest.mark.parametrize(("objects", "asks"), [(0, False), (49_999, False), (50_000, False), (50_001, True)])
def test_too_many_objects(objects: int, asks: bool) -> None:
    reasons = over_caps(plan_of(objects), caps(most_objects=50_000), 10**9)
    assert reasons == ((f"{objects} objects are more than 50000",) if asks else ())


@pytest.mark.parametrize(("size", "asks"), [(0, False), (GIB - 1, False), (GIB, False), (GIB + 1, True)])
def test_too_many_bytes(size: int, asks: bool) -> None:
    reasons = over_caps(plan_of(1, size), caps(most_gib=1), 10**9)
    assert bool(reasons) is asks
    assert all("are more than 1 GiB" in reason for reason in reasons)


@pytest.mark.parametrize(("objects", "asks"), [(2000, False), (2001, True), (10_000, True)])
def test_too_large_a_share(objects: int, asks: bool) -> None:
    reasons = over_caps(plan_of(objects), caps(most_percent=20, percent_from_objects=1000), 10_000)
    assert bool(reasons) is asks
    if asks:
        assert "of the catalog, more than 20 %" in reasons[0]


@pytest.mark.parametrize(("objects", "asks"), [(0, False), (999, False), (1000, True), (1001, True)])
def test_plans_of_fewer_objects_are_not_judged_by_their_share(objects: int, asks: bool) -> None:
    """`percent_from_objects`: 'plans of fewer objects are not judged', so that 1000 of 1000 are."""
    reasons = over_caps(plan_of(objects), caps(most_percent=20, percent_from_objects=1000), objects)
    assert bool(reasons) is asks


def test_what_is_strange_is_asked_however_small_it_is() -> None:
    strange = Plan("reconcile-quota", (Item("mark missing", "missing", "a", "", objects=1),), (), ("none is there",))
    assert over_caps(strange, caps(), 10**9) == ("none is there",)
    assert strange.summary().endswith("(1 by missing); none is there")


def test_shares_at_their_ends() -> None:
    nothing, everything = caps(most_percent=0), caps(most_percent=100)
    assert over_caps(plan_of(0), nothing, 10) == ()
    assert over_caps(plan_of(1), nothing, 10) == ("1 objects are 10 % of the catalog, more than 0 %",)
    assert over_caps(plan_of(10), everything, 10) == ()
    assert over_caps(plan_of(11), everything, 10) != (), "orphans are in no catalog, and count"
    assert over_caps(plan_of(3), everything, 0) != (), "an empty catalog divides nothing by zero"
    assert over_caps(plan_of(0), nothing, 0) == ()


def test_caps_of_nothing_ask_about_anything() -> None:
    none = SafetyPolicy(most_objects=0, most_gib=0, most_percent=0, percent_from_objects=0)
    assert len(over_caps(plan_of(1, 1), none, 100)) == 3
    assert over_caps(plan_of(0, 1), none, 100) == ("1 B are more than 0 GiB",)
    assert over_caps(Plan("cleanup"), none, 0) == ()


@given(ITEMS, ITEMS, st.integers(0, 10**7))
def test_a_plan_that_grows_asks_no_less(first: list[Item], more: list[Item], catalog_objects: int) -> None:
    policy = SafetyPolicy()
    small, large = Plan("cleanup", tuple(first)), Plan("cleanup", (*first, *more))
    assert len(over_caps(small, policy, catalog_objects)) <= len(over_caps(large, policy, catalog_objects))


@pytest.mark.parametrize(
    ("objects", "size", "covered"), [(10, 100, True), (9, 99, True), (11, 100, False), (10, 101, False), (0, 0, True)]
)
def test_an_approval_covers_what_was_agreed_to(objects: int, size: int, covered: bool) -> None:
    assert Approval(10, 100).covers(plan_of(objects, size)) is covered


def test_an_approval_covers_nothing_strange_that_nobody_was_told() -> None:
    """Somebody who agreed to 60,000 orphans did not agree to give up a small store."""
    items = (Item("mark missing", "missing", "a", "", objects=1),)
    plain, strange = Plan("reconcile-quota", items), Plan("reconcile-quota", items, (), ("cold holds none", "nor warm"))
    other = Plan("reconcile-quota", items, (), ("cold holds none",))
    assert not Approval(60_000, 10**12).covers(strange)
    assert not Approval(60_000, 10**12, other.strangeness).covers(strange)
    told = Approval(60_000, 10**12, strange.strangeness)
    assert told.covers(strange)
    assert told.covers(plain), "what is not strange any more needs no words"
    assert strange.strangeness == Plan("x", (), (), ("nor warm", "cold holds none")).strangeness


@given(ITEMS, ITEMS)
def test_an_approval_covers_its_plan_and_every_smaller_one(items: list[Item], more: list[Item]) -> None:
    plan, larger = Plan("cleanup", tuple(items)), Plan("cleanup", (*items, *more))
    agreed = Approval(plan.objects, plan.size_bytes)
    assert agreed.covers(plan)
    assert Approval(larger.objects, larger.size_bytes).covers(plan)
    grown = any(item.objects or item.size_bytes for item in more)
    assert agreed.covers(larger) is not grown


@given(ITEMS)
def test_sums_by_rule_are_a_partition(items: list[Item]) -> None:
    plan = Plan("cleanup", tuple(items))
    sums = plan.by_rule()
    assert [one.rule for one in sums] == list(dict.fromkeys(item.rule for item in items))
    assert sum(one.items for one in sums) == len(items)
    assert (sum(one.objects for one in sums), sum(one.size_bytes for one in sums)) == (plan.objects, plan.size_bytes)
    for one in sums:
        assert one.objects == sum(item.objects for item in items if item.rule == one.rule)


def test_a_report_counts_what_was_really_done() -> None:
    def item(rule: str) -> Item:
        return Item("purge job", rule, "a job", "old", "acme", 10, 1000)

    report = Report(
        "cleanup",
        (
            Outcome(item("trash_days"), "done", "", 7, 700),
            Outcome(item("trash_days"), "failed", "SlowDown", 3, 300),
            Outcome(item("failed_days"), "skipped", "on hold"),
            Outcome(item("failed_days"), "done", "", 1, 1),
        ),
        ("2 months of the log removed",),
    )
    assert [one.error for one in report.failed] == ["SlowDown"]
    assert report.by_rule() == (RuleSum("trash_days", 1, 7, 700), RuleSum("failed_days", 1, 1, 1))
    assert (report.objects, report.size_bytes) == (11, 1001), "what is gone is gone, though the item failed"
    assert report.summary() == ("cleanup: 2 done, 1 skipped, 1 failed; 11 objects, 1001 B; 2 months of the log removed")


def test_summaries_of_plans() -> None:
    left = Item("purge job", "failed_days", "another job", "on hold: case 7")
    assert Plan("cleanup").summary() == "cleanup: nothing to do"
    assert Plan("cleanup", (), (left,)).summary() == "cleanup: nothing to do, 1 left alone"
    two = Plan("cleanup", (*plan_of(3, 2048).items, *plan_of(1).items, left), (left,))
    assert two.summary() == "cleanup: 4 objects, 2 KiB (2 by trash_days, 1 by failed_days; 1 left alone)"
    assert Report("cleanup").summary() == "cleanup: nothing to do"
    assert Report("cleanup", (Outcome(left, "skipped", "on hold"),)).summary() == "cleanup: 1 skipped"


def test_no_items_no_sums() -> None:
    assert sum_by_rule(()) == ()
    assert (Plan("x").objects, Plan("x").size_bytes, Report("x").size_bytes) == (0, 0, 0)
