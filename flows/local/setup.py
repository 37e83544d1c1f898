"""What `up` adds to the bare servers: the catalog, the blocks, the deployments and a worker."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

from blocks.embedded import Endpoints, Stack
from blocks.errors import NotFoundError, TerminalError, TransientError

if TYPE_CHECKING:
    from blocks.catalog import CatalogDatabase
    from blocks.object_store import ObjectStore

PROJECT = Path(__file__).resolve().parents[2]
CATALOG = "transcode_flow"
BUCKETS = ("videos", "backups")


class SetupError(TerminalError):
    """A step of `up` did not work; the message holds what it printed."""


def local_stack() -> Stack:
    """The stack of this checkout, or of the folder in TRANSCODE_FLOW_HOME."""
    return Stack(Path(os.environ.get("TRANSCODE_FLOW_HOME", PROJECT / ".local")))


def bring_up(
    stack: Stack, *, source_roots: str, keep: bool, worker: bool = True, deploy: bool = True, say: Callable[[str], None]
) -> Endpoints:
    """Servers, catalog, blocks, deployments and worker; each step finds out whether it is done already.

    What is to `keep` running is not stopped by a demo that ends.
    """
    with stack.alone():
        endpoints = _bring_up(stack, source_roots, worker=worker, deploy=deploy, say=say)
        if keep:
            stack.keep()
        return endpoints


def _bring_up(stack: Stack, source_roots: str, *, worker: bool, deploy: bool, say: Callable[[str], None]) -> Endpoints:
    endpoints = stack.start(say=say)
    had_worker = stack.status()["worker"] is not None
    os.environ.update(stack.environment())
    from blocks.loading import load_block
    from blocks.policies import BackupPolicy
    from flows.common.alarms import set_alarms

    say("catalog and blocks")
    prepare_catalog(stack, endpoints, CATALOG)
    save_blocks(endpoints, source_roots=source_roots)
    if not had_worker:
        mark_leftovers_crashed()
    if deploy:
        say("deployments")
        deploy_all(stack)
        set_alarms(load_block(BackupPolicy, "default"))
    if worker:
        say("worker")
        stack.start_worker(cwd=stack.folder)
    return endpoints


def prepare_catalog(stack: Stack, endpoints: Endpoints, database: str) -> None:
    """Create the catalog's database where it is missing, and migrate."""
    from blocks.catalog import CatalogDatabase
    from blocks.catalog.migrating import upgrade

    stack.create_database(database)
    upgrade(CatalogDatabase(host=str(endpoints.postgres_folder), username="postgres", database=database))


def save_blocks(endpoints: Endpoints, *, source_roots: str) -> None:
    """Register the block types, and save one block of each: `main` for the servers, `default` for the policies.

    A policy that an operator changed is left alone, but for the source roots, which follow the command line.
    """
    from prefect.blocks.core import Block
    from prefect_aws.credentials import MinIOCredentials

    from blocks.catalog import CatalogDatabase
    from blocks.encryption import BackupKey
    from blocks.loading import load_block
    from blocks.object_store import ObjectStore
    from blocks.policies import POLICIES, IngestPolicy
    from tasks.declaring import probe_store

    kinds: list[type[Block]] = [MinIOCredentials, CatalogDatabase, ObjectStore, BackupKey, *POLICIES]
    for kind in kinds:
        kind.register_type_and_schema()
    credentials = MinIOCredentials(minio_root_user=endpoints.access_key, minio_root_password=endpoints.secret_key)
    credentials.save("main", overwrite=True)
    catalog = CatalogDatabase(host=str(endpoints.postgres_folder), username="postgres", database=CATALOG)
    catalog.save("main", overwrite=True)
    # Loaded back, so that the store holds a reference to the credentials block and no copy of its secret.
    saved = MinIOCredentials.load("main")
    _follow_server(endpoints)
    store = ObjectStore(credentials=saved, endpoint_url=endpoints.s3_url, bucket=BUCKETS[0])
    store.save("main", overwrite=True)
    ObjectStore(credentials=saved, endpoint_url=endpoints.s3_url, bucket=BUCKETS[1]).save("backups", overwrite=True)
    for bucket in BUCKETS:
        _create_bucket(store.model_copy(update={"bucket": bucket}))
    for policy in POLICIES:
        try:
            existing: Block = load_block(policy, "default")
        except NotFoundError:
            existing = policy()
        if isinstance(existing, IngestPolicy):
            existing.source_roots = _joined(existing.source_roots, source_roots)
        existing.save("default", overwrite=True)
    probe_store(catalog, store, "main")


def _follow_server(endpoints: Endpoints) -> None:
    """Where the S3 server got another port, all stores that people saved on it go along."""
    from prefect.client.orchestration import get_client

    from blocks.object_store import ObjectStore

    try:
        before = cast(ObjectStore, ObjectStore.load("main")).endpoint_url
    except ValueError:
        return  # the first start
    if before == endpoints.s3_url:
        return
    with get_client(sync_client=True) as client:
        names = [one.name for one in client.read_block_documents_by_type(ObjectStore.get_block_type_slug())]
    # Not `main`, which is saved next: interrupted here, the next start comes back to the others.
    for name in (name for name in names if name and name != "main"):
        try:
            store = cast(ObjectStore, ObjectStore.load(name))
        except (ValueError, RuntimeError):
            continue  # who uses it is told what is wrong with it
        if store.endpoint_url == before:
            store.endpoint_url = endpoints.s3_url
            store.save(name, overwrite=True)


def prepare_example(stack: Stack, database: str, name: str, *, again: bool) -> CatalogDatabase:
    """A catalog for examples beside the one in use: a database, a bucket and blocks of its own, all of this name.

    `again` drops the database that is there first.
    """
    from prefect_aws.credentials import MinIOCredentials

    from blocks.catalog import CatalogDatabase
    from blocks.catalog.databases import drop_database, maintenance
    from blocks.object_store import ObjectStore
    from tasks.declaring import probe_store
    from tasks.layout import IDENTITY_KEY

    endpoints = stack.endpoints()
    catalog = CatalogDatabase(host=str(endpoints.postgres_folder), username="postgres", database=database)
    store = ObjectStore(credentials=MinIOCredentials.load("main"), endpoint_url=endpoints.s3_url, bucket=name)
    _create_bucket(store)
    if again:
        with maintenance(catalog) as connection:
            drop_database(connection, database)
        store.s3.delete_object(Bucket=name, Key=IDENTITY_KEY)
    prepare_catalog(stack, endpoints, database)
    store.save(name, overwrite=True)
    catalog.save(name, overwrite=True)
    probe_store(catalog, store, name)
    return catalog


def deploy_all(stack: Stack) -> None:
    """Deploy everything in prefect.yaml, if it or a flow changed since; a work pool is made where it is missing."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.variables import Variable

    from blocks.embedded.prefect_server import POOL
    from flows.common.opening import TIMEZONE_VARIABLE

    if Variable.get(TIMEZONE_VARIABLE) is None:
        Variable.set(TIMEZONE_VARIABLE, "UTC")
    deployed, wanted = stack.folder / "deployed", _fingerprint(str(Variable.get(TIMEZONE_VARIABLE)))
    if deployed.exists() and deployed.read_text() == wanted:
        return
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    finished = subprocess.run(
        [
            sys.executable,
            "-m",
            "prefect",
            "--no-prompt",
            "deploy",
            "--all",
            "--prefect-file",
            str(PROJECT / "prefect.yaml"),
        ],
        cwd=PROJECT,
        env={**os.environ, **stack.environment()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if finished.returncode != 0:
        raise SetupError(f"the deployments could not be made:\n{finished.stdout[-3000:]}{finished.stderr[-3000:]}")
    deployed.write_text(wanted)


def _fingerprint(timezone: str) -> str:
    """What deployments are made from: their list, their time zone, and the flows, whose parameters are the forms."""
    digest = hashlib.sha256(timezone.encode())
    flows = PROJECT / "flows"
    for path in [PROJECT / "prefect.yaml", *sorted([*flows.glob("*.py"), *(flows / "common").glob("*.py")])]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def mark_leftovers_crashed() -> int:
    """Runs that this machine's worker was working on when it was killed: nothing else would notice."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
    from prefect.states import Crashed

    from blocks.embedded.prefect_server import POOL

    runs_filter = FlowRunFilter(state={"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}})
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=runs_filter,
            work_pool_filter=WorkPoolFilter(name={"any_": [POOL]}),
        )
        for run in runs:
            client.set_flow_run_state(run.id, Crashed(message="its worker was stopped or killed"), force=True)
    return len(runs)


def wait_for_deployed_run(deployment: str, parameters: dict[str, object], *, seconds: float) -> str:
    """Run a deployment through the worker and wait; returns the name of the final state.

    Raises:
        TransientError: it did not end in time.
    """
    from prefect.client.schemas.objects import FlowRun
    from prefect.deployments import run_deployment

    started = run_deployment(deployment, parameters=parameters, timeout=seconds, poll_interval=0.5)
    run = cast(FlowRun, started)  # outside an event loop it is no coroutine
    if run.state is None or not run.state.is_final():
        raise TransientError(f"the run of {deployment} did not end within {seconds:.0f} s")
    return str(run.state.name)


def _create_bucket(store: ObjectStore) -> None:
    from botocore.exceptions import ClientError

    from blocks.object_store.failures import store_errors

    with store_errors(store, "making it"):
        try:
            store.s3.create_bucket(Bucket=store.bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise


def _joined(roots: str, more: str) -> str:
    # A folder that is gone, such as an earlier demo's, is no root any more.
    known = [root.strip() for root in roots.split(",") if root.strip() and Path(root.strip()).is_dir()]
    return ", ".join(known + [root.strip() for root in more.split(",") if root.strip() not in known])
