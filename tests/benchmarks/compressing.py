"""Rows compress-text and compress-skip: what shrinking costs, and what it reads for nothing."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import statistics
import subprocess
import time
from uuid import UUID

from blocks.catalog import CatalogDatabase
from blocks.object_store.transfer import put_bytes
from blocks.policies import CompressionPolicy
from tasks.layout import content_type, object_key
from tasks.parallel import in_parallel
from tasks.relocation.compression import OPERATION as COMPRESS
from tasks.relocation.compression import find_compressible, plan_compression, wanted_in
from tasks.relocation.moving import Move, Recipe, move_batch, split, sum_up
from tasks.stores import Locations, OpenLocation
from tasks.sweeping import Sweep
from tests.benchmarks.catalog import fill
from tests.benchmarks.harness import Bench, Measured, below, compare, say, timed
from tests.benchmarks.relocating import FAR_BYTES, POLICY, Content, stock
from tests.benchmarks.stocking import A_JOB, add_customers, new_jobs, settle

TEXT_JOBS = 500


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
        moves = [Move(job, len(own), sum(map(len, own.values())), recipe) for job, own in twins.items()]
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
