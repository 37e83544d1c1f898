"""Alarms: Prefect automations on events of our own and on runs that are late or lost, brought up to date by name."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, ChangeFlowRunState, DoNothing, SendNotification
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from blocks.errors import InvalidInputError, NotFoundError
from blocks.policies import BackupPolicy
from blocks.units import shown
from flows.common.events import (
    APPROVAL,
    BACKUP_FAILED,
    BACKUP_SMALL,
    BACKUP_VERIFIED,
    DRIFT,
    DRILL_FAILED,
    EVENTS,
    QUOTA_FULL,
    QUOTA_NEARLY_FULL,
    RAN_NIGHTLY,
    RAN_WEEKLY,
    RUN_FAILED,
    UNSOUND,
)  # fmt: skip
from flows.common.schedules import TAG

PREFIX = "transcode-flow: "
FORMERLY = {"still no good backup": "no good backup at all"}
"""What an alarm was called before, by its name: it is brought up to date too, not made beside it."""
BODY = (
    "{{ automation.name }}\n{{ automation.description }}\n{{ event.payload }}\n\n"
    "See `python -m flows status` and the event feed in the UI; the README says under Alarms what to do."
)
NIGHT, WEEK = timedelta(hours=26), timedelta(days=8)
SILENT = timedelta(minutes=9)
"""Runs send a heartbeat every three minutes, or more often; a busy machine may be late with some of them."""
LOST_PENDING = timedelta(minutes=15)
RUN = "prefect.flow-run"
OURS = {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"}
"""Whatever else runs on the same Prefect server is nobody's business here."""


@dataclass(frozen=True)
class Alarm:
    """One alarm as it is set up; `fired_at` is when it did last, as far as Prefect remembers."""

    name: str
    enabled: bool
    notifies: bool
    fired_at: str = ""


@dataclass(frozen=True)
class Wanted:
    """An alarm as it should be: when it fires, why one wants to know, and what is done beside telling somebody."""

    trigger: EventTrigger
    because: str
    crashes_run: bool = False


def wanted(
    policy: BackupPolicy, *, window: timedelta | None = None, silent: timedelta | None = None
) -> dict[str, Wanted]:
    """All alarms by name. `window` and `silent` instead of the usual times are for those who want to see one fire."""
    overdue = window or timedelta(hours=policy.overdue_hours)
    return {
        "no good backup in time": Wanted(
            _again(BACKUP_VERIFIED, overdue), "No backup was read back whole for overdue_hours of the Backup Policy."
        ),
        # That one waits for a first backup, and fires once: this one does for "never yet", and for as long as it lasts.
        "still no good backup": Wanted(
            EventTrigger(
                posture=Posture.Proactive, expect={f"{EVENTS}.{BACKUP_VERIFIED}"}, within=overdue, threshold=1
            ),
            "No backup was read back whole for a whole overdue_hours of the Backup Policy; said again for each.",
        ),
        "a backup failed": Wanted(_on(BACKUP_FAILED), "A run of backup made none; its message says why."),
        "a backup is suspiciously small": Wanted(
            _on(BACKUP_SMALL), f"A backup has less than {policy.small_percent} % of the usual size."
        ),
        "a restore drill failed": Wanted(_on(DRILL_FAILED), "A backup could not be restored for practice."),
        "a quota is nearly full": Wanted(_on(QUOTA_NEARLY_FULL), "A customer has come past 80 % of its quota."),
        "a quota is full": Wanted(_on(QUOTA_FULL), "A customer has come to its quota: nothing more is taken in."),
        "drift was found": Wanted(_on(DRIFT), "The catalog and a store disagree; reconcile-quota says where."),
        "an object is corrupt or missing": Wanted(
            _on(UNSOUND), "verify-objects read what is not its content, or found nothing to read."
        ),
        "a run wants approval": Wanted(_on(APPROVAL), "A run is suspended until somebody answers on its page."),
        "a scheduled run failed": Wanted(_on(RUN_FAILED), "What it was to do was not done, or not all of it."),
        # A process that was killed while its worker lives: the worker says so, and nothing else will.
        "a run crashed": Wanted(
            EventTrigger(posture=Posture.Reactive, match_related=OURS, expect={f"{RUN}.Crashed"}, threshold=1,
                         within=timedelta(0), for_each={"prefect.resource.id"}),
            "Its process ended without a word, for want of memory perhaps; the next run finishes its work.",
        ),
        "a run is late": Wanted(
            EventTrigger(posture=Posture.Reactive, match_related=OURS, expect={f"{RUN}.Late"}, threshold=1,
                         within=timedelta(0), for_each={"prefect.resource.id"}),
            "A scheduled run has not started: no worker takes runs of its work pool.",
        ),
        "a nightly flow did not run": Wanted(
            _again(RAN_NIGHTLY, window or NIGHT), "It ran before, and not for 26 hours; a paused schedule looks alike."
        ),
        "a weekly flow did not run": Wanted(
            _again(RAN_WEEKLY, window or WEEK), "It ran before, and not for 8 days; a paused schedule looks alike."
        ),
        # States have names of our own, such as Partial: any event of the run says that it is not lost.
        "a run stands still": Wanted(
            EventTrigger(posture=Posture.Proactive, match_related=OURS, after={f"{RUN}.heartbeat"},
                         expect={f"{RUN}.*"}, within=silent or SILENT, threshold=1,
                         for_each={"prefect.resource.id"}),
            "Its process is gone without a word; it is marked as crashed, and the next run finishes its work.",
            crashes_run=True,
        ),
        "a run never started": Wanted(
            EventTrigger(posture=Posture.Proactive, match_related=OURS, after={f"{RUN}.Pending"},
                         expect={f"{RUN}.*"}, within=silent or LOST_PENDING, threshold=1,
                         for_each={"prefect.resource.id"}),
            "A worker took it and was lost before it began; it is marked as crashed.",
            crashes_run=True,
        ),
    }  # fmt: skip


def _on(event: str) -> EventTrigger:
    return EventTrigger(posture=Posture.Reactive, expect={f"{EVENTS}.{event}"}, threshold=1, within=timedelta(0),
                        for_each={"prefect.resource.id"})  # fmt: skip


def _again(event: str, within: timedelta) -> EventTrigger:
    # The same event in both: counted from each on, and not in windows that tumble. What happens to one catalog or flow
    # says nothing of another.
    named = {f"{EVENTS}.{event}"}
    return EventTrigger(posture=Posture.Proactive, after=named, expect=named, within=within, threshold=1,
                        for_each={"prefect.resource.id"})  # fmt: skip


def set_alarms(
    policy: BackupPolicy, *, notify: str = "", window: timedelta | None = None, silent: timedelta | None = None
) -> list[Alarm]:
    """Make the alarms, or bring them up to date; run again it changes nothing, and leaves disabled what is.

    `notify` is a notification block as `type/name`, such as `slack-webhook/ops`. Without one what an alarm did before
    stays; a new one only shows in the event feed of the UI.

    Raises:
        InvalidInputError, NotFoundError: `notify` is no such name, or no such block.
    """
    action = _action(notify)
    alarms = []
    for name, one in wanted(policy, window=window, silent=silent).items():
        with get_client(sync_client=True) as client:
            names = [called for called in (name, FORMERLY.get(name)) if called]
            known = [old for called in names for old in client.read_automations_by_name(f"{PREFIX}{called}")]
            found = next(iter(known), None)
            tells = [action] if action is not None else _telling(found)
            acts = [ChangeFlowRunState(state=StateType.CRASHED, message=one.because)] if one.crashes_run else []
            fresh = AutomationCore(
                name=f"{PREFIX}{name}",
                description=one.because,
                trigger=one.trigger,
                actions=[*acts, *tells] or [DoNothing()],
                enabled=found is None or found.enabled,
            )
            if found is None:
                client.create_automation(fresh)
            elif _said(found) != _said(fresh):
                # Only then: an alarm that is written anew begins to count anew.
                client.update_automation(found.id, fresh)
        alarms.append(Alarm(name, fresh.enabled, _notifies(fresh)))
    return alarms


def list_alarms() -> list[Alarm]:
    """The alarms there are, and when each fired last, as far back as Prefect keeps its events."""
    found = []
    with get_client(sync_client=True) as client:
        for name in wanted(BackupPolicy()):
            for one in client.read_automations_by_name(f"{PREFIX}{name}"):
                seen = client.read_events(
                    EventFilter(
                        event=EventNameFilter(name=["prefect.automation.triggered"]),
                        resource=EventResourceFilter(id=[f"prefect.automation.{one.id}"]),
                    ),
                    limit=1,
                )
                fired_at = f"{seen.events[0].occurred:%Y-%m-%d %H:%M} UTC" if seen.events else ""
                found.append(Alarm(name, one.enabled, _notifies(one), fired_at))
    return found


def _action(notify: str) -> SendNotification | None:
    if not notify:
        return None
    kind, _, name = notify.partition("/")
    if not kind or not name:
        raise InvalidInputError(f"{shown(notify)} is no block: write type/name, for example slack-webhook/ops")
    with get_client(sync_client=True) as client:
        try:
            document = client.read_block_document_by_name(name=name, block_type_slug=kind)
        except ObjectNotFound as error:
            raise NotFoundError(f"no block {notify}: save a notification block under Blocks in the UI first") from error
    if "notify" not in (document.block_schema.capabilities if document.block_schema else ()):
        raise InvalidInputError(f"the block {notify} does not notify anybody: choose one such as slack-webhook")
    return SendNotification(block_document_id=document.id, subject="transcode-flow: {{ automation.name }}", body=BODY)


def _telling(automation: Automation | None) -> list[ActionTypes]:
    """What an alarm that is there did to tell somebody."""
    own = (ChangeFlowRunState, DoNothing)
    return [one for one in automation.actions if not isinstance(one, own)] if automation is not None else []


def _said(automation: AutomationCore) -> tuple[object, ...]:
    # Ids are given by the server, to triggers too.
    trigger = automation.trigger.model_dump(mode="json", exclude={"id"})
    actions = [one.model_dump(mode="json") for one in automation.actions]
    return automation.name, automation.description, {name: _sorted(value) for name, value in trigger.items()}, actions


def _sorted(value: object) -> object:
    return sorted(value) if isinstance(value, list) else value


def _notifies(automation: AutomationCore) -> bool:
    return any(isinstance(one, SendNotification) for one in automation.actions)
