"""Intents that somebody left: who may finish them, and how many at once."""

from __future__ import annotations

import pytest

from blocks.object_store.transfer import put_bytes
from blocks.policies import RetentionPolicy
from tasks.relocation import intents, relocate
from tasks.relocation.intents import recover
from tasks.relocation.rewriting import Target
from tasks.removal.cleanup import apply_cleanup, find_due
from tasks.removal.cleanup_plan import plan_cleanup
from tests.helpers import execute, one, rows, stored_keys
from tests.tasks.relocation.moves import POLICY, WHY, end_urls, everything, sweep_of


@pytest.mark.parametrize("state", ["open", "swapped", "failed"])
def test_recovery_is_for_the_holder_of_the_lock(catalog, location, cold, locations, job, state: str) -> None:  # type: ignore[no-untyped-def]
    move_one = everything(catalog)[:1]
    relocate.relocate(catalog, locations, POLICY, move_one, Target(cold), WHY)
    execute(
        catalog, "UPDATE relocations SET state = :state, release_after = now() - interval '1 s', "
        "key = CASE WHEN :state = 'swapped' THEN key ELSE key || 'x' END", state=state,
    )  # fmt: skip
    key = one(catalog, "SELECT CASE state WHEN 'swapped' THEN old_key ELSE key END FROM relocations")
    lies = location if state == "swapped" else cold
    put_bytes(lies.store, key, b"x", {})
    assert recover(sweep_of(catalog, cold if lies is location else location)).objects == 0
    assert recover(sweep_of(catalog, lies)).objects == 1
    assert key not in stored_keys(lies)
    assert one(catalog, "SELECT state FROM relocations") == "done"


def test_lockless_writers_are_left_to_cleanup(catalog, location, cold, locations, job) -> None:  # type: ignore[no-untyped-def]
    (row, *_) = everything(catalog)
    execute(
        catalog, "INSERT INTO relocations (id, object_id, job_id, generation, operation, location_id, key) "
        "VALUES (gen_random_uuid(), :id, :job, 1, 'rehydrate-job', :place, 'processed/x')",
        id=str(row.id), job=str(job), place=location.place.id,
    )  # fmt: skip
    recover(sweep_of(catalog, location))
    assert one(catalog, "SELECT state FROM relocations") == "open"


def test_cleanup_finishes_a_thousand_intents_at_once(  # type: ignore[no-untyped-def]
    catalog, location, cold, locations, job, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    moved = relocate.relocate(catalog, locations, POLICY, everything(catalog), Target(cold), WHY)
    end_urls(catalog)
    requests: list[int] = []
    real = intents.delete_keys
    monkeypatch.setattr(intents, "delete_keys", lambda store, keys: requests.append(len(keys)) or real(store, keys))
    sweep = sweep_of(catalog, location, cold)
    facts = find_due(sweep, RetentionPolicy())
    plan = plan_cleanup(facts)
    assert [(item.rule, item.objects) for item in plan.items] == [("old_bytes_minutes", 0)]
    report = apply_cleanup(sweep, RetentionPolicy(), facts, plan)
    assert (report.objects, requests) == (len(moved), [len(moved)])
    assert stored_keys(location) == []
    execute(catalog, "UPDATE relocations SET created_at = now() - interval '31 days'")
    apply_cleanup(
        sweep, RetentionPolicy(), find_due(sweep, RetentionPolicy()), plan_cleanup(find_due(sweep, RetentionPolicy()))
    )
    assert rows(catalog, "SELECT 1 FROM relocations") == []
