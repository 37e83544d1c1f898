"""Requests for approval: one answer each, and a newer plan ends an older question."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.exc import IntegrityError

from blocks.catalog import CatalogDatabase, approvals
from tests.helpers import one, rows

DAY = timedelta(hours=20)


def ask(
    catalog: CatalogDatabase, run: UUID, *, scope: str = "main", operation: str = "cleanup", objects: int = 5
) -> None:
    catalog.transaction(
        lambda connection: approvals.ask(
            connection, run=run, operation=operation, scope=scope, objects=objects, size_bytes=objects * 10, lasts=DAY
        )
    )


def overtake(catalog: CatalogDatabase, run: UUID, *, scope: str = "main", operation: str = "cleanup") -> list[UUID]:
    return catalog.transaction(
        lambda connection: approvals.overtake(connection, operation=operation, scope=scope, run=run)
    )


def answer(catalog: CatalogDatabase, run: UUID, *, approved: bool) -> bool:
    return catalog.transaction(lambda connection: approvals.answer(connection, run, approved=approved))


def row(catalog: CatalogDatabase, run: UUID) -> Any:
    (found,) = rows(catalog, "SELECT * FROM approvals WHERE run = :run", run=run)
    return found


@pytest.mark.parametrize(("approved", "state"), [(True, "approved"), (False, "denied")])
def test_a_question_and_its_answer(catalog: CatalogDatabase, approved: bool, state: str) -> None:
    run = uuid4()
    ask(catalog, run)
    asked = row(catalog, run)
    assert (asked.operation, asked.scope, asked.objects, asked.size_bytes, asked.state) == (
        "cleanup", "main", 5, 50, "asked",
    )  # fmt: skip
    assert timedelta(0) <= asked.ends_at - asked.asked_at - DAY < timedelta(seconds=1)
    assert answer(catalog, run, approved=approved)
    assert row(catalog, run).state == state


def test_an_answer_given_twice_is_the_same_answer(catalog: CatalogDatabase) -> None:
    """A run that is killed after its answer starts again from the top, and answers again."""
    run = uuid4()
    ask(catalog, run)
    assert answer(catalog, run, approved=True)
    assert answer(catalog, run, approved=True)
    assert row(catalog, run).state == "approved"


def test_nobody_answers_what_was_not_asked(catalog: CatalogDatabase) -> None:
    assert not answer(catalog, uuid4(), approved=True)
    assert one(catalog, "SELECT count(*) FROM approvals") == 0


def test_a_newer_plan_ends_older_questions(catalog: CatalogDatabase) -> None:
    older, oldest, newer = uuid4(), uuid4(), uuid4()
    for run in (oldest, older):
        ask(catalog, run)
    assert set(overtake(catalog, newer)) == {oldest, older}
    ask(catalog, newer)
    assert overtake(catalog, newer) == [], "not its own"
    for run in (oldest, older):
        assert not answer(catalog, run, approved=True)
        assert not answer(catalog, run, approved=False)
        assert row(catalog, run).state == "overtaken"
    assert answer(catalog, newer, approved=True)


def test_another_operation_and_another_place_are_not_overtaken(catalog: CatalogDatabase) -> None:
    cleanup, deletion, elsewhere = uuid4(), uuid4(), uuid4()
    ask(catalog, cleanup)
    ask(catalog, deletion, operation="delete-jobs")
    ask(catalog, elsewhere, scope="cold")
    assert overtake(catalog, uuid4(), scope="cold") == [elsewhere]
    assert overtake(catalog, uuid4(), operation="delete-jobs", scope="cold") == []
    assert answer(catalog, cleanup, approved=True)
    assert answer(catalog, deletion, approved=True)


@pytest.mark.parametrize("approved", [True, False])
def test_what_was_answered_is_not_overtaken(catalog: CatalogDatabase, approved: bool) -> None:
    """It works, or has ended: there is no question left to end."""
    run = uuid4()
    ask(catalog, run)
    answer(catalog, run, approved=approved)
    assert overtake(catalog, uuid4()) == []
    assert row(catalog, run).state == ("approved" if approved else "denied")


def test_a_plan_that_grew_is_asked_anew(catalog: CatalogDatabase) -> None:
    run = uuid4()
    ask(catalog, run)
    answer(catalog, run, approved=True)
    first = row(catalog, run)
    ask(catalog, run, objects=9)
    again = row(catalog, run)
    assert (again.objects, again.size_bytes, again.state) == (9, 90, "asked")
    assert again.asked_at > first.asked_at
    assert again.ends_at > first.ends_at
    assert overtake(catalog, uuid4()) == [run], "it waits again"


def test_an_overtaken_run_needs_an_answer_of_its_own(catalog: CatalogDatabase) -> None:
    """Retried in the UI it asks anew; the answer to its old question counts for nothing."""
    run = uuid4()
    ask(catalog, run)
    overtake(catalog, uuid4())
    assert not answer(catalog, run, approved=True)
    ask(catalog, run, objects=9)
    assert (row(catalog, run).state, row(catalog, run).objects) == ("asked", 9)
    assert answer(catalog, run, approved=True)


def test_numbers_below_zero_are_refused(catalog: CatalogDatabase) -> None:
    with pytest.raises(IntegrityError):
        ask(catalog, uuid4(), objects=-1)
