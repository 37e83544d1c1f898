"""What was done with backups, and how it went: evidence that outlives the run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text


@dataclass(frozen=True)
class Check:
    """One line of evidence; `what` is `backup`, `verification`, `drill` or `restore`."""

    at: datetime
    what: str
    backup: str
    ok: bool
    seconds: float
    bytes: int
    because: str
    run: str


def record_check(
    connection: Connection,
    *,
    what: str,
    backup: str,
    ok: bool,
    seconds: float,
    bytes: int = 0,
    because: str = "",
    run: str = "",
    details: dict[str, Any] | None = None,
) -> None:
    """Write one down; a catalog of an older schema, which has no such table, is left as it is."""
    if connection.execute(text("SELECT to_regclass('backup_checks')")).scalar() is None:
        return
    connection.execute(
        text(
            "INSERT INTO backup_checks (what, backup, ok, seconds, bytes, because, run, details) "
            "VALUES (:what, :backup, :ok, :seconds, :bytes, :because, :run, CAST(:details AS jsonb))"
        ),
        {
            "what": what, "backup": backup, "ok": ok, "seconds": seconds, "bytes": bytes, "because": because,
            "run": run, "details": json.dumps(details) if details is not None else None,
        },
    )  # fmt: skip


def backups_made(connection: Connection) -> list[str]:
    """Every backup that was taken, whether or not it is still there; none in a catalog of an older schema."""
    if connection.execute(text("SELECT to_regclass('backup_checks')")).scalar() is None:
        return []
    return list(connection.execute(text("SELECT backup FROM backup_checks WHERE what = 'backup' AND ok")).scalars())


def checks_since(connection: Connection, since: datetime) -> list[dict[str, Any]]:
    """All that was written down after a moment, as `keep_checks` takes it."""
    rows = connection.execute(
        text(
            "SELECT at, what, backup, ok, seconds, bytes, because, run, CAST(details AS text) AS details "
            "  FROM backup_checks WHERE at > :since ORDER BY at"
        ),
        {"since": since},
    )
    return [dict(row) for row in rows.mappings()]


def keep_checks(connection: Connection, kept: Sequence[dict[str, Any]]) -> None:
    """Write down in a restored catalog what the one before it knew; once, however often it is told."""
    if not kept:
        return
    connection.execute(
        text(
            "INSERT INTO backup_checks (at, what, backup, ok, seconds, bytes, because, run, details) "
            "SELECT :at, :what, :backup, :ok, :seconds, :bytes, :because, :run, CAST(:details AS jsonb) "
            " WHERE NOT EXISTS (SELECT FROM backup_checks "
            "                    WHERE what = CAST(:what AS text) AND at = :at AND backup = :backup)"
        ),
        list(kept),
    )


def newest_checks(connection: Connection, what: str, limit: int = 30) -> list[Check]:
    """The newest of a kind, newest first; none in a catalog of an older schema."""
    if connection.execute(text("SELECT to_regclass('backup_checks')")).scalar() is None:
        return []
    rows = connection.execute(
        text(
            "SELECT at, what, backup, ok, seconds, bytes, because, run FROM backup_checks "
            " WHERE what = :what ORDER BY at DESC LIMIT :limit"
        ),
        {"what": what, "limit": limit},
    )
    return [Check(*row) for row in rows]
