"""Canary values for every credential, real runs that work and that fail with them, and then everything that lasts.

What is looked through: all of Prefect's database (runs, parameters, logs at DEBUG, artifacts, events, blocks),
results, the catalog, every object in the stores (decompressed), logs of the servers, standard output and the log of
this process.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import quote

import pytest
from prefect.client.orchestration import get_client
from prefect.events.worker import EventsWorker
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_LOGGING_LEVEL, get_current_settings, temporary_settings
from prefect_aws.credentials import AwsCredentials, MinIOCredentials
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from blocks.catalog import CatalogDatabase
from blocks.encryption import BackupKey, new_key
from blocks.errors import StorageError
from blocks.object_store import ObjectStore
from blocks.object_store.listing import list_prefix
from blocks.object_store.transfer import read_bytes
from blocks.policies import BackupPolicy, IngestPolicy, IntegrityPolicy
from flows.commands.app import app
from tasks.customers import create_key
from tests.conftest import RunningStack
from tests.helpers import write_video
from tests.hostile.besieged import HERE, OWNER, VAULT, Platform
from tests.hostile.canaries import canary, dump, files, forms, found_in, objects
from tests.hostile.commands import APP, COMMANDS, LOCAL, run
from tests.hostile.parameters import DEPLOYED, signature, working

pytestmark = [pytest.mark.prefect, pytest.mark.slow]

GUARDED, WRONG, ELSEWHERE, UNREACHABLE = "guarded", "guarded-wrong", "guarded-aws", "guarded-unreachable"
"""Blocks whose credentials are canaries: ones that work, ones that are refused, and ones of no server at all."""


class _Film(BaseHTTPRequestHandler):
    """Gives a film to whoever knows the signature."""

    signature = ""

    def do_GET(self) -> None:
        known = f"X-Amz-Signature={self.signature}" in self.path
        self.send_response(200 if known and "broken" not in self.path else 403)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"a film")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def canaries(besieged: Platform, prefect_api: str, running_stack: RunningStack) -> dict[str, str]:
    """A secret for every credential that the project knows, by what it opens; each is in use."""
    key = new_key()
    assert key.identity is not None
    return {
        "S3 secret": running_stack.endpoints.secret_key.get_secret_value(),
        "wrong S3 secret": canary("s3"),
        "AWS secret": canary("aws"),
        "PostgreSQL password": canary("postgres"),
        "backup key": key.identity.get_secret_value(),
        "customer's secret": create_key(besieged.catalog, "guarded").secret,
        "Prefect's auth string": canary("prefect"),
        "URL password": canary("url"),
        "URL signature": canary("signature").replace("+/=%", ""),
    }


@pytest.fixture
def film(canaries: dict[str, str]) -> Iterator[str]:
    """A server of films on this machine; its address."""
    _Film.signature = canaries["URL signature"]
    server = HTTPServer(("127.0.0.1", 0), _Film)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def guarded(besieged: Platform, canaries: dict[str, str]) -> Platform:
    """The platform by blocks that hold the canaries."""
    password = SecretStr(canaries["PostgreSQL password"])
    database = besieged.catalog.model_copy(update={"password": password})
    database.save(GUARDED, overwrite=True)
    database.model_copy(update={"host": "127.0.0.1", "port": 1}).save(UNREACHABLE, overwrite=True)
    credentials = MinIOCredentials.load(HERE)
    MinIOCredentials(minio_root_user=credentials.minio_root_user, minio_root_password=canaries["wrong S3 secret"]).save(
        WRONG, overwrite=True
    )
    besieged.stores[VAULT].model_copy(update={"credentials": MinIOCredentials.load(WRONG)}).save(
        WRONG, overwrite=True, _sync=True
    )
    # Without a session token: that block keeps one as plain text, as the README says.
    AwsCredentials(
        aws_access_key_id="AKIANOBODYATALLHERE0", aws_secret_access_key=SecretStr(canaries["AWS secret"])
    ).save(ELSEWHERE, overwrite=True)
    besieged.stores[VAULT].model_copy(update={"credentials": AwsCredentials.load(ELSEWHERE)}).save(
        ELSEWHERE, overwrite=True, _sync=True
    )
    BackupKey.register_type_and_schema()
    BackupKey(identity=SecretStr(canaries["backup key"])).save(GUARDED, overwrite=True)
    BackupPolicy(compression_level=1, restore_jobs=1, encryption_key=GUARDED).save(GUARDED, overwrite=True)
    IntegrityPolicy().save("default", overwrite=True)  # `restore` looks with it
    IngestPolicy(source_roots=str(besieged.folder), allow_private_addresses=True, url_schemes="http,https,s3").save(
        GUARDED, overwrite=True
    )
    return besieged


def call(flow: str, platform: Platform, **changes: Any) -> str:
    """A real run; how it ended, in its own words."""
    state = DEPLOYED[flow](**working(flow, platform) | changes, return_state=True)
    return f"{state.name}: {state.message}"


def doing(flow: str) -> dict[str, Any]:
    """What makes a flow go on where its plan would be enough."""
    switches = {"dry_run": False, "repair": True}
    return {name: value for name, value in switches.items() if name in signature(flow)}


def reaching(flow: str, block: str) -> dict[str, Any]:
    """The parameter that names the catalog, with this block."""
    return {"catalog" if "catalog" in signature(flow) else "target": block}


def commanded(platform: Platform, canaries: dict[str, str]) -> tuple[dict[str, Result], dict[str, Result]]:
    """Every command that names a block, with blocks that work and with each that does not: by its words and these."""
    arguments = {
        ("key", "create"): ["commanded"], ("key", "quota"): ["guarded", "10 MiB"], ("key", "disable"): ["commanded"],
        ("analyst",): ["commanded_reader"], ("report",): [str(platform.folder / "report")],
        ("explain",): [str(platform.jobs[OWNER])], ("backup", "key"): ["--save", "commanded"],
        ("backup", "hold"): ["--release", "latest"],
    }  # fmt: skip
    blocks = {"catalog": GUARDED, "store": HERE, "policy": GUARDED, "backups": VAULT}
    worked, failed = {}, {}
    for words, one in APP.items():
        taken, said = {option.name for option in one.params}, " ".join(words)
        if words in LOCAL or words == ("upgrade",):
            continue
        least = [*words, *arguments.get(words, COMMANDS[words].arguments.values())]
        for changed in ({}, {"catalog": UNREACHABLE}, {"backups": WRONG}):
            if changed.keys() <= taken:
                named = blocks | changed | ({"policy": HERE} if words in (("url",), ("explain",)) else {})
                options = [word for name in sorted(named.keys() & taken) for word in (f"--{name}", named[name])]
                (failed if changed else worked)[f"{said} {changed or ''}"] = run(platform, *least, *options)
        if "store_url" in taken:
            store, password = platform.stores[VAULT], quote(canaries["PostgreSQL password"], safe="")
            address = ["--store-url", f"s3://{store.bucket}", "--endpoint", store.endpoint_url]
            address += ["--database-url", f"postgresql://u:{password}@h/d"] if "database_url" in taken else []
            environment = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": canaries["AWS secret"]}
            failed[f"{said} by its address"] = CliRunner().invoke(app, [*least, *address], env=environment)
    return worked, failed


@pytest.fixture
def told(
    guarded: Platform,
    canaries: dict[str, str],
    film: str,
    running_stack: RunningStack,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> dict[str, str]:
    """Runs that work and runs that fail; then everything that was written down anywhere, by where."""
    signed, password = f"?X-Amz-Signature={canaries['URL signature']}", canaries["URL password"]
    sources = [
        f"{film}/film.mp4{signed}", f"{film}/broken.mp4{signed}", f"http://127.0.0.1:1/film.mp4{signed}",
        f"https://[/film.mp4{signed}", f"http://user:{password}@127.0.0.1/film.mp4",
        f"gopher://user:{password}@127.0.0.1/film.mp4",
    ]  # fmt: skip
    write_video(guarded.folder / "signed.json", json.dumps(sources).encode())
    settings = {PREFECT_LOGGING_LEVEL: "DEBUG", PREFECT_API_AUTH_STRING: canaries["Prefect's auth string"]}
    # What others log at DEBUG (every header that botocore signs) goes nowhere unless an operator asks for it.
    caplog.set_level(logging.DEBUG, logger="prefect")
    caplog.set_level(logging.INFO)
    own: dict[str, dict[str, Any]] = {
        "ingest-videos": {"policy": GUARDED, "sources": [], "manifest": str(guarded.folder / "signed.json")},
        "backup": {"policy": GUARDED},
        "restore": {"policy": GUARDED},
        "restore-drill": {"policy": GUARDED},
        "set-quota": {"api_key": "guarded"},
    }
    with temporary_settings(settings):
        worked = {
            flow: call(flow, guarded, **doing(flow) | reaching(flow, GUARDED) | own.get(flow, {})) for flow in DEPLOYED
        }
        refused = [
            call("backup", guarded, catalog=GUARDED, policy=GUARDED, backups=WRONG),
            call("restore", guarded, target=GUARDED, policy=GUARDED, backups=WRONG),
            call("probe-store", guarded, catalog=GUARDED, store=WRONG),
            call("probe-store", guarded, catalog=GUARDED, store=ELSEWHERE),
            call("set-quota", guarded, catalog=GUARDED, api_key="nobody"),
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("blocks.catalog.block.ATTEMPTS", 1)
            unreached = {flow: call(flow, guarded, **reaching(flow, UNREACHABLE)) for flow in DEPLOYED}
            done, undone = commanded(guarded, canaries)
    assert "1 failed, 1 ingested, 4 refused" in worked["ingest-videos"], worked
    assert "verified" in worked["backup"], worked
    assert "was restored in" in worked["restore-drill"], worked
    failed = {flow: said for flow, said in worked.items() if said.startswith(("Failed", "Crashed"))}
    assert failed.keys() == set(), failed
    assert all("refuses these credentials" in one for one in refused[:4]), refused
    assert all("at 127.0.0.1 did not answer" in one for one in unreached.values()), unreached
    # The location is in use, and everything else works.
    wrong = {words: one.output for words, one in done.items() if one.exit_code}
    assert wrong.keys() == {"location retire "}, wrong
    assert {words: one.output for words, one in undone.items() if one.exit_code != 1} == {}
    APILogWorker.drain_all(timeout=20)
    EventsWorker.drain_all(timeout=20)
    captured = capfd.readouterr()
    return {
        "messages": "\n".join([*worked.values(), *refused, *unreached.values()]),
        "commands": "\n".join(one.output for one in (*done.values(), *undone.values())),
        "log": caplog.text,
        "standard output": captured.out,
        "standard error": captured.err,
        "Prefect's database": dump(running_stack, "prefect"),
        "the catalog": dump(running_stack, guarded.catalog.database),
        "results": files(get_current_settings().results.local_storage_path),
        "logs of the servers": files(running_stack.stack.folder / "logs"),
        "PostgreSQL's log": (running_stack.endpoints.postgres_folder / "log").read_text(errors="replace"),
        "the stores": objects(guarded.stores),
    }


def test_no_canary_is_written_down(told: dict[str, str], canaries: dict[str, str]) -> None:
    assert "ingest-videos" in told["Prefect's database"], "the dump is of the right database"
    assert "guarded" in told["the catalog"]
    assert "catalog.dump" in told["the stores"]
    assert "ready to accept connections" in told["PostgreSQL's log"], "statements that failed are looked through"
    assert "plan: " in told["log"] + told["standard error"], "what flows log is looked through"
    leaks = {where: found for where, text in told.items() if (found := found_in(text, canaries))}
    assert leaks == {}


def test_a_canary_would_be_found(canaries: dict[str, str]) -> None:
    """In each of the forms that are looked for, wherever it stands."""
    for name, secret in canaries.items():
        for form in forms(secret):
            assert found_in(f"before {form} after", {name: secret}), form
        for before in range(5):
            text = base64.b64encode(b"x" * before + secret.encode() + b"y" * 5).decode()
            assert found_in(text, {name: secret}), "within a longer base64"
    assert not found_in("nothing of it", canaries)


def test_blocks_do_not_print_what_they_hold(guarded: Platform, canaries: dict[str, str]) -> None:
    for block in (
        CatalogDatabase.load(GUARDED), CatalogDatabase.load(UNREACHABLE), BackupKey.load(GUARDED),
        ObjectStore.load(WRONG), MinIOCredentials.load(WRONG), ObjectStore.load(HERE),
    ):  # fmt: skip
        shown = [repr(block), str(block), repr(block.model_dump()), block.model_dump_json(), f"{block.__rich_repr__}"]
        assert found_in("\n".join(shown), canaries) == [], type(block).__name__


@pytest.mark.parametrize(
    "act",
    [
        lambda: CatalogDatabase.load(UNREACHABLE).transaction(lambda connection: None),
        lambda: list(list_prefix(ObjectStore.load(WRONG), "")),
        lambda: read_bytes(ObjectStore.load(WRONG), "x", at_most=1),
        lambda: ObjectStore.load(WRONG).model_copy(update={"endpoint_url": "http://127.0.0.1:1", "retries": 0}).s3,
    ],
    ids=["PostgreSQL", "listing", "reading", "a client"],
)
def test_errors_do_not_tell_what_was_tried_with(
    guarded: Platform, canaries: dict[str, str], act: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do their causes, which a traceback would show."""
    monkeypatch.setattr("blocks.catalog.block.ATTEMPTS", 1)
    try:
        shown = repr(act())
    except StorageError as error:
        shown, cause = "", error
        while cause is not None:
            shown += f"{cause!r} {cause} "
            cause = cause.__cause__ or cause.__context__
    assert found_in(shown, canaries) == []


def test_a_password_in_a_url_is_refused_before_prefect_keeps_it(
    guarded: Platform, canaries: dict[str, str], running_stack: RunningStack
) -> None:
    """As the UI and `prefect deployment run` start a run: the server holds its parameters against the schema."""
    flow = DEPLOYED["ingest-videos"]
    password = canaries["URL password"]
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(
            client.create_flow(flow), "guarded", parameter_openapi_schema=flow.parameters.model_dump(),
            enforce_parameter_schema=True, paused=True,
        )  # fmt: skip
        for written in (password, quote(password, safe="")):
            given = {"api_key": OWNER, "sources": ["/a/b.mp4", f"https://user:{written}@example.org/film.mp4"]}
            with pytest.raises(PrefectHTTPStatusError, match="409 Conflict"):
                client.create_flow_run_from_deployment(deployment, parameters=given)
        fine = {"api_key": OWNER, "sources": [
            "/a/b:c@d.mp4", "https://example.org/a:b@c.mp4?x=c@d", "https://example.org:8443/a@b.mp4",
            "https://[2001:db8::1]/a@b.mp4", "s3://bucket/a@b.mp4",
        ]}  # fmt: skip
        run = client.create_flow_run_from_deployment(deployment, parameters=fine)
        client.delete_flow_run(run.id)
        client.delete_deployment(deployment)
    assert found_in(dump(running_stack, "prefect"), {"URL password": password}) == []
    assert "PREFECT_API_AUTH_STRING" not in os.environ
