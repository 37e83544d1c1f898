"""What compress-jobs, tier-jobs and migrate-storage decide: pure, so that years of nights take no time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from blocks.catalog.locations import Place
from blocks.catalog.moving import IdleJob, KindSum, PlacedJob, Wanted
from blocks.policies import GIB, CompressionPolicy, RelocationPolicy, TierPolicy
from tasks.relocation.compression import CompressionFacts, Sample, plan_compression
from tasks.relocation.migration import Migration, MigrationFacts, fresh_jobs, plan_migration
from tasks.relocation.moving import (
    ENOUGH_BATCHES,
    LARGER,
    MOST_BATCHES,
    Move,
    Recipe,
    given_up,
    report_moves,
    split,
    sum_up,
)
from tasks.relocation.tiering import TierFacts, plan_tiers

NOW = datetime(2026, 5, 1, 5, 0, tzinfo=UTC)
OLD = NOW - timedelta(days=200)


def place(number: int, name: str, tier: str, **said: Any) -> Place:
    base = {
        "store": name, "bucket": name, "prefix": "", "storage_class": "", "price_per_gib_month": None,
        "needs_restore": False, "serves_urls": True, "moved_to": None, "capabilities": None, "shelf": (number,),
    }  # fmt: skip
    return Place(number, name, tier=tier, **(base | said))


PLACES = {1: place(1, "main", "hot"), 2: place(2, "warm", "warm"), 3: place(3, "cold", "cold")}
TARGETS = {"cold": PLACES[3], "warm": PLACES[2]}
POLICY = TierPolicy(warm_location="warm", cold_location="cold")


def group(kind: str, *, at: int = 1, objects: int = 1, size: int = GIB, since: datetime = OLD, **more: int) -> KindSum:
    return KindSum(kind, at, objects, size, max(size, objects * 128 * 1024), since, **more)


def job(*sums: KindSum, number: int = 1, hold: str | None = None, tier: str = "hot") -> IdleJob:
    return IdleJob(UUID(int=number), 7, "acme", hold, tier, OLD, None, sums)


def tiers(*jobs: IdleJob, tier: str = "cold", policy: TierPolicy = POLICY, places: dict[int, Place] = PLACES):  # type: ignore[no-untyped-def]
    return plan_tiers(TierFacts(NOW, {tier: jobs}, TARGETS, places, frozenset(places)), policy)


def test_a_job_moves_kind_by_kind_with_what_it_saves() -> None:
    planned = tiers(job(group("original"), group("hls_720p", objects=300, size=2 * GIB), group("metadata", size=900)))
    (item,) = planned.plan.items
    assert (item.action, item.rule, item.objects, item.size_bytes) == ("move to cold", "cold_after_days", 301, 3 * GIB)
    assert item.because == "completed 2025-10-13, last asked for never; saves 0.057 a month"
    (move,) = planned.moves
    assert move.recipe.wanted == Wanted((1,), ("hls_720p", "original")), "what is tiny stays where it is"
    assert move.mark is not None
    assert move.mark.what == "cold"


def test_small_objects_stay() -> None:
    """They would be billed as larger ones: 300 segments of 4 KiB as 37.5 MiB."""
    planned = tiers(job(group("hls_360p", objects=300, size=300 * 4096)))
    assert planned.plan.items == ()
    assert list(planned.settled.values()) == [(UUID(int=1),)], "and are not looked at every night"


def test_a_move_that_never_pays_back_is_not_made() -> None:
    dear = TierPolicy(cold_location="cold", cold_price_per_1000_moved=1000, warm_price_per_1000_moved=1000)
    assert tiers(job(group("original")), policy=dear).plan.items == ()
    patient = TierPolicy(cold_location="cold", cold_price_per_1000_moved=1, pays_back_months=1)
    assert tiers(job(group("original", size=GIB)), policy=patient).plan.items != ()


def test_warm_storage_is_kept_its_minimum_time() -> None:
    young, old = NOW - timedelta(days=29), NOW - timedelta(days=31)
    planned = tiers(job(group("original", at=2, since=young), tier="warm"))
    (skipped,) = planned.plan.skipped
    assert skipped.because.startswith("billed as warm until 2026-05-02; ")
    assert not planned.settled, "it is looked at again"
    assert tiers(job(group("original", at=2, since=old), tier="warm")).plan.items != ()
    both = tiers(job(group("original", at=2, since=young), group("audio"), tier="hot"))
    assert both.moves[0].mark is None, "a part of it has to wait: the job is not through"


@pytest.mark.parametrize("stays", [{"needs_restore": True}, {"tier": "cold"}])
def test_where_nothing_moves_from(stays: dict[str, Any]) -> None:
    places = PLACES | {1: place(1, "main", **({"tier": "hot"} | stays))}
    assert tiers(job(group("original")), places=places).plan.items == ()


def test_jobs_on_hold_stay_and_say_so() -> None:
    planned = tiers(job(group("original"), hold="case 7"))
    assert (planned.plan.items, planned.moves) == ((), ())
    assert planned.plan.skipped[0].because.startswith("on hold: case 7")


def test_classes_of_a_bucket_are_left_to_a_server_that_moves_them() -> None:
    places = PLACES | {1: place(1, "main", "hot", shelf=(1, 3))}
    targets = {"cold": place(3, "cold", "cold", shelf=(1, 3))}
    facts = TierFacts(NOW, {"cold": (job(group("original")),)}, targets, places, frozenset(places))
    assert plan_tiers(facts, POLICY).plan.items != ()
    assert plan_tiers(facts, POLICY.model_copy(update={"server_moves_classes": True})).plan.items == ()


def test_a_locations_own_price_counts() -> None:
    dear = PLACES | {1: place(1, "main", "hot", price_per_gib_month=1.0)}
    assert "saves 0.996 a month" in tiers(job(group("original")), places=dear).plan.items[0].because


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 2 * GIB), st.sampled_from([1, 2, 3])), max_size=6))
def test_every_move_saves_money_and_goes_colder(kinds: list[tuple[int, int, int]]) -> None:
    sums = [group(f"k{n}", at=at, objects=max(1, count), size=size) for n, (count, size, at) in enumerate(kinds)]
    planned = tiers(job(*sums))
    assert all(saved > 0 for saved in planned.savings.values())
    for move in planned.moves:
        assert 3 not in move.recipe.wanted.location_ids
    assert len(planned.plan.items) + sum(map(len, planned.settled.values())) + len(planned.plan.skipped) == 1


def test_what_is_not_worth_the_coldest_tier_goes_to_the_one_before() -> None:
    """The night after, when nothing goes further: a report has a line for each job."""
    policy = POLICY.model_copy(update={"cold_price_per_1000_moved": 1.0})
    segments, original = group("hls_720p", objects=2000, size=GIB), group("original")
    first = tiers(job(segments, original), policy=policy)
    assert [(item.rule, item.objects) for item in first.plan.items] == [("cold_after_days", 1)]
    assert [move.mark for move in first.moves] == [None], "the job is looked at again"
    second = tiers(job(segments, group("original", at=3)), policy=policy)
    assert [(item.rule, item.objects) for item in second.plan.items] == [("warm_after_days", 2000)]
    (move,) = second.moves
    assert (move.recipe.target, move.mark and move.mark.what) == ("warm", "cold")


def test_what_is_for_a_store_that_does_not_answer_waits_for_it() -> None:
    """And goes to no other meanwhile, from where it would have to be moved again, and paid for twice."""
    idle = job(group("original"), group("audio", at=2))
    facts = TierFacts(NOW, {"cold": (idle,)}, TARGETS, PLACES, frozenset({1, 2}))
    planned = plan_tiers(facts, POLICY)
    assert (planned.plan.items, planned.moves, planned.settled) == ((), (), {})
    assert planned.plan.skipped[0].because.startswith("cold does not answer; ")
    from_there = plan_tiers(replace(facts, reached=frozenset({1, 3})), POLICY)
    assert [item.objects for item in from_there.plan.items] == [1], "what does answer is moved"
    assert [move.mark for move in from_there.moves] == [None], "the rest is looked at again"
    # Not worth cold storage, and for warm storage, which is down: it is not through either.
    dear = POLICY.model_copy(update={"cold_price_per_1000_moved": 1000.0})
    warm_is_down = replace(facts, due={"cold": (job(group("original")),)}, reached=frozenset({1, 3}))
    planned = plan_tiers(warm_is_down, dear)
    assert (planned.plan.items, planned.settled) == ((), {})
    assert planned.plan.skipped[0].because.startswith("warm does not answer; ")
    assert plan_tiers(replace(warm_is_down, reached=frozenset({1, 2, 3})), dear).plan.items != ()


def test_a_kind_that_stays_in_one_place_is_not_taken_along_from_another() -> None:
    lately = NOW - timedelta(days=2)
    planned = tiers(
        job(group("hls_720p", objects=3), group("original", at=2), group("hls_720p", at=2, objects=500, since=lately))
    )
    assert [(move.recipe.wanted, move.objects) for move in planned.moves] == [
        (Wanted((1,), ("hls_720p",)), 3),
        (Wanted((2,), ("original",)), 1),
    ]
    assert planned.plan.objects == 4
    assert {move.mark for move in planned.moves} == {None}, "what has to wait is looked at again"


def test_a_tier_policy_that_contradicts_itself() -> None:
    with pytest.raises(ValidationError, match="name one of them"):
        TierPolicy(warm_location="a", cold_location="a")
    with pytest.raises(ValidationError, match="come before warm's"):
        TierPolicy(warm_location="a", cold_location="b", cold_after_days=10)
    with pytest.raises(ValidationError, match="come before warm's"):
        TierPolicy(warm_location="a", cold_location="b", cold_idle_days=0)


def compression(*jobs: IdleJob, samples: tuple[Sample, ...] = ()):  # type: ignore[no-untyped-def]
    names = {1: "main", 3: "cold"}
    return plan_compression(CompressionFacts(jobs, NOW, names, samples, frozenset(names)), CompressionPolicy())


def test_texts_are_compressed_where_they_lie() -> None:
    texts = group("transcript_txt", size=5000, wanted_objects=1, wanted_bytes=5000)
    far = group("transcript_json", at=3, size=9000, wanted_objects=1, wanted_bytes=9000)
    stream = group("hls_720p", objects=301, size=GIB, wanted_objects=1, wanted_bytes=800)
    planned = compression(job(texts, far, stream, group("original", size=3 * GIB)),
                          samples=(Sample("hls_720p", 3, 65536, 3.0), Sample("original", 1, 100, None)))  # fmt: skip
    (item,) = planned.plan.items
    assert (item.objects, item.size_bytes, item.rule) == (3, 14_800, "after_days")
    assert {(m.recipe.target, m.recipe.codec, m.objects) for m in planned.moves} == {
        ("main", "zstd", 2),
        ("cold", "zstd", 1),
    }
    left = {one.subject: one.because for one in planned.plan.skipped}
    assert left["hls_720p"].endswith("a sample of 3 (64 KiB) would get 3.0 % smaller, all of it 30.7 MiB")
    assert left["original"] == "compressed already by its nature"
    assert planned.left_alone == "4 GiB of video and sound left alone, which would gain 30.7 MiB"


def test_a_look_at_some_locations_marks_jobs_that_lie_there_only() -> None:
    """Or the same jobs would be due every night, and leave no room for others."""
    texts = group("transcript_txt", size=5000, wanted_objects=1, wanted_bytes=5000)
    elsewhere = group("metadata", at=2)
    jobs = (job(texts), job(texts, elsewhere, number=2), job(group("audio"), number=3), job(elsewhere, number=4))
    facts = CompressionFacts(jobs, NOW, {1: "main"}, looked_through=frozenset({1}))
    planned = plan_compression(facts, CompressionPolicy())
    assert planned.settled == (UUID(int=3),)
    assert [(move.job_id.int, move.mark is not None) for move in planned.moves] == [(1, True), (2, False)]


def test_jobs_without_texts_are_through_and_held_ones_wait() -> None:
    planned = compression(job(group("original")), job(group("metadata", wanted_objects=1), number=2, hold="case 7"))
    assert planned.settled == (UUID(int=1),)
    assert planned.moves == ()
    assert planned.plan.skipped[0].because.startswith("on hold: case 7")


def migration(**options: Any) -> Migration:
    source, target = (SimpleNamespace(place=PLACES[number]) for number in (1, 3))
    return Migration(source, target, **options)  # type: ignore[arg-type]  # what a plan looks at


def test_a_migration_moves_all_but_what_is_held_and_says_what_has_no_bytes() -> None:
    jobs = (PlacedJob(UUID(int=1), 7, "acme", None, 5, 500), PlacedJob(UUID(int=2), 7, "acme", "case 7", 1, 10))
    plan, moves = plan_migration(MigrationFacts(jobs, (("missing", 3),), more=True), migration())
    assert [(item.subject, item.objects) for item in plan.items] == [(str(UUID(int=1)), 5)]
    assert [item.subject for item in plan.skipped] == [str(UUID(int=2)), "3 objects are missing", "more jobs"]
    assert moves[0].recipe.wanted.states == ("live", "trashed")
    assert fresh_jobs(MigrationFacts(jobs), [UUID(int=1)]).jobs == (), (
        "what was tried and what is held is not tried again"
    )


def test_only_one_of_the_same_tier_takes_a_locations_place() -> None:
    """An archive that is emptied is nothing for new files to come to, and stays the Tier Policy's target."""
    main, cold = (SimpleNamespace(place=PLACES[number]) for number in (1, 3))
    assert replace(migration(), source=main, target=main).replaces
    assert not replace(migration(), source=cold, target=main).replaces
    assert not replace(migration(kinds=("audio",)), source=main, target=main).replaces


def test_what_a_migration_is_about() -> None:
    assert migration().is_whole
    assert not migration(kinds=("audio",)).is_whole
    assert migration(api_key="acme").scope != migration().scope


@given(st.lists(st.integers(0, 5000), max_size=400), st.integers(1, 5000))
def test_batches_hold_every_move_once_and_are_never_too_many(sizes: list[int], batch_objects: int) -> None:
    recipes = [Recipe(Wanted((1,)), "cold", "tier-jobs", f"rule {n}") for n in range(3)]
    moves = [Move(UUID(int=n), size, size, recipes[n % 3]) for n, size in enumerate(sizes)]
    batches = split(moves, RelocationPolicy(batch_objects=batch_objects), run="run")
    assert sorted(job for batch in batches for job in batch.job_ids) == [move.job_id for move in moves]
    assert [batch.number for batch in batches] == list(range(len(batches)))
    objects = {move.job_id: move.objects for move in moves}
    most = max(LARGER * batch_objects, -(-sum(sizes) // MOST_BATCHES))
    for batch in batches:
        assert len(batch.job_ids) == 1 or sum(objects[job] for job in batch.job_ids) <= most
    assert len(batches) <= 2 * MOST_BATCHES + 3


@pytest.mark.parametrize(("jobs", "batches"), [(10, 1), (1000, 40), (5000, ENOUGH_BATCHES), (100_000, MOST_BATCHES)])
def test_large_plans_have_larger_batches(jobs: int, batches: int) -> None:
    recipe = Recipe(Wanted((1,)), "cold", "tier-jobs", "cold_after_days")
    moves = [Move(UUID(int=number), 20, 20, recipe) for number in range(jobs)]
    assert len(split(moves, RelocationPolicy(), run="run")) == pytest.approx(batches, abs=1)


def test_a_batch_of_which_nothing_is_known_is_failed_objects_in_the_report() -> None:
    planned = tiers(job(group("original")), job(group("hls_720p", objects=300), number=2))
    batches = split(planned.moves, RelocationPolicy(batch_objects=1), run="r")
    lost = [given_up(batch, planned.moves, "the server is gone") for batch in batches]
    report = report_moves("tier-jobs", planned.plan, sum_up(lost), saved=False)
    assert [(one.result, one.objects, one.error) for one in report.outcomes] == [
        ("failed", 0, "1 objects were not moved; the server is gone"),
        ("failed", 0, "300 objects were not moved; the server is gone"),
    ]
