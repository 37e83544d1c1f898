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


def record_aged(connection: Connection, removed: Sequence[tuple[str, str, int]], *, run: str) -> None:
    """Append objects without a row that age alone removed: key, rule and bytes of each."""
    if removed:
        connection.execute(
            text(
                "INSERT INTO operation_log (run, operation, rule, job_id, before, bytes) "
                "SELECT :run, 'expire', a.rule, "
                # Some of these keys name a job; one under temp/ names an upload.
                "       CAST(substring(a.key FROM :job_in_key) AS uuid), "
                "       jsonb_build_object('key', a.key), a.size "
                "  FROM unnest(CAST(:keys AS text[]), CAST(:rules AS text[]), CAST(:sizes AS bigint[])) "
                "    AS a (key, rule, size)"
            ),
            {
                "run": run,
                "job_in_key": JOB_IN_KEY,
                "keys": [key for key, _, _ in removed],
                "rules": [rule for _, rule, _ in removed],
                "sizes": [size for _, _, size in removed],
            },
        )
