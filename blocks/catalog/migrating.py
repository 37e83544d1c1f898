"""Bringing a catalog's schema to this code's revision, and refusing any other."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from blocks.catalog.block import CatalogDatabase, is_interrupted
from blocks.catalog.housekeeping import LOG_MONTHS_AHEAD
from blocks.catalog.readers import grant_readers
from blocks.errors import RefusedError, SchemaError

TABLES = (
    "catalog_identity", "api_keys", "jobs", "locations", "stored_objects", "reservations", "uploads", "relocations",
    "operation_log", "approvals", "backup_checks", "findings", "storage_changes", "source_hits", "storage_totals",
    "job_totals", "age_totals", "job_sources", "job_duplicates", "shared_sources", "analytics.snapshots",
    "analytics.usage", "analytics.customers", "analytics.savings", "analytics.notable_jobs", "analytics.ages",
    "analytics.operations", "analytics.findings", "analytics.backups",
)  # fmt: skip
"""What a catalog of this revision has."""
_MIGRATION_LOCK = 0x7472616E73636F64  # "transcod": two deployments at once migrate one after the other
LOCK_SECONDS = 30
"""How long a migration waits for a table."""
_checked: set[str] = set()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


@lru_cache(maxsize=1)
def head_revision() -> str:
    """The revision this code was written for."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise SchemaError("this installation has no migrations; install the project again")
    return head


def current_revision(catalog: CatalogDatabase) -> str | None:
    """The revision the database is at; None for an empty database."""

    def read(connection: Connection) -> str | None:
        if connection.execute(text("SELECT to_regclass('alembic_version')")).scalar() is None:
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()

    return catalog.transaction(read)


def upgrade(catalog: CatalogDatabase) -> str:
    """Migrate to `head_revision()` and make the log's months; safe to run at any time, also twice at once.

    Raises:
        SchemaError: the database was migrated by a newer version, or lost a table.
        RefusedError: it is not UTF-8, or not the role's; or somebody kept a table for longer than `LOCK_SECONDS`.
        CatalogUnavailableError: the connection was lost; what was begun is undone.
    """
    try:
        _upgrade(catalog)
    except DBAPIError as error:
        if is_interrupted(error):
            raise catalog.unavailable(error) from error
        if getattr(error.orig, "pgcode", "") == "55P03":
            raise RefusedError(
                f"a table of {catalog.database} was in use for {LOCK_SECONDS} s, by a backup or a long query: wait for "
                "its end, and run it again"
            ) from error
        raise
    _checked.discard(str(catalog.url()))
    require_all_tables(catalog)
    return head_revision()


def _upgrade(catalog: CatalogDatabase) -> None:
    config = _config()
    # Without a pool there is nothing to dispose of: the session, and with it the lock, ends here.
    with catalog.direct_engine().connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _MIGRATION_LOCK})
        connection.commit()
        found = current_revision(catalog)
        if found is not None and found not in _known_revisions():
            raise SchemaError(_unknown(catalog, found))
        _require_owned(connection, catalog)
        # Who waits for a table lets everybody else wait who comes after.
        connection.execute(text(f"SET lock_timeout = '{LOCK_SECONDS}s'"))
        connection.commit()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.execute(
            text("SELECT create_log_partitions(:start, :months)"),
            {"start": datetime.now(UTC).date(), "months": LOG_MONTHS_AHEAD},
        )
        # New tables, and a catalog that was restored: whoever may read the figures goes on reading them.
        grant_readers(connection)
        connection.commit()


def _require_owned(connection: Connection, catalog: CatalogDatabase) -> None:
    encoding, may_create, may_create_tables = connection.execute(
        text(
            "SELECT pg_encoding_to_char(d.encoding), has_database_privilege(d.oid, 'CREATE'), "
            "       (SELECT has_schema_privilege(n.oid, 'CREATE') FROM pg_namespace n WHERE n.nspname = 'public') "
            "  FROM pg_database d WHERE d.datname = current_database()"
        )
    ).one()
    connection.commit()
    if encoding != "UTF8":
        raise RefusedError(
            f"the database {catalog.database} is encoded as {encoding}, and names of files need UTF-8: make it with "
            f"CREATE DATABASE {catalog.database} TEMPLATE template0 ENCODING 'UTF8'"
        )
    if not may_create:
        raise RefusedError(
            f"the role {catalog.username} may not create in the database {catalog.database}: have its owner run "
            f"ALTER DATABASE {catalog.database} OWNER TO {catalog.username}"
        )
    if not may_create_tables:
        # None where there is no such schema.
        means = (
            f"CREATE SCHEMA public AUTHORIZATION {catalog.username}"
            if may_create_tables is None
            else f"GRANT CREATE ON SCHEMA public TO {catalog.username}"
        )
        raise RefusedError(
            f"the role {catalog.username} may not create in the schema public of the database {catalog.database}: have "
            f"a superuser run {means} in it"
        )


def require_current_schema(catalog: CatalogDatabase) -> None:
    """Refuse to work on a schema this code was not written for (looked at once a process).

    Raises:
        SchemaError: the database is empty, older or newer, or lost a table; the message says what to run.
    """
    if str(catalog.url()) in _checked:
        return
    found, wanted = current_revision(catalog), head_revision()
    if found is None:
        raise SchemaError(f"the database {catalog.database} holds no catalog; run `python -m flows upgrade`")
    if found not in _known_revisions():
        raise SchemaError(_unknown(catalog, found))
    if found != wanted:
        raise SchemaError(
            f"the catalog {catalog.database} is at revision {found}, this code needs {wanted}; "
            "run `python -m flows upgrade`"
        )
    require_all_tables(catalog)
    _checked.add(str(catalog.url()))


def require_all_tables(catalog: CatalogDatabase) -> None:
    """Refuse a catalog of this revision that lost a table.

    Raises:
        SchemaError: it lacks some; the message names them, and the way out.
    """
    lacking = catalog.transaction(
        lambda connection: (
            connection.execute(
                text("SELECT name FROM unnest(CAST(:names AS text[])) AS t (name) WHERE to_regclass(name) IS NULL"),
                {"names": list(TABLES)},
            )
            .scalars()
            .all()
        )
    )
    if lacking:
        raise SchemaError(
            f"the catalog {catalog.database} is not whole: it lacks {', '.join(lacking)}. Restore a backup from before "
            "that, with even_if_unreadable; what it still holds is kept aside"
        )


def require_known_schema(catalog: CatalogDatabase) -> str:
    """The revision of a catalog that need not be this code's own, as long as this code knows it.

    Raises:
        SchemaError: the database holds no catalog, or one that a newer version migrated.
    """
    found = current_revision(catalog)
    if found is None:
        raise SchemaError(f"the database {catalog.database} holds no catalog; run `python -m flows upgrade`")
    if found not in _known_revisions():
        raise SchemaError(_unknown(catalog, found))
    return found


def is_known_revision(revision: str) -> bool:
    """Whether this code can bring a catalog of this revision forward."""
    return revision in _known_revisions()


@lru_cache(maxsize=1)
def _known_revisions() -> frozenset[str]:
    return frozenset(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def _unknown(catalog: CatalogDatabase, found: str) -> str:
    return (
        f"the catalog {catalog.database} is at revision {found}, which this code does not know: it was migrated by a "
        f"newer version; install that version (this one knows up to {head_revision()})"
    )
