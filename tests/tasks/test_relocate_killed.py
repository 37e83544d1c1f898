"""SIGKILL before and after every transaction and request of a relocation, in a process of its own; then recovery."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from blocks.catalog import CatalogDatabase
from blocks.policies import RelocationPolicy
from tasks.intents import recover
from tasks.migration import Migration, find_jobs, plan_migration
from tasks.moving import move_batch, split
from tasks.stores import Locations, OpenLocation
from tasks.sweeping import Sweep
from tests.helpers import assert_sound, execute, one, rows, run_elsewhere, stored_keys
from tests.tasks.test_relocate import everything

POLICY = RelocationPolicy(batch_objects=8)
# Every call that changes something or waits for somebody is a point: `at` is the one that the process dies at.
SCRIPT = """
import os, signal
from blocks.catalog import CatalogDatabase
from blocks.policies import RelocationPolicy
from tasks import intents, rewriting
from tasks.migration import Migration, find_jobs, plan_migration
from tasks.moving import move_batch, split
from tasks.stores import Locations
from tasks.sweeping import Sweep

cold = open_location(catalog, store.model_copy(update={{"bucket": {bucket!r}, "prefix": ""}}), "cold")
seen = 0

def point():
    global seen
    seen += 1
    if seen == {at}:
        os.kill(os.getpid(), signal.SIGKILL)

def wrapped(work):
    def run(*arguments, **options):
        point()
        result = work(*arguments, **options)
        point()
        return result
    return run

CatalogDatabase.transaction = wrapped(CatalogDatabase.transaction)
for name in {calls!r}:
    setattr(rewriting, name, wrapped(getattr(rewriting, name)))
intents.delete_keys = wrapped(intents.delete_keys)
locations, policy = Locations(catalog, location, [cold]), RelocationPolicy(batch_objects=8, parallel_transfers=1)
migration = Migration(location, cold)
_, moves = plan_migration(find_jobs(catalog, migration), migration)
for batch in split(moves, policy, run="killed"):
    move_batch(catalog, locations, policy, batch)
if {finish}:
    from sqlalchemy import text
    with catalog.engine.begin() as c:
        c.execute(text("UPDATE relocations SET release_after = now() - interval '1 s' WHERE state = 'swapped'"))
    intents.recover(Sweep(catalog, (location, cold)))
print("through", seen)
"""
COPYING = ("copy_as_it_is", "find_etags")
STREAMING = ("read_bytes", "put_bytes")


def last_point(output: str) -> int:
    return int(output.rsplit(maxsplit=1)[-1])


@pytest.fixture
def die(catalog: CatalogDatabase, location: OpenLocation, cold: OpenLocation) -> Any:
    def run(at: int, *, calls: tuple[str, ...] = COPYING, finish: bool = False) -> Any:
        return run_elsewhere(
            catalog, location, SCRIPT.format(bucket=cold.store.bucket, at=at, calls=calls, finish=finish)
        )

    return run


def recovered(catalog: CatalogDatabase, location: OpenLocation, cold: OpenLocation, objects: int) -> None:
    """The next run finishes: everything is in the target, nothing is left in the source, nothing counts twice."""
    assert_sound(catalog, location, cold)
    sweep = Sweep(catalog, (location, cold), run="the next run")
    recover(sweep)
    migration = Migration(location, cold)
    _, moves = plan_migration(find_jobs(catalog, migration), migration)
    for batch in split(moves, POLICY, run="the next run"):
        move_batch(catalog, Locations(catalog, location, [cold]), POLICY, batch)
    execute(catalog, "UPDATE relocations SET release_after = now() - interval '1 s' WHERE state = 'swapped'")
    recover(sweep)
    assert_sound(catalog, location, cold)
    assert {row.location_id for row in everything(catalog)} == {cold.place.id}
    assert stored_keys(location) == []
    assert len(stored_keys(cold)) == objects, "and nothing is left for good"
    moved = one(catalog, "SELECT count(*) FROM operation_log WHERE operation = 'migrate-storage'")
    assert moved == objects, "each once"
    assert rows(catalog, "SELECT 1 FROM relocations WHERE state <> 'done'") == []


def points(catalog: CatalogDatabase) -> Iterator[int]:
    # The ends of each kind of call, and some in the middle; all of them take minutes.
    yield from (3, 6, *range(10, 50, 10))


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_killed_at_every_step(  # type: ignore[no-untyped-def]
    catalog, location, cold, job: UUID, die, sql, endpoints
) -> None:
    """Each death is followed by the next: nobody tidies up between them, until one comes through."""
    objects = len(everything(catalog))
    survived = 0
    for at in points(catalog):
        result = die(at, finish=True)
        if result.returncode == 0:
            survived += 1
            break
        assert result.returncode == -9, result.stderr
        assert_sound(catalog, location, cold)
    assert survived == 1 or at == 40
    recovered(catalog, location, cold, objects)


@pytest.mark.slow
@pytest.mark.parametrize("calls", [COPYING, STREAMING], ids=["copies", "streams"])
@pytest.mark.parametrize("at", [5, 7, 9])
def test_killed_once_then_the_next_run_finishes(  # type: ignore[no-untyped-def]
    catalog, location, cold, job: UUID, die, calls, at: int
) -> None:
    if calls == STREAMING:
        execute(catalog, "UPDATE stored_objects SET etag = NULL")  # nothing to prove a copy by: it is read
    objects = len(everything(catalog))
    assert die(at, calls=calls).returncode == -9
    recovered(catalog, location, cold, objects)
