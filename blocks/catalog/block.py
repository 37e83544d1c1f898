"""The block that points at the catalog's PostgreSQL, and its one way to run a transaction."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, TypeVar

import psycopg2
from prefect.blocks.core import Block
from pydantic import Field, SecretStr
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import NullPool

from blocks.errors import CatalogUnavailableError, first_line

T = TypeVar("T")

DEADLOCK_OR_SERIALIZATION = frozenset({"40P01", "40001"})
ATTEMPTS = 13
"""With their pauses some 15 s: a PostgreSQL that is restarted is back by then."""
LONGEST_PAUSE_SECONDS = 3.0


class CatalogDatabase(Block):
    """The PostgreSQL database that holds the catalog; a database of its own, apart from Prefect's.

    Example:
        Load the block and count jobs:
        ```python
        from blocks.catalog import CatalogDatabase

        catalog = CatalogDatabase.load("BLOCK_NAME")
        catalog.transaction(lambda connection: connection.exec_driver_sql("SELECT count(*) FROM jobs").scalar_one())
        ```
    """

    _block_type_name = "Catalog Database"
    _block_type_slug = "catalog-database"
    _logo_url = "https://cdn.sanity.io/images/3ugk85nk/production/fb3f4debabcda1c5a3aeea4f5b3f94c28845e23e-250x250.png"  # type: ignore[assignment]  # pydantic turns it into a URL
    _documentation_url = "https://www.postgresql.org/docs/current/libpq-connect.html"  # type: ignore[assignment]  # as above
    _description = "The PostgreSQL database that holds the storage catalog."

    host: str = Field(
        default=...,
        description="Host name, or the folder of a Unix socket.",
        examples=["db.internal"],
        json_schema_extra={"position": 0},
    )
    port: int = Field(default=5432, description="TCP port of the server.", json_schema_extra={"position": 1})
    database: str = Field(
        default="transcode_flow", description="Name of the catalog's database.", json_schema_extra={"position": 2}
    )
    username: str = Field(
        default="transcode_flow", description="Role that owns the catalog.", json_schema_extra={"position": 3}
    )
    password: SecretStr | None = Field(
        default=None,
        description="Password of the role; none where the server trusts us.",
        json_schema_extra={"position": 4},
    )
    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = Field(
        default="prefer",
        title="SSL mode",
        description="libpq's sslmode, for example require or verify-full.",
        json_schema_extra={"position": 5},
    )
    pool_size: int = Field(
        default=8,
        ge=1,
        le=200,
        description="Connections one process keeps open for transactions, and again for single statements.",
        json_schema_extra={"position": 6},
    )
    maintenance_database: str = Field(
        default="postgres",
        description="Database to connect to where the catalog's own cannot be used (create, rename, sweep locks).",
        json_schema_extra={"position": 7},
    )

    def url(self, *, maintenance: bool = False) -> URL:
        """The SQLAlchemy URL of the catalog, or of the maintenance database."""
        return URL.create(
            "postgresql+psycopg2",
            username=self.username,
            password=self.password.get_secret_value() if self.password else None,
            database=self.maintenance_database if maintenance else self.database,
            # As query arguments, because a socket folder does not fit into a URL's host.
            query={
                "host": self.host,
                "port": str(self.port),
                "sslmode": self.sslmode,
                "application_name": "transcode-flow",
                "connect_timeout": "10",
                # A machine that is gone, or a firewall that forgot the session, is noticed within two minutes, and a
                # lock that is held through a long sweep is no idle connection.
                "keepalives_idle": "30",
                "keepalives_interval": "10",
                "keepalives_count": "6",
                "tcp_user_timeout": "90000",
            },
        )

    @property
    def engine(self) -> Engine:
        """The process's pool for this database (one for equal settings, however often the block is loaded)."""
        return _engine(self.url(), self.pool_size, autocommit=False)

    def disconnect(self) -> None:
        """Close this process's idle connections: no session of ours keeps the database from a rename or a drop."""
        for autocommit in (False, True):
            _engine(self.url(), self.pool_size, autocommit=autocommit).dispose()

    def direct_engine(self, *, maintenance: bool = False) -> Engine:
        """An engine without a pool, for sessions that hold something: locks, snapshots, renames."""
        return _in_utc(create_engine(self.url(maintenance=maintenance), poolclass=NullPool))

    def single_statement(self, work: Callable[[Connection], T]) -> T:
        """As `transaction`, for work that is one statement: it commits itself, with no COMMIT to wait for."""
        return self.transaction(work, autocommit=True)

    def transaction(self, work: Callable[[Connection], T], *, autocommit: bool = False) -> T:
        """Run `work` in one transaction; a deadlock or a lost connection before the commit runs it again.

        `work` must have no effect outside the transaction, since it can run more than once.

        Raises:
            CatalogUnavailableError: PostgreSQL did not answer within the attempts, or the commit's outcome is unknown.
        """
        engine = _engine(self.url(), self.pool_size, autocommit=autocommit)
        for attempt in range(ATTEMPTS):
            committing = False
            try:
                with engine.connect() as connection, connection.begin() as transaction:
                    committing = autocommit
                    result = work(connection)
                    committing = True
                    transaction.commit()
                return result
            except PoolTimeoutError as error:
                raise self.unavailable(error) from error
            except (DBAPIError, psycopg2.Error) as error:  # psycopg2's own where a frame is copied
                lost = is_lost(error)
                if _code(error) == CANCELLED:
                    raise self.unavailable(error) from error
                if not lost and _code(error) not in DEADLOCK_OR_SERIALIZATION:
                    raise
                # A COMMIT whose answer was lost may have happened: running it again could do it twice.
                if (lost and committing) or attempt == ATTEMPTS - 1:
                    raise self.unavailable(error) from error
                # Jitter, so that the two of a deadlock do not meet again.
                time.sleep(random.uniform(0.5, 1.0) * min(LONGEST_PAUSE_SECONDS, 0.02 * 2**attempt))  # noqa: S311 -- not a secret
        raise AssertionError("unreachable")

    def unavailable(self, error: Exception) -> CatalogUnavailableError:
        """A lost connection, told in the project's own error."""
        return CatalogUnavailableError(
            f"the catalog {self.database} at {self.host} did not answer: {first_line(error)}"
        )

    def named(self, database: str) -> CatalogDatabase:
        """The same server and role with another database, such as one that is restored beside."""
        return self.model_copy(update={"database": database})


CANCELLED = "57014"
"""An operator's `pg_cancel_backend`, or a time limit of the server's: nobody wants the statement once more."""
_GONE = ("08", "53", "57P")
"""How SQLSTATEs begin of a server that goes away or comes up: connection exception, no slots, operator intervention."""


def is_lost(error: DBAPIError | psycopg2.Error) -> bool:
    """Whether the connection was lost, or could not be made: the statement may work on another one."""
    code = _code(error)
    lost = isinstance(_cause(error), psycopg2.OperationalError | psycopg2.InterfaceError)
    return lost and (code is None or code.startswith(_GONE))


def is_interrupted(error: DBAPIError) -> bool:
    """Whether the statement did not come to its end for no fault of its own: lost, or cancelled."""
    return is_lost(error) or _code(error) == CANCELLED


def _cause(error: Exception) -> object:
    return error.orig if isinstance(error, DBAPIError) else error


def _code(error: Exception) -> str | None:
    return getattr(_cause(error), "pgcode", None)


# Without a default: calls that leave it out would be other calls to the cache, and make a second pool.
@lru_cache(maxsize=128)
def _engine(url: URL, pool_size: int, *, autocommit: bool) -> Engine:
    # A pool for each way to commit: a connection's way is set as it is made, and costs no trip later. In a transaction
    # a lost connection is noticed by the first statement, and all runs again. A statement that commits itself may have
    # happened when its answer is lost: a ping beforehand keeps it from a connection that was gone already.
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=60,
        pool_pre_ping=autocommit,
        isolation_level="AUTOCOMMIT" if autocommit else "READ COMMITTED",
    )
    return _in_utc(engine)


def _in_utc(engine: Engine) -> Engine:
    """Times come back in UTC, as everything that shows one says, whatever zone the server is set to."""

    @event.listens_for(engine, "connect")
    def set_zone(connection: Any, _: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET TIME ZONE 'UTC'")
        connection.commit()

    return engine
