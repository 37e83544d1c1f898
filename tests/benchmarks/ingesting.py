"""Rows ingest-small, ingest-large and ingest-known."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from uuid import uuid4

from blocks.catalog import CatalogDatabase
from blocks.policies import IngestPolicy
from tasks.customers import create_key
from tasks.intake.ingest import ingest_videos
from tasks.layout import object_key, original_name
from tasks.stores import OpenLocation
from tests.benchmarks.harness import Bench, Measured, compare, timed

KIB = 1024
FILES, FILE_BYTES, LARGE_BYTES = 2000, 256 * KIB, 1024**3


class Ingest:
    """A catalog, and a new customer for each run, who knows no video yet."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.catalog: CatalogDatabase = bench.catalog(name)
        self.location: OpenLocation = bench.location(self.catalog)
        self.policy = IngestPolicy(source_roots=str(bench.folder))

    def run(self, customer: str, sources: Path, expected: str, count: int) -> float:
        """Seconds of one ingest, which must have gone as expected."""
        report = ingest_videos(self.catalog, self.location, self.policy, api_key=customer, sources=[str(sources)])
        if report.counts != {expected: count}:
            raise RuntimeError(f"{report.summary()}; {report.unsuccessful[:3]}")
        return report.seconds

    def new_customer(self, number: int) -> str:
        """A customer with a quota that everything fits into."""
        return create_key(self.catalog, f"customer-{number}", "1 TiB").customer.label


def small(bench: Bench) -> list[Measured]:
    """2,000 files of 256 KiB in one run, with SHA-256, dedup, quota and catalog."""
    files, ingest = small_files(bench), Ingest(bench, "ingest_small")

    def ours(_: int) -> float:
        return ingest.run(ingest.new_customer(next(customers)), files, "ingested", FILES)

    def at_our_keys(number: int) -> float:
        commands = bench.folder / "commands.txt"
        commands.write_text(
            "".join(
                f"cp {path} s3://videos/peer/ours{number}/{object_key(uuid4(), original_name(path.name))}\n"
                for path in sorted(files.iterdir())
            )
        )
        return bench.s5cmd("run", str(commands))

    customers = itertools.count()
    return [
        compare(
            "ingest-small", "s5cmd cp", 1.0,
            ours=ours, theirs=lambda n: bench.s5cmd("cp", f"{files}/*", f"s3://videos/peer/small{n}/"),
            pairs=bench.pairs, amount=FILES, unit="files/s",
        ),
        # A folder a job costs a server that keeps folders: what s5cmd takes where it has to make them too.
        compare(
            "ingest-small, keys as ours", "s5cmd run", 1.0,
            ours=ours, theirs=at_our_keys, pairs=bench.pairs, amount=FILES, unit="files/s",
        ),
    ]  # fmt: skip


def known(bench: Bench) -> Measured:
    """The same 2,000 files again: 0 bytes sent."""
    files, ingest = small_files(bench), Ingest(bench, "ingest_known")
    customer = ingest.new_customer(0)
    ingest.run(customer, files, "ingested", FILES)
    return compare(
        "ingest-known", "s5cmd cp again", 10.0,
        ours=lambda _: ingest.run(customer, files, "duplicate", FILES),
        theirs=lambda _: bench.s5cmd("cp", f"{files}/*", "s3://videos/peer/known/"),
        pairs=bench.pairs, amount=FILES, unit="files/s",
    )  # fmt: skip


def large(bench: Bench) -> Measured:
    """One file of 1 GiB."""
    folder = bench.folder / "large"
    path = folder / "large.mp4"
    if not path.exists():
        folder.mkdir()
        with path.open("wb") as file:
            for _ in range(LARGE_BYTES // (16 * KIB * KIB)):
                file.write(os.urandom(16 * KIB * KIB))
    ingest = Ingest(bench, "ingest_large")
    return compare(
        "ingest-large", "s5cmd cp", 0.95,
        ours=lambda n: ingest.run(ingest.new_customer(n), folder, "ingested", 1),
        theirs=lambda n: bench.s5cmd("cp", str(path), f"s3://videos/peer/large{n}.mp4"),
        pairs=bench.pairs, amount=LARGE_BYTES / 1e6, unit="MB/s",
    )  # fmt: skip


def small_files(bench: Bench) -> Path:
    """The files, made once."""
    folder = bench.folder / "small"
    if not folder.exists():
        folder.mkdir()
        for number in range(FILES):
            (folder / f"{number:05}.mp4").write_bytes(os.urandom(FILE_BYTES))
    return folder


__all__ = ["known", "large", "small", "timed"]
