"""One bucket that is several locations, told apart by storage class: the server moves objects too, and rows follow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from blocks.catalog import CatalogDatabase
from blocks.catalog.locations import Declaration, find_place, list_places
from blocks.object_store.copying import copy
from blocks.object_store.listing import list_range
from blocks.object_store.transfer import put_bytes, read_bytes
from tasks.declaring import probe_store, retire_location
from tasks.relocation.rehydrate import rehydrate_job
from tasks.relocation.relocate import relocate
from tasks.relocation.rewriting import Target
from tasks.stores import Locations, OpenLocation
from tasks.sweeping import Sweep
from tests.helpers import assert_sound, one, rows
from tests.tasks.drift.drifting import key_of, look, run
from tests.tasks.relocation.moves import POLICY, WHY, everything, results


@pytest.fixture
def colder(catalog: CatalogDatabase, location: OpenLocation) -> OpenLocation:
    """The same bucket and prefix under another storage class."""
    made = probe_store(
        catalog, location.store, "main", location="colder", storage_class="STANDARD_IA", said=Declaration(tier="warm")
    )
    return replace(made, place=catalog.transaction(lambda connection: find_place(connection, "colder")))


def again(catalog: CatalogDatabase, location: OpenLocation) -> OpenLocation:
    """As whoever opens it by now."""
    return replace(location, place=catalog.transaction(lambda connection: find_place(connection, location.place.name)))


def transition(location: OpenLocation, key: str, storage_class: str) -> None:
    """What a bucket's rule does at midnight: the same bytes under the same key, in another class."""
    content = read_bytes(location.store, key, at_most=1000)
    put_bytes(location.store, key, content, {"Storage-Class": storage_class})


def test_a_row_follows_its_object_into_a_class(
    catalog: CatalogDatabase, location: OpenLocation, colder: OpenLocation, new_job
) -> None:  # type: ignore[no-untyped-def]
    moved, stays = new_job(b"moved by the server"), new_job(b"left where it was")
    before = dict(rows(catalog, "SELECT job_id, generation FROM stored_objects"))
    transition(location, key_of(catalog, moved), "STANDARD_IA")
    sweep = Sweep(catalog, (again(catalog, location),), run="the night")
    plan, report = run(sweep)
    assert [(item.action, item.rule, item.objects) for item in plan.items] == [("follow class", "transition_days", 0)]
    assert not report.failed
    found = rows(catalog, "SELECT job_id, location_id, relocated_at IS NOT NULL, generation FROM stored_objects")
    rest = {job: (place, dated, generation > before[job]) for job, place, dated, generation in found}
    # How long it has been in a class, which has its shortest time, counts from here.
    assert rest == {moved: (colder.place.id, True, True), stays: (location.place.id, False, False)}
    said = one(catalog, "SELECT before || after FROM operation_log WHERE operation = 'follow-transition'")
    assert said["location"] == "colder"
    assert run(sweep)[0].items == ()
    assert_sound(catalog, location)


def test_a_class_that_nobody_declared_is_told(
    catalog: CatalogDatabase, location: OpenLocation, colder: OpenLocation, new_job
) -> None:  # type: ignore[no-untyped-def]
    job = new_job(b"moved by somebody's rule")
    transition(location, key_of(catalog, job), "ONEZONE_IA")
    plan, _ = run(Sweep(catalog, (again(catalog, location),), run="the night"))
    assert plan.items == ()
    assert [item.because for item in plan.skipped] == [
        "lies in class ONEZONE_IA, for which no location is declared in this bucket"
    ]


def test_what_comes_out_of_a_class_stays_out_of_it(catalog, location, colder, job) -> None:  # type: ignore[no-untyped-def]
    """Small objects and large ones, by each way of copying: the next reconciliation does not send the rows back."""
    main = again(catalog, location)
    places = Locations(catalog, main, [colder])
    moved = relocate(catalog, places, POLICY, everything(catalog), Target(colder), WHY)
    assert results(moved) == {"moved": 17}
    report = rehydrate_job(catalog, places, POLICY, job_id=job)
    assert len(report.moved) == 17
    (drifted,) = look(Sweep(catalog, (main,), run="night"))
    assert [one.what for one in drifted.findings if one.what == "transition"] == []


def test_a_copy_says_its_class(location: OpenLocation) -> None:
    put_bytes(location.store, "temp/a", b"abc", {"Storage-Class": "STANDARD_IA"})
    copy(location.store, "temp/a", location.store, "temp/b", size_bytes=3, attributes={})
    classes = {
        one.key: one.storage_class for one in list_range(location.store, "temp", after="", until=None, classes=True)
    }
    assert classes == {"temp/a": "STANDARD_IA", "temp/b": ""}


def test_a_class_of_a_bucket_is_retired_by_itself(catalog, location, colder, job, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("tasks.declaring.open_named", lambda *_: colder)
    retire_location(catalog, "colder")
    assert [place.name for place in catalog.transaction(list_places)] == ["main"]
