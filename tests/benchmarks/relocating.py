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
from tasks.declaring import probe_store
from tasks.layout import object_key
from tasks.parallel import in_parallel
from tasks.relocation.intents import recover
from tasks.relocation.migration import Migration, find_jobs, plan_migration
from tasks.relocation.moving import mark_through, move_batch, split, sum_up
from tasks.relocation.tiering import find_idle, plan_tiers
from tasks.stores import Locations, OpenLocation
from tasks.sweeping import Sweep
from tests.benchmarks.catalog import fill
from tests.benchmarks.harness import SIZES, Bench, Measured, below, compare, flat, say, timed
from tests.benchmarks.stocking import A_JOB, add_customers, count, grown, new_jobs, settle

SMALL, SMALL_BYTES = 5_000, 4096
FAR, FAR_BYTES = 2_000, 256 * 1024
MANY = 100_000
IDLE = 500
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
    add_customers(catalog)
    add_idle(catalog, location, jobs, content)
    settle(catalog)


def add_idle(catalog: CatalogDatabase, location: OpenLocation, jobs: Sequence[UUID], content: Content) -> None:
    """The same beside what is there already."""
    names = [f"720p/segments/{number:04d}.ts" for number in range(A_JOB)]
    keys = [object_key(job, name) for job in jobs for name in names]
    in_parallel(lambda key: put_bytes(location.store, key, content.body, {}), keys, threads=32)
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
    """100,000 objects through the flow tier-jobs, plan and apply, against its functions alone; and its task runs."""
    from prefect.client.schemas.objects import StateType

    bench.prefect()
    from flows.tier_jobs import tier_jobs

    catalog = bench.catalog("orchestration")
    places = [bench.location(catalog), another(bench, catalog, "second")]
    say(f"writing {MANY:,} objects")
    stock(catalog, places[0], new_jobs("orchestration", MANY // A_JOB), Content(os.urandom(SMALL_BYTES)))
    safety = SafetyPolicy(most_objects=10**7, most_percent=100)
    bench.save_blocks(catalog, {place.place.name: place.store for place in places}, [POLICY, safety])

    def prepare() -> TierPolicy:
        """Where everything lies is the hot place now, and the other one the cold."""
        cold = places[1].place.name
        fill(catalog, "UPDATE locations SET tier = CASE name WHEN :cold THEN 'cold' ELSE 'hot' END", cold=cold)
        fill(catalog, "UPDATE jobs SET tier = 'hot'")
        rules = TierPolicy(cold_location=cold, smallest_billed_kib=0, cold_price_per_1000_moved=0)
        rules.save("default", overwrite=True)
        settle(catalog)
        return rules

    def theirs(_: int) -> float:
        rules = prepare()
        sweep = Sweep(catalog, tuple(places), run="bench")
        reach = Locations(catalog, places[0], [places[1]])
        took = timed(lambda: tier(sweep, reach, rules))
        check()
        return took

    runs = []

    def ours(_: int) -> float:
        prepare()
        ended = []
        took = timed(lambda: ended.append(tier_jobs(return_state=True)))
        if ended[0].type != StateType.COMPLETED:
            raise RuntimeError(ended[0].message)
        runs.append(ended[0].state_details.flow_run_id)
        check()
        return took

    def check() -> None:
        there = count(catalog, f"SELECT count(*) FROM stored_objects WHERE location_id = {places[1].place.id}")
        if there != MANY:
            raise RuntimeError(f"{there} of {MANY} objects were moved")
        say("removing the old bytes")
        forget_moves(catalog, places)
        places.reverse()

    row = compare(
        "orchestration", "the functions without Prefect", 0.97,
        ours=ours, theirs=theirs, pairs=bench.pairs, amount=MANY, unit="objects/s",
    )  # fmt: skip
    return [row, below("orchestration, task runs", 250.0, [float(task_runs(run)) for run in runs[1:]], "runs")]


def task_runs(flow_run: UUID) -> int:
    """How many task runs a flow run had."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    seen = 0
    with get_client(sync_client=True) as client:
        which = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run]))
        while page := client.read_task_runs(flow_run_filter=which, limit=200, offset=seen):
            seen += len(page)
    return seen


def tier(sweep: Sweep, locations: Locations, rules: TierPolicy) -> None:
    """What the flow tier-jobs does, without Prefect."""
    recover(sweep)
    planned = plan_tiers(find_idle(sweep, rules), rules)
    batches = split(planned.moves, POLICY, run=sweep.run)
    moved = in_parallel(
        lambda batch: move_batch(sweep.catalog, locations, POLICY, batch), batches, threads=POLICY.parallel_batches
    )
    mark_through(sweep.catalog, planned.moves, sum_up(moved), planned.settled)


def forget_moves(catalog: CatalogDatabase, places: Sequence[OpenLocation]) -> None:
    """Remove the old bytes now, and what is known of the moves."""
    fill(catalog, "UPDATE relocations SET release_after = now() WHERE state = 'swapped'")
    recover(Sweep(catalog, tuple(places)))
    fill(catalog, "DELETE FROM relocations")


def growth_tier(bench: Bench) -> list[Measured]:
    """The same 25 idle jobs of 500 objects due in catalogs of 10⁴, 10⁵ and 10⁶ rows: found, planned and moved."""
    content, sides = Content(os.urandom(SMALL_BYTES)), []
    for size in SIZES:
        catalog = grown(bench, f"tier_{size}", size)
        fill(catalog, "UPDATE jobs SET completed_at = created_at WHERE status = 'completed'")
        settle(catalog)
        sides.append((catalog, bench.location(catalog), another(bench, catalog, "cold")))
        fill(catalog, "UPDATE locations SET tier = 'cold' WHERE name = 'cold'")
    rules = TierPolicy(cold_location="cold", smallest_billed_kib=0, cold_price_per_1000_moved=0)
    runs = []
    for number in range(bench.pairs + 1):
        seconds = []
        for catalog, hot, cold in sides:
            add_idle(catalog, hot, new_jobs(f"{catalog.database} {number}", IDLE // A_JOB), content)
            sweep, reach = Sweep(catalog, (hot, cold), run="bench"), Locations(catalog, hot, [cold])
            seconds.append(timed(lambda at=(sweep, reach): tier(*at, rules)))  # type: ignore[misc]  # bound here
            there = count(catalog, f"SELECT count(*) FROM stored_objects WHERE location_id = {cold.place.id}")
            if there != IDLE * (number + 1):
                raise RuntimeError(f"{there} of {IDLE * (number + 1)} objects were moved")
            forget_moves(catalog, (hot, cold))
        say(f"growth-tier {number}: {', '.join(f'{1000 * one:.0f} ms' for one in seconds)}")
        if number:
            runs.append(seconds)
    return flat("growth-tier", runs)
