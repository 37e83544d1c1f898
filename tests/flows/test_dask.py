"""Batches on the processes of a Dask cluster: the same results as on threads, also where a process is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask
import pytest
from distributed import LocalCluster, get_worker
from distributed.security import Security
from prefect import Flow, flow, task
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from blocks.catalog import CatalogDatabase
from blocks.catalog.locations import Declaration
from blocks.embedded import Endpoints
from blocks.errors import InvalidInputError, WorkerLostError
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import put_bytes
from blocks.policies import IntegrityPolicy, RelocationPolicy, SafetyPolicy, TierPolicy
from flows.common.batches import NO_PROFILE, SETTING, batch_runner, run_batches
from flows.migrate_storage import migrate_storage
from flows.reconcile_quota import reconcile_quota
from flows.tier_jobs import tier_jobs
from flows.verify_objects import verify_objects
from tasks.declaring import probe_store
from tasks.relocation.intents import recover
from tasks.stores import OpenLocation
from tasks.sweeping import Sweep
from tests.benchmarks.relocating import Content, stock
from tests.benchmarks.stocking import A_JOB, new_jobs
from tests.conftest import copy_template, make_store
from tests.flows.conftest import save_block, save_policy
from tests.helpers import assert_sound, execute, one, rows, stored_keys

pytestmark = pytest.mark.prefect


@pytest.mark.parametrize("words", ["dask", "dask:0", "dask:1000", "dask:-1", "ray:4", "threads:4", "dask:http://h:1"])
def test_words_that_the_setting_does_not_know_are_refused(words: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{SETTING}='{words}' is none of threads, dask:N"):
        batch_runner(words)


def test_threads_unless_said_otherwise() -> None:
    assert isinstance(batch_runner(""), ThreadPoolTaskRunner)
    assert batch_runner("threads") == batch_runner(" threads ")


@pytest.fixture(scope="module")
def cluster(prefect_api: str) -> Iterator[LocalCluster]:
    """Two processes that find Prefect's server by their environment."""
    dask.config.set(NO_PROFILE)
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        yield cluster


@dataclass
class Platform:
    """A catalog with stored jobs that is what the blocks of the flows' defaults name, and two places to move to."""

    catalog: CatalogDatabase
    home: OpenLocation
    cold: OpenLocation
    far: OpenLocation

    def picture(self) -> list[tuple[Any, ...]]:
        """What two runs must agree on: every object, its state and where it lies; no key that was made at random."""
        return rows(
            self.catalog,
            "SELECT o.job_id, o.name, o.state, l.name, o.codec, o.stored_bytes, o.sha256, o.generation > 1, j.tier "
            "  FROM stored_objects o JOIN locations l ON l.id = o.location_id JOIN jobs j ON j.id = o.job_id "
            " ORDER BY 1, 2",
        ) + rows(
            self.catalog,
            # But for what a killed process had written and nobody needs: the next flow removes it, and says so.
            "SELECT operation, rule, count(*) FROM operation_log WHERE rule IS DISTINCT FROM 'given_up' "
            "GROUP BY 1, 2 ORDER BY 1, 2",
        )


@pytest.fixture
def platforms(  # type: ignore[no-untyped-def]
    default_blocks, endpoints: Endpoints, sql, template: str, bucket: str
) -> Iterator[Callable[[int], Platform]]:
    """Makes platforms that hold the same; each takes the place of the one before."""
    made: list[CatalogDatabase] = []
    for policy in (
        RelocationPolicy(batch_objects=A_JOB),
        SafetyPolicy(most_percent=100, most_objects=10**6),
        IntegrityPolicy(orphan_grace_hours=1),
        TierPolicy(cold_location="cold", smallest_billed_kib=0, cold_price_per_1000_moved=0),
    ):
        save_policy(policy)

    def make(objects: int) -> Platform:
        name = f"dask_{uuid4().hex[:8]}"
        copy_template(sql, template, name)
        catalog = CatalogDatabase(host=str(endpoints.postgres_folder), username="postgres", database=name, pool_size=16)
        made.append(catalog)
        execute(catalog, "UPDATE catalog_identity SET catalog_id = gen_random_uuid()")
        save_block(catalog, "main")
        places = []
        for place in ("main", "cold", "far"):
            store = make_store(endpoints, prefix=f"{name}/{place}")
            save_block(store.model_copy(update={"credentials": default_blocks}), place)
            places.append(
                probe_store(catalog, store, place, said=Declaration(tier="cold" if place == "cold" else "hot"))
            )
        stock(catalog, places[0], new_jobs("dask", objects // A_JOB), Content(b"the same in every platform"))
        return Platform(catalog, *places)

    yield make
    for catalog in made:
        catalog.disconnect()
        sql(f"DROP DATABASE {catalog.database} WITH (FORCE)")


FLOWS: dict[Flow[..., Any], dict[str, Any]] = {
    reconcile_quota: {"stores": ["main"], "grace_hours": 1},
    verify_objects: {"share": 100, "stores": ["main"]},
    tier_jobs: {},
    migrate_storage: {"from_location": "cold", "to_location": "far", "dry_run": False},
}


def live_through(
    platform: Platform,
    flows: Sequence[Flow[..., Any]],
    runner: TaskRunner[Any],
    meanwhile: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> list[str]:
    """What each flow says at its end: drift is found and mended, all is read, moved to the cold place and far away."""
    (first, *_, last) = stored_keys(platform.home)
    delete_keys(platform.home.store, [first])
    put_bytes(platform.home.store, last, b"not the same", {})
    said = []
    for one_flow in flows:
        with meanwhile():
            state = one_flow.with_options(task_runner=runner)(return_state=True, **FLOWS[one_flow])
        assert state.name in ("Completed", "Partial"), f"{one_flow.name}: {state.message}"
        said.append(f"{one_flow.name}: {state.name}: {state.message}")
    return said


@contextmanager
def a_worker_is_killed(cluster: LocalCluster, *, after: int) -> Iterator[None]:
    """A process that is at work gets SIGKILL once so many batches are done; it must have happened by the end."""
    ended, killed = threading.Event(), []

    def kill() -> None:
        while not ended.wait(0.005):
            done = sum(task.state == "memory" for task in list(cluster.scheduler.tasks.values()))
            busy = {worker.address for worker in cluster.scheduler.workers.values() if worker.processing}
            if done < after:
                continue
            for nanny in cluster.workers.values():
                if nanny.worker_address in busy and nanny.pid:
                    killed.append(nanny.pid)
                    os.kill(nanny.pid, signal.SIGKILL)
                    return

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert killed


def the_same_though_processes_die(
    platforms: Callable[[int], Platform],
    cluster: LocalCluster,
    objects: int,
    *flows: Flow[..., Any],
    after: int,
) -> None:
    here = platforms(objects)
    said, picture = live_through(here, flows, batch_runner("threads")), here.picture()
    moved = here.far if migrate_storage in flows else here.cold
    assert one(here.catalog, "SELECT count(*) FROM stored_objects WHERE location_id = :id", id=moved.place.id)
    there = platforms(objects)
    runner = batch_runner(f"dask:{cluster.scheduler_address}")
    assert live_through(there, flows, runner, lambda: a_worker_is_killed(cluster, after=after)) == said
    assert there.picture() == picture
    for platform in (here, there):
        execute(platform.catalog, "UPDATE relocations SET release_after = now() - interval '1 s'")
        recover(Sweep(platform.catalog, (platform.home, platform.cold, platform.far)))
        assert_sound(platform.catalog, platform.home, platform.cold, platform.far)


@pytest.mark.slow
def test_the_same_as_on_threads_though_a_process_is_killed_under_each_flow(
    platforms: Callable[[int], Platform], cluster: LocalCluster
) -> None:
    the_same_though_processes_die(platforms, cluster, 200, verify_objects, tier_jobs, after=0)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_the_same_with_a_hundred_thousand_objects(platforms: Callable[[int], Platform], cluster: LocalCluster) -> None:
    the_same_though_processes_die(platforms, cluster, 100_000, *FLOWS, after=1)


@pytest.mark.slow
def test_a_cluster_of_a_runs_own(platforms: Callable[[int], Platform]) -> None:
    """Its processes come and go with the run, and speak TLS with keys that nobody else has."""
    platforms(A_JOB)
    before = set(multiprocessing.active_children())
    state = verify_objects.with_options(task_runner=batch_runner("dask:2"))(
        share=100, stores=["main"], return_state=True
    )
    assert str(state.message).startswith("20 of 20 objects read")
    assert set(multiprocessing.active_children()) == before


@pytest.mark.slow
def test_a_cluster_that_is_there_is_joined_by_tls(platforms: Callable[[int], Platform], tmp_path: Path) -> None:
    """Its keys are told in Dask's own settings; who has none does not get in."""
    platforms(A_JOB)
    keys = Security.temporary()
    named = {"ca-file": keys.tls_ca_file, "client.cert": keys.tls_client_cert, "client.key": keys.tls_client_key}
    for name, content in named.items():
        (tmp_path / name).write_text(content)
    settings = {f"distributed.comm.tls.{name}": str(tmp_path / name) for name in named}
    with LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", protocol="tls",
        security=keys,
    ) as cluster:  # fmt: skip
        runner = batch_runner(f"dask:{cluster.scheduler_address}")
        assert cluster.scheduler_address.startswith("tls://")
        verify = verify_objects.with_options(task_runner=runner)
        with dask.config.set(settings):
            state = verify(share=100, stores=["main"], return_state=True)
        assert str(state.message).startswith("20 of 20 objects read")
        with pytest.raises(TypeError, match="TLS expects a `ssl_context` argument"):
            verify(share=100, stores=["main"])


@task
def is_profiled() -> bool:
    return "profile" in get_worker().periodic_callbacks


@pytest.mark.slow
def test_workers_of_a_runs_own_cluster_are_not_profiled(prefect_api: str) -> None:
    @flow(task_runner=batch_runner("dask:1"))
    def look() -> list[bool]:
        return run_batches(lambda _: is_profiled.submit(), 1, at_once=1, progress=lambda _: None)

    assert look() == [False]


@task
def ends_its_process() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


@pytest.mark.chaos
def test_a_batch_under_which_every_process_ends_is_given_up(cluster: LocalCluster) -> None:
    @flow(task_runner=batch_runner(f"dask:{cluster.scheduler_address}"))
    def deadly() -> list[int]:
        return run_batches(lambda _: ends_its_process.submit(), 1, at_once=1, progress=lambda _: None)

    with pytest.raises(WorkerLostError, match="every process that worked at batch 0 ended"):
        deadly()
