"""The flow `verify-objects`."""

from __future__ import annotations

from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Completed

from blocks.catalog import CatalogDatabase
from blocks.catalog.locations import list_places
from blocks.errors import StorageError
from blocks.loading import load_block
from blocks.policies import IntegrityPolicy
from flows.common.batches import RUNNER, progress_of, run_batches
from flows.common.finding import note_unsound
from flows.common.opening import open_catalog, reported, run_label, show_table
from flows.common.planned import SHOWN
from tasks.drift import verify
from tasks.drift.verify import BatchResult, VerifyReport
from tasks.stores import open_named

AT_ONCE = 2
"""Batches that are read at the same time; each has the policy's transfers under way."""


def _run_name() -> str:
    return f"verify {', '.join(flow_run.parameters.get('kinds') or []) or 'all kinds'}"


@flow(name="verify-objects", flow_run_name=_run_name, task_runner=RUNNER, persist_result=True)
@reported
def verify_objects(
    share: float | None = None,
    kinds: list[str] = [],  # noqa: B006 -- an empty list is what the form starts with; nobody changes it
    stores: list[str] = [],  # noqa: B006 -- as above
    catalog: str = "main",
    policy: str = "default",
) -> State[VerifyReport]:
    """Read a share of all objects again and hash them, those first that were verified longest ago.

    What is corrupt or missing, seen twice and after a fresh look, is marked so and no longer handed out; the table says
    which jobs are hurt and what could heal them. It runs weekly, and has seen everything within the policy's weeks. It
    never removes or changes an object.

    Args:
        share: Percent of all objects to read; a week's part of verify_within_weeks unless given.
        kinds: Kinds to read; all unless given.
        stores: Names of locations; all declared ones that can be read at once, unless given.
        catalog: Name of the Catalog Database block.
        policy: Name of the Integrity Policy block.
    """
    database = open_catalog(catalog)
    rules = load_block(IntegrityPolicy, policy)
    # What has to be restored first cannot be read every week.
    names = stores or [place.name for place in database.transaction(list_places) if not place.needs_restore]
    places: dict[str, VerifyReport] = {}
    errors: dict[str, StorageError] = {}
    for name in names:
        try:
            places[name] = _verify_place(database, name, rules, share, kinds, catalog, policy)
        except StorageError as error:
            # The others are read all the same, and what was found in them is told: it is not found a second time.
            get_run_logger().error("%s: %s", name, error)
            errors[name] = error
    if errors and not places:
        raise next(iter(errors.values()))
    note_unsound(database, catalog, places, some_kinds=bool(kinds))
    report = verify.join(list(places.values()))
    rows = [
        {"result": one.result, "kind": one.kind, "job": one.job_id, "key": one.key, "detail": one.detail,
         "what could heal it": report.cure(one) if one in report.hurt else ""}
        for one in report.others[:SHOWN]
    ]  # fmt: skip
    message = "; ".join([report.summary(), *(f"{name} was not read: {error}" for name, error in errors.items())])
    show_table("verify-objects", rows, message)
    get_run_logger().info(message)
    return Completed(
        name="Partial" if report.others or report.errors or errors else "Completed", message=message, data=report
    )


def _verify_place(
    database: CatalogDatabase,
    store: str,
    rules: IntegrityPolicy,
    share: float | None,
    kinds: list[str],
    catalog: str,
    policy: str,
) -> VerifyReport:
    location, run = open_named(database, store), run_label()
    live, batches = verify.choose(database, location, rules, share_percent=share, kinds=kinds)

    def submit(number: int) -> PrefectFuture[BatchResult]:
        return verify_batch.submit(batches[number], number + 1, store, catalog, policy, run)

    def failed(_: int, error: StorageError) -> BatchResult:
        return BatchResult(error=str(error))

    with progress_of("verify-objects", f"Reading {store}", len(batches)) as progress:
        results = run_batches(submit, len(batches), at_once=AT_ONCE, progress=progress, failed=failed)
    return verify.put_together(database, location, live, results)


# Not tried again: what a first try has marked a second one would not find, and nobody would be told.
@task(name="verify-batch", task_run_name="batch {number}", retries=0)
def verify_batch(ids: list[UUID], number: int, store: str, catalog: str, policy: str, run: str) -> BatchResult:
    """Read one batch; takes names of blocks and ids, so that it can run on another machine."""
    get_run_logger().debug("batch %s: %s objects", number, len(ids))
    database = open_catalog(catalog)
    return verify.verify_batch(database, open_named(database, store), load_block(IntegrityPolicy, policy), ids, run=run)
