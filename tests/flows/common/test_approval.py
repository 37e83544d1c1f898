"""Plans that have to be approved: real runs under a real worker, which is killed while the request waits."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import psycopg2
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment

from blocks.catalog import CatalogDatabase
from blocks.catalog.databases import database_names, maintenance
from blocks.errors import RefusedError
from blocks.object_store import ObjectStore
from blocks.object_store.deletion import delete_keys
from blocks.object_store.listing import list_prefix
from blocks.policies import SafetyPolicy
from tasks.stores import OpenLocation
from tests.conftest import RunningStack
from tests.flows.conftest import save_policy
from tests.flows.test_flows import latest_artifact
from tests.helpers import execute, one, rows, stored_keys

pytestmark = [pytest.mark.prefect, pytest.mark.slow]


@pytest.fixture
def client(saved: str, worker: RunningStack) -> Iterator[SyncPrefectClient]:
    save_policy(SafetyPolicy(most_objects=2))
    with get_client(sync_client=True) as client:
        yield client


def start(deployment: str, **parameters: Any) -> UUID:
    run = run_deployment(f"{deployment}/{deployment}", parameters=parameters, timeout=0)
    assert isinstance(run, FlowRun)
    return run.id


def wait(client: SyncPrefectClient, run: UUID, *states: str) -> FlowRun:
    for _ in range(240):
        found = client.read_flow_run(run)
        assert found.state is not None
        if found.state.name in states:
            return found
        assert not found.state.is_final(), f"{found.state.name}: {found.state.message}"
        time.sleep(0.5)
    raise AssertionError(f"the run is {found.state.name} and never became {states}")


def answer(client: SyncPrefectClient, run: UUID, **form: Any) -> None:
    client.resume_flow_run(run, run_input=form)


def states_of(catalog: CatalogDatabase) -> set[str]:
    return {row.state for row in rows(catalog, "SELECT DISTINCT state FROM stored_objects")}


def test_a_large_plan_asks_outlives_its_worker_and_asks_again_when_it_has_grown(
    client: SyncPrefectClient, worker: RunningStack, catalog: CatalogDatabase, saved: str,
    new_jobs: Callable[[int], list[UUID]],
) -> None:  # fmt: skip
    new_jobs(3)
    run = start("delete-jobs", api_key="acme", dry_run=False)
    wait(client, run, "Suspended")
    assert states_of(catalog) == {"live"}
    plan = latest_artifact(saved, "delete-jobs-plan")
    assert "3 objects" in plan["description"]
    assert one(catalog, "SELECT objects FROM approvals WHERE state = 'asked'") == 3

    pid = worker.stack.status()["worker"]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    new_jobs(1)
    answer(client, run, decision="approve", approved_objects=3, approved_bytes=10**6)
    worker.stack.start_worker(cwd=worker.stack.folder)
    wait(client, run, "Suspended")
    for _ in range(100):
        if one(catalog, "SELECT objects FROM approvals") == 4:
            break
        time.sleep(0.2)
    assert one(catalog, "SELECT objects FROM approvals") == 4, "it planned again, and asked again"
    assert states_of(catalog) == {"live"}

    wait_for_question(client, run, 2)
    answer(client, run, decision="approve", approved_objects=4, approved_bytes=10**6)
    done = wait(client, run, "Completed")
    assert done.state is not None
    assert "4 done" in str(done.state.message)
    assert states_of(catalog) == {"trashed"}


def wait_for_question(client: SyncPrefectClient, run: UUID, number: int) -> None:
    for _ in range(100):
        found = client.read_flow_run(run)
        if len(found.empirical_policy.pause_keys or ()) == number and found.state and found.state.is_paused():
            return
        time.sleep(0.2)
    raise AssertionError(f"the run never asked its question {number}")


def test_unanswered(
    client: SyncPrefectClient, catalog: CatalogDatabase, worker: RunningStack, new_jobs: Callable[[int], list[UUID]]
) -> None:
    """Nothing happens without an approval."""
    new_jobs(3)
    unanswered = start("delete-jobs", api_key="acme", dry_run=False)
    wait(client, unanswered, "Suspended")
    # Twenty hours later, as far as the Prefect server can tell.
    connection = psycopg2.connect(host=str(worker.endpoints.postgres_folder), user="postgres", dbname="prefect")
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE flow_run_state SET state_details = jsonb_set(state_details::jsonb, '{pause_timeout}', "
            "'\"2020-01-01T00:00:00Z\"') WHERE flow_run_id = %s AND type = 'PAUSED'",
            (str(unanswered),),
        )
        assert cursor.rowcount == 1
    connection.close()
    ended = wait(client, unanswered, "Failed")
    assert ended.state is not None
    assert "never resumed" in str(ended.state.message)
    assert states_of(catalog) == {"live"}
    assert {row.state for row in rows(catalog, "SELECT state FROM approvals")} == {"asked"}


def test_a_newer_plan_overtakes_an_older_request_and_the_lock_is_free_meanwhile(
    client: SyncPrefectClient, catalog: CatalogDatabase, location: OpenLocation, new_jobs: Callable[[int], list[UUID]]
) -> None:
    new_jobs(3)
    execute(catalog, "UPDATE jobs SET status = 'failed', updated_at = now() - interval '8 days'")
    older = start("cleanup")
    wait(client, older, "Suspended")
    newer = start("cleanup")
    wait(client, newer, "Suspended")
    overtaken = wait(client, older, "Cancelled")
    assert overtaken.state is not None
    assert str(newer) in str(overtaken.state.message)
    assert len(stored_keys(location)) == 3
    answer(client, newer, decision="approve", approved_objects=3, approved_bytes=10**6)
    wait(client, newer, "Completed")
    assert stored_keys(location) == []
    assert {row.state for row in rows(catalog, "SELECT state FROM approvals")} == {"overtaken", "approved"}


def test_without_a_deployment_a_large_plan_is_refused(
    client: SyncPrefectClient, catalog: CatalogDatabase, new_jobs: Callable[[int], list[UUID]]
) -> None:
    from flows.delete_jobs import delete_jobs

    new_jobs(3)
    with pytest.raises(RefusedError, match="3 objects are more than 2: this has to be approved"):
        delete_jobs(api_key="acme", dry_run=False)
    assert delete_jobs(api_key="acme", return_state=True).name == "DryRun"
    with pytest.raises(RefusedError, match="this cannot be undone: this has to be approved"):
        delete_jobs(job_ids=[str(one(catalog, "SELECT id FROM jobs LIMIT 1"))], dry_run=False, purge_now=True)
    assert states_of(catalog) == {"live"}


def test_a_restore_asks_before_the_cut_over_and_goes_on_with_what_it_restored(
    client: SyncPrefectClient, saved: str, catalog: CatalogDatabase, vault: ObjectStore, worker: RunningStack,
    new_jobs: Callable[[int], list[UUID]],
) -> None:  # fmt: skip
    """One is denied, the other approved; a backup that is made meanwhile is not the one that was asked about."""
    from flows.backup import backup

    new_jobs(2)
    backup(kind="catalog")
    made = one(catalog, "SELECT backup FROM backup_checks")
    new_jobs(1)
    denied = start("restore", cutover=True)
    wait(client, denied, "Suspended")
    question = latest_artifact(saved, "restore-plan")
    assert "newer than the backup" in question["data"]
    answer(client, denied, decision="deny")
    wait(client, denied, "Denied")
    assert one(catalog, "SELECT state FROM approvals WHERE run = :run", run=denied) == "denied"
    with maintenance(catalog) as connection:
        assert database_names(connection, f"{catalog.database}_restore") == [], "what nobody wanted is dropped"

    approved = start("restore", cutover=True, metadata_objects="none")
    wait(client, approved, "Suspended")
    backup(kind="catalog")
    assert one(catalog, "SELECT count(*) FROM jobs") == 3
    answer(client, approved, decision="approve", approved_objects=1, approved_bytes=10**6)
    done = wait(client, approved, "Completed")
    assert done.state is not None
    assert f"restored from {made}" in str(done.state.message)
    assert one(catalog, "SELECT count(*) FROM jobs") == 2
    assert one(catalog, "SELECT restored_from FROM catalog_identity WHERE frozen_since IS NOT NULL") == made
    assert one(catalog, "SELECT NOT claims_pending FROM catalog_identity"), "the buckets carry the new epoch"
    execute(catalog, "UPDATE catalog_identity SET frozen_since = NULL")
    # For what the fixtures look at: the job that was forgotten has left its bytes.
    videos = vault.model_copy(update={"prefix": vault.prefix.removesuffix("-backups")})
    known = {row.key for row in rows(catalog, "SELECT key FROM stored_objects")}
    forgotten = [listed.key for listed in list_prefix(videos, "processed") if listed.key not in known]
    assert len(forgotten) == 1
    delete_keys(videos, forgotten)
