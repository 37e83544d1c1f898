"""The command line, against the embedded servers."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import typer
from prefect_aws.credentials import MinIOCredentials
from typer.testing import CliRunner, Result

from blocks.catalog import CatalogDatabase
from blocks.errors import StoreUnavailableError
from blocks.object_store import ObjectStore
from blocks.object_store.transfer import exists
from blocks.policies import IngestPolicy
from flows.commands.app import app
from flows.commands.console import clear_errors
from flows.commands.restore import _question
from flows.local.setup import _follow_server
from tasks.intake.ingest import ingest_videos
from tasks.plans import Item, Plan
from tasks.stores import OpenLocation
from tests.conftest import RunningStack
from tests.flows.conftest import save_block
from tests.helpers import execute, one, write_video

pytestmark = pytest.mark.prefect


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result


def test_keys(saved: str, catalog: CatalogDatabase) -> None:
    created = run("key", "create", "studio", "--quota", "10 GiB")
    assert created.stdout.startswith("tf_"), "the secret alone, for a script to read"
    assert "studio" in run("key", "list").stdout
    assert "10 GiB → 1 GiB" in run("key", "quota", "studio", "1 GiB").stdout
    assert "is disabled" in run("key", "disable", "studio").stdout
    assert "is enabled" in run("key", "disable", "studio", "--enable").stdout
    assert "exists already" in run("key", "create", "studio", code=1).stderr
    assert "is no quota" in run("key", "quota", "studio", "[bold]lots[/]", code=1).stderr
    assert "there are: acme, studio" in run("key", "quota", "[x]", "1", code=1).stderr


def test_url(saved: str, catalog: CatalogDatabase, location, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    video = write_video(tmp_path / "a.mp4", b"through the command line")
    rules = IngestPolicy(source_roots=str(tmp_path))
    (outcome,) = ingest_videos(catalog, location, rules, api_key="acme", sources=[str(video)]).outcomes
    issued = run("url", "acme", str(outcome.job_id), "--expires-in", "60")
    assert httpx.get(issued.stdout.strip()).content == b"through the command line"
    assert "a.mp4, until" in issued.stderr
    assert "has no audio" in run("url", "acme", str(outcome.job_id), "audio", code=1).stderr
    assert one(catalog, "SELECT url_expires_at IS NOT NULL FROM stored_objects")


def test_status(
    saved: str, catalog: CatalogDatabase, location: OpenLocation, vault: ObjectStore, running_stack: RunningStack,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Customers, and what they lost."""
    monkeypatch.setenv("TRANSCODE_FLOW_HOME", str(running_stack.stack.folder))
    video = write_video(tmp_path / "a.mp4", b"a video")
    ingest_videos(
        catalog, location, IngestPolicy(source_roots=str(tmp_path)), api_key="acme", sources=[str(video)]
    )  # fmt: skip

    def told() -> str:
        shown = CliRunner().invoke(app, ["status"])
        assert shown.exit_code in (0, 3), shown.output  # some tests have a worker, others have not
        return " ".join(shown.stdout.split())

    assert "acme" in told()
    assert "missing or corrupt" not in told()
    execute(catalog, "UPDATE stored_objects SET state = 'missing'")
    key = one(catalog, "SELECT key FROM stored_objects")
    assert f"1 objects are missing or corrupt, such as {key};" in told()
    execute(catalog, "UPDATE catalog_identity SET frozen_since = now(), restored_from = 'b1', claims_pending = true")
    frozen = told()
    assert "restored from backup b1" in frozen
    assert "run confirm-restore with take_over_buckets: its buckets are not its own yet" in frozen
    execute(catalog, "UPDATE catalog_identity SET frozen_since = NULL, claims_pending = false")

    def away(*_: object) -> None:
        raise StoreUnavailableError("listing folders in bucket backups: it does not answer")

    monkeypatch.setattr("flows.commands.app.show_health", away)
    broken = run("status", code=3).stdout
    assert "backups: listing folders in bucket backups: it does not answer" in " ".join(broken.split())
    assert "alarm" in broken, "and what else there is to see"


def test_status_in_production(
    saved: str, running_stack: RunningStack, vault: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server that the settings name is asked; nothing was ever embedded here."""
    monkeypatch.setenv("TRANSCODE_FLOW_HOME", str(tmp_path / "nothing"))
    monkeypatch.setenv("PREFECT_API_URL", running_stack.stack.environment()["PREFECT_API_URL"])
    shown = run("status").stdout
    assert "acme" in shown
    assert "on this machine" not in shown
    assert "backups" in shown


def test_status_where_the_embedded_server_is_stopped(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make up` tells people to export its address: that makes it no other server."""
    (tmp_path / "stack.json").write_text("{}")
    monkeypatch.setenv("TRANSCODE_FLOW_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    shown = run("status", code=3).stdout
    assert shown.count("stopped") == 4


FORGET = Item("forget", "newer than the backup", "a job", "")


@pytest.mark.parametrize(
    ("items", "skipped", "told"),
    [
        ((), (), "(nothing came since)"),
        ((replace(FORGET, objects=2, size_bytes=2048),), (), "(2 objects, 2 KiB, that came since are forgotten)"),
        ((FORGET,), (), "(0 objects, 0 B, that came since are forgotten)"),
        ((), (FORGET,), "(what came since cannot be read)"),
    ],
)
def test_what_is_asked_before_a_cut_over(items, skipped, told: str) -> None:  # type: ignore[no-untyped-def]
    at = datetime(2026, 11, 24, 3, tzinfo=UTC)
    backup = SimpleNamespace(id="b1", manifest=SimpleNamespace(snapshot_at=at))
    plan = Plan("restore", (Item("cut over", "restore", "beside", ""), *items), skipped)
    for span, ago in {"5 minutes": {"minutes": 5}, "3 hours": {"hours": 3}, "9 days": {"days": 9}}.items():
        question = _question("catalog", backup, plan, at + timedelta(**ago))  # type: ignore[arg-type]  # what it reads
        assert question.startswith(f"Replace catalog by backup b1 of 2026-11-24 03:00:00 UTC, {span} ago ")
        assert told in question


def test_stores_follow_the_embedded_server_to_another_port(
    saved: str, store: ObjectStore, default_blocks: MinIOCredentials, running_stack: RunningStack
) -> None:
    there = store.model_copy(update={"credentials": default_blocks, "endpoint_url": "http://127.0.0.1:9"})
    for name, endpoint in (("main", "http://127.0.0.1:9"), ("archive", "http://127.0.0.1:9"), ("far", "https://far:1")):
        save_block(there.model_copy(update={"endpoint_url": endpoint, "prefix": name}), name)
    _follow_server(running_stack.endpoints)
    found = {name: ObjectStore.load(name) for name in ("main", "archive", "far")}
    here = running_stack.endpoints.s3_url
    # `main` is saved after them: a start that was interrupted comes back to those that are left.
    assert {name: one.endpoint_url for name, one in found.items()} == {
        "main": "http://127.0.0.1:9", "archive": here, "far": "https://far:1",
    }  # fmt: skip
    assert found["archive"].prefix == "archive"
    assert exists(found["archive"], "nothing") is False, "its credentials are what they were"


def test_a_demo_of_ones_own_videos_knows_no_server_yet(tmp_path: Path) -> None:
    """Prefect reads its settings when it is imported: before the demo's server runs, it would start one of its own."""
    (tmp_path / "a.MP4").touch()
    (tmp_path / "a.txt").touch()
    code = (
        "import sys; from pathlib import Path; from flows.local.demo import _own_videos; "
        f"print([one.name for one in _own_videos(Path({str(tmp_path)!r}))], 'prefect' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert printed.stdout == "['a.MP4'] False\n"


def test_without_a_server_there_is_one_clear_line(tmp_path: Path) -> None:
    nowhere = {**os.environ, "HOME": str(tmp_path), "TRANSCODE_FLOW_HOME": str(tmp_path / "x")}
    for variable in ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_PROFILES_PATH"):
        nowhere.pop(variable, None)
    refused = subprocess.run(
        [sys.executable, "-m", "flows", "key", "list"],
        env=nowhere, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert refused.returncode == 1
    assert refused.stderr.strip().splitlines()[-1].startswith("error: no Prefect server to ask: start the embedded")
    assert "Traceback" not in refused.stderr


class _NoDatabase(BaseHTTPRequestHandler):
    """As Prefect's server answers without PostgreSQL."""

    def do_GET(self) -> None:
        self.send_error(503)

    def log_message(self, *_: object) -> None: ...


def test_a_server_without_its_database_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with HTTPServer(("127.0.0.1", 0), _NoDatabase) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(typer.Exit), clear_errors():
            httpx.get(f"http://127.0.0.1:{server.server_port}").raise_for_status()
        thread.join()
    told = capsys.readouterr().err
    assert "503" in told
    assert told.strip().endswith("its own database may be down: `make status` tells of the embedded one")


def test_upgrade_and_unknown_names(saved: str) -> None:
    assert "is at revision" in run("upgrade").stdout
    told = run("key", "list", "--catalog", "nowhere", code=1).stderr
    assert "no block catalog-database/nowhere; there are: " in told
    assert "main" in told
