"""The flow `reconcile-quota`."""

from __future__ import annotations

from datetime import timedelta

from prefect import flow, task
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture

from blocks.catalog import drift
from blocks.loading import load_block
from blocks.policies import IntegrityPolicy, SafetyPolicy
from flows.common.batches import RUNNER, progress_of, run_batches, unless_terminal
from flows.common.finding import note_drift
from flows.common.opening import open_catalog, reach_stores, reported, show_table
from flows.common.planned import Work, run_planned
from tasks.drift import judge, reconcile
from tasks.drift.compare import JobRange
from tasks.drift.judge import Drift, RangeDrift
from tasks.drift.repairs import apply_repairs
from tasks.plans import Plan, Report
from tasks.stores import OpenLocation, open_named
from tasks.sweeping import Sweep


@flow(
    name="reconcile-quota",
    flow_run_name="reconcile, repair: {repair}",
    task_runner=RUNNER,
    persist_result=True,
    result_serializer="json",
)
@reported
def reconcile_quota(
    repair: bool = True,
    grace_hours: int | None = None,
    stores: list[str] = [],  # noqa: B006 -- an empty list is what the form starts with; nobody changes it
    catalog: str = "main",
    policy: str = "default",
    safety: str = "default",
) -> State[Report]:
    """Hold the catalog against what the store lists, and counters against sums; heal what is provable, report the rest.

    Missing objects are marked, those that came back are read and marked live, a row whose bytes are gone is pointed at
    an orphan that carries its id and hash, counters become the sums of their rows, and an orphan is removed once it is
    older than the grace and still nobody's at that moment. It runs daily. It never removes anything on the word of a
    listing that is empty, broken off or wrong, nor with an empty catalog or in another catalog's bucket.

    Args:
        repair: Off, it reports only.
        grace_hours: Hours an orphan stays; the policy's unless given.
        stores: Names of locations, which for a store of its own is its block's; all unless given.
        catalog: Name of the Catalog Database block.
        policy: Name of the Integrity Policy block.
        safety: Name of the Safety Policy block.
    """
    database = open_catalog(catalog)
    rules = load_block(IntegrityPolicy, policy)
    grace = reconcile.check_grace(grace_hours, rules)

    def plan(sweep: Sweep) -> tuple[Plan, list[Drift]]:
        looked = sweep.each(lambda location: _look_through(sweep, location, rules, catalog, policy, grace))
        found = judge.put_together(database, looked)
        labels = database.transaction(drift.labels)
        show_table("reconcile-drift", judge.explain_drift(found, labels), judge.summary(found))
        note_drift(database, catalog, found)
        return judge.plan_repairs(found, labels), found

    reached = reach_stores(database, stores)
    return run_planned(
        Work(
            operation="reconcile-quota",
            catalog=database,
            locations=reached.locations,
            left_out=reached.left_out,
            caps=load_block(SafetyPolicy, safety),
            plan=plan,
            apply=lambda sweep, found, planned: apply_repairs(sweep, rules, found, planned, grace=grace),
            locked=repair,
            while_frozen=True,
        ),
        dry_run=not repair,
    )


@task(
    name="reconcile-range", task_run_name="{store} {part.number}", retries=2, retry_delay_seconds=5,
    retry_condition_fn=unless_terminal,
)  # fmt: skip
def reconcile_range(part: JobRange, store: str, catalog: str, policy: str, grace_seconds: float) -> RangeDrift:
    """Look through one range of jobs; takes names of blocks, so that it can run on another machine."""
    database = open_catalog(catalog)
    return reconcile.look_through(
        database,
        open_named(database, store),
        load_block(IntegrityPolicy, policy),
        part,
        grace=timedelta(seconds=grace_seconds),
    )


def _look_through(
    sweep: Sweep, location: OpenLocation, rules: IntegrityPolicy, catalog: str, policy: str, grace: timedelta
) -> list[RangeDrift]:
    parts = reconcile.plan_ranges(sweep.catalog, location, rules)
    store = location.place.name

    def submit(number: int) -> PrefectFuture[RangeDrift]:
        return reconcile_range.submit(parts[number], store, catalog, policy, grace.total_seconds())

    with progress_of("reconcile-listing", f"Listing {store}", len(parts)) as progress:
        return run_batches(
            submit, len(parts), at_once=rules.parallel_listings, progress=progress, before_batch=sweep.before_batch
        )
