"""Rows relocate-small, migrate, compress-text, compress-skip and orchestration: what moving and shrinking cost."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import statistics
import subprocess
import time
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
from blocks.policies import CompressionPolicy, RelocationPolicy, SafetyPolicy, TierPolicy
from tasks.compression import OPERATION as COMPRESS
from tasks.compression import find_compressible, plan_compression, wanted_in
from tasks.intents import recover
from tasks.layout import content_type, object_key
from tasks.migration import Migration, find_jobs, plan_migration
from tasks.moving import Move, Recipe, move_batch, split, sum_up
from tasks.parallel import in_parallel
from tasks.stores import Locations, OpenLocation, probe_store
from tasks.sweeping import Sweep
from tasks.tiering import find_idle, plan_tiers
from tests.benchmarks.catalog import fill
from tests.benchmarks.harness import Bench, Measured, below, compare, say, timed
from tests.benchmarks.stocking import A_JOB, add_customers, count, new_jobs, settle

SMALL, SMALL_BYTES = 5_000, 4096
FAR, FAR_BYTES = 2_000, 256 * 1024
TEXT_JOBS = 500
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


def compress_text(bench: Bench) -> list[Measured]:
    """Transcripts, metadata and playlists of 500 jobs, read, compressed, decoded, written and swapped."""
    zstd = shutil.which("zstd")
    if zstd is None:
        raise RuntimeError("the peer is the command zstd: install it (Debian package zstd)")
    catalog = bench.catalog("texts")
    location = bench.location(catalog)
    folder = bench.folder / "texts"
    chance = random.Random(1)
    jobs = new_jobs("texts", TEXT_JOBS)
    files = {job: texts(chance) for job in jobs}
    size = sum(len(body) for own in files.values() for body in own.values())
    say(f"{size / 1e6:.0f} MB of texts")
    for job, own in files.items():
        for name, body in own.items():
            path = folder / str(job) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
    listed = bench.folder / "texts.txt"
    listed.write_text("\n".join(str(path) for path in folder.rglob("*") if path.is_file()))
    policy = CompressionPolicy(smallest_bytes=0)
    locations = Locations(catalog, location)
    ratios: list[float] = []
    add_customers(catalog)

    def ours(number: int) -> float:
        # The same texts under jobs of their own each time.
        twins = dict(zip(new_jobs(f"texts {number}", TEXT_JOBS), files.values(), strict=True))
        put_texts(catalog, location, twins)
        recipe = Recipe(wanted_in([location.place.id], policy), "main", COMPRESS, "after_days", "zstd", policy.level)
        moves = [Move(job, len(own), recipe) for job, own in twins.items()]
        results = []

        def work() -> None:
            batches = split(moves, POLICY, run="bench")
            results.extend(in_parallel(lambda batch: move_batch(catalog, locations, POLICY, batch), batches, threads=2))

        took = timed(work)
        done = sum_up(results)
        after = (
            sum(job.after_bytes for job in done.values())
            + sum(len(body) for own in files.values() for body in own.values())
            - sum(job.before_bytes for job in done.values())
        )
        ratios.append(theirs_bytes[-1] / after if theirs_bytes else 0.0)
        return took

    theirs_bytes: list[int] = []

    def theirs(number: int) -> float:
        out = bench.folder / f"zstd-{number}"
        out.mkdir()
        started = time.perf_counter()
        subprocess.run([zstd, "-19", "-q", "--filelist", str(listed), "--output-dir-mirror", str(out)], check=True)
        took = time.perf_counter() - started
        theirs_bytes.append(sum(path.stat().st_size for path in out.rglob("*.zst")))
        shutil.rmtree(out)
        return took

    speed = compare(
        "compress-text", "zstd -19 of each file, to disk", 0.5,
        ours=ours, theirs=theirs, pairs=bench.pairs, amount=size / 1e6, unit="MB/s",
    )  # fmt: skip
    kept = [ratio for ratio in ratios if ratio]
    smaller = Measured(
        "compress-text, bytes left", "zstd -19",
        theirs_bytes[-1] / statistics.median(kept) / 1e6, theirs_bytes[-1] / 1e6,
        "MB", statistics.median(kept), (min(kept), max(kept)), 0.95,
    )  # fmt: skip
    return [speed, smaller]


def texts(chance: random.Random) -> dict[str, bytes]:
    """What a transcriber and a transcoder write of one video: words with times, in four forms, and lists."""
    words = [
        f"{a}{b}"
        for a in ("ka", "mo", "ri", "te", "lu", "shen", "var", "oli")
        for b in ("n", "ra", "st", "mi", "k", "el")
    ]
    spoken = [(number * 2.4, " ".join(chance.choices(words, k=chance.randint(5, 12)))) for number in range(400)]
    clock = lambda at: f"{int(at // 3600):02}:{int(at // 60 % 60):02}:{at % 60:06.3f}"  # noqa: E731 -- local, and short
    lines = [f"{n}\n{clock(at)} --> {clock(at + 2.3)}\n{words}\n" for n, (at, words) in enumerate(spoken, 1)]
    segments = "".join(f"#EXTINF:{6 + chance.random():.5f},\nsegment_{n:05}.ts\n" for n in range(160))
    data = [{"start": at, "end": at + 2.3, "text": words, "confidence": chance.random()} for at, words in spoken]
    return {
        "transcription/transcript.txt": "\n".join(words for _, words in spoken).encode(),
        "transcription/transcript.srt": "\n".join(lines).replace(".", ",").encode(),
        "transcription/transcript.vtt": ("WEBVTT\n\n" + "\n".join(lines)).encode(),
        "transcription/transcript.json": json.dumps(data).encode(),
        "metadata.json": json.dumps(
            {"codec": "h264", "duration": 960.0, "rates": [chance.random() for _ in range(60)]}
        ).encode(),
        "360p/segments/playlist.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:7\n{segments}#EXT-X-ENDLIST\n".encode(),
        "720p/segments/playlist.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:7\n{segments}#EXT-X-ENDLIST\n".encode(),
    }


KINDS = {
    "transcription/transcript.txt": "transcript_txt", "transcription/transcript.srt": "transcript_srt",
    "transcription/transcript.vtt": "transcript_vtt", "transcription/transcript.json": "transcript_json",
    "metadata.json": "metadata", "360p/segments/playlist.m3u8": "hls_360p", "720p/segments/playlist.m3u8": "hls_720p",
}  # fmt: skip


def put_texts(catalog: CatalogDatabase, location: OpenLocation, files: dict[UUID, dict[str, bytes]]) -> None:
    """Real texts with true rows."""
    flat = [(job, name, body) for job, own in files.items() for name, body in own.items()]
    in_parallel(
        lambda one: put_bytes(location.store, object_key(*one[:2]), one[2], {"Content-Type": content_type(one[1])}),
        flat, threads=32,
    )  # fmt: skip
    fill(
        catalog,
        "INSERT INTO jobs (id, api_key_id, status, filename, completed_at) "
        "SELECT id, 1 + n % 10, 'completed', 'film.mp4', now() - interval '400 days' "
        "  FROM unnest(CAST(:jobs AS uuid[])) WITH ORDINALITY j (id, n)",
        "INSERT INTO stored_objects (id, job_id, api_key_id, kind, name, location_id, key, size_bytes, stored_bytes, "
        "  sha256, state) "
        "SELECT gen_random_uuid(), j.id, j.api_key_id, f.kind, f.name, :location, "
        "  'processed/' || j.id || '/' || f.name, f.size, f.size, f.sha256, 'live' "
        "  FROM unnest(CAST(:owners AS uuid[]), CAST(:kinds AS text[]), CAST(:names AS text[]), "
        "              CAST(:sizes AS bigint[]), CAST(:hashes AS text[])) f (job, kind, name, size, sha256) "
        "  JOIN jobs j ON j.id = f.job",
        jobs=[str(job) for job in files], location=location.place.id, owners=[str(job) for job, _, _ in flat],
        kinds=[KINDS[name] for _, name, _ in flat], names=[name for _, name, _ in flat],
        sizes=[len(body) for _, _, body in flat], hashes=[hashlib.sha256(body).hexdigest() for _, _, body in flat],
    )  # fmt: skip
    settle(catalog)


def compress_skip(bench: Bench) -> Measured:
    """A catalog of videos and segments: how much of them is read to find out that they are left alone."""
    catalog = bench.catalog("skip")
    location = bench.location(catalog)
    body = os.urandom(FAR_BYTES)
    stock(catalog, location, new_jobs("skip", 40), Content(body))
    fill(catalog, "UPDATE stored_objects SET kind = 'video_720p' WHERE name LIKE '%0000.ts'")
    total = 40 * A_JOB * FAR_BYTES
    shares = []
    for _ in range(bench.pairs):
        sweep, policy = Sweep(catalog, (location,)), CompressionPolicy(idle_days=0)
        facts = find_compressible(sweep, Locations(catalog, location), policy)
        planned = plan_compression(facts, policy)
        if planned.plan.items or len(planned.settled) != 40:
            raise RuntimeError(planned.plan.summary())
        shares.append(100 * sum(sample.read_bytes for sample in facts.samples) / total)
    return below("compress-skip, share of the bytes that is read", 2.0, shares, "%")


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
