"""Alarms about backups: Prefect automations on events of our own, made or brought up to date by name."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from prefect.client.orchestration import get_client
from prefect.events.actions import DoNothing, SendNotification
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from blocks.errors import InvalidInputError, NotFoundError
from blocks.policies import BackupPolicy
from flows.backing_up import DRILL_FAILED, EVENTS, FAILED, SMALL, VERIFIED

PREFIX = "transcode-flow: "
BODY = (
    "{{ automation.name }}\n{{ event.payload }}\n\n"
    "See `python -m flows status` and `python -m flows backup list`; the README's page on restores says what to do."
)


@dataclass(frozen=True)
class Alarm:
    """One alarm as it is set up; `fired_at` is when it did last, as far as Prefect remembers."""

    name: str
    enabled: bool
    notifies: bool
    fired_at: str = ""


def wanted(policy: BackupPolicy, *, window: timedelta | None = None) -> dict[str, EventTrigger]:
    """Triggers by name. `window` instead of the policy's hours is for those who want to see one fire."""
    overdue = window or timedelta(hours=policy.overdue_hours)
    verified = {f"{EVENTS}.{VERIFIED}"}
    return {
        # The same event in both: counted from each backup on, and not in windows that tumble.
        "no good backup in time": EventTrigger(
            posture=Posture.Proactive,
            after=verified,
            expect=verified,
            within=overdue,
            threshold=1,
            for_each={"prefect.resource.id"},  # a catalog's backups say nothing of another one's
        ),
        # That one waits for a first backup: here is the one for "never yet".
        "no good backup at all": EventTrigger(posture=Posture.Proactive, expect=verified, within=overdue, threshold=1),
        "a backup failed": _on(FAILED),
        "a backup is suspiciously small": _on(SMALL),
        "a restore drill failed": _on(DRILL_FAILED),
    }


def _on(event: str) -> EventTrigger:
    return EventTrigger(posture=Posture.Reactive, expect={f"{EVENTS}.{event}"}, threshold=1, within=timedelta(0),
                        for_each={"prefect.resource.id"})  # fmt: skip


def set_alarms(policy: BackupPolicy, *, notify: str = "", window: timedelta | None = None) -> list[Alarm]:
    """Make the alarms, or bring them up to date; run again it changes nothing, and leaves disabled what is.

    `notify` is a notification block as `type/name`, such as `slack-webhook/ops`. Without one what an alarm did before
    stays; a new one only shows in the event feed of the UI.

    Raises:
        InvalidInputError, NotFoundError: `notify` is no such name, or no such block.
    """
    action = _action(notify)
    alarms = []
    for name, trigger in wanted(policy, window=window).items():
        with get_client(sync_client=True) as client:
            found = next(iter(client.read_automations_by_name(f"{PREFIX}{name}")), None)
            actions = [action] if action is not None else (found.actions if found is not None else [DoNothing()])
            fresh = AutomationCore(
                name=f"{PREFIX}{name}",
                description="Made by `python -m flows alarms`; its window is overdue_hours of the Backup Policy.",
                trigger=trigger,
                actions=actions,
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
        raise InvalidInputError(f"{notify[:80]!r} is no block: write type/name, for example slack-webhook/ops")
    with get_client(sync_client=True) as client:
        try:
            document = client.read_block_document_by_name(name=name, block_type_slug=kind)
        except ObjectNotFound as error:
            raise NotFoundError(f"no block {notify}: save a notification block under Blocks in the UI first") from error
    if "notify" not in (document.block_schema.capabilities if document.block_schema else ()):
        raise InvalidInputError(f"the block {notify} does not notify anybody: choose one such as slack-webhook")
    return SendNotification(block_document_id=document.id, subject="transcode-flow: {{ automation.name }}", body=BODY)


def _said(automation: AutomationCore) -> tuple[object, ...]:
    # Ids are given by the server, to triggers too.
    trigger = automation.trigger.model_dump(mode="json", exclude={"id"})
    actions = [one.model_dump(mode="json") for one in automation.actions]
    return automation.description, {name: _sorted(value) for name, value in trigger.items()}, actions


def _sorted(value: object) -> object:
    return sorted(value) if isinstance(value, list) else value


def _notifies(automation: AutomationCore) -> bool:
    return any(isinstance(one, SendNotification) for one in automation.actions)
