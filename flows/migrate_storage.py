"""The flow `migrate-storage`."""

from __future__ import annotations

from datetime import timedelta

from prefect import flow, get_run_logger
from prefect.artifacts import create_link_artifact
from prefect.client.schemas.objects import State

from blocks.catalog import CatalogDatabase
from blocks.loading import load_block
from blocks.object_store.presigning import presign_get
from blocks.policies import SafetyPolicy
from flows.common.batches import RUNNER
from flows.common.opening import open_catalog, reported
from flows.common.planned import Work, run_planned
from flows.common.relocating import Blocks, name_blocks, run_moves
from tasks.plans import Plan, Report
from tasks.relocation.intents import recover
from tasks.relocation.migration import (
    Migration,
    MigrationFacts,
    check_migration,
    find_jobs,
    fresh_jobs,
    plan_migration,
    take_over,
    tried_in_vain,
)
from tasks.relocation.moving import BatchMoved, Move, collect_records, forget_changed, report_moves, sum_up
from tasks.stores import open_named
from tasks.sweeping import Sweep

MOST_PASSES = 20
RECORDS_LAST = timedelta(days=7)
Found = tuple[MigrationFacts, tuple[Move, ...]]


@flow(
    name="migrate-storage",
    flow_run_name="migrate {from_location} to {to_location}, dry run: {dry_run}",
    task_runner=RUNNER,
    persist_result=True,
    result_serializer="json",
)
@reported
def migrate_storage(
    from_location: str,
    to_location: str,
    api_key: str = "",
    job_ids: list[str] = [],  # noqa: B006 -- an empty list is what the form starts with; nobody changes it
    kinds: list[str] = [],  # noqa: B006 -- as above
    older_than_days: int | None = None,
    new_files: bool | None = None,
    dry_run: bool = True,
    catalog: str = "main",
    relocation: str = "default",
    safety: str = "default",
) -> State[Report]:
    """Move a location's objects to another bucket or another server, while the platform keeps serving them.

    Each object is copied under a fresh key, proved there by its SHA-256, and only then its row points at the new
    place; the old bytes go when the last URL for them has ended. Passes follow each other until nothing new is left
    behind. A run that was killed is taken up by the next, from the rows. The way back is the same flow with the
    locations swapped. It shows its plan unless dry_run is turned off, and a record of every object is written to
    reports/ in the target. It never touches a job on hold, and never overwrites anything.

    Args:
        from_location: Location to move from.
        to_location: Location to move to; declare it with probe-store first.
        api_key: Label or id of the customer whose jobs are meant; all unless given.
        job_ids: Ids of jobs; all unless given.
        kinds: Kinds of objects; all unless given.
        older_than_days: Jobs made longer ago than this only.
        new_files: Whether new files go to the target from now on. Unless given: yes where all of a location is moved to
            one of the same tier, no otherwise.
        dry_run: Show the plan and change nothing; turn it off to move.
        catalog: Name of the Catalog Database block.
        relocation: Name of the Relocation Policy block.
        safety: Name of the Safety Policy block.
    """
    database = open_catalog(catalog)
    source, target = open_named(database, from_location), open_named(database, to_location)
    migration = check_migration(Migration(source, target, api_key, tuple(job_ids), tuple(kinds), older_than_days))
    blocks = name_blocks(catalog, relocation, to_location)

    def plan(_: Sweep) -> tuple[Plan, Found]:
        facts = find_jobs(database, migration)
        planned, moves = plan_migration(facts, migration)
        return planned, (facts, moves)

    def apply(sweep: Sweep, found: Found, planned: Plan) -> Report:
        facts, moves = found
        if migration.replaces if new_files is None else new_files:
            take_over(database, migration)
        results, whole = _passes(sweep, database, migration, blocks, moves, planned, again=not facts.more)
        _show_records(sweep, migration, results)
        notes = ("run it again for the rest",) if facts.more else ()
        return report_moves("migrate-storage", whole, sum_up(results), saved=False, notes=notes)

    return run_planned(
        Work(
            operation="migrate-storage",
            catalog=database,
            locations=(source, target),
            caps=load_block(SafetyPolicy, safety),
            prepare=recover,
            plan=plan,
            apply=apply,
            scope=migration.scope,
        ),
        dry_run=dry_run,
    )


def _passes(
    sweep: Sweep,
    catalog: CatalogDatabase,
    migration: Migration,
    blocks: Blocks,
    moves: tuple[Move, ...],
    planned: Plan,
    *,
    again: bool,
) -> tuple[list[BatchMoved], Plan]:
    """What was planned, and then what arrived meanwhile: new jobs, or new objects of jobs that were moved."""
    records = f"reports/{migration.recipe().operation}/{sweep.run}"
    results, items = run_moves(sweep, moves, blocks, records=records), list(planned.items)
    # What was left out of the plan was not approved with it: only what came since then is followed.
    for number in range(1, MOST_PASSES if again else 1):
        plan, more = plan_migration(fresh_jobs(find_jobs(catalog, migration), tried_in_vain(results)), migration)
        if not more:
            break
        get_run_logger().info("pass %s: %s", number + 1, plan.summary())
        known = {item.subject for item in items}
        items += [item for item in plan.items if item.subject not in known]
        forget_changed(results, more)
        results += run_moves(sweep, more, blocks, records=records, first=len(results))
    return results, Plan(planned.operation, tuple(items), planned.skipped)


def _show_records(sweep: Sweep, migration: Migration, results: list[BatchMoved]) -> None:
    if not results:
        return
    location = migration.target
    key = collect_records(location, results, f"reports/{migration.recipe().operation}/{sweep.run}.csv")
    create_link_artifact(
        key="migrate-storage-records",
        link=presign_get(location.store, key, RECORDS_LAST, filename=f"migration-{sweep.run}.csv"),
        link_text="what became of every object",
        description=f"{key} in {location.place.name}; the link works for {RECORDS_LAST.days} days",
    )
