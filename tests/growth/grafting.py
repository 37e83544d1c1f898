"""A small world beside the crowd: its rows are copied into the catalog that has grown, and taken out again."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from psycopg2 import sql

from tests.chaos.world import Address
from tests.growth.crowd import OTHERS

_TABLES = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname IN ('public', 'analytics')
   AND c.relname <> 'alembic_version' ORDER BY 1, 2
"""
# By what is the world's own. Jobs go last, because the others are found by them.
_OWN_JOBS = f"SELECT id FROM jobs WHERE api_key_id < {OTHERS}"
_OUT = (
    *(
        f"DELETE FROM {table} WHERE job_id IN ({_OWN_JOBS})"
        for table in ("stored_objects", "job_sources", "job_duplicates", "source_hits", "relocations")
    ),
    *(
        f"DELETE FROM {table} WHERE api_key_id < {OTHERS}"
        for table in (
            "uploads",
            "reservations",
            "storage_changes",
            "storage_totals",
            "job_totals",
            "age_totals",
            "jobs",
        )
    ),
    f"DELETE FROM api_keys WHERE id < {OTHERS}",
    f"DELETE FROM locations WHERE id < {OTHERS}",
    "UPDATE locations SET retired_at = NULL",
    "DELETE FROM operation_log WHERE at >= %(since)s",
    "DELETE FROM approvals",
    "DELETE FROM findings",
    "DELETE FROM backup_checks",
    "DELETE FROM analytics.snapshots WHERE day >= current_date",
    "DELETE FROM analytics.usage",
    "DELETE FROM analytics.customers",
    "DELETE FROM analytics.savings",
    "DELETE FROM analytics.ages",
    "DELETE FROM analytics.operations",
    "DELETE FROM analytics.findings",
    "DELETE FROM analytics.backups",
)


@contextmanager
def grafted(small: Address, grown: Address) -> Iterator[None]:
    """Everything of the small world's catalog lies in the grown one meanwhile, its identity too."""
    with _connected(grown) as there:
        # Nobody looks into places that are retired: there is nothing in their stores.
        there.execute("UPDATE locations SET retired_at = now()")
        there.execute("DELETE FROM catalog_identity")
        with _connected(small) as here:
            # The crowd came before.
            here.execute("SELECT coalesce(min(at), clock_timestamp()) FROM operation_log")
            ((since,),) = here.fetchall()
            here.execute(_TABLES)
            for schema, name in here.fetchall():
                table, rows = sql.Identifier(schema, name), io.StringIO()
                here.copy_expert(sql.SQL("COPY (SELECT * FROM {}) TO STDOUT").format(table), rows)
                rows.seek(0)
                there.copy_expert(sql.SQL("COPY {} FROM STDIN").format(table), rows)
    try:
        yield
    finally:
        with _connected(grown) as there:
            for statement in _OUT:
                there.execute(statement, {"since": since})


@contextmanager
def _connected(address: Address) -> Iterator[Any]:
    connection = psycopg2.connect(host=address.host, port=address.port, user="postgres", dbname=address.database)
    try:
        with connection, connection.cursor() as cursor:
            # The rows come with their counters: no trigger is to count them again.
            cursor.execute("SET LOCAL session_replication_role = replica")
            yield cursor
    finally:
        connection.close()
