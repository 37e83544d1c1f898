"""What runs found: drift, rules that lag behind, corrupt bytes; written down so that it can be followed over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

NOTHING = "none"
"""The finding of a run that found nothing: that somebody looked is a fact too."""


@dataclass(frozen=True)
class Found:
    """One kind of finding in one location: how many objects and bytes, and since when the oldest is due."""

    location: str
    finding: str
    objects: int = 0
    size_bytes: int = 0
    oldest_at: datetime | None = None


def record_findings(
    connection: Connection, operation: str, looked_at: Sequence[str], found: Sequence[Found], *, run: str
) -> None:
    """Write down what a run found in the locations it looked at; of one without findings, that there were none."""
    quiet = set(looked_at) - {one.location for one in found}
    lines = [*found, *(Found(location, NOTHING) for location in sorted(quiet))]
    # All of one run are of one moment: the newest of a location are told by it.
    connection.execute(
        text(
            "INSERT INTO findings (at, run, operation, location, finding, objects, size_bytes, oldest_at) "
            "SELECT now(), :run, :operation, f.* FROM unnest(CAST(:locations AS text[]), CAST(:findings AS text[]), "
            "  CAST(:objects AS bigint[]), CAST(:sizes AS bigint[]), CAST(:oldest AS timestamptz[])) AS f"
        ),
        {
            "run": run,
            "operation": operation,
            "locations": [one.location for one in lines],
            "findings": [one.finding for one in lines],
            "objects": [one.objects for one in lines],
            "sizes": [one.size_bytes for one in lines],
            "oldest": [one.oldest_at for one in lines],
        },
    )


def forget_findings(connection: Connection, *, keep: timedelta) -> int:
    """Remove those that are older; returns how many there were."""
    gone = text("DELETE FROM findings WHERE at < clock_timestamp() - CAST(:keep AS interval)")
    return connection.execute(gone, {"keep": keep}).rowcount
