"""What the deployments' schedules come to: which of them has no run that waits for its time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterTags,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort

MOST_DEPLOYMENTS = 200
TAG = "transcode-flow"
"""What every deployment of the project is tagged with: others may use the same Prefect server."""
OURS = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
WAITS = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))


@dataclass(frozen=True)
class Scheduled:
    """A deployment with a schedule that is on; `next_at` is None where Prefect's server made no run of it."""

    name: str
    next_at: datetime | None


def list_scheduled() -> list[Scheduled]:
    """All of ours, what comes first at the top, and what never comes before that."""
    found = []
    with get_client(sync_client=True) as client:
        for one in client.read_deployments(deployment_filter=OURS, limit=MOST_DEPLOYMENTS):
            if one.paused or not any(schedule.active for schedule in one.schedules):
                continue
            runs = client.read_flow_runs(
                flow_run_filter=FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[one.id]), state=WAITS),
                sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=1,
            )  # fmt: skip
            found.append(Scheduled(one.name, runs[0].expected_start_time if runs else None))
    return sorted(found, key=lambda one: (one.next_at or datetime.min.replace(tzinfo=UTC), one.name))
