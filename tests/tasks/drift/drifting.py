"""What tests of reconciliation share: one look at what differs, and one run that mends it."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from blocks.catalog import CatalogDatabase, drift
from blocks.policies import IntegrityPolicy
from tasks.drift import judge, reconcile
from tasks.drift.judge import Drift
from tasks.drift.repairs import apply_repairs
from tasks.plans import Plan, Report
from tasks.sweeping import Sweep
from tests.helpers import one

POLICY = IntegrityPolicy()
NO_GRACE = timedelta(seconds=-5)
"""Whatever was written up to now is past it: SeaweedFS dates objects itself."""


def look(sweep: Sweep, grace: timedelta = NO_GRACE) -> list[Drift]:
    looked = []
    for location in sweep.locations:
        parts = reconcile.plan_ranges(sweep.catalog, location, POLICY)
        found = [reconcile.look_through(sweep.catalog, location, POLICY, part, grace=grace) for part in parts]
        looked.append((location, found))
    return judge.put_together(sweep.catalog, looked)


def run(sweep: Sweep, grace: timedelta = NO_GRACE) -> tuple[Plan, Report]:
    found = look(sweep, grace)
    plan = judge.plan_repairs(found, sweep.catalog.transaction(drift.labels))
    return plan, apply_repairs(sweep, POLICY, found, plan, grace=grace)


def key_of(catalog: CatalogDatabase, job: UUID) -> str:
    return str(one(catalog, "SELECT key FROM stored_objects WHERE job_id = :id AND kind = 'original'", id=job))


def state_of(catalog: CatalogDatabase, job: UUID) -> str:
    return str(one(catalog, "SELECT state FROM stored_objects WHERE job_id = :id AND kind = 'original'", id=job))
