"""Invariant 1: a customer's counter is the sum of their objects after every commit, whoever writes."""

from __future__ import annotations

import random
import threading
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from blocks.catalog import CatalogDatabase
from tasks.customers import create_key
from tests.helpers import execute, one, rows

STATES = ["pending", "live", "trashed", "purging", "missing", "corrupt"]


@pytest.fixture
def keys(catalog: CatalogDatabase) -> list[int]:
    execute(catalog, "INSERT INTO locations (name, store, bucket) VALUES ('main', 'main', 'videos')")
    made = [create_key(catalog, f"key-{number}").customer.id for number in range(4)]
    for key in made:
        execute(
            catalog,
            "INSERT INTO jobs (id, api_key_id, status, filename) "
            "SELECT gen_random_uuid(), :key, 'queued', 'a.mp4' FROM generate_series(1, 3)",
            key=key,
        )
    return made


def sums_differ(catalog: CatalogDatabase) -> list[object]:
    return rows(
        catalog,
        "SELECT k.id, k.storage_used_bytes, s.total FROM api_keys k, LATERAL "
        " (SELECT coalesce(sum(size_bytes), 0) AS total "
        "  FROM stored_objects o WHERE o.api_key_id = k.id AND o.state IN ('live', 'missing', 'corrupt')) s "
        "WHERE k.storage_used_bytes <> s.total",
    )


def insert(catalog: CatalogDatabase, key: int, *, state: str = "live", size: int = 10, count: int = 1) -> None:
    execute(
        catalog,
        "INSERT INTO stored_objects (id, job_id, api_key_id, kind, name, location_id, key, size_bytes, stored_bytes, "
        "                            sha256, state, trashed_state) "
        "SELECT gen_random_uuid(), j.id, :key, 'metadata', u, 1, u, :size, :size, repeat('0', 64), :state, "
        "       CASE :state WHEN 'trashed' THEN 'live' END "
        "  FROM (SELECT id FROM jobs WHERE api_key_id = :key ORDER BY id LIMIT 1) j, "
        "       (SELECT gen_random_uuid()::text AS u FROM generate_series(1, :count)) n",
        key=key, size=size, state=state, count=count,
    )  # fmt: skip


def test_each_statement_counts(catalog: CatalogDatabase, keys: list[int]) -> None:
    for state in STATES:
        insert(catalog, keys[0], state=state, size=7, count=3)
    assert one(catalog, "SELECT storage_used_bytes FROM api_keys WHERE id = :id", id=keys[0]) == 3 * 3 * 7
    execute(catalog, "UPDATE stored_objects SET state = 'trashed', trashed_state = state WHERE state = 'live'")
    assert one(catalog, "SELECT storage_used_bytes FROM api_keys WHERE id = :id", id=keys[0]) == 2 * 3 * 7
    execute(catalog, "UPDATE stored_objects SET size_bytes = 100 WHERE state = 'corrupt'")
    assert one(catalog, "SELECT storage_used_bytes FROM api_keys WHERE id = :id", id=keys[0]) == 3 * 7 + 3 * 100
    execute(catalog, "DELETE FROM stored_objects WHERE state = 'missing'")
    assert one(catalog, "SELECT storage_used_bytes FROM api_keys WHERE id = :id", id=keys[0]) == 3 * 100


def test_compression_moves_nobodys_number(catalog: CatalogDatabase, keys: list[int]) -> None:
    insert(catalog, keys[0], size=1000)
    execute(catalog, "UPDATE stored_objects SET stored_bytes = 10, codec = 'zstd', generation = generation + 1")
    assert one(catalog, "SELECT storage_used_bytes FROM api_keys WHERE id = :id", id=keys[0]) == 1000


def test_many_writers_of_many_keys(catalog: CatalogDatabase, keys: list[int]) -> None:
    """Statements over several keys at once, in any order, beside single ones; deadlocks are run again."""
    failures: list[BaseException] = []

    def attack(seed: int) -> None:
        chance = random.Random(seed)
        try:
            for _ in range(25):
                action = chance.randrange(4)
                if action == 0:
                    insert(catalog, chance.choice(keys), state=chance.choice(STATES), size=chance.randrange(100))
                elif action == 1:
                    execute(
                        catalog,
                        "UPDATE stored_objects SET state = :state, size_bytes = :size, "
                        "       trashed_state = CASE :state WHEN 'trashed' THEN 'live' END WHERE id IN "
                        "(SELECT id FROM stored_objects ORDER BY random() LIMIT 5 FOR UPDATE SKIP LOCKED)",
                        state=chance.choice(STATES), size=chance.randrange(100),
                    )  # fmt: skip
                elif action == 2:
                    execute(
                        catalog,
                        "DELETE FROM stored_objects WHERE id IN "
                        "(SELECT id FROM stored_objects ORDER BY random() LIMIT 2 FOR UPDATE SKIP LOCKED)",
                    )
                else:
                    two = chance.sample(keys, 2)

                    def both(connection: object, two: list[int] = two) -> None:
                        # Two keys in one transaction, in either order: what the design forbids its own code.
                        for key in two:
                            connection.execute(  # type: ignore[attr-defined]
                                text(
                                    "UPDATE stored_objects SET size_bytes = size_bytes + 1 WHERE id = "
                                    "(SELECT id FROM stored_objects WHERE api_key_id = :key LIMIT 1)"
                                ),
                                {"key": key},
                            )

                    catalog.transaction(both)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=attack, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sums_differ(catalog) == []


def test_a_deadlock_is_run_again(catalog: CatalogDatabase, keys: list[int]) -> None:
    insert(catalog, keys[0])
    insert(catalog, keys[1])
    meet, attempts = threading.Barrier(2, timeout=20), []

    def cross(first: int, second: int) -> None:
        met = []

        def work(connection: object) -> None:
            attempts.append(first)
            for number, key in enumerate((first, second)):
                connection.execute(  # type: ignore[attr-defined]
                    text("UPDATE stored_objects SET size_bytes = size_bytes + 5 WHERE api_key_id = :key"), {"key": key}
                )
                if number == 0 and not met:
                    met.append(1)
                    meet.wait()

        catalog.transaction(work)

    threads = [threading.Thread(target=cross, args=pair) for pair in ((keys[0], keys[1]), (keys[1], keys[0]))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(attempts) == 3, "the two met, one was chosen and ran again"
    assert sums_differ(catalog) == []
    assert one(catalog, "SELECT sum(storage_used_bytes) FROM api_keys") == 2 * (10 + 2 * 5)


@pytest.mark.parametrize("table", ["stored_objects", "reservations"])
def test_truncate_is_refused(catalog: CatalogDatabase, keys: list[int], table: str) -> None:
    insert(catalog, keys[0])
    with pytest.raises(DBAPIError, match="is refused"):
        execute(catalog, f"TRUNCATE {table} CASCADE")
    assert sums_differ(catalog) == []


def test_an_object_keeps_its_owner(catalog: CatalogDatabase, keys: list[int]) -> None:
    insert(catalog, keys[0])
    with pytest.raises(DBAPIError, match="keeps its job and its owner"):
        execute(catalog, "UPDATE stored_objects SET api_key_id = :other", other=keys[1])


def test_an_objects_job_is_its_owners(catalog: CatalogDatabase, keys: list[int]) -> None:
    with pytest.raises(IntegrityError, match="stored_objects_owner"):
        execute(
            catalog,
            "INSERT INTO stored_objects (id, job_id, api_key_id, kind, name, location_id, key, size_bytes, "
            " stored_bytes, sha256) SELECT :id, j.id, :other, 'audio', 'a', 1, 'a', 1, 1, repeat('0', 64) FROM jobs j "
            "WHERE j.api_key_id = :key LIMIT 1",
            id=str(uuid4()), key=keys[0], other=keys[1],
        )  # fmt: skip
