"""A catalog as it was at one moment: an exported snapshot ties a dump, its counts and its list of objects together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from blocks.catalog.block import CatalogDatabase, is_interrupted
from blocks.errors import CatalogUnavailableError

RUNNING_LOCK = (1650549611, 1)
"""What `backup_is_running()` looks for: while it is held, no metadata object's bytes are removed."""
ROWS_A_FETCH = 10_000


@dataclass(frozen=True)
class Snapshot:
    """A moment of the catalog; `id` is what pg_dump takes, `connection` sees what it sees."""

    id: str
    taken_at: datetime
    server_version: int
    connection: Connection

    def require(self) -> None:
        """See that the session still lives: what it tied together is only then of one moment, and still stored.

        Raises:
            CatalogUnavailableError: it does not.
        """
        try:
            self.connection.execute(text("SELECT 1"))
        except DBAPIError as error:
            raise CatalogUnavailableError("the session that held the backup's snapshot was cut") from error


@dataclass(frozen=True, slots=True)
class SavedObject:
    """A metadata object as a backup lists it: the content, and where it lay."""

    sha256: str
    size_bytes: int
    stored_bytes: int
    location_id: int
    key: str
    codec: str


@contextmanager
def exported_snapshot(catalog: CatalogDatabase) -> Iterator[Snapshot]:
    """Hold a snapshot, on a connection of its own, and keep the bytes of metadata objects from being removed meanwhile.

    Raises:
        CatalogUnavailableError: no connection, or it was lost.
    """
    engine = catalog.direct_engine()
    try:
        with engine.connect() as connection:
            # Before the snapshot: what it sees as stored stays, because every purge looks for this lock first.
            connection.execute(text("SELECT pg_advisory_lock_shared(:one, :two)"), _LOCK)
            connection.commit()
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
            # It may be idle for as long as the dump takes.
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            # Since PostgreSQL 17.
            connection.execute(
                text("SELECT set_config(name, '0', true) FROM pg_settings WHERE name = 'transaction_timeout'")
            )
            row = connection.execute(
                text("SELECT pg_export_snapshot() AS id, clock_timestamp() AS at, "
                     "       current_setting('server_version_num')::int AS version")
            ).one()  # fmt: skip
            yield Snapshot(row.id, row.at, row.version, connection)
            # Who purges next need not wait until the server notices that this session is over.
            with suppress(SQLAlchemyError):
                connection.rollback()
                connection.execute(text("SELECT pg_advisory_unlock_shared(:one, :two)"), _LOCK)
    except DBAPIError as error:
        if not error.connection_invalidated and not is_interrupted(error):
            raise
        raise catalog.unavailable(error) from error
    finally:
        engine.dispose()


_LOCK = {"one": RUNNING_LOCK[0], "two": RUNNING_LOCK[1]}


def backup_is_running(connection: Connection) -> bool:
    """Whether a backup of this catalog holds its snapshot at this moment."""
    runs: bool = connection.execute(text("SELECT backup_is_running()")).scalar_one()
    return runs


def count_rows(connection: Connection) -> dict[str, int]:
    """Rows of every table that holds rows itself, by `schema.table`; it reads them all."""
    preparer = connection.dialect.identifier_preparer
    tables = connection.execute(
        text(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            f" WHERE c.relkind = 'r' AND {_OURS} ORDER BY 1, 2"
        )
    ).all()
    return {
        f"{schema}.{name}": connection.exec_driver_sql(
            f"SELECT count(*) FROM {preparer.quote(schema)}.{preparer.quote(name)}"
        ).scalar_one()
        for schema, name in tables
    }


_OURS = "n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'"


def count_parts(connection: Connection) -> dict[str, int]:
    """How many keys, checks, indexes, triggers, functions, views and sequences there are: a restore must bring all."""
    row = connection.execute(
        text(
            f"WITH ours AS (SELECT n.oid FROM pg_namespace n WHERE {_OURS}) "
            # Not by the name that older backups have: PostgreSQL 18 counts each NOT NULL as a constraint, 17 does not.
            "SELECT (SELECT count(*) FROM pg_constraint "
            "         WHERE contype <> 'n' AND connamespace IN (SELECT oid FROM ours)) AS keys_and_checks, "
            "  (SELECT count(*) FROM pg_class c WHERE relkind IN ('i', 'I') AND relnamespace IN (SELECT oid FROM ours) "
            "     AND EXISTS (SELECT 1 FROM pg_index i WHERE i.indexrelid = c.oid AND i.indisvalid)) AS indexes, "
            "  (SELECT count(*) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
            "    WHERE NOT t.tgisinternal AND c.relnamespace IN (SELECT oid FROM ours)) AS triggers, "
            "  (SELECT count(*) FROM pg_proc WHERE pronamespace IN (SELECT oid FROM ours)) AS functions, "
            "  (SELECT count(*) FROM pg_class WHERE relkind IN ('v', 'm') AND relnamespace IN (SELECT oid FROM ours)) "
            "     AS views, "
            "  (SELECT count(*) FROM pg_class WHERE relkind = 'S' AND relnamespace IN (SELECT oid FROM ours)) "
            "     AS sequences"
        )
    ).one()
    return dict(row._mapping)


def named_roles(connection: Connection) -> list[str]:
    """Roles other than the owner that something was granted to: a server without them cannot take those grants."""
    rows = connection.execute(
        text(
            "SELECT DISTINCT r.rolname FROM ("
            "  SELECT (aclexplode(relacl)).grantee FROM pg_class WHERE relacl IS NOT NULL "
            "  UNION SELECT (aclexplode(nspacl)).grantee FROM pg_namespace WHERE nspacl IS NOT NULL "
            "  UNION SELECT (aclexplode(proacl)).grantee FROM pg_proc WHERE proacl IS NOT NULL "
            "  UNION SELECT (aclexplode(attacl)).grantee FROM pg_attribute WHERE attacl IS NOT NULL "
            "  UNION SELECT (aclexplode(defaclacl)).grantee FROM pg_default_acl) AS g "
            "  JOIN pg_roles r ON r.oid = g.grantee WHERE r.rolname !~ '^pg_' AND r.rolname <> current_user ORDER BY 1"
        )
    )
    return list(rows.scalars())


def schema_revision(connection: Connection) -> str:
    """The revision its migrations brought it to."""
    revision: str = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
    return revision


def database_bytes(connection: Connection) -> int:
    """What the database takes on its server's disk, indexes included."""
    size: int = connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one()
    return size


def metadata_objects(connection: Connection) -> Iterator[SavedObject]:
    """Every distinct content of a metadata object, in the order of its hash; streamed.

    Of what lost its bytes too: the backups may hold the only copy.
    """
    rows = connection.execution_options(stream_results=True, yield_per=ROWS_A_FETCH).execute(
        text(
            'SELECT DISTINCT ON (sha256 COLLATE "C") sha256, size_bytes, stored_bytes, location_id, key, codec '
            "  FROM stored_objects "
            " WHERE kind = 'metadata' AND coalesce(trashed_state, state) IN ('live', 'missing', 'corrupt') "
            " ORDER BY sha256 COLLATE \"C\", coalesce(trashed_state, state) <> 'live', id"
        )
    )
    for row in rows:
        yield SavedObject(*row)
