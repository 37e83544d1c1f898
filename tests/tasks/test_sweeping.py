"""A store that fails in the middle of a night is left out, and said to be: the others have their turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from blocks.catalog import CatalogDatabase
from blocks.errors import CatalogUnavailableError, LockLostError, NotFoundError, RefusedError, StoreUnavailableError
from blocks.object_store.transfer import put_bytes
from blocks.policies import RetentionPolicy
from tasks.plans import Item, Plan
from tasks.relocation.relocate import relocate
from tasks.relocation.rewriting import Target
from tasks.removal import cleanup
from tasks.removal.cleanup import apply_cleanup, find_due
from tasks.removal.cleanup_plan import plan_cleanup
from tasks.removal.lifecycle import apply_all, plan_all
from tasks.stores import OpenLocation
from tasks.sweeping import Sweep
from tests.helpers import execute, one, stored_keys
from tests.tasks.relocation.moves import POLICY as MOVES
from tests.tasks.relocation.moves import WHY, everything
from tests.wires import Clock, wired

POLICY = RetentionPolicy()


@pytest.fixture
def sweep(catalog: CatalogDatabase, location: OpenLocation, cold: OpenLocation, monkeypatch, tmp_path) -> Sweep:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return Sweep(catalog, (location, cold), run="the run")


@pytest.fixture
def behind(sweep: Sweep, cold: OpenLocation) -> Iterator[Sweep]:
    """The same, and the cold store's clock is wrong."""
    with wired(cold.store, Clock(timedelta(days=30))) as store:
        yield replace(sweep, locations=(sweep.locations[0], replace(cold, store=store)))


def gone(location: OpenLocation) -> OpenLocation:
    return replace(location, store=location.store.model_copy(update={"bucket": "gone"}))


def fail(catalog: CatalogDatabase) -> None:
    execute(catalog, "UPDATE jobs SET status = 'failed', updated_at = now() - interval '8 days'")


def test_a_wrong_clock_keeps_no_other_store_from_its_night(
    behind: Sweep, catalog: CatalogDatabase, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    new_job(b"content")
    fail(catalog)
    facts = find_due(behind, POLICY)
    assert [place.place for place in facts.places] == ["main"]
    plan = plan_cleanup(facts)
    assert not apply_cleanup(behind, POLICY, facts, plan).failed
    assert stored_keys(location) == []
    assert isinstance(behind.left_out["cold"], RefusedError)


def test_a_store_that_is_gone_between_plan_and_removal(
    sweep: Sweep, catalog: CatalogDatabase, location: OpenLocation, cold: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    """What was claimed there stays released, for the next night."""
    kept, removed = new_job(b"in the cold store"), new_job(b"in the hot one")
    execute(
        catalog,
        "UPDATE stored_objects SET location_id = :place WHERE job_id = :id",
        place=cold.place.id, id=kept,
    )  # fmt: skip
    fail(catalog)
    facts = find_due(sweep, POLICY)
    late = replace(sweep, locations=(location, gone(cold)))
    report = apply_cleanup(late, POLICY, facts, plan_cleanup(facts))
    freed = {outcome.item.subject: outcome.objects for outcome in report.outcomes}
    assert freed == {str(kept): 0, str(removed): 1}
    assert list(late.left_out) == ["cold"]
    state = "SELECT state FROM stored_objects WHERE job_id = :id"
    assert one(catalog, state, id=kept) == "purging"


def test_a_store_that_is_gone_when_its_old_files_would_go(
    sweep: Sweep, location: OpenLocation, cold: OpenLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last thing that is done in a store: what went is told as gone, and what the others have is removed."""
    for place, names in ((location, "ab"), (cold, "c")):
        for name in names:
            put_bytes(place.store, f"probe/{name}", b"1", {})
    policy = POLICY.model_copy(update={"probe_days": -1})
    facts = find_due(sweep, policy)
    plan = plan_cleanup(facts)
    assert {item.place for item in plan.items} == {"main", "cold"}
    aged, begun = cleanup.remove_aged, []

    def away(catalog, place, *arguments, **options):  # type: ignore[no-untyped-def]
        begun.append(place.place.name)
        if begun[-1] == "main" and begun.count("main") == 2:
            raise StoreUnavailableError("it is down")
        return aged(catalog, place, *arguments, **options)

    monkeypatch.setattr(cleanup, "remove_aged", away)
    monkeypatch.setattr(cleanup, "MOST_KEYS", 1)
    report = apply_cleanup(sweep, policy, facts, plan)
    assert {one.item.subject: (one.result, one.error) for one in report.outcomes} == {
        "probe/a": ("done", ""), "probe/b": ("failed", "main was left out: it is down"), "probe/c": ("done", ""),
    }  # fmt: skip
    assert (stored_keys(location, "probe"), stored_keys(cold, "probe")) == (["probe/b"], [])
    assert list(sweep.left_out) == ["main"]


def test_intents_of_a_store_that_is_left_out_wait(
    behind: Sweep, catalog: CatalogDatabase, location: OpenLocation, cold: OpenLocation, locations, new_job
) -> None:  # type: ignore[no-untyped-def]
    new_job(b"moved out of the cold store")
    relocate(catalog, locations, MOVES, everything(catalog), Target(cold), WHY)
    relocate(catalog, locations, MOVES, everything(catalog), Target(location), WHY)
    execute(catalog, "UPDATE relocations SET release_after = now() - interval '1 day' WHERE state = 'swapped'")
    facts = find_due(behind, POLICY)
    assert {one.location_id for one in facts.intents} == {location.place.id}
    report = apply_cleanup(behind, POLICY, facts, plan_cleanup(facts))
    assert [one.result for one in report.outcomes if one.item.action == "finish intents"] == ["done"]


def test_bytes_given_up_before_in_a_store_that_is_gone(
    sweep: Sweep, catalog: CatalogDatabase, location: OpenLocation, cold: OpenLocation, new_job
) -> None:  # type: ignore[no-untyped-def]
    new_job(b"given up")
    execute(catalog, "UPDATE stored_objects SET state = 'purging', location_id = :cold", cold=cold.place.id)
    facts = find_due(sweep, POLICY)
    late = replace(sweep, locations=(location, gone(cold)))
    (outcome,) = apply_cleanup(late, POLICY, facts, plan_cleanup(facts)).outcomes
    assert (outcome.item.action, outcome.result) == ("remove bytes", "failed")
    assert outcome.error.startswith("cold was left out: ")


def test_rules_of_the_others_are_written(sweep: Sweep, location: OpenLocation, cold: OpenLocation) -> None:
    half = replace(sweep, locations=(location, gone(cold)))
    plan = plan_all(half, POLICY, {})
    assert {item.place for item in plan.items} == {"main"}
    assert not apply_all(half, POLICY, plan).failed
    assert isinstance(half.left_out["cold"], NotFoundError)


def test_an_erasure_looks_into_every_store(sweep: Sweep, catalog: CatalogDatabase, new_job) -> None:  # type: ignore[no-untyped-def]
    from tasks.removal.deletion import apply_erasure

    job, owner = new_job(b"content"), one(catalog, "SELECT id FROM api_keys")
    sweep.left_out["cold"] = StoreUnavailableError("it is down")
    with pytest.raises(RefusedError, match="and cold is not open"):
        apply_erasure(sweep, Plan("delete-jobs", (Item("erase job", "purge_now", str(job), "", owner=owner),)))


def test_a_night_without_any_store_is_none(sweep: Sweep, location: OpenLocation, cold: OpenLocation) -> None:
    with pytest.raises(NotFoundError):
        find_due(replace(sweep, locations=(gone(location), gone(cold))), POLICY)


@pytest.mark.parametrize("error", [CatalogUnavailableError("down"), LockLostError("cut")])
def test_what_is_no_stores_fault_ends_the_run(sweep: Sweep, error: Exception) -> None:
    def look(location: OpenLocation) -> None:
        raise error

    with pytest.raises(type(error)):
        sweep.each(look)
    assert sweep.left_out == {}
