"""Sweeps of one place exclude each other: session advisory locks on a connection of their own.

The locks live in the maintenance database, so that they hold while the catalog's own is renamed by a restore. They are
never taken through a pool: a pooled session would hand them on to another run, and keep them after this one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from blocks.catalog.block import CatalogDatabase
from blocks.catalog.locations import read_identity
from blocks.errors import CatalogUnavailableError, LockLostError, SweepBusyError, first_line

POLL_SECONDS = 1.0
"""Polled and not waited for in the server: a run that waits can be cancelled at any second."""


class SweepLock:
    """Locks that are held as long as their session lives; what is done in it is done by their holder or not at all."""

    def __init__(self, session: Connection) -> None:
        self.session = session

    def require(self) -> None:
        """See that the locks are still held; asked before every batch.

        Raises:
            LockLostError: the connection was cut, and another sweep may have begun.
        """
        try:
            self.session.execute(text("SELECT 1"))
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
    catalog_id = catalog.transaction(read_identity).catalog_id
    # Sweeps share the catalog's own lock; then places in id order, so that nobody deadlocks.
    locks = [_Lock(_name(catalog_id), shared=True)]
    locks += [_Lock(_name(catalog_id, number)) for number in sorted(set(location_ids))]
    with _held(catalog, locks, holder, wait, waiting) as lock:
        yield lock


@contextmanager
def backup_lock(
    catalog: CatalogDatabase,
    catalog_id: UUID,
    *,
    holder: str,
    wait: timedelta,
    waiting: Callable[[str], None] = lambda by: None,
) -> Iterator[SweepLock]:
    """Hold a catalog's backups: one is made, or some are removed, at a time; a restore waits for it.

    Raises:
        SweepBusyError: as `sweep_lock`.
    """
    locks = [_Lock(_name(catalog_id), shared=True), _Lock(_name(catalog_id, "backups"))]
    with _held(catalog, locks, holder, wait, waiting) as lock:
        yield lock


@contextmanager
def catalog_lock(
    catalog: CatalogDatabase,
    catalog_id: UUID,
    *,
    holder: str,
    wait: timedelta,
    waiting: Callable[[str], None] = lambda by: None,
) -> Iterator[SweepLock]:
    """Hold a whole catalog alone: no sweep and no backup runs meanwhile.

    Raises:
        SweepBusyError: as `sweep_lock`.
    """
    with _held(catalog, [_Lock(_name(catalog_id))], holder, wait, waiting) as lock:
        yield lock


@contextmanager
def database_lock(catalog: CatalogDatabase, name: str, *, holder: str) -> Iterator[SweepLock]:
    """Hold databases beside the catalog's, such as those that are restored: who finds the lock free finds leftovers.

    Raises:
        SweepBusyError: somebody works on them.
    """
    lock = [_Lock(f"transcode-flow database {catalog.database} {name}")]
    with _held(catalog, lock, holder, timedelta(0), lambda by: None) as held:
        yield held


@dataclass(frozen=True)
class _Lock:
    name: str
    shared: bool = False


def _name(catalog_id: UUID, part: int | str = "") -> str:
    return f"transcode-flow {catalog_id} {part}".rstrip()


@contextmanager
def _held(
    catalog: CatalogDatabase,
    locks: Sequence[_Lock],
    holder: str,
    wait: timedelta,
    waiting: Callable[[str], None],
) -> Iterator[SweepLock]:
    engine = catalog.direct_engine(maintenance=True)
    try:
        with _connected(catalog, engine.connect) as connection:
            deadline, told = time.monotonic() + wait.total_seconds(), ""
            while (by := _take(connection, holder, locks)) is not None:
                if time.monotonic() >= deadline:
                    raise SweepBusyError(f"{by} works on the same store; run this again when it has ended")
                if by != told:
                    waiting(by)
                    told = by
                time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))
            yield SweepLock(connection)
            # Who comes next need not wait until the server notices that this session is over.
            with suppress(SQLAlchemyError):
                connection.execute(text("SELECT pg_advisory_unlock_all()"))
    finally:
        engine.dispose()


@contextmanager
def _connected(catalog: CatalogDatabase, connect: Callable[[], Connection]) -> Iterator[Connection]:
    try:
        # Each statement commits itself: an open transaction would hold back vacuum for hours.
        connection = connect().execution_options(isolation_level="AUTOCOMMIT")
    except DBAPIError as error:
        raise CatalogUnavailableError(
            f"PostgreSQL at {catalog.host} did not answer when the sweep's lock was to be taken: {first_line(error)}"
        ) from error
    try:
        yield connection
    finally:
        # The server drops the locks with the session, however this ends.
        connection.invalidate()
        connection.close()


def _take(connection: Connection, holder: str, locks: Sequence[_Lock]) -> str | None:
    """Take all, or none: returns who holds the first that cannot be had."""
    try:
        connection.execute(text("SELECT set_config('application_name', :name, false)"), {"name": holder[:63]})
        for lock in locks:
            function = "pg_try_advisory_lock_shared" if lock.shared else "pg_try_advisory_lock"
            if not _try(connection, function, lock.name):
                connection.execute(text("SELECT pg_advisory_unlock_all()"))
                return _holder(connection, lock.name)
    except SQLAlchemyError as error:
        raise CatalogUnavailableError(f"the connection for the sweep's lock was lost: {first_line(error)}") from error
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
