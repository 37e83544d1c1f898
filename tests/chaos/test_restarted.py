"""PostgreSQL and the store are restarted in the middle: servers of this module alone, so that nobody else is hurt."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg2
import pytest

from blocks.embedded import Stack, postgres, processes
from blocks.object_store.probing import probe
from tests.chaos.acts import ACTS
from tests.chaos.conftest import line_before, through_line, worlds_on
from tests.chaos.faults import Sleep
from tests.chaos.walking import Choice, Walk, Where, spread, walk_all
from tests.conftest import make_store, make_template
from tests.line import Server

IN_SHORT = ("ingest-videos", "migrate-storage")
"""One that adds and one that moves, for every test run; `make chaos` restarts both servers under all of them."""
RESTARTS: dict[str, Server] = {"the catalog": "catalog", "the catalog, by a crash": "catalog", "the store": "store"}
"""What is restarted, and to which server calls go that meet it."""


@dataclass
class Servers:
    """A stack whose servers can be restarted, each by itself."""

    stack: Stack

    def restart(self, which: str) -> None:
        """Stop it as an operator would, or as a power cut, and start it again where it was."""
        if which == "the catalog":
            assert postgres.stop(self.stack.data)
        elif which == "the catalog, by a crash":
            running = processes.find(postgres.read_pid(self.stack.data))
            assert running is not None
            running.send_signal(signal.SIGQUIT)
            running.wait(30)
        else:
            pid = self.stack.status()["s3"]
            assert pid is not None
            assert processes.stop(processes.identify(psutil.Process(pid)))
        self.stack.start(prefect=False)

    def sql(self, statement: str) -> None:
        """One statement on a connection of its own: a restart would end it."""
        with closing(psycopg2.connect(host=str(self.stack.data), user="postgres", dbname="postgres")) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    folder = Path(tempfile.mkdtemp(prefix="tf-"))
    folder.chmod(0o755)
    stack = Stack(folder)
    try:
        stack.start(prefect=False)
        yield Servers(stack)
    finally:
        stack.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def begin(servers: Servers) -> Iterator[Callable[[str], Walk]]:
    """Begins the walk of an act on these servers."""
    endpoints = servers.stack.endpoints()
    store = make_store(endpoints, prefix="probe")
    store.s3.create_bucket(Bucket=store.bucket)
    worlds = worlds_on(endpoints, store.bucket, servers.sql, make_template(endpoints, servers.sql), probe(store))
    with line_before(endpoints) as line:
        yield lambda act: Walk(ACTS[act], worlds, line, through_line(line))


def restart_under(walk: Walk, servers: Servers, which: str, where: Where) -> bool:
    return walk.meet(Sleep(where.number, where.moment, meanwhile=lambda: servers.restart(which)))


@pytest.mark.slow
@pytest.mark.parametrize("which", RESTARTS)
@pytest.mark.parametrize("act", IN_SHORT)
def test_a_server_is_restarted(begin: Callable[[str], Walk], servers: Servers, act: str, which: str) -> None:
    walk = begin(act)
    for where in spread([where for where in walk.points if walk.calls[where.number].to == RESTARTS[which]], 1):
        assert restart_under(walk, servers, which, where)


@pytest.mark.chaos
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("which", RESTARTS)
@pytest.mark.parametrize("act", ACTS)
def test_servers_are_restarted_all_over(
    begin: Callable[[str], Walk], servers: Servers, act: str, which: str, choose: Choice
) -> None:
    """At calls to the other server too: what is restarted then is not what is being asked."""
    walk = begin(act)
    walk_all(spread(walk.points, 8), lambda where: restart_under(walk, servers, which, where), choose)
