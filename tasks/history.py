"""Where did this object go, why, and what comes next: its row, its log, and the policies that reach it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from blocks.catalog import CatalogDatabase
from blocks.catalog.customers import storable
from blocks.catalog.history import Event, read_history
from blocks.errors import InvalidInputError, NotFoundError
from blocks.policies import RetentionPolicy
from blocks.units import shown


@dataclass(frozen=True)
class Explanation:
    """Everything that is known of an object, newest first, and what comes next for each row that is still there."""

    reference: str
    events: tuple[Event, ...]
    next_steps: tuple[str, ...]


def explain(catalog: CatalogDatabase, policy: RetentionPolicy, reference: str) -> Explanation:
    """The history of an object, by its id, a key it has or had, or its job's id.

    Raises:
        InvalidInputError: nothing that could be an id or a key.
        NotFoundError: neither the catalog nor its log knows it.
    """
    reference = reference.strip()
    if not reference or not storable(reference) or len(reference) > 1024:
        raise InvalidInputError(f"{shown(reference)} is no object id, key or job id")
    events = tuple(catalog.transaction(lambda connection: read_history(connection, reference)))
    if not events:
        raise NotFoundError(
            f"neither the catalog nor its log knows {shown(reference)}: give an object's id, its key "
            "(processed/… or uploads/…) or its job's id"
        )
    return Explanation(reference, events, tuple(what_next(event, policy) for event in events if event.what == "is"))


def sentence(event: Event) -> str:
    """What happened, for a person."""
    if event.what == "is":
        after = event.after or {}
        return f"{after['kind']} {after['name']} is {after['state']} in {after['location']}, under {after['key']}"
    changes = []
    for name in sorted({*(event.before or {}), *(event.after or {})} - {"name"}):
        old, new = (event.before or {}).get(name), (event.after or {}).get(name)
        if old != new:
            changes.append(f"{name}: {old} → {new}" if old is not None and new is not None else f"{name}: {new or old}")
    return f"{event.what}" + (f" ({'; '.join(changes)})" if changes else "")


_FATES = {
    "purging": "released; the next cleanup removes its bytes",
    "missing": "its bytes are gone; taking the video in again heals an original, register-outputs with the very "
    "file an output, reconcile-quota heals from an orphan",
    "corrupt": "its bytes are not its content; verify-objects says what could heal it",
}


def what_next(event: Event, policy: RetentionPolicy) -> str:
    """What will be done to a row that is still there, by which rule. Pure."""
    facts = event.after or {}
    since = datetime.fromisoformat(facts["job_updated_at"])
    # A hold keeps what is kept; it brings nothing back that was released, and finishes no writing.
    if facts["hold"] and facts["state"] not in ("purging", "pending"):
        fate = f"stays, whatever its age: its job is on hold ({facts['hold']})"
    elif facts["state"] == "trashed":
        until = facts["purge_after"][:16].replace("T", " ")
        fate = f"in the trash; undelete-jobs brings it back until {until}, then cleanup removes it (trash_days)"
    elif facts["state"] in _FATES:
        fate = _FATES[facts["state"]]
    elif facts["job_status"] == "failed":
        due = since + timedelta(days=policy.failed_days)
        fate = f"its job failed; cleanup removes it after {due:%Y-%m-%d %H:%M} (failed_days)"
    elif facts["state"] == "pending":
        due = datetime.fromisoformat(facts["created_at"]) + timedelta(hours=policy.abandoned_hours)
        fate = f"being written; cleanup gives it up after {due:%Y-%m-%d %H:%M} if nobody finishes (abandoned_hours)"
    elif facts["job_status"] != "completed":
        due = since + timedelta(hours=policy.stuck_hours)
        fate = (
            f"stays; its job is {facts['job_status']}, and fails by {due:%Y-%m-%d %H:%M} without progress (stuck_hours)"
        )
    else:
        fate = (
            "stays readable; tier-jobs moves it and compress-jobs makes texts smaller, by age and last access; "
            f"verify-objects reads it again (last {(facts['verified_at'] or 'never')[:10]})"
        )
    return f"{facts['name']}: {fate}"
