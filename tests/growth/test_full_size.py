"""A million jobs and ten million objects for real: the same check, and what calls take among so many."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import pytest

from blocks.catalog import CatalogDatabase
from blocks.embedded import Endpoints
from blocks.object_store import ObjectStore
from blocks.object_store.probing import Capabilities
from tests.chaos.walking import Worlds
from tests.conftest import copy_template
from tests.growth.allowed import not_allowed
from tests.growth.calls import BY_CUSTOMERS, BY_FLOWS, Crowd, look_into
from tests.growth.crowd import Size, settle_in
from tests.growth.judging import measure
from tests.growth.playing import play_acts, play_calls
from tests.helpers import rows

SMALL, LARGE = (
    Size(jobs=1_000, objects_a_job=11, customers=100),
    Size(jobs=1_000_000, objects_a_job=11, customers=10_000),
)
READS_EVERYTHING = ("backup",)
"""As it has to: an hour with so much."""
TIMES = 25
"""Runs of a call, where they are short."""

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(6 * 3600)]


@pytest.fixture(scope="module")
def make(
    endpoints: Endpoints, sql: Callable[[str], None], template: str
) -> Iterator[Callable[[str, Size], CatalogDatabase]]:
    made: list[CatalogDatabase] = []

    def fill(name: str, size: Size) -> CatalogDatabase:
        copy_template(sql, template, name)
        catalog = CatalogDatabase(host=str(endpoints.postgres_folder), username="postgres", database=name)
        made.append(catalog)
        print(f"\n{name}: {size.jobs:,} jobs in {settle_in(catalog, size):.0f} s", flush=True)  # noqa: T201 -- what it is run for
        return catalog

    yield fill
    for catalog in made:
        catalog.disconnect()
        sql(f"DROP DATABASE {catalog.database} WITH (FORCE)")


def test_a_million_jobs(
    make: Callable[[str, Size], CatalogDatabase], worlds: Worlds, store: ObjectStore, capabilities: Capabilities
) -> None:
    small, large = make("catalog_small", SMALL), make("catalog_large", LARGE)
    _tell_sizes(large)
    crowds = [look_into(catalog, store, capabilities) for catalog in (small, large)]
    for name, call in (BY_CUSTOMERS | BY_FLOWS).items():
        few, many = (_milliseconds(call, crowd) for crowd in crowds)
        print(f"{name:35} {few:9.1f} ms {many:9.1f} ms {many / few:8.2f}×", flush=True)  # noqa: T201 -- as above
    grown = measure(large)
    found = play_calls(crowds[1], grown) | play_acts(large, worlds, grown, but=READS_EVERYTHING)
    left = not_allowed(found)
    assert not left, "\n".join(left)


def _milliseconds(call: Callable[[Crowd], object], crowd: Crowd) -> float:
    """The median of some runs; of one, where that takes long."""
    taken: list[float] = []
    while len(taken) < TIMES and sum(taken) < 10:
        started = time.perf_counter()
        call(crowd)
        taken.append(time.perf_counter() - started)
    return 1000 * statistics.median(taken)


def _tell_sizes(catalog: CatalogDatabase) -> None:
    for row in rows(
        catalog,
        "SELECT relname, CASE relkind WHEN 'r' THEN 'table' ELSE 'index' END AS what, reltuples::bigint AS rows, "
        "       pg_relation_size(oid) / 1048576 AS mib FROM pg_class "
        " WHERE relkind IN ('r', 'i') AND pg_relation_size(oid) > 20 * 1048576 ORDER BY 4 DESC",
    ):
        print(f"{row.relname:40} {row.what} {row.rows:>12,} rows {row.mib:>6,} MiB", flush=True)  # noqa: T201 -- as above
