"""What tests of removal share: jobs go to the trash, or for good, as the flow does it."""

from __future__ import annotations

from uuid import UUID

from blocks.policies import RetentionPolicy
from tasks.plans import Report
from tasks.removal.deletion import Wanted, apply_deletion, apply_erasure, plan_deletion, select
from tasks.sweeping import Sweep


def delete(sweep: Sweep, *jobs: UUID) -> Report:
    ids = tuple(str(job) for job in jobs)
    plan = plan_deletion(select(sweep.catalog, Wanted(ids)), asked=ids)
    return apply_deletion(sweep, RetentionPolicy(), plan)


def erase(sweep: Sweep, *jobs: UUID) -> Report:
    plan = plan_deletion(select(sweep.catalog, Wanted(tuple(str(job) for job in jobs))), purge_now=True)
    return apply_erasure(sweep, plan)
