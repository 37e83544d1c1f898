"""Holds: what they keep, and when they come too late."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid4

import pytest

from blocks.catalog import CatalogDatabase
from blocks.catalog.clock import catalog_now
from blocks.catalog.moving import jobs_to_tier
from blocks.errors import InvalidInputError, NotFoundError
from blocks.policies import RetentionPolicy
from tasks.removal.deletion import (
    Wanted,
    apply_deletion,
    apply_erasure,
    hold,
    plan_deletion,
    select,
)
from tasks.stores import OpenLocation
from tasks.sweeping import Sweep
from tests.helpers import execute, one, rows
from tests.tasks.removal.removals import delete


def test_a_hold_is_respected_and_reported(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID]
) -> None:
    job = new_job(b"evidence")
    assert hold(sweep.catalog, job_ids=[str(job)], reason="case 7").summary() == "1 jobs on hold (case 7)"
    ids = (str(job),)
    plan = plan_deletion(select(sweep.catalog, Wanted(ids)), asked=ids)
    assert plan.items == ()
    assert plan.skipped[0].because == "on hold: case 7"
    assert plan_deletion(select(sweep.catalog, Wanted(ids)), purge_now=True).items == ()
    assert hold(sweep.catalog, job_ids=list(ids), reason="", release=True).held == {str(job): "case 7"}
    assert delete(sweep, job).objects == 1
    log = rows(sweep.catalog, "SELECT before, after FROM operation_log WHERE operation LIKE '%hold' ORDER BY id")
    assert [row.after["hold"] for row in log] == ["case 7", None]


def test_a_hold_that_comes_after_the_plan_wins(sweep: Sweep, new_job: Callable[[bytes], UUID]) -> None:
    job = new_job(b"evidence")
    for purge_now in (False, True):
        plan = plan_deletion(select(sweep.catalog, Wanted((str(job),))), purge_now=purge_now)
        assert len(plan.items) == 1
        hold(sweep.catalog, job_ids=[str(job)], reason="case 7")
        applied = apply_erasure(sweep, plan) if purge_now else apply_deletion(sweep, RetentionPolicy(), plan)
        assert [(outcome.result, outcome.error) for outcome in applied.outcomes] == [("skipped", "on hold: case 7")]
        hold(sweep.catalog, job_ids=[str(job)], reason="", release=True)
    assert one(sweep.catalog, "SELECT state FROM stored_objects") == "live"


def test_bad_holds(catalog: CatalogDatabase, new_job: Callable[[bytes], UUID]) -> None:
    job = str(new_job(b"x"))
    for reason in ("", " ", "x" * 501, "a\0b"):
        with pytest.raises(InvalidInputError, match="needs a reason"):
            hold(catalog, job_ids=[job], reason=reason)
    with pytest.raises(InvalidInputError, match="no job is named"):
        hold(catalog, job_ids=[], reason="x")
    with pytest.raises(NotFoundError):
        hold(catalog, job_ids=[str(uuid4())], reason="x")
    assert hold(catalog, job_ids=[job, str(uuid4())], reason="x").unknown


def test_a_hold_that_comes_too_late_says_so(sweep: Sweep, new_job: Callable[[bytes], UUID]) -> None:
    job, there = new_job(b"evidence"), new_job(b"more of it")
    execute(sweep.catalog, "UPDATE jobs SET status = 'cleaned_up', deleted_at = now() WHERE id = :id", id=job)
    report = hold(sweep.catalog, job_ids=[str(job), str(there)], reason="case 7")
    assert report.too_late == (str(job),)
    assert "on hold (case 7); too late for 1, whose files were given up before" in report.summary()
    assert hold(sweep.catalog, job_ids=[str(job)], reason="", release=True).too_late == ()


def test_jobs_on_hold_leave_room_for_others(catalog: CatalogDatabase, new_job: Callable[[bytes], UUID]) -> None:
    """They are told, and stay due for as long as they are held."""
    held, free = new_job(b"1"), new_job(b"2")
    execute(catalog, "UPDATE jobs SET status = 'completed', completed_at = now() - interval '300 days'")
    execute(
        catalog, "UPDATE jobs SET hold = 'court', completed_at = now() - interval '400 days' WHERE id = :id", id=held
    )
    now = catalog.transaction(catalog_now)
    found = catalog.transaction(
        lambda connection: jobs_to_tier(
            connection, tiers=["hot"], idle_before=now, completed_before=now, smallest_billed=0, most=1
        )
    )
    assert {job.id for job in found} == {held, free}
