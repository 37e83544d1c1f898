"""Sweeps of one place exclude each other, and nothing that dies keeps a place locked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from blocks.catalog import CatalogDatabase, sweeps
from blocks.catalog.sweeps import SweepLock, sweep_lock
from blocks.embedded import Endpoints
from blocks.errors import CatalogUnavailableError, LockLostError, SweepBusyError, TransientError
from tasks.stores import OpenLocation
from tests.conftest import TEMPLATE, copy_template
from tests.helpers import one, rows, run_elsewhere

NOT_AT_ALL = timedelta(0)
LONG = timedelta(seconds=60)


@pytest.fixture(autouse=True)
def _quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "POLL_SECONDS", 0.01)


@pytest.fixture
def other_catalog(
    endpoints: Endpoints, sql: Callable[[str], None], catalog: CatalogDatabase
) -> Iterator[CatalogDatabase]:
    """A second catalog on the same server."""
    name = f"{catalog.database}_other"
    copy_template(sql, TEMPLATE, name)
    other = CatalogDatabase(host=str(endpoints.postgres_folder), username="postgres", database=name)
    yield other
    other.disconnect()
    sql(f"DROP DATABASE {name} WITH (FORCE)")


def held(
    catalog: CatalogDatabase, *locations: int, holder: str = "cleanup one", wait: timedelta = NOT_AT_ALL, **more: Any
) -> AbstractContextManager[SweepLock]:
    return sweep_lock(catalog, locations, holder=holder, wait=wait, **more)


def ended(catalog: CatalogDatabase, holder: str) -> bool:
    """Whether its session ends: a server takes a moment to notice that a client hung up, more on a busy machine."""
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = :name"
    for _ in range(1000):
        if one(catalog, count, name=holder) == 0:
            return True
        time.sleep(0.01)
    return False


def cut(catalog: CatalogDatabase, holder: str) -> None:
    """End a session as an administrator would, and wait until it is gone."""
    found = rows(
        catalog,
        "SELECT pg_terminate_backend(pid, 5000) AS gone FROM pg_stat_activity WHERE application_name = :name",
        name=holder,
    )
    assert [row.gone for row in found] == [True]


def test_two_sweeps_of_one_place(catalog: CatalogDatabase) -> None:
    with held(catalog, 1, holder="cleanup nightly-run") as lock:
        lock.require()
        with pytest.raises(SweepBusyError, match=r"cleanup nightly-run \(since ..:..:.. UTC\) works on the same store"):
            held(catalog, 1, holder="reconcile").__enter__()
        lock.require()
    with held(catalog, 1, holder="reconcile") as lock:
        lock.require()
    assert ended(catalog, "reconcile")


def test_the_name_of_the_holder_is_right_for_every_place(catalog: CatalogDatabase) -> None:
    """The lock's number is put together from two halves of 32 bits, signs and all."""
    for number in range(1, 25):
        with (
            held(catalog, number, holder=f"holder {number}"),
            held(catalog, 1000 + number, holder="somebody else"),
            pytest.raises(SweepBusyError, match=f"^holder {number} "),
        ):
            held(catalog, number).__enter__()


def test_different_places_do_not_meet(catalog: CatalogDatabase) -> None:
    with held(catalog, 1), held(catalog, 2), held(catalog, 3, 4) as lock:
        lock.require()


def test_one_of_several_places_is_enough_and_the_others_are_let_go(catalog: CatalogDatabase) -> None:
    with held(catalog, 2, holder="the second place"):
        with pytest.raises(SweepBusyError, match="the second place"):
            held(catalog, 1, 2, 3).__enter__()
        with held(catalog, 3, 1) as lock:
            lock.require()


def test_a_place_named_twice(catalog: CatalogDatabase) -> None:
    with held(catalog, 1, 1, 2) as lock:
        lock.require()


def test_several_places_in_both_orders(catalog: CatalogDatabase) -> None:
    """As in a deadlock's textbook, many times: everybody has a turn, and never two at once."""
    inside, most, turns = 0, 0, 0
    errors: list[BaseException] = []
    counting = threading.Lock()

    def sweep(name: str, places: tuple[int, ...]) -> None:
        nonlocal inside, most, turns
        try:
            for _ in range(8):
                with held(catalog, *places, holder=name, wait=LONG):
                    with counting:
                        inside, turns = inside + 1, turns + 1
                        most = max(most, inside)
                    with counting:
                        inside -= 1
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=sweep, args=(f"sweep {number}", places))
        for number, places in enumerate([(1, 2), (2, 1), (2, 3, 1)])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert (turns, most) == (24, 1)


def test_waiting_for_the_other_to_end(catalog: CatalogDatabase) -> None:
    told: list[str] = []
    release, is_held = threading.Event(), threading.Event()

    def first() -> None:
        with held(catalog, 1, holder="the first"):
            is_held.set()
            release.wait(60)

    def heard(by: str) -> None:
        told.append(by)
        release.set()

    thread = threading.Thread(target=first)
    thread.start()
    is_held.wait(60)
    with held(catalog, 1, wait=LONG, waiting=heard) as lock:
        lock.require()
    thread.join()
    assert [by.partition(" (")[0] for by in told] == ["the first"], "told once, however often it was tried"


def test_a_wait_has_its_end(catalog: CatalogDatabase) -> None:
    told: list[str] = []
    with held(catalog, 1), pytest.raises(SweepBusyError):
        held(catalog, 1, wait=timedelta(seconds=0.1), waiting=told.append).__enter__()
    assert len(told) == 1


def test_the_lock_goes_with_its_connection(catalog: CatalogDatabase) -> None:
    with held(catalog, 1, holder="cut off") as lock:
        lock.require()
        cut(catalog, "cut off")
        with held(catalog, 1, holder="the next") as following:
            with pytest.raises(LockLostError, match="was cut; it stopped before the next batch"):
                lock.require()
            following.require()
    with held(catalog, 1) as lock:
        lock.require()


def test_what_is_lost_stays_lost(catalog: CatalogDatabase) -> None:
    """A client that connects again by itself would hold no lock, and not know it."""
    with held(catalog, 1, holder="cut off") as lock:
        cut(catalog, "cut off")
        for _ in range(3):
            with pytest.raises(LockLostError):
                lock.require()


def test_a_connection_that_is_cut_while_it_waits(catalog: CatalogDatabase) -> None:
    """Hours can pass there: a server that is restarted meanwhile is told in the project's own errors."""
    with held(catalog, 1), pytest.raises(TransientError):
        held(catalog, 1, holder="waits", wait=LONG, waiting=lambda by: cut(catalog, "waits")).__enter__()


def test_a_server_that_is_not_there() -> None:
    nowhere = CatalogDatabase(host="127.0.0.1", port=9, username="x", password="hunter2")
    connect = nowhere.direct_engine(maintenance=True).connect
    with pytest.raises(CatalogUnavailableError, match=r"at 127.0.0.1 did not answer when the sweep's lock") as caught:
        sweeps._connected(nowhere, connect).__enter__()
    assert "hunter2" not in str(caught.value)


def test_catalogs_on_one_server_do_not_meet(catalog: CatalogDatabase, other_catalog: CatalogDatabase) -> None:
    with held(catalog, 1), held(other_catalog, 1) as lock:
        lock.require()


def test_a_restore_keeps_sweeps_out_and_waits_for_them(
    catalog: CatalogDatabase, other_catalog: CatalogDatabase
) -> None:
    name = {"name": f"transcode-flow {one(catalog, 'SELECT catalog_id FROM catalog_identity')}"}
    engine = catalog.direct_engine(maintenance=True)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as restore:
        take = text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
        with held(catalog, 1), held(catalog, 2):
            assert not restore.execute(take, name).scalar_one(), "both sweeps share it"
        with held(catalog, 1):
            assert not restore.execute(take, name).scalar_one()
        assert restore.execute(take, name).scalar_one()
        restore.execute(text("SET application_name = 'restore of the night'"))
        for places in ((1,), (2, 3), ()):
            with pytest.raises(SweepBusyError, match="restore of the night"):
                held(catalog, *places).__enter__()
        with held(other_catalog, 1) as lock:
            lock.require()
    with held(catalog, 1) as lock:
        lock.require()
    engine.dispose()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_lets_go(catalog: CatalogDatabase, error: type[BaseException]) -> None:
    with pytest.raises(error), held(catalog, 1, holder="fails"):
        raise error
    with held(catalog, 1):
        assert ended(catalog, "fails")


def test_a_process_that_is_killed_lets_go(catalog: CatalogDatabase, location: OpenLocation) -> None:
    script = (
        "import signal\n"
        "from datetime import timedelta\n"
        "from blocks.catalog.sweeps import sweep_lock\n"
        "from blocks.errors import SweepBusyError\n"
        "def held(holder):\n"
        "    return sweep_lock(catalog, [location.place.id], holder=holder, wait=timedelta(0))\n"
        "with held('killed'):\n"
        "    try:\n"
        "        held('another').__enter__()\n"
        "    except SweepBusyError as error:\n"
        "        print(error, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = run_elsewhere(catalog, location, script)
    assert done.returncode == -9, done.stderr
    assert done.stdout.startswith("killed (since")
    with held(catalog, location.place.id, wait=LONG) as lock:
        lock.require()


def test_no_transaction_stays_open(catalog: CatalogDatabase) -> None:
    """It would hold back vacuum for as long as the sweep runs."""
    with held(catalog, 1, holder="idle") as lock:
        lock.require()
        assert one(catalog, "SELECT state FROM pg_stat_activity WHERE application_name = 'idle'") == "idle"
