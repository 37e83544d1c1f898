"""What is told of a run that a schedule started: that it began, and why it failed."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import State
from prefect.client.schemas.schedules import CronSchedule
from prefect.context import FlowRunContext
from prefect.events.filters import EventFilter, EventResourceFilter
from prefect.events.worker import EventsWorker
from prefect.exceptions import Pause
from prefect.states import Completed, Failed

from blocks.errors import RefusedError
from flows.common.events import EVENTS
from flows.common.opening import reported
from flows.common.schedules import TAG, list_scheduled

pytestmark = pytest.mark.prefect


def refused() -> None:
    raise RefusedError("main holds nothing at all")


def broken() -> None:
    raise KeyError("a secret that a library tells")


def suspended() -> None:
    raise Pause("until somebody answers")


ENDS: dict[str, tuple[Callable[[], object], list[str]]] = {
    "well": (lambda: Completed(message="all of it"), []),
    "in an error of ours": (refused, ["main holds nothing at all"]),
    "in a state": (lambda: Failed(message="the drill failed"), ["the drill failed"]),
    "in a defect": (broken, ["KeyError; the run's log says more"]),
    "not in this night": (suspended, []),
}


def test_what_is_deployed_is_scheduled(default_blocks: None) -> None:
    """By the server itself, some seconds later: with a SQLAlchemy that it does not work with it never is."""

    @flow(name="each-new-year")
    def nothing() -> None:
        pass

    schedule = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 0 1 1 *", timezone="UTC"), active=True)
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(
            client.create_flow(nothing), "each-new-year", schedules=[schedule], tags=[TAG]
        )
        try:
            deadline = time.monotonic() + 60
            while (mine := next(one for one in list_scheduled() if one.name == "each-new-year")).next_at is None:
                assert time.monotonic() < deadline, "nothing is scheduled"
                time.sleep(0.5)
            assert (mine.next_at.month, mine.next_at.day, mine.next_at.hour) == (1, 1, 0)
        finally:
            client.delete_deployment(deployment)


def told(name: str, expected: int) -> list[tuple[str, str]]:
    """Events about a flow, and what was given as the reason."""
    EventsWorker.drain_all(timeout=20)
    for _ in range(60):
        with get_client(sync_client=True) as client:
            seen = client.read_events(EventFilter(resource=EventResourceFilter(id=[f"{EVENTS}.flow.{name}"])), limit=9)
        if len(seen.events) >= expected:
            break
        time.sleep(0.25)
    return sorted((one.event.removeprefix(f"{EVENTS}."), one.payload.get("because", "")) for one in seen.events)


@pytest.mark.parametrize(("end", "often"), [*((end, "nightly") for end in ENDS), ("well", "weekly")])
def test_a_scheduled_run_tells_that_it_began_and_why_it_failed(default_blocks: None, end: str, often: str) -> None:
    name, (ending, because) = f"night-{uuid4().hex[:8]}", ENDS[end]

    @reported
    def inside() -> State[Any]:
        return ending()  # type: ignore[return-value]  # what is raised has no value

    @flow(name=name)
    def night() -> object:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        context.flow_run.auto_scheduled = True
        context.flow_run.tags = [often]
        return inside()

    with suppress(Pause):
        night(return_state=True)
    assert told(name, 1 + len(because)) == sorted(
        [(f"schedule.{often}", ""), *(("schedule.failed", one) for one in because)]
    )


def test_what_somebody_started_is_told_to_them_alone(default_blocks: None) -> None:
    name = f"night-{uuid4().hex[:8]}"

    @flow(name=name)
    @reported
    def by_hand() -> State[Any]:
        raise RefusedError("no such thing")

    assert by_hand(return_state=True).is_failed()
    assert told(name, 0) == []
