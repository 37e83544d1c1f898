"""Rows relocate-small, migrate and orchestration: what moving costs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from prefect_aws.credentials import MinIOCredentials

from blocks.catalog import CatalogDatabase
from blocks.embedded import processes
from blocks.embedded.seaweedfs import PORTS, start_seaweedfs
from blocks.object_store import ObjectStore
from blocks.object_store.transfer import put_bytes
from blocks.policies import RelocationPolicy, SafetyPolicy, TierPolicy
from tasks.intents import recover
from tasks.layout import object_key
from tasks.migration import Migration, find_jobs, plan_migration
from tasks.moving import move_batch, split
from tasks.parallel import in_parallel
from tasks.stores import Locations, OpenLocation, probe_store
from tasks.sweeping import Sweep
from tasks.tiering import find_idle, plan_tiers
from tests.benchmarks.catalog import fill
from tests.benchmarks.harness import Bench, Measured, below, compare, say, timed
from tests.benchmarks.stocking import A_JOB, add_customers, count, new_jobs, settle

SMALL, SMALL_BYTES = 5_000, 4096
FAR, FAR_BYTES = 2_000, 256 * 1024
MANY = 100_000
POLICY = RelocationPolicy()


@dataclass(frozen=True)
class Content:
    """Bytes, and what rows say of them."""

    body: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()

    @property
    def etag(self) -> str:
        return hashlib.md5(self.body, usedforsecurity=False).hexdigest()


def stock(catalog: CatalogDatabase, location: OpenLocation, jobs: Sequence[UUID], content: Content) -> None:
    """Segments with real bytes and true rows, of jobs that were completed 400 days ago."""
    names = [f"720p/segments/{number:04d}.ts" for number in range(A_JOB)]
    keys = [object_key(job, name) for job in jobs for name in names]
    in_parallel(lambda key: put_bytes(location.store, key, content.body, {}), keys, threads=32)
    add_customers(catalog)
    fill(
        catalog,
        "INSERT INTO jobs (id, api_key_id, status, filename, created_at, completed_at) "
        "SELECT id, 1 + n % 10, 'completed', 'film.mp4', now() - interval '400 days', now() - interval '400 days' "
        "  FROM unnest(CAST(:jobs AS uuid[])) WITH ORDINALITY j (id, n)",
        "INSERT INTO stored_objects (id, job_id, api_key_id, kind, name, location_id, key, size_bytes, stored_bytes, "
        "  sha256, etag, state) "
        "SELECT gen_random_uuid(), j.id, j.api_key_id, 'hls_720p', p.name, :location, 'processed/' || j.id || '/' "
        "  || p.name, :size, :size, :sha256, :etag, 'live' "
        "  FROM jobs j, unnest(CAST(:names AS text[])) p (name) WHERE j.id = ANY (CAST(:jobs AS uuid[]))",
        jobs=[str(job) for job in jobs], names=names, location=location.place.id, size=len(content.body),
        sha256=content.sha256, etag=content.etag,
    )  # fmt: skip
    settle(catalog)


def another(bench: Bench, catalog: CatalogDatabase, name: str, store: ObjectStore | None = None) -> OpenLocation:
    """A location in a bucket of its own, on the same server unless another store is given."""
    if store is None:
        home = bench.location(catalog).store
        store = home.model_copy(update={"bucket": f"{name}-{catalog.database.replace('_', '-')}", "prefix": ""})
    with suppress(store.s3.exceptions.BucketAlreadyOwnedByYou):
        store.s3.create_bucket(Bucket=store.bucket)
    return probe_store(catalog, store, name)


def move_all(
    catalog: CatalogDatabase,
    source: OpenLocation,
    target: OpenLocation,
    objects: int,
    *,
    policy: RelocationPolicy = POLICY,
) -> float:
    """Seconds of finding, planning and moving everything, as the flow does it; checked after it."""
    locations = Locations(catalog, source, [target])
    migration = Migration(source, target)

    def work() -> None:
        _, moves = plan_migration(find_jobs(catalog, migration), migration)
        batches = split(moves, policy, run="bench")
        in_parallel(
            lambda batch: move_batch(catalog, locations, policy, batch), batches, threads=policy.parallel_batches
        )

    took = timed(work)
    there = count(catalog, f"SELECT count(*) FROM stored_objects WHERE location_id = {target.place.id}")
    if there != objects:
        raise RuntimeError(f"{there} of {objects} objects were moved")
    fill(catalog, "UPDATE relocations SET release_after = now() WHERE state = 'swapped'")
    if recover(Sweep(catalog, (source, target))).objects != objects:
        raise RuntimeError("old bytes were left")
    settle(catalog)
    return took


def relocate_small(bench: Bench) -> Measured:
    """5,000 × 4 KiB to another bucket of the server, each proved by its SHA-256, intents and rows with it."""
    catalog = bench.catalog("relocation")
    location = bench.location(catalog)
    second = another(bench, catalog, "second")
    stock(catalog, location, new_jobs("relocation", SMALL // A_JOB), Content(os.urandom(SMALL_BYTES)))
    places = [location, second]
    source = f"s3://{location.store.bucket}/{location.store.prefix}-peer/"
    in_parallel(
        lambda key: put_bytes(location.store.model_copy(update={"prefix": f"{location.store.prefix}-peer"}), key,
                              os.urandom(SMALL_BYTES), {}),
        [object_key(job, f"720p/segments/{n:04d}.ts") for job in new_jobs(7, SMALL // A_JOB) for n in range(A_JOB)],
        threads=32,
    )  # fmt: skip

    def ours(_: int) -> float:
        took = move_all(catalog, places[0], places[1], SMALL)
        places.reverse()
        return took

    def theirs(number: int) -> float:
        took = bench.s5cmd("cp", f"{source}*", f"s3://{second.store.bucket}/peer-{number}/")
        bench.s5cmd("rm", f"s3://{second.store.bucket}/peer-{number}/*")
        return took

    return compare(
        "relocate-small", "s5cmd cp, server side", 0.8,
        ours=ours, theirs=theirs, pairs=bench.pairs, amount=SMALL, unit="objects/s",
    )  # fmt: skip


def migrate(bench: Bench) -> Measured:
    """2,000 × 256 KiB to another server, SHA-256 proved; the peer copies, and then reads both sides to compare."""
    folder = bench.folder / "far"
    ports: dict[str, int] = {}
    for name in PORTS:
        ports[name] = processes.free_port(None, taken=frozenset(ports.values()))
    log = bench.folder / "far.log"
    running = start_seaweedfs(folder, ports, access_key="far-key", secret_key="far-secret", log=log)
    try:
        catalog = bench.catalog("migration")
        location = bench.location(catalog)
        url = f"http://127.0.0.1:{ports['s3']}"
        credentials = MinIOCredentials(minio_root_user="far-key", minio_root_password="far-secret")
        far = another(bench, catalog, "far", ObjectStore(credentials=credentials, endpoint_url=url, bucket="videos"))
        stock(catalog, location, new_jobs("migration", FAR // A_JOB), Content(os.urandom(FAR_BYTES)))
        places = [location, far]
        peers = location.store.model_copy(update={"prefix": "migration-peer"})
        in_parallel(
            lambda key: put_bytes(peers, key, os.urandom(FAR_BYTES), {}),
            [object_key(job, f"{n:04d}.ts") for job in new_jobs(8, FAR // A_JOB) for n in range(A_JOB)], threads=16,
        )  # fmt: skip

        def ours(_: int) -> float:
            took = move_all(catalog, places[0], places[1], FAR)
            places.reverse()
            return took

        def theirs(number: int) -> float:
            secret = bench.endpoints.secret_key.get_secret_value()
            remotes = {
                "NEAR": (bench.endpoints.s3_url, bench.endpoints.access_key, secret),
                "FAR": (url, "far-key", "far-secret"),
            }
            sides = ("near:videos/migration-peer", f"far:videos/peer-{number}")
            took = bench.rclone(remotes, "copy", *sides) + bench.rclone(remotes, "check", "--download", *sides)
            bench.rclone(remotes, "purge", sides[1])
            return took

        return compare(
            "migrate", "rclone copy, then check --download", 1.5,
            ours=ours, theirs=theirs, pairs=bench.pairs, amount=FAR, unit="objects/s",
        )  # fmt: skip
    finally:
        processes.stop(running)


def orchestration(bench: Bench) -> list[Measured]:
    """100,000 objects through the flow tier-jobs, against its functions alone; how many task runs that takes."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter

    bench.prefect()
    from flows.tier_jobs import tier_jobs

    catalog = bench.catalog("orchestration")
    location = bench.location(catalog)
    cold = another(bench, catalog, "cold")
    fill(catalog, "UPDATE locations SET tier = 'cold' WHERE name = 'cold'")
    jobs = new_jobs("orchestration", MANY // A_JOB)
    say(f"writing {MANY:,} objects")
    stock(catalog, location, jobs, Content(os.urandom(SMALL_BYTES)))
    rules = TierPolicy(cold_location="cold", smallest_billed_kib=0, cold_price_per_1000_moved=0)
    bench.save_blocks(
        catalog,
        {"main": location.store, "cold": cold.store},
        [rules, POLICY, SafetyPolicy(most_objects=10**7, most_percent=100)],
    )

    def back() -> None:
        """Everything is hot again, and idle; not timed."""
        say("bringing everything back")
        fill(catalog, "UPDATE relocations SET release_after = now() WHERE state = 'swapped'")
        recover(Sweep(catalog, (location, cold)))
        fill(catalog, "DELETE FROM relocations")
        move_all(catalog, cold, location, MANY)
        fill(catalog, "DELETE FROM relocations", "UPDATE jobs SET tier = 'hot'")
        settle(catalog)

    def theirs(_: int) -> float:
        sweep = Sweep(catalog, (location, cold), run="bench")
        reach = Locations(catalog, location, [cold])

        def work() -> None:
            recover(sweep)
            planned = plan_tiers(find_idle(sweep, rules), rules)
            batches = split(planned.moves, POLICY, run="bench")
            in_parallel(
                lambda batch: move_batch(catalog, reach, POLICY, batch), batches, threads=POLICY.parallel_batches
            )

        took = timed(work)
        check()
        return took

    def ours(_: int) -> float:
        took = timed(tier_jobs)
        check()
        return took

    def check() -> None:
        there = count(catalog, f"SELECT count(*) FROM stored_objects WHERE location_id = {cold.place.id}")
        if there != MANY:
            raise RuntimeError(f"{there} of {MANY} objects were moved")
        back()

    row = compare(
        "orchestration", "the functions without Prefect", 0.97,
        ours=ours, theirs=theirs, pairs=min(bench.pairs, 3), amount=MANY, unit="objects/s",
    )  # fmt: skip
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(task_run_filter=TaskRunFilter(), limit=200, offset=0)
        number, most = len(runs), 0
        while len(runs) == 200:
            runs = client.read_task_runs(task_run_filter=TaskRunFilter(), limit=200, offset=number)
            number += len(runs)
        most = number // (min(bench.pairs, 3) + 1)
    return [row, below("orchestration, task runs", 250.0, [float(most)], "runs")]
