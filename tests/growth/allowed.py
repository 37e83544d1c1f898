"""Statements that may read a whole table, each with the reason: it is what they are there for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.growth.judging import Trouble


@dataclass(frozen=True)
class Allowed:
    """Who may go through which tables (none: any), and why; a sender that ends in a dot is a whole module."""

    senders: tuple[str, ...]
    tables: tuple[str, ...]
    because: str
    among_millions: bool = False
    """Whether it is too little to be told in a test run."""
    through: str = ""
    """The index that all of may be gone through; any if empty."""

    def covers(self, trouble: Trouble) -> bool:
        """Whether this one is meant."""
        return (
            any(
                trouble.sender.startswith(sender) if sender.endswith(".") else trouble.sender == sender
                for sender in self.senders
            )
            and (not self.tables or trouble.table in self.tables)
            and self.through in trouble.why
        )


ALLOWED = (
    Allowed(("blocks.catalog.facts.", "blocks.catalog.analytics."), (), "figures: a night's analytics"),
    Allowed(
        ("blocks.catalog.drift.count_rows",),
        ("stored_objects",),
        "reconcile-quota reads every row of a place, and a listing of as many objects; so many parts it makes of that",
    ),
    Allowed(
        ("blocks.catalog.counters.counter_drift",),
        ("stored_objects",),
        "reconcile-quota holds counters against the sums of the rows: any other sum would be a counter too",
    ),
    Allowed(
        ("blocks.catalog.snapshots.count_rows.<locals>.<dictcomp>", "blocks.catalog.snapshots.metadata_objects"),
        (),
        "a backup reads everything, counts it, and lists every metadata object",
    ),
    Allowed(
        ("blocks.catalog.moving.jobs_in_places",),
        ("stored_objects", "jobs"),
        "a place is migrated as a whole: each of its objects is moved, which takes a thousand times as long",
    ),
    Allowed(
        ("blocks.catalog.lifecycle.find_old_objects",),
        ("stored_objects",),
        "what a transition rule reaches is most of a place; weekly, and only where the server moves classes",
    ),
    Allowed(
        ("blocks.catalog.moving._idle",),
        ("jobs",),
        "jobs that are idle for long enough and not old enough are passed over in the index: no row of them is read",
        among_millions=True,
    ),
    Allowed(
        ("blocks.catalog.selection.select_jobs", "blocks.catalog.restored.thaw"),
        ("jobs",),
        "the trash is the jobs of some days, however many there were before them",
        among_millions=True,
        through="jobs_trashed",
    ),
    Allowed(
        ("blocks.catalog.due._jobs",),
        ("jobs",),
        "jobs under way are those of some days, too; few of them are on hold",
        among_millions=True,
        through="jobs_unfinished",
    ),
    Allowed(("blocks.catalog.due.count_up_to",), ("stored_objects",), "no condition, and no further than is asked"),
)


def not_allowed(found: Mapping[str, Iterable[Trouble]]) -> list[str]:
    """What nobody gave a reason for, by what was done."""
    return [
        f"{what}: {one}"
        for what, troubles in found.items()
        for one in troubles
        if not any(reason.covers(one) for reason in ALLOWED)
    ]
