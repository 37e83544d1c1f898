"""What is known of an object: its row, if there is one, and all that the log says was done to it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text


@dataclass(frozen=True)
class Event:
    """One line of an object's history; `what` is `is` for its row as of now."""

    at: datetime
    what: str
    run: str
    rule: str
    customer: str
    job_id: UUID | None
    object_id: UUID | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    size_bytes: int


def read_history(connection: Connection, reference: str) -> list[Event]:
    """The events of an object's id, of a key it has or had, or of a job's id; the newest first."""
    rows = connection.execute(text("SELECT * FROM explain_object(:reference)"), {"reference": reference})
    return [Event(*row) for row in rows]
