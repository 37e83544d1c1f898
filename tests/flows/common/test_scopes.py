"""What a request for approval is for, as a later one of the same finds it."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

from blocks.catalog import CatalogDatabase, approvals
from blocks.policies import SafetyPolicy
from flows.common.planned import Work, scope_of
from tasks.plans import Plan, Report
from tasks.relocation.migration import Migration
from tasks.removal.deletion import Wanted
from tasks.stores import OpenLocation


def test_a_list_of_hundreds_of_jobs_can_be_asked_for(catalog: CatalogDatabase) -> None:
    """An erasure always asks; an entry of the index that finds older requests ends at 2,704 bytes."""
    ids = tuple(str(uuid4()) for _ in range(500))

    def scope(*jobs: str) -> str:
        work: Work[None] = Work(
            "delete-jobs", catalog, (), SafetyPolicy(), lambda sweep: (Plan("delete-jobs", ()), None),
            lambda sweep, facts, plan: Report("delete-jobs", ()), scope=Wanted(jobs).scope,
        )  # fmt: skip
        return scope_of(work)

    def ask(of: str) -> None:
        catalog.transaction(
            lambda connection: approvals.ask(
                connection, run=uuid4(), operation="delete-jobs", scope=of, objects=1, size_bytes=1,
                lasts=timedelta(hours=1),
            )
        )  # fmt: skip

    for asked in (ids, ids[1:], ids[:1]):
        ask(scope(*asked))
    assert len({scope(*ids), scope(*ids[1:]), scope(*ids[:1])}) == 3

    def overtaken(of: str) -> int:
        return len(
            catalog.transaction(
                lambda connection: approvals.overtake(connection, operation="delete-jobs", scope=of, run=uuid4())
            )
        )

    assert overtaken(scope(*reversed(ids))) == 1


def test_jobs_of_any_age_are_not_those_of_no_age() -> None:
    assert Wanted(older_than_days=0).scope != Wanted().scope


def test_a_whole_migration_is_not_that_of_jobs_of_any_age(location: OpenLocation) -> None:
    def scope(**chosen: object) -> str:
        return Migration(location, location, **chosen).scope  # type: ignore[arg-type]  # as the flow gives them

    assert scope(older_than_days=0) != scope()
    assert scope(job_ids=("a", "b"), kinds=("audio", "original")) == scope(
        job_ids=("b", "a"), kinds=("original", "audio")
    )
