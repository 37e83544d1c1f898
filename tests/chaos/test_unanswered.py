"""Calls that are cut, refused, answered in part, or late: it ends well or in one of our errors, and loses nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from blocks.object_store import ObjectStore
from tests.chaos.acts import ACTS
from tests.chaos.faults import (
    Cut,
    Point,
    Rewrite,
    Say,
    Sleep,
    SomeStay,
    an_empty_listing,
    error,
    half_a_listing,
)
from tests.chaos.walking import Choice, Walk, Where, spread, walk_all
from tests.line import Answer

FAULTS: dict[str, Callable[[Where], Point]] = {
    "the connection breaks": lambda at: Cut(at.number, at.moment),
    "503 once": lambda at: Say(at.number, at.moment, answer=error(503, "SlowDown")),
    "503 for long": lambda at: Say(at.number, at.moment, answer=error(503, "SlowDown"), times=12, only="store"),
    "an error that says 200": lambda at: Say(
        at.number, at.moment, answer=Answer(200, error(500, "InternalError").body)
    ),
    "gone for good": lambda at: Cut(at.number, at.moment, times=10**6, only="store"),
    "500 for long": lambda at: Say(at.number, at.moment, answer=error(500, "InternalError"), times=12, only="store"),
    "half a body": lambda at: Say(at.number, at.moment, answer=Answer(200, b"<Result>", broken=True)),
}
LIES: dict[str, tuple[str, Callable[[Where, ObjectStore], Point]]] = {
    "half a listing": ("list-type=2", lambda at, _: Rewrite(at.number, at.moment, says=half_a_listing)),
    "an empty listing": ("list-type=2", lambda at, _: Rewrite(at.number, at.moment, says=an_empty_listing)),
    "keys that could not be deleted": ("?delete", lambda at, store: SomeStay(at.number, at.moment, store=store)),
}


def points_of(walk: Walk, fault: str) -> list[Where]:
    """Where a fault can strike: the catalog answers no 500, and what it does instead is cut already."""
    numbers = {call.number for call in walk.calls if call.to == "store"}
    return [where for where in walk.points if fault == "the connection breaks" or where.number in numbers]


def lying_points(walk: Walk, lie: str) -> list[Where]:
    """After what requests the store can say what is not so."""
    asked = LIES[lie][0]
    return [Where(call.number, "after") for call in walk.calls if call.to == "store" and asked in call.what]


def sleeping_points(walk: Walk) -> list[Where]:
    """Where a run can sleep for hours without keeping anybody: at requests, and between transactions."""
    return [Where(call.number, "before") for call in walk.calls if call.to == "store" or call.what == "BEGIN"]


@pytest.mark.slow
@pytest.mark.parametrize("walk", ACTS, indirect=True)
def test_a_call_goes_wrong(walk: Walk) -> None:
    """Each act meets one fault, sleeps once, or is lied to, in turn; `make chaos` is for all of them everywhere."""
    number, turn = divmod(list(ACTS).index(walk.act.name), 3)
    lies = [lie for lie in LIES if lying_points(walk, lie)]
    if turn == 2 and lies:
        lie = lies[number % len(lies)]
        (where,) = spread(lying_points(walk, lie), 1)
        fault = LIES[lie][1](where, walk.store)
    elif turn == 1:
        (where,) = spread(sleeping_points(walk), 1)
        fault = Sleep(where.number, where.moment)
    else:
        # Some acts ask no store.
        faults = [fault for fault in FAULTS if points_of(walk, fault)]
        (where,) = spread(points_of(walk, faults[number % len(faults)]), 1)
        fault = FAULTS[faults[number % len(faults)]](where)
    assert walk.meet(fault)


@pytest.mark.chaos
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("walk", ACTS, indirect=True)
def test_every_call_goes_wrong(walk: Walk, fault: str, choose: Choice) -> None:
    walk_all(points_of(walk, fault), lambda where: walk.meet(FAULTS[fault](where)), choose)


@pytest.mark.chaos
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("walk", ACTS, indirect=True)
def test_asleep_at_every_call(walk: Walk, choose: Choice) -> None:
    walk_all(sleeping_points(walk), lambda where: walk.meet(Sleep(where.number, where.moment)), choose)


@pytest.mark.chaos
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("walk", ACTS, indirect=True)
def test_no_answer_is_the_truth(walk: Walk, lie: str, choose: Choice) -> None:
    fault = LIES[lie][1]
    walk_all(lying_points(walk, lie), lambda where: walk.meet(fault(where, walk.store)), choose)
