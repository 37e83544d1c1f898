"""How the catalog's block runs transactions: what lost connections do to them, and how it lets a database go."""

from __future__ import annotations

import time

from sqlalchemy import Connection, text

from blocks.catalog import CatalogDatabase
from tests.helpers import one


def session(connection: Connection) -> tuple[int, str]:
    """The server's process, and the transaction that this statement is in."""
    found = connection.exec_driver_sql("SELECT pg_backend_pid(), pg_current_xact_id()::text").one()
    return (found[0], found[1])


def test_a_single_statement_commits_itself(catalog: CatalogDatabase) -> None:
    alone = catalog.single_statement(lambda connection: [session(connection), session(connection)])
    assert alone[0][1] != alone[1][1]
    together = catalog.transaction(lambda connection: [session(connection), session(connection)])
    assert together[0] == together[1], "what commits itself leaves nothing behind for transactions"


def test_a_single_statement_does_not_meet_a_connection_that_is_gone(catalog: CatalogDatabase) -> None:
    """It could not be repeated: whether it happened would be lost with its answer."""
    pid, _ = catalog.single_statement(session)
    assert one(catalog, "SELECT pg_terminate_backend(:pid, 5000)", pid=pid)
    assert catalog.single_statement(session)[0] != pid


def test_disconnecting_leaves_no_session(catalog: CatalogDatabase) -> None:
    catalog.transaction(session)
    catalog.single_statement(session)
    engine = catalog.direct_engine(maintenance=True)
    with engine.connect() as connection:

        def sessions() -> int:
            count = text("SELECT count(*) FROM pg_stat_activity WHERE datname = :name")
            return int(connection.execute(count, {"name": catalog.database}).scalar_one())

        assert sessions() == 2
        catalog.disconnect()
        for _ in range(500):  # a server takes a moment to notice that a client hung up
            if not sessions():
                break
            time.sleep(0.01)
            connection.rollback()
        assert sessions() == 0
