"""Whether there is something to restore from, and how long that would take. Pure: what is known in, figures out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from blocks.catalog.checks import Check
from blocks.policies import BackupPolicy
from blocks.units import format_bytes
from tasks.backups.listing import Backup, Backups
from tasks.backups.manifest import DUMP

USUAL_OF = 7
"""Backups that say what the usual size is."""


@dataclass(frozen=True)
class Health:
    """What an operator wants to see at a glance; `alarms` is empty when all is well."""

    good: int
    newest_good: Backup | None
    age: timedelta | None
    recovery_seconds: float | None
    drilled_at: datetime | None
    alarms: tuple[str, ...]

    def rows(self) -> list[tuple[str, str]]:
        """Names and figures, for a table."""
        newest = self.newest_good
        drilled = f"{self.recovery_seconds:.0f} s" if self.recovery_seconds is not None else "never drilled"
        return [
            ("verified backups", str(self.good)),
            ("newest verified", f"{newest.id}, {format_bytes(newest.size_bytes)}" if newest else "NONE"),
            ("its age (what would be lost)", _hours(self.age) if self.age is not None else ""),
            ("recovery time (last drill)", drilled),
            ("last drill", f"{self.drilled_at:%Y-%m-%d %H:%M} UTC" if self.drilled_at else ""),
            ("alarms", "; ".join(self.alarms) or "none"),
        ]


def judge(backups: Backups, drills: Sequence[Check], policy: BackupPolicy, now: datetime) -> Health:
    """The state of a catalog's backups; `drills` newest first."""
    newest = backups.newest_good
    age = now - newest.at if newest is not None else None
    alarms = []
    if newest is None:
        alarms.append("there is no verified backup at all")
    elif age is not None and age > timedelta(hours=policy.overdue_hours):
        alarms.append(f"no good backup for {_hours(age)} (more than {policy.overdue_hours} h)")
    if newest is not None and (why := too_small(newest, backups.all, policy)):
        alarms.append(why)
    last = drills[0] if drills else None
    if last is not None and not last.ok:
        alarms.append(f"the last drill failed: {last.because}")
    if damaged := [one.id for one in backups.all if one.verified is False]:
        alarms.append(f"damaged: {', '.join(damaged[:3])}")
    if unread := [f"{one.id} ({one.why_not})" for one in backups.all if one.manifest is None]:
        alarms.append(f"cannot be read, and keeps all metadata objects from being let go: {', '.join(unread[:3])}")
    passed = next((one for one in drills if one.ok), None)
    return Health(
        good=sum(one.good for one in backups.all),
        newest_good=newest,
        age=age,
        recovery_seconds=passed.seconds if passed else None,
        drilled_at=passed.at if passed else None,
        alarms=tuple(alarms),
    )


def too_small(backup: Backup, others: Sequence[Backup], policy: BackupPolicy) -> str:
    """Why a backup's size is suspicious, empty where it is not: below a share of the median of those before it."""
    if backup.manifest is None:
        return ""
    before = [
        one.manifest.file(DUMP).size_bytes
        for one in others
        if one.good and one.manifest is not None and one.at < backup.at
        and bool(one.manifest.encrypted_to) == bool(backup.manifest.encrypted_to)
    ][:USUAL_OF]  # fmt: skip
    if not before:
        return ""
    usual, size = statistics.median(before), backup.manifest.file(DUMP).size_bytes
    if size * 100 >= usual * policy.small_percent:
        return ""
    return (
        f"the dump of backup {backup.id} has {format_bytes(size)}, less than {policy.small_percent} % of the "
        f"usual {format_bytes(round(usual))}: is something missing?"
    )


def _hours(age: timedelta) -> str:
    hours = age.total_seconds() / 3600
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.1f} days"
