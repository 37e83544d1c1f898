"""How the catalog's block runs transactions: what lost connections do to them, and how it lets a database go."""

from __future__ import annotations

import os
import socket
import time

import pytest
from sqlalchemy import Connection, text

from blocks.catalog import CatalogDatabase
from blocks.embedded import Endpoints
from blocks.errors import CatalogUnavailableError
from tests.helpers import one
from tests.line import Line


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
    end(catalog, pid)
    assert catalog.single_statement(session)[0] != pid


def end(catalog: CatalogDatabase, pid: int) -> None:
    assert one(catalog, "SELECT pg_terminate_backend(:pid, 5000)", pid=pid)


def test_a_connection_that_is_lost_under_a_bare_cursor_is_lost_as_any(catalog: CatalogDatabase) -> None:
    """As COPY of a frame uses one: SQLAlchemy does not see its errors."""
    ended = []

    def work(connection: Connection) -> object:
        if not ended:
            ended.append(session(connection)[0])
            end(catalog, ended[0])
        with connection.connection.cursor() as cursor:
            cursor.execute("SELECT 2")
            return cursor.fetchone()

    assert catalog.transaction(work) == (2,)


def test_a_statement_that_an_operator_cancels_is_not_begun_again(catalog: CatalogDatabase) -> None:
    begun = []

    def work(connection: Connection) -> None:
        begun.append(connection)
        connection.exec_driver_sql("SET LOCAL statement_timeout = 50")
        connection.exec_driver_sql("SELECT pg_sleep(60)")

    with pytest.raises(CatalogUnavailableError, match="canceling statement due to statement timeout"):
        catalog.transaction(work)
    assert len(begun) == 1


def test_a_pool_that_is_used_up_is_told_in_our_own_words(
    catalog: CatalogDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = catalog.model_copy(update={"pool_size": 1})
    monkeypatch.setattr(small.engine.pool, "_timeout", 0.1)
    told = pytest.raises(CatalogUnavailableError, match="did not answer: QueuePool limit of size 1 overflow 1")
    with small.engine.connect(), small.engine.connect(), told:
        small.transaction(session)
    small.disconnect()


def test_a_machine_that_is_gone_is_noticed(endpoints: Endpoints, catalog: CatalogDatabase) -> None:
    """What the socket was told: to see it happen takes a network that forgets."""
    line = Line(("127.0.0.1", 1), endpoints.postgres_folder)
    line.start()
    try:
        by_tcp = catalog.model_copy(update={"host": "127.0.0.1", "port": line.catalog_port, "sslmode": "disable"})
        with by_tcp.direct_engine().connect() as connection:
            number = os.dup(connection.connection.dbapi_connection.fileno())  # type: ignore[union-attr]  # it is open
            with socket.socket(fileno=number) as seen:
                assert seen.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                assert seen.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
                assert seen.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 90_000
    finally:
        line.stop()


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
