"""What tests of relocation share: what is moved, and what became of it."""

from __future__ import annotations

from blocks.catalog import CatalogDatabase
from blocks.catalog.content import Content
from blocks.catalog.moving import Wanted, objects_of
from blocks.policies import RelocationPolicy
from tasks.relocation.relocate import Relocated, Why
from tasks.stores import OpenLocation
from tasks.sweeping import Sweep
from tests.helpers import execute, rows

POLICY = RelocationPolicy()
WHY = Why("tier-jobs", "cold_after_days", "the run")
MIB = 1024**2


def everything(catalog: CatalogDatabase, *, states: tuple[str, ...] = ("live",)) -> list[Content]:
    jobs = [row.id for row in rows(catalog, "SELECT id FROM jobs")]
    places = tuple(row.id for row in rows(catalog, "SELECT id FROM locations"))
    return catalog.transaction(lambda connection: objects_of(connection, jobs, Wanted(places, states=states)))


def results(outcomes: list[Relocated]) -> dict[str, int]:
    found = [one.result for one in outcomes]
    return {result: found.count(result) for result in sorted(set(found))}


def sweep_of(catalog: CatalogDatabase, *locations: OpenLocation) -> Sweep:
    return Sweep(catalog, locations, run="the next run")


def end_urls(catalog: CatalogDatabase) -> None:
    execute(catalog, "UPDATE relocations SET release_after = now() - interval '1 s' WHERE state = 'swapped'")
