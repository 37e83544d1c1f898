"""The catalog that a restore takes the place of, asked for what no backup knows: as far as it can still be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

import psycopg2
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from blocks.catalog import CatalogDatabase
from blocks.catalog.block import is_interrupted
from blocks.catalog.checks import checks_since
from blocks.catalog.databases import count_tables, is_open, maintenance
from blocks.catalog.locations import Identity, read_identity
from blocks.catalog.migrating import current_revision, head_revision, is_known_revision
from blocks.catalog.restored import UNSEEN, Obligations, disabled_keys, erased_since, jobs_on_hold
from blocks.errors import RefusedError, first_line

T = TypeVar("T")
Otherwise = TypeVar("Otherwise")

ASKED = ("api_keys", "jobs", "stored_objects", "operation_log")
"""Tables that a restore reads before it takes their place."""
ASKED_TOO = ("approvals", "backup_checks")
"""Those that came with later revisions."""


@dataclass(frozen=True)
class InUse:
    """A catalog in use. `unreadable` says why not all of it can be read, as after a dropped table; empty if it can.

    With `as_far_as_it_can_be_read` a question that it cannot answer has no answer; else it is refused. It is asked in
    `session` where there is one, and there once.
    """

    database: CatalogDatabase
    as_far_as_it_can_be_read: bool
    unreadable: str = ""
    session: Connection | None = None

    def ask(self, question: Callable[[Connection], T], otherwise: Otherwise) -> T | Otherwise:
        """Its answer, or `otherwise`.

        Raises:
            RefusedError: it cannot answer, and that was not allowed for.
            CatalogUnavailableError: the server did not answer.
        """
        try:
            return self._answer(question)
        except (SQLAlchemyError, psycopg2.Error) as error:
            if self.as_far_as_it_can_be_read:
                return otherwise
            raise _refusal(self.database, error) from error

    def _answer(self, question: Callable[[Connection], T]) -> T:
        if self.session is None:
            return self.database.transaction(question)
        try:
            with self.session.begin():
                return question(self.session)
        except DBAPIError as error:
            if is_interrupted(error):
                raise self.database.unavailable(error) from error
            raise

    @contextmanager
    def last_session(self) -> Iterator[tuple[InUse, int]]:
        """The same catalog in a session that was there before the database let nobody in any more; and its process."""
        engine = self.database.direct_engine()
        try:
            with engine.connect() as session:
                asked = replace(self, session=session)
                # Alone: PostgreSQL before 17.3 lets no parallel worker into a closed database either.
                asked._answer(lambda found: found.execute(text("SET max_parallel_workers_per_gather = 0")))
                yield asked, asked._answer(lambda found: found.execute(text("SELECT pg_backend_pid()")).scalar_one())
        finally:
            engine.dispose()

    def identity(self) -> Identity | None:
        """Which catalog it is, where it still says so."""
        return self.ask(read_identity, None)

    def is_current(self) -> bool:
        """Whether its schema is the one that this code knows; one that is damaged counts as such."""
        return bool(self.unreadable) or current_revision(self.database) == head_revision()

    def obligations(self, since: datetime) -> Obligations:
        """What it is bound to, which a restore does not undo: each by itself, and named where it has no answer."""
        unknown: list[str] = []

        def ask(what: str, question: Callable[[Connection], T], otherwise: T) -> T:
            found: T | None = self.ask(question, None)  # none of the answers is None
            if found is None:
                unknown.append(what)
            return otherwise if found is None else found

        return Obligations(
            ask("holds", jobs_on_hold, {}),
            # One is written down some seconds before it can be seen; what the backup knows itself is not added to it.
            ask("erasures", lambda connection: erased_since(connection, since - UNSEEN), []),
            ask("disabled keys", disabled_keys, {}),
            ask("how backups went", lambda connection: checks_since(connection, since), []),
            tuple(unknown),
        )


def find_in_use(target: CatalogDatabase, *, even_if_unreadable: bool) -> InUse | None:
    """The catalog in the target's database; None where there is no such database, or nothing in it.

    Raises:
        RefusedError: the database holds something else, or a catalog that cannot be read, and that was not allowed for.
    """
    with maintenance(target) as connection:
        if is_open(connection, target.database) is None:
            return None
    revision = current_revision(target)
    if not (target.transaction(_names_itself) or (revision is not None and is_known_revision(revision))):
        if foreign := count_tables(target):
            raise RefusedError(
                f"the database {target.database} holds {foreign} tables that are no catalog: a restore would take "
                "their place; name another database"
            )
        return None
    try:
        target.transaction(lambda connection: _look(connection, revision))
    except (SQLAlchemyError, psycopg2.Error) as error:
        if not even_if_unreadable:
            raise _refusal(target, error) from error
        return InUse(target, as_far_as_it_can_be_read=True, unreadable=first_line(error))
    return InUse(target, as_far_as_it_can_be_read=even_if_unreadable)


def _names_itself(connection: Connection) -> bool:
    # Others have an alembic_version too.
    return inspect(connection).has_table("catalog_identity")


def _look(connection: Connection, revision: str | None) -> None:
    read_identity(connection)
    # Who does not say its revision should have all.
    for name in ASKED + (ASKED_TOO if revision is None or revision == head_revision() else ()):
        connection.execute(text(f"SELECT * FROM {name} LIMIT 1"))


def _refusal(database: CatalogDatabase, error: Exception) -> RefusedError:
    return RefusedError(
        f"the catalog in {database.database} cannot be read ({first_line(error)}). With even_if_unreadable a backup "
        "takes its place all the same; holds, disabled keys and erasures of since are carried over as far as they can "
        "be read"
    )
