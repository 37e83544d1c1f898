"""Rows presign, quota-reserve and duplicate-lookup: what a service asks the catalog in milliseconds."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from uuid import uuid4

import psycopg2
from sqlalchemy import text

from blocks.catalog import CatalogDatabase
from blocks.catalog.admission import find_known, reserve_now
from blocks.object_store.transfer import put_bytes
from blocks.policies import AccessPolicy
from tasks.access import issue_download_url
from tasks.customers import create_key
from tasks.stores import Locations
from tests.benchmarks.harness import Bench, Measured, below, compare, p99, say, timed

SEGMENTS = 10_000
CALLS = 2_000
CLIENTS, EACH = 64, 40
MANY, FEW = 1_000_000, 1_000
MINUTE = timedelta(minutes=1)


def presign(bench: Bench) -> list[Measured]:
    """10,000 segment URLs in one playlist, ownership checked in SQL, against botocore's signing alone."""
    catalog = bench.catalog("presign")
    location = bench.location(catalog)
    customer = create_key(catalog, "studio").customer
    job = uuid4()
    names = [f"segment_{number:05}.ts" for number in range(SEGMENTS)]
    listed = "".join(f"#EXTINF:2.0,\n{name}\n" for name in names)
    playlist = f"#EXTM3U\n{listed}#EXT-X-ENDLIST\n".encode()
    put_bytes(location.store, f"processed/{job}/720p/segments/playlist.m3u8", playlist, {})
    fill(
        catalog,
        "INSERT INTO jobs (id, api_key_id, status, filename) VALUES (:job, :key, 'completed', 'film.mp4')",
        "INSERT INTO stored_objects (id, job_id, api_key_id, kind, name, location_id, key, size_bytes, stored_bytes, "
        "  sha256, state) "
        "SELECT gen_random_uuid(), :job, :key, 'hls_720p', n, :location, 'processed/' || :job || '/' || n, 1000, 1000, "
        "  repeat('0', 64), 'live' FROM (SELECT '720p/segments/segment_' || lpad(i::text, 5, '0') || '.ts' AS n "
        "  FROM generate_series(0, :count - 1) i UNION ALL SELECT '720p/segments/playlist.m3u8') names",
        job=str(job), key=customer.id, location=location.place.id, count=SEGMENTS,
    )  # fmt: skip
    access = AccessPolicy()
    store = location.store

    def ours(_: int) -> float:
        issued = []
        took = timed(
            lambda: issued.append(
                issue_download_url(
                    catalog, Locations(catalog, location), access, api_key="studio", job_id=job, kind="hls_720p"
                )
            )
        )
        if issued[0].files != SEGMENTS + 1:
            raise RuntimeError("segments are missing")
        return took

    def theirs(_: int) -> float:
        def sign() -> None:
            for name in names:
                store.s3.generate_presigned_url(
                    "get_object", Params={"Bucket": "videos", "Key": f"processed/{job}/720p/segments/{name}"}
                )

        return timed(sign)

    return [
        compare(
            "presign", "botocore signing alone", 5.0,
            ours=ours, theirs=theirs, pairs=bench.pairs, amount=SEGMENTS, unit="URLs/s",
        )
    ]  # fmt: skip


def quota_reserve(bench: Bench) -> list[Measured]:
    """One client alone, with few rows and with many; then 64 clients on one key, against a bare one-row UPDATE."""
    catalog = crowded(bench, "reserve_many", MANY)
    few = crowded(bench, "reserve_few", FEW)
    key = create_key(catalog, "edge", "1 TiB").customer.id
    key_of_few = create_key(few, "edge", "1 TiB").customer.id
    alone, alone_of_few = [], []
    for number in range(bench.pairs):
        alone_of_few.append(p99(one_by_one(lambda: reserve_now(few, key_of_few, uuid4(), 1, MINUTE))))
        alone.append(p99(one_by_one(lambda: reserve_now(catalog, key, uuid4(), 1, MINUTE))))
        say(f"quota-reserve {number}: p99 {alone[-1]:.2f} ms, {alone_of_few[-1]:.2f} ms with few rows")
    ratios = [1.5 * a / b for a, b in zip(alone_of_few, alone, strict=True)]
    flat = Measured(
        f"quota-reserve, p99 with {MANY:,} rows within 1.5× of {FEW:,}", "itself", statistics.median(alone),
        statistics.median(alone_of_few), "ms", statistics.median(ratios), (min(ratios), max(ratios)), 1.0,
    )  # fmt: skip

    def ours(_: int) -> float:
        return from_many_clients(lambda: lambda: reserve_now(catalog, key, uuid4(), 1, MINUTE))

    def theirs(_: int) -> float:
        return from_many_clients(lambda: bare_update(catalog, key))

    crowd = compare(
        f"quota-reserve, {CLIENTS} clients on one key", "bare UPDATE of one row", 0.5,
        ours=ours, theirs=theirs, pairs=bench.pairs, amount=CLIENTS * EACH, unit="calls/s",
    )  # fmt: skip
    return [below("quota-reserve, one client, p99", 5.0, alone, "ms"), flat, crowd]


def duplicate_lookup(bench: Bench) -> list[Measured]:
    """Whether a video is known, among a million jobs."""
    catalog = crowded(bench, "lookup", MANY)
    key = catalog.transaction(lambda c: c.execute(text("SELECT min(id) FROM api_keys")).scalar_one())
    chance = random.Random(1)
    found = catalog.transaction(lambda c: find_known(c, key, [f"{5:064x}"]))
    if not found:
        raise RuntimeError("a video that is there was not found")
    values = []
    for _ in range(bench.pairs):
        seconds = one_by_one(
            lambda: catalog.transaction(lambda c: find_known(c, key, [f"{chance.randrange(2 * MANY):064x}"]))
        )
        values.append(p99(seconds))
        say(f"duplicate-lookup: p99 {values[-1]:.2f} ms")
    return [below(f"duplicate-lookup among {MANY:,} jobs, p99", 5.0, values, "ms")]


def crowded(bench: Bench, name: str, count: int) -> CatalogDatabase:
    """A catalog of `count` jobs with an object and a running reservation each, spread over ten customers."""
    say(f"filling a catalog with {count:,} jobs")
    catalog = bench.catalog(name)
    fill(
        catalog,
        "INSERT INTO locations (name, store, bucket) VALUES ('main', 'main', 'videos')",
        "INSERT INTO api_keys (label, key_hash) "
        "SELECT 'crowd-' || n, lpad(to_hex(n), 64, '0') FROM generate_series(1, 10) n",
        "INSERT INTO jobs (id, api_key_id, status, filename, source_file_hash) "
        "SELECT gen_random_uuid(), 1, 'completed', 'a.mp4', lpad(to_hex(n), 64, '0') FROM generate_series(1, :count) n",
        "INSERT INTO stored_objects (id, job_id, api_key_id, kind, name, location_id, key, size_bytes, stored_bytes, "
        "  sha256, state) SELECT gen_random_uuid(), id, api_key_id, 'original', 'raw/video_original.mp4', 1, "
        "  'processed/' || id || '/raw', 1000, 1000, source_file_hash, 'live' FROM jobs",
        "INSERT INTO reservations (id, api_key_id, bytes, expires_at) "
        "SELECT gen_random_uuid(), 1 + n % 10, 1, clock_timestamp() + interval '1 day' "
        "  FROM generate_series(1, :count) n",
        "UPDATE api_keys k SET storage_reserved_bytes = "
        "  (SELECT count(*) FROM reservations r WHERE r.api_key_id = k.id)",
        count=count,
    )  # fmt: skip
    with catalog.direct_engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")
        connection.exec_driver_sql("CHECKPOINT")
    return catalog


def fill(catalog: CatalogDatabase, *statements: str, **parameters: object) -> None:
    """Run statements as one transaction."""

    def work(connection):  # type: ignore[no-untyped-def]
        for statement in statements:
            connection.execute(text(statement), {name: v for name, v in parameters.items() if f":{name}" in statement})

    catalog.transaction(work)


def one_by_one(call: Callable[[], object]) -> list[float]:
    """Seconds of each of many calls."""
    for _ in range(50):
        call()
    return [timed(call) for _ in range(CALLS)]


def from_many_clients(make: Callable[[], Callable[[], object]]) -> float:
    """Seconds until all clients have made all their calls; connections are open before the clock starts."""
    start, done = threading.Barrier(CLIENTS + 1), threading.Barrier(CLIENTS + 1)

    def client() -> None:
        call = make()
        call()
        start.wait()
        for _ in range(EACH):
            call()
        done.wait()

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    start.wait()
    started = time.perf_counter()
    done.wait()
    took = time.perf_counter() - started
    for thread in threads:
        thread.join()
    return took


def bare_update(catalog: CatalogDatabase, key: int) -> Callable[[], None]:
    """The least a counter can cost: one autocommitted UPDATE on a connection of one's own."""
    connection = psycopg2.connect(host=catalog.host, user=catalog.username, dbname=catalog.database)
    connection.autocommit = True
    cursor = connection.cursor()

    def update() -> None:
        cursor.execute("UPDATE api_keys SET storage_reserved_bytes = storage_reserved_bytes + 1 WHERE id = %s", (key,))

    return update
