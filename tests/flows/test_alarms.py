"""Alarms about runs: one that stands still is noticed, and nobody waits for it any more."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.states import Completed, Running

from blocks.policies import BackupPolicy
from flows.alarms import list_alarms, set_alarms

pytestmark = [pytest.mark.prefect, pytest.mark.chaos]


@flow(name="a-flow-of-a-test")
def idle() -> None:
    """Never called: its runs are set by hand."""


def beat(run: object) -> None:
    """A heartbeat, as the worker sends it for a run that is alive."""
    emit_event("prefect.flow-run.heartbeat", resource={"prefect.resource.id": f"prefect.flow-run.{run}"})


def test_a_run_that_stands_still_is_crashed_and_one_that_ended_is_not(default_blocks: None) -> None:
    set_alarms(BackupPolicy(), silent=timedelta(seconds=10))
    try:
        with get_client(sync_client=True) as client:
            silent, ended = (client.create_flow_run(idle, state=Running()).id for _ in range(2))
            beat(silent)
            beat(ended)
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
            after = client.read_flow_run(ended).state
            assert after is not None
            assert after.name == "Partial"
        for _ in range(40):
            (alarm,) = (one for one in list_alarms() if one.name == "a run stands still")
            if alarm.fired_at:
                break
            time.sleep(0.5)
        assert alarm.fired_at
    finally:
        set_alarms(BackupPolicy())
