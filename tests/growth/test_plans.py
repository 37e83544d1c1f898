"""No statement of a flow or of a customer's call reads more because others have more; and the check would notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, text

from blocks.catalog import CatalogDatabase
from blocks.catalog.admission import find_known
from blocks.catalog.content import metadata_after
from blocks.catalog.due import failed_jobs, trashed_jobs
from blocks.catalog.history import read_history
from blocks.catalog.moving import jobs_to_tier
from blocks.catalog.objects import find_named, find_released
from blocks.catalog.restored import newer_jobs
from blocks.object_store import ObjectStore
from blocks.object_store.probing import Capabilities
from tests.chaos.walking import Worlds
from tests.growth.allowed import ALLOWED, not_allowed
from tests.growth.calls import Crowd, look_into
from tests.growth.judging import Grown, judge, measure
from tests.growth.playing import asked, play_acts, play_calls

NEVER_IN_A_HURRY = ("probe-store",)
"""Waits for a URL to end, for seconds; all that it asks the catalog is about locations."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def size(grown: CatalogDatabase) -> Grown:
    return measure(grown)


@pytest.fixture
def crowd(grown: CatalogDatabase, store: ObjectStore, capabilities: Capabilities) -> Crowd:
    return look_into(grown, store, capabilities)


def test_every_statement_stays_on_an_index(grown: CatalogDatabase, worlds: Worlds, size: Grown, crowd: Crowd) -> None:
    large = {"jobs", "stored_objects", "operation_log", "relocations", "uploads", "job_totals", "job_sources"}
    assert large <= set(size.tables.values()), "the crowd fills what grows"
    found = play_acts(grown, worlds, size, but=NEVER_IN_A_HURRY) | play_calls(crowd, size)
    left = not_allowed(found)
    assert not left, "\n".join(left)
    # A reason that nobody needs any more is none.
    met = [one for troubles in found.values() for one in troubles]
    needed = [reason for reason in ALLOWED if not reason.among_millions]
    assert [reason for reason in needed if not any(reason.covers(one) for one in met)] == []


LATER = timedelta(days=300)
WITHOUT: dict[str, Callable[[Connection, Crowd], object]] = {
    "jobs_one_per_source, jobs_by_key": lambda connection, crowd: find_known(connection, crowd.customer, crowd.hashes),
    "stored_objects_released": lambda connection, crowd: find_released(
        connection, crowd.big.place.id, after=UUID(int=0), limit=9
    ),
    "stored_objects_by_job, stored_objects_name": lambda connection, crowd: find_named(connection, crowd.job),
    "stored_objects_metadata": lambda connection, crowd: metadata_after(
        connection, UUID(int=0), crowd.big.place.shelf, limit=100
    ),
    "jobs_failed": lambda connection, crowd: failed_jobs(connection, crowd.now - LATER),
    "jobs_trashed": lambda connection, crowd: trashed_jobs(connection, crowd.now - LATER),
    "jobs_to_tier": lambda connection, crowd: jobs_to_tier(
        connection, tiers=["hot"], idle_before=crowd.now - LATER, completed_before=crowd.now - LATER, smallest_billed=0
    ),
    "jobs_by_time, stored_objects_by_time": lambda connection, crowd: newer_jobs(connection, crowd.now, 9),
    # In a function of PostgreSQL's: what it sends by itself is seen as well.
    "operation_log_by_job": lambda connection, crowd: read_history(connection, str(crowd.job)),
}


@pytest.mark.parametrize("index", WITHOUT)
def test_an_index_that_is_missing_is_noticed(index: str, size: Grown, crowd: Crowd) -> None:
    def ask() -> None:
        with crowd.catalog.engine.connect() as connection:
            connection.exec_driver_sql(f"DROP INDEX {index}")
            WITHOUT[index](connection, crowd)
            connection.rollback()

    def ask_with_it() -> None:
        crowd.catalog.transaction(lambda connection: WITHOUT[index](connection, crowd))

    assert list(judge(asked(crowd.catalog, ask_with_it), size)) == []
    assert list(judge(asked(crowd.catalog, ask), size)) != []


HIDDEN = {
    "the beginning of a table": ("SELECT id FROM jobs LIMIT 1", "Seq Scan"),
    "rows that an index gives and a condition drops": (
        "SELECT id FROM stored_objects WHERE sha256 < 'f' AND etag LIKE 'no such%%' ORDER BY sha256 LIMIT 1",
        "looked at",
    ),
    "entries of an index that it cannot search by": (
        "SELECT api_key_id, created_at FROM jobs WHERE created_at = 'infinity' ORDER BY api_key_id LIMIT 1",
        "jobs_by_key",
    ),
    "a bitmap of everything": (
        "SELECT count(*) FROM stored_objects WHERE job_id > '00000000-0000-0000-0000-000000000000' AND kind = 'audio'",
        "rows",
    ),
}


@pytest.mark.parametrize("which", HIDDEN)
def test_a_scan_that_hides_is_noticed(which: str, size: Grown, crowd: Crowd) -> None:
    statement, says = HIDDEN[which]

    def ask() -> None:
        with crowd.catalog.engine.connect() as connection:
            # There is a better way to some of these.
            connection.exec_driver_sql("DROP INDEX jobs_by_time")
            connection.exec_driver_sql(statement)
            connection.rollback()

    sent = [replace(one, sender="somebody") for one in asked(crowd.catalog, ask)]
    assert [one for one in judge(sent, size) if says in one.why] != []


def test_what_an_index_finds_is_no_trouble(size: Grown, crowd: Crowd) -> None:
    def look(connection: Connection) -> object:
        return connection.execute(
            text("SELECT * FROM jobs WHERE id IN (:one, :other)"), {"one": crowd.job, "other": uuid4()}
        ).all()

    sent = asked(crowd.catalog, lambda: crowd.catalog.transaction(look))
    assert list(judge([replace(one, sender="somebody") for one in sent], size)) == []
