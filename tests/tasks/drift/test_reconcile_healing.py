"""What carries a row's id and its bytes heals the row, wherever it lies, and is no orphan before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from blocks.errors import RefusedError
from blocks.object_store.copying import copy
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import put_bytes
from tasks.drift import reconcile, repairs
from tasks.stores import OpenLocation
from tasks.sweeping import Sweep
from tests.helpers import assert_sound, execute, rows, stored_keys
from tests.tasks.drift.drifting import key_of, look, run, state_of


@pytest.fixture
def moved(sweep: Sweep, location: OpenLocation, declare, new_job: Callable[[bytes], UUID]) -> OpenLocation:  # type: ignore[no-untyped-def]
    """Another place, where the only row lies by now; the bytes that it had before are still at home."""
    new_job(b"content")
    far: OpenLocation = declare("far")
    (row,) = rows(sweep.catalog, "SELECT id, key, sha256, size_bytes FROM stored_objects")
    known = {"object-id": str(row.id), "sha256": row.sha256}
    for store, key in ((far.store, row.key), (location.store, f"{row.key}.before")):
        copy(location.store, row.key, store, key, size_bytes=row.size_bytes, attributes=known)
    delete_keys(location.store, [row.key])
    execute(sweep.catalog, "UPDATE stored_objects SET location_id = :far", far=far.place.id)
    return far


def test_a_place_that_has_no_rows_any_more_stops_nobody(
    sweep: Sweep, location: OpenLocation, moved: OpenLocation
) -> None:
    plan, report = run(replace(sweep, locations=(location, moved)))
    assert [(item.action, item.place) for item in plan.items] == [("remove orphan", "main")]
    assert not report.failed
    assert stored_keys(location) == []
    assert_sound(sweep.catalog, location, moved)


def test_a_row_is_healed_from_another_place_before_anything_is_removed_there(
    sweep: Sweep, location: OpenLocation, moved: OpenLocation
) -> None:
    delete_keys(moved.store, stored_keys(moved))
    put_bytes(moved.store, "processed/something", b"so that it lists something", {})
    plan, report = run(replace(sweep, locations=(location, moved)))
    assert sorted(item.action for item in plan.items) == ["heal row", "mark missing", "remove orphan"]
    assert not report.failed, report.outcomes
    (row,) = rows(sweep.catalog, "SELECT state, location_id FROM stored_objects")
    assert tuple(row) == ("live", location.place.id)
    assert run(replace(sweep, locations=(location, moved)))[0].objects == 1, "the orphan it was healed from"
    assert_sound(sweep.catalog, location, moved)


def test_what_carries_the_id_of_a_row_elsewhere_stays_where_only_one_place_is_looked_at(
    sweep: Sweep, location: OpenLocation, moved: OpenLocation
) -> None:
    delete_keys(moved.store, stored_keys(moved))
    before = stored_keys(location)
    plan, _ = run(sweep)
    assert (plan.items, [item.rule for item in plan.skipped]) == ((), ["orphan_grace_hours"])
    assert plan.skipped[0].because.endswith("in a store that this run has not looked through whole")
    assert stored_keys(location) == before


def test_what_carries_a_rows_id_stays_where_more_is_missing_than_is_told(
    sweep: Sweep, location: OpenLocation, moved: OpenLocation, new_job: Callable[[bytes], UUID],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Whether its row is among those that lost their bytes is not known: it may be the only copy."""
    monkeypatch.setattr(reconcile, "MOST_FINDINGS", 1)
    before = stored_keys(location)
    new_job(b"so that home lists something that is expected")
    for number in range(5):
        put_bytes(moved.store, f"processed/{UUID(int=number)}/nobody's", b"1", {})
    execute(
        sweep.catalog,
        "INSERT INTO stored_objects (id, job_id, api_key_id, kind, name, location_id, key, size_bytes, stored_bytes, "
        "  sha256, state) "
        "SELECT gen_random_uuid(), job_id, api_key_id, 'audio', n::text, location_id, "
        "       'processed/' || job_id || '/' || n, 1, 1, sha256, 'live' "
        "  FROM stored_objects, generate_series(1, 5) n WHERE location_id = :far",
        far=moved.place.id,
    )
    # Written anew, it comes behind the others.
    rewritten = "UPDATE stored_objects SET etag = NULL WHERE kind = 'original' AND location_id = :far"
    execute(sweep.catalog, rewritten, far=moved.place.id)
    delete_keys(moved.store, [key for key in stored_keys(moved) if "nobody" not in key])
    found = look(replace(sweep, locations=(location, moved)))
    assert [one.what for one in found[0].findings] == ["spare"]
    run(replace(sweep, locations=(location, moved)))
    assert set(before) <= set(stored_keys(location))


def test_one_of_thousands_that_heals_has_its_turn(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More orphans than one run looks at, all of them before it in the order of keys."""
    monkeypatch.setattr(reconcile, "MOST_FINDINGS", 3)
    job = new_job(b"content")
    (row,) = rows(sweep.catalog, "SELECT id, key, sha256, size_bytes FROM stored_objects")
    known = {"object-id": str(row.id), "sha256": row.sha256}
    copy(location.store, row.key, location.store, f"{row.key}.x", size_bytes=row.size_bytes, attributes=known)
    delete_keys(location.store, [row.key])
    for number in range(5):
        put_bytes(location.store, f"processed/{UUID(int=number)}/newer", b"1", {})
    (found,) = look(sweep)
    assert [one.what for one in found.findings] == ["missing", "healing", "orphan", "orphan"]
    assert found.uncounted == 3
    run(sweep)
    assert state_of(sweep.catalog, job) == "live"


def test_a_lying_orphan_heals_nothing(sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID]) -> None:
    job = new_job(b"content")
    ((object_id, sha256),) = rows(sweep.catalog, "SELECT id, sha256 FROM stored_objects")
    delete_keys(location.store, [key_of(sweep.catalog, job)])
    attributes = {"object-id": str(object_id), "sha256": sha256}
    put_bytes(location.store, f"processed/{job}/raw/other.mp4", b"CONTENT", attributes)
    _, report = run(sweep)
    assert [outcome.error for outcome in report.outcomes if outcome.item.action == "heal row"] == [
        "its bytes are not those of the row whose id it carries"
    ]
    assert state_of(sweep.catalog, job) == "missing"


def test_one_that_is_refused_keeps_no_other_from_being_healed(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [new_job(content) for content in (b"one", b"two", b"three")]
    for row in rows(sweep.catalog, "SELECT id, key, sha256, size_bytes FROM stored_objects"):
        known = {"object-id": str(row.id), "sha256": row.sha256}
        copy(location.store, row.key, location.store, f"{row.key}.x", size_bytes=row.size_bytes, attributes=known)
        delete_keys(location.store, [row.key])
    heal, refused = repairs.heal, min(jobs)

    def heal_most(*arguments: Any, **options: Any) -> None:
        if arguments[3].job_id == refused:
            raise RefusedError("not this one")
        heal(*arguments, **options)

    monkeypatch.setattr(repairs, "heal", heal_most)
    _, report = run(sweep)
    assert {job: state_of(sweep.catalog, job) for job in jobs} == {
        job: "missing" if job == refused else "live" for job in jobs
    }
    assert [one.error for one in report.outcomes if one.item.action == "heal row" and one.error.startswith("not")] == [
        "not this one"
    ]
