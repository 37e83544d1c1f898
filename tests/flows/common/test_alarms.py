"""Alarms about runs that stand still, never start, are late, or do not come again: each is seen to fire."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.events.related import tags_as_related_resources
from prefect.states import Completed, Pending, Running, Scheduled

from blocks.policies import BackupPolicy
from flows.common.alarms import list_alarms, set_alarms
from flows.common.events import RAN_NIGHTLY, RAN_WEEKLY, tell
from flows.common.schedules import TAG

pytestmark = [pytest.mark.prefect, pytest.mark.chaos]


@flow(name="a-flow-of-a-test")
def idle() -> None:
    """Never called: its runs are set by hand."""


def beat(run: object, tags: Sequence[str] = (TAG,)) -> None:
    """A heartbeat, as the worker sends it for a run that is alive."""
    emit_event(
        "prefect.flow-run.heartbeat",
        resource={"prefect.resource.id": f"prefect.flow-run.{run}"},
        related=tags_as_related_resources(tags),
    )


def test_a_run_that_stands_still_is_crashed_and_one_that_ended_is_not(default_blocks: None) -> None:
    set_alarms(BackupPolicy(), silent=timedelta(seconds=10))
    try:
        with get_client(sync_client=True) as client:
            silent, ended = (client.create_flow_run(idle, state=Running(), tags=[TAG]).id for _ in range(2))
            beat(silent)
            beat(ended)
            # Others have runs on the same server, which may be silent for as long as they like.
            foreign = client.create_flow_run(idle, state=Running(), tags=["theirs"]).id
            beat(foreign, tags=["theirs"])
            time.sleep(2)
            # A state with a name of our own is a sign of life too.
            client.set_flow_run_state(ended, Completed(name="Partial"), force=True)
            for _ in range(120):
                state = client.read_flow_run(silent).state
                if state is not None and state.is_crashed():
                    break
                time.sleep(0.5)
            else:
                raise AssertionError(f"nobody noticed: {state}")
            assert "process is gone" in str(state.message)
            theirs = client.read_flow_run(foreign).state
            assert theirs is not None
            assert theirs.is_running()
            after = client.read_flow_run(ended).state
            assert after is not None
            assert after.name == "Partial"
        assert_fired("a run stands still")
        assert_fired("a run crashed")
    finally:
        set_alarms(BackupPolicy())


def test_what_never_starts_is_late_or_does_not_come_again_is_noticed(default_blocks: None) -> None:
    set_alarms(BackupPolicy(), silent=timedelta(seconds=10), window=timedelta(seconds=10))
    try:
        with get_client(sync_client=True) as client:
            lost = client.create_flow_run(idle, state=Pending(), tags=[TAG]).id
            client.create_flow_run(
                idle, state=Scheduled(scheduled_time=datetime.now(UTC) - timedelta(hours=1)), tags=[TAG]
            )
            for event in (RAN_NIGHTLY, RAN_WEEKLY):
                tell(event, "a-flow-of-a-test", of="flow")
            for name in (
                "a run never started",
                "a run is late",
                "a nightly flow did not run",
                "a weekly flow did not run",
            ):
                assert_fired(name)
            state = client.read_flow_run(lost).state
            assert state is not None
            assert state.is_crashed()
    finally:
        set_alarms(BackupPolicy())


def assert_fired(name: str) -> None:
    """Within a minute."""
    for _ in range(120):
        (alarm,) = (one for one in list_alarms() if one.name == name)
        if alarm.fired_at:
            return
        time.sleep(0.5)
    raise AssertionError(f"{name}: it did not fire")
