"""Sweeps of one place exclude each other: session advisory locks on a connection of their own.

The locks live in the maintenance database, so that they hold while the catalog's own is renamed by a restore. They are
never taken through a pool: a pooled session would hand them on to another run, and keep them after this one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from blocks.catalog.block import CatalogDatabase
from blocks.catalog.locations import read_identity
from blocks.errors import CatalogUnavailableError, LockLostError, SweepBusyError

POLL_SECONDS = 1.0
"""Polled and not waited for in the server: a run that waits can be cancelled at any second."""


class SweepLock:
    """Locks that are held as long as their connection lives."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def require(self) -> None:
        """See that the locks are still held; asked before every batch.

        Raises:
            LockLostError: the connection was cut, and another sweep may have begun.
        """
        try:
            self._connection.execute(text("SELECT 1"))
        except SQLAlchemyError as error:
            raise LockLostError(
                "the connection that held this sweep's lock was cut; it stopped before the next batch, what was done "
                "is recorded, and the next run goes on"
            ) from error


@contextmanager
def sweep_lock(
    catalog: CatalogDatabase,
    location_ids: Sequence[int],
    *,
    holder: str,
    wait: timedelta,
    waiting: Callable[[str], None] = lambda by: None,
) -> Iterator[SweepLock]:
    """Hold these locations for one sweep; `holder` is what others are told, `waiting` hears who holds them now.

    Raises:
        SweepBusyError: another sweep held one of them for all of `wait`.
    """
    identity = catalog.transaction(read_identity)
    # A restore takes the catalog's own lock alone, sweeps share it; then places in id order, so that nobody deadlocks.
    names = [f"transcode-flow {identity.catalog_id} {number}" for number in sorted(set(location_ids))]
    shared = f"transcode-flow {identity.catalog_id}"
    engine = catalog.direct_engine(maintenance=True)
    try:
        with _connected(engine.connect) as connection:
            deadline, told = time.monotonic() + wait.total_seconds(), ""
            while (by := _take(connection, holder, shared, names)) is not None:
                if time.monotonic() >= deadline:
                    raise SweepBusyError(f"{by} works on the same store; run this again when it has ended")
                if by != told:
                    waiting(by)
                    told = by
                time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))
            yield SweepLock(connection)
    finally:
        engine.dispose()


@contextmanager
def _connected(connect: Callable[[], Connection]) -> Iterator[Connection]:
    try:
        # Each statement commits itself: an open transaction would hold back vacuum for hours.
        connection = connect().execution_options(isolation_level="AUTOCOMMIT")
    except DBAPIError as error:
        raise CatalogUnavailableError(f"no connection for the sweep's lock: {str(error.orig).strip()}") from error
    try:
        yield connection
    finally:
        # The server drops the locks with the session, however this ends.
        connection.invalidate()
        connection.close()


def _take(connection: Connection, holder: str, shared: str, names: Sequence[str]) -> str | None:
    """Take all, or none: returns who holds the first that cannot be had."""
    try:
        connection.execute(text("SELECT set_config('application_name', :name, false)"), {"name": holder[:63]})
        if not _try(connection, "pg_try_advisory_lock_shared", shared):
            return _holder(connection, shared)
        for name in names:
            if not _try(connection, "pg_try_advisory_lock", name):
                connection.execute(text("SELECT pg_advisory_unlock_all()"))
                return _holder(connection, name)
    except SQLAlchemyError as error:
        reason = (str(error).splitlines() or [""])[0]
        raise CatalogUnavailableError(f"the connection for the sweep's lock was lost: {reason}") from error
    return None


def _try(connection: Connection, function: str, name: str) -> bool:
    taken: bool = connection.execute(
        text(f"SELECT {function}(hashtextextended(:name, 0))"), {"name": name}
    ).scalar_one()
    return taken


def _holder(connection: Connection, name: str) -> str:
    row = connection.execute(
        text(
            "SELECT a.application_name, a.backend_start FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
            " WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.pid <> pg_backend_pid() "
            "   AND (l.classid::bigint << 32) | l.objid::bigint = hashtextextended(:name, 0) LIMIT 1"
        ),
        {"name": name},
    ).one_or_none()
    return f"{row.application_name} (since {row.backend_start:%H:%M:%S} UTC)" if row else "another run"
