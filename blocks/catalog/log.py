"""Writing down what was done to each object, in the transaction that did it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text


@dataclass(frozen=True)
class Change:
    """One object changed: by which run and rule, from what to what, moving how many bytes."""

    run: str
    operation: str
    rule: str
    api_key_id: int
    job_id: UUID
    object_id: UUID | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    bytes: int


def record(connection: Connection, changes: Sequence[Change]) -> None:
    """Append to `operation_log`."""
    if not changes:
        return
    connection.execute(
        text(
            "INSERT INTO operation_log (run, operation, rule, api_key_id, job_id, object_id, before, after, bytes) "
            "SELECT * FROM unnest(CAST(:runs AS text[]), CAST(:operations AS text[]), CAST(:rules AS text[]), "
            "  CAST(:customers AS bigint[]), CAST(:jobs AS uuid[]), CAST(:objects AS uuid[]), "
            "  CAST(:befores AS jsonb[]), CAST(:afters AS jsonb[]), CAST(:bytes AS bigint[]))"
        ),
        {
            "runs": [change.run for change in changes],
            "operations": [change.operation for change in changes],
            "rules": [change.rule for change in changes],
            "customers": [change.api_key_id for change in changes],
            "jobs": [str(change.job_id) for change in changes],
            "objects": [str(change.object_id) if change.object_id else None for change in changes],
            "befores": [json.dumps(change.before) if change.before is not None else None for change in changes],
            "afters": [json.dumps(change.after) if change.after is not None else None for change in changes],
            "bytes": [change.bytes for change in changes],
        },
    )


JOB_IN_KEY = "^(?:processed|uploads|failed|exports/hls)/([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})/"


@dataclass(frozen=True)
class Unnamed:
    """An object that no row names, and the rule that removes it."""

    key: str
    rule: str
    size_bytes: int


def record_unnamed(connection: Connection, removed: Sequence[Unnamed], *, operation: str, run: str) -> dict[str, int]:
    """Append objects that no row named; returns the line of each key, for `strike_out`."""
    lines = connection.execute(
        text(
            "INSERT INTO operation_log (run, operation, rule, job_id, before, bytes) "
            "SELECT :run, :operation, u.rule, "
            # Some of these keys name a job; one under temp/ names an upload.
            "       CAST(substring(u.key FROM :job_in_key) AS uuid), jsonb_build_object('key', u.key), u.size "
            "  FROM unnest(CAST(:keys AS text[]), CAST(:rules AS text[]), CAST(:sizes AS bigint[])) "
            "    AS u (key, rule, size) "
            "RETURNING before ->> 'key' AS key, id"
        ),
        {
            "run": run,
            "operation": operation,
            "job_in_key": JOB_IN_KEY,
            "keys": [one.key for one in removed],
            "rules": [one.rule for one in removed],
            "sizes": [one.size_bytes for one in removed],
        },
    )
    return {line.key: line.id for line in lines}


def strike_out(connection: Connection, lines: Sequence[int]) -> None:
    """Take lines back that were written before what they tell of, which then did not come."""
    connection.execute(text("DELETE FROM operation_log WHERE id = ANY (CAST(:ids AS bigint[]))"), {"ids": list(lines)})
