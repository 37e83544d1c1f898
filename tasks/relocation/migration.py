"""Moving a location's objects to another bucket or server, pass by pass until nothing new is left behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection

from blocks.catalog import CatalogDatabase
from blocks.catalog.clock import catalog_now
from blocks.catalog.customers import find_customer
from blocks.catalog.locations import send_new_files
from blocks.catalog.moving import PlacedJob, Wanted, jobs_in_places, unmovable
from blocks.catalog.selection import MOST_JOBS, JobFilter
from blocks.errors import InvalidInputError, RefusedError
from tasks.checks import check_age_days, check_job_id, check_kind
from tasks.plans import Item, Plan
from tasks.relocation.moving import BatchMoved, Move, Recipe, sum_up
from tasks.stores import OpenLocation

OPERATION = "migrate-storage"
_FIRST = (0, UUID(int=0))


@dataclass(frozen=True)
class Migration:
    """What is to be moved, from where to where; an empty filter is everything."""

    source: OpenLocation
    target: OpenLocation
    api_key: str = ""
    job_ids: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    older_than_days: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out."""
        return not (self.api_key or self.job_ids or self.kinds or self.older_than_days is not None)

    @property
    def replaces(self) -> bool:
        """Whether the target takes the source's place. An archive that is emptied is none for new files to come to."""
        return self.is_whole and self.source.place.tier == self.target.place.tier

    @property
    def scope(self) -> str:
        """The same text for the same wish: a newer plan of it overtakes an older request."""
        ids, kinds = ",".join(sorted(self.job_ids)), ",".join(sorted(self.kinds))
        older = "" if self.older_than_days is None else self.older_than_days
        return f"{self.api_key} {ids} {kinds} {older}".strip()

    def wanted(self) -> Wanted:
        """Every object that has bytes, in the trash or not."""
        kinds = tuple(check_kind(kind).value for kind in self.kinds)
        return Wanted((self.source.place.id,), kinds or None, states=("live", "trashed"))

    def recipe(self) -> Recipe:
        """As it is stored, to the target."""
        return Recipe(self.wanted(), self.target.place.name, OPERATION, "migrate")


@dataclass(frozen=True)
class MigrationFacts:
    """Jobs with objects in the source; of `unmovable` rows there are no sound bytes. `more`: one pass takes no more."""

    jobs: tuple[PlacedJob, ...]
    unmovable: tuple[tuple[str, int], ...] = ()
    more: bool = False


def check_migration(migration: Migration) -> Migration:
    """The same, if it can be done.

    Raises:
        InvalidInputError: source and target are one, or a filter is none.
        RefusedError: the source has to restore its objects before they can be read.
    """
    if migration.source.place.id == migration.target.place.id:
        raise InvalidInputError(f"{migration.source.place.name} is both where from and where to")
    if migration.source.place.needs_restore:
        raise RefusedError(
            f"location {migration.source.place.name} has to restore its objects before they can be read: bring single "
            "jobs back with rehydrate-job"
        )
    for one in migration.job_ids:
        check_job_id(one)
    check_age_days(migration.older_than_days)
    migration.wanted()
    return migration


def find_jobs(catalog: CatalogDatabase, migration: Migration) -> MigrationFacts:
    """What lies in the source by now."""

    def read(connection: Connection) -> MigrationFacts:
        customer = find_customer(connection, migration.api_key).id if migration.api_key else None
        days = migration.older_than_days
        chosen = JobFilter(
            job_ids=tuple(check_job_id(one) for one in migration.job_ids) or None,
            customer_id=customer,
            created_before=catalog_now(connection) - timedelta(days=days) if days is not None else None,
        )
        wanted = migration.wanted()
        jobs = jobs_in_places(connection, wanted, chosen, after=_FIRST, most=MOST_JOBS + 1)
        left = unmovable(connection, migration.source.place.id) if migration.is_whole else []
        return MigrationFacts(tuple(jobs[:MOST_JOBS]), tuple(left), len(jobs) > MOST_JOBS)

    return catalog.transaction(read)


def plan_migration(facts: MigrationFacts, migration: Migration) -> tuple[Plan, tuple[Move, ...]]:
    """An item for each job; jobs on hold stay, and so do objects without sound bytes. Pure."""
    target, recipe = migration.target.place.name, migration.recipe()
    items: list[Item] = []
    skipped: list[Item] = []
    for job in facts.jobs:
        item = Item(
            f"move to {target}", "migrate", str(job.id), f"lies in {migration.source.place.name}", job.customer,
            job.objects, job.stored_bytes, owner=job.customer_id, place=target,
        )  # fmt: skip
        if job.hold is None:
            items.append(item)
        else:
            skipped.append(replace(item, because=f"on hold: {job.hold}"))
    skipped += [
        Item("leave", state, f"{count} objects are {state}", _LEFT.get(state, ""), objects=count)
        for state, count in facts.unmovable
    ]
    found = {job.id for job in facts.jobs}
    asked = () if facts.more else dict.fromkeys(check_job_id(one) for one in migration.job_ids)
    because = f"no such job, or nothing in {migration.source.place.name} of what is asked for"
    skipped += [Item("leave", "migrate", str(one), because) for one in asked if one not in found]
    if facts.more:
        skipped.append(
            Item("leave", "migrate", "more jobs", f"one pass takes {MOST_JOBS}; the next one takes the rest")
        )
    moving = {UUID(item.subject) for item in items}
    moves = tuple(Move(job.id, job.objects, job.stored_bytes, recipe) for job in facts.jobs if job.id in moving)
    return Plan(OPERATION, tuple(items), tuple(skipped)), moves


_LEFT = {
    "missing": "they have no bytes: reconcile-quota heals what it can",
    "corrupt": "their bytes are not their content: verify-objects says what could heal them",
    "pending": "they are being written at this moment: a later pass takes them",
    "purging": "they are released: cleanup removes them",
}


def take_over(catalog: CatalogDatabase, migration: Migration) -> None:
    """New files go to the target from now on."""
    source, target = migration.source.place.id, migration.target.place.id
    catalog.transaction(lambda connection: send_new_files(connection, [source], target))


def tried_in_vain(results: Sequence[BatchMoved]) -> list[UUID]:
    """Jobs that a later pass of the same run leaves alone; what changed meanwhile, such as by a deletion, it takes."""
    return [job_id for job_id, job in sum_up(results).items() if job.failed or not (job.moved or job.changed)]


def fresh_jobs(facts: MigrationFacts, done: Sequence[UUID]) -> MigrationFacts:
    """What a later pass has to do: jobs that are not on hold, and were not tried in vain already."""
    tried = set(done)
    return MigrationFacts(tuple(job for job in facts.jobs if job.id not in tried and job.hold is None), (), facts.more)
