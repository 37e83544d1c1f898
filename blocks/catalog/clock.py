"""The catalog's clock: ages of rows are measured with the clock that dated them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, text


def catalog_now(connection: Connection) -> datetime:
    """What time it is for PostgreSQL at this moment, also within a long transaction."""
    at: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return at
