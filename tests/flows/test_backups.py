"""Backups, restores, drills and alarms as flows and commands, on the real Prefect server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import AutomationCore
from prefect_aws.credentials import MinIOCredentials

from blocks.catalog import CatalogDatabase
from blocks.catalog.restored import freeze, read_freeze
from blocks.embedded import postgres
from blocks.encryption import BackupKey, new_key
from blocks.errors import InvalidInputError, NotFoundError
from blocks.object_store import ObjectStore
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import exists, put_bytes, read_bytes
from blocks.policies import BackupPolicy
from flows.common.alarms import FORMERLY, PREFIX, list_alarms, set_alarms, wanted
from flows.common.events import BACKUP_VERIFIED, DRILL_FAILED, tell
from tasks.backups.listing import list_backups
from tasks.backups.manifest import folder_of
from tests.conftest import RunningStack
from tests.flows.commands.test_app import run
from tests.flows.conftest import save_policy
from tests.flows.test_flows import latest_artifact
from tests.helpers import execute, one, rows

pytestmark = [pytest.mark.prefect, pytest.mark.slow]


@pytest.fixture
def backup(vault: ObjectStore) -> Callable[..., Any]:
    from flows.backup import backup as flow

    return lambda **options: flow(return_state=True, **options)


def backups_of(catalog: CatalogDatabase, vault: ObjectStore) -> list[Any]:
    return list(list_backups(vault, one(catalog, "SELECT catalog_id FROM catalog_identity")).all)


def test_a_night_a_restore_and_its_confirmation(  # type: ignore[no-untyped-def]  # fixtures
    saved: str, catalog: CatalogDatabase, store: ObjectStore, vault: ObjectStore, backup, new_jobs
) -> None:
    from flows.cleanup import cleanup
    from flows.confirm_restore import confirm_restore
    from flows.restore import restore

    (job,) = new_jobs(1)
    state = backup()
    assert state.name == "Completed", state.message
    assert "verified" in state.message
    assert "newest verified" in latest_artifact(saved, "backup-health")["data"]
    (made,) = backups_of(catalog, vault)
    assert backup(dry_run=True).name == "DryRun"
    assert len(backups_of(catalog, vault)) == 1
    (newer,) = new_jobs(1)

    beside = restore(return_state=True)
    assert beside.name == "DryRun"
    assert "the catalog in use is untouched" in beside.message
    assert one(catalog, "SELECT count(*) FROM jobs") == 2
    # Called in Python there is nobody to ask.
    refused = restore(cutover=True, return_state=True)
    assert refused.is_failed()
    assert "only a deployed run can ask" in refused.message
    assert one(catalog, "SELECT count(*) FROM jobs") == 2

    result = run("restore", made.id, "--cutover", "--yes")
    assert f"is backup {made.id} now; the old one is" in " ".join(result.stdout.split())
    assert one(catalog, "SELECT id FROM jobs") == job
    newer_key = f"processed/{newer}/raw/video_original.mp4"
    # Frozen: nothing is removed, and everybody says so.
    assert "nobody has confirmed it yet" in cleanup(return_state=True).message
    assert f"no backup goes until {made.id}, which was restored, is confirmed" in backup().message
    looked = confirm_restore(return_state=True)
    assert looked.name == "DryRun"
    assert any(newer_key == row["key"] for row in json.loads(latest_artifact(saved, "restore-report")["data"]))
    assert "confirm-restore" in latest_artifact(saved, "restore")["data"]
    execute(catalog, "UPDATE catalog_identity SET restored_from = '20260101T030000Z-00000000'")
    nowhere = confirm_restore(dry_run=False, metadata_objects="missing", return_state=True)
    assert nowhere.is_failed()
    assert "20260101T030000Z-00000000, which this catalog comes from, is not in the store" in nowhere.message
    execute(catalog, "UPDATE catalog_identity SET restored_from = :made", made=made.id)
    assert confirm_restore(dry_run=False, return_state=True).name == "Completed"
    assert catalog.transaction(read_freeze) is None
    assert "nothing to confirm" in confirm_restore(return_state=True).message
    assert cleanup(return_state=True).name == "Completed"
    assert exists(store, newer_key), "an orphan as any other, for its grace"
    delete_keys(store, [newer_key])


def test_a_look_after_a_restore_tells_what_it_has_not_seen(  # type: ignore[no-untyped-def]  # fixtures
    cold: str, catalog: CatalogDatabase, store: ObjectStore, vault: ObjectStore, backup, new_jobs
) -> None:
    """One store is down, and the buckets carry the epoch before: what can be looked into is, and nothing is changed."""
    from flows.confirm_restore import confirm_restore

    new_jobs(2)
    execute(catalog, "UPDATE locations SET retired_at = now() WHERE name = 'cold'")
    made = backup()
    assert made.name == "Completed", made.message
    execute(catalog, "UPDATE locations SET retired_at = NULL WHERE name = 'cold'")
    lost = one(catalog, "SELECT key FROM stored_objects ORDER BY key LIMIT 1")
    kept = read_bytes(store, lost, at_most=100)
    delete_keys(store, [lost])
    (taken,) = backups_of(catalog, vault)
    epoch = one(catalog, "SELECT epoch FROM catalog_identity")
    catalog.transaction(lambda connection: freeze(connection, backup=taken.id, epoch=epoch + 1, run="restore"))
    looked = confirm_restore(return_state=True)
    assert looked.name == "DryRun"
    assert "NOT LOOKED INTO: cold; of the others 1 rows have lost their bytes" in str(looked.message)
    refused = confirm_restore(dry_run=False, return_state=True)
    assert refused.is_failed()
    assert "run it with take_over_buckets" in str(refused.message)
    put_bytes(store, lost, kept, {})
    execute(catalog, "UPDATE catalog_identity SET frozen_since = NULL, claims_pending = false, epoch = :was", was=epoch)


def test_a_restore_by_hand_while_a_store_is_away(  # type: ignore[no-untyped-def]  # fixtures
    cold: str, catalog: CatalogDatabase, vault: ObjectStore, backup, new_jobs
) -> None:
    """The cut-over is done, and whoever wrote the script that ran it hears that something is left."""
    (job,) = new_jobs(1)
    assert backup().name == "Completed"
    (taken,) = backups_of(catalog, vault)
    result = run("restore", taken.id, "--cutover", "--yes", code=3)
    assert one(catalog, "SELECT id FROM jobs") == job
    said = " ".join(result.stdout.split())
    assert f"is backup {taken.id} now" in said
    assert "NOT LOOKED INTO: cold; of the others 0 rows have lost their bytes" in said
    assert "not all of its stores could be looked after" in result.stderr


def test_a_catalog_that_lost_a_table_is_replaced_where_somebody_says_so(  # type: ignore[no-untyped-def]  # fixtures
    saved: str, catalog: CatalogDatabase, vault: ObjectStore, backup, new_jobs
) -> None:
    from flows.restore import restore

    (job,) = new_jobs(1)
    assert backup().name == "Completed"
    execute(catalog, "DROP TABLE jobs CASCADE")
    assert "verified" in run("backup", "list").stdout
    assert restore(return_state=True).name == "DryRun"
    for refused in (restore(cutover=True, return_state=True).message, run("restore", "--cutover", code=1).stderr):
        assert "cannot be read" in refused
        assert "even_if_unreadable" in refused
    replaced = restore(cutover=True, even_if_unreadable=True, return_state=True)
    assert replaced.name == "Completed", replaced.message
    assert "the old database is" in replaced.message
    assert one(catalog, "SELECT id FROM jobs") == job
    execute(catalog, "DROP TABLE jobs CASCADE")
    assert "is backup" in run("restore", "latest", "--cutover", "--yes", "--even-if-unreadable").stdout
    assert one(catalog, "SELECT id FROM jobs") == job


def test_backups_that_are_wrong_are_told(
    saved: str, catalog: CatalogDatabase, vault: ObjectStore, backup, new_jobs
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    from flows.restore_drill import restore_drill

    drilled = restore_drill(return_state=True)
    assert drilled.is_failed()
    assert "there is no verified backup" in drilled.message
    assert "no verified backup at all" in run("backup", "list").stdout
    execute(
        catalog, "INSERT INTO operation_log (run, operation) SELECT md5(n::text), 'x' FROM generate_series(1, 5000) n"
    )
    assert backup(kind="catalog").name == "Completed"
    drilled = restore_drill(return_state=True)
    assert drilled.name == "Completed"
    assert "was restored in" in drilled.message
    assert "recovery time" in latest_artifact(saved, "restore-drill")["data"]
    execute(catalog, "DELETE FROM operation_log")
    small = backup(kind="catalog")
    assert small.name == "Partial"
    assert "less than 50 % of the usual" in small.message
    newest = backups_of(catalog, vault)[0]
    put_bytes(vault, f"{folder_of(newest.manifest.catalog_id, newest.id)}/catalog.dump.zst", b"rotten", {})
    drilled = restore_drill(return_state=True)
    assert drilled.is_failed()
    assert "is damaged" in drilled.message
    assert "DAMAGED" in run("backup", "verify", newest.id, code=1).stderr
    listed = run("backup", "list").stdout
    assert "DAMAGED" in listed
    assert "verified" in listed
    assert "cannot be restored" in run("restore", newest.id, code=1).stderr
    assert backup(policy="nowhere").is_failed()
    assert {row.what for row in rows(catalog, "SELECT what FROM backup_checks WHERE ok")} == {"backup", "drill"}


def test_commands(catalog: CatalogDatabase, vault: ObjectStore, backup, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made_key = run("backup", "key", "--save", "nightly")
    secret = made_key.stdout.strip()
    assert secret.startswith("AGE-SECRET-KEY-1")
    save_policy(BackupPolicy(compression_level=1, restore_jobs=1, encryption_key="nightly"))
    assert backup(kind="catalog").name == "Completed"
    (made,) = backups_of(catalog, vault)
    assert made.manifest.encrypted_to.startswith("age1")
    assert "is on hold" in run("backup", "hold", "latest", "--reason", "an audit").stdout
    assert "hold" in run("backup", "list").stdout
    for said in ([], ["--reason", "an audit", "--release"]):
        assert "say why it has to be kept" in run("backup", "hold", "latest", *said, code=1).stderr
    assert "is released" in run("backup", "hold", "latest", "--release").stdout
    assert "is what was written" in run("backup", "verify").stdout
    assert "needs its secret key" in run("restore", code=1).stderr
    key = tmp_path / "key.txt"
    key.write_text(f"# the key of a test\n{secret}\n")
    other = tmp_path / "other.txt"
    other.write_text(run("backup", "key").stdout)
    settings = json.loads(run("backup", "settings", "--identity-file", str(key)).stdout)
    assert settings["backup-policy"]["default"]["encryption_key"] == "nightly"
    assert settings["object-store"]["backups"]["bucket"] == vault.bucket
    assert "password" not in json.dumps(settings)
    assert "restored as database" in run("restore", "--identity-file", str(key)).stdout
    assert "to another key" in run("restore", "--identity-file", str(other), code=1).stderr
    for arguments, words in (
        (["backup", "verify", "yesterday"], "write latest, or an id"),
        (["restore", "--before", "soon"], "is no time"),
        (["restore", "--before", "2001-01-01T00:00"], "no time zone"),
        (["restore", "--before", "2001-01-01T00:00Z"], "no backup before 2001"),
        (["restore", "--metadata-objects", "some"], "none, missing or all"),
        (["restore", "--identity-file", "/nowhere"], "cannot be read"),
        (["restore", "--store-url", "s3://b/x"], "--database-url"),
        (["restore", "--store-url", "b/x", "--database-url", "postgresql://u@h/d"], "no address of backups"),
        (["restore", "--store-url", "s3://bbb/x", "--database-url", "h"], "no address of a database"),
        (["restore", "--store-url", "s3://bbb/x", "--database-url", "postgresql://u:secret@h/d"], "set PGPASSWORD"),
    ):
        said = run(*arguments, code=1).stderr
        assert words in said, said
        assert "u:secret" not in said


@pytest.mark.parametrize("command", [["backup", "list"], ["restore"], ["upgrade"]], ids=" ".join)
def test_commands_find_the_stack_before_prefect_looks_for_a_server(
    catalog: CatalogDatabase, vault: ObjectStore, backup, running_stack: RunningStack, command: list[str]
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    assert backup(kind="catalog").name == "Completed"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    ended = subprocess.run(
        [sys.executable, "-m", "flows", *command],
        env=environment | {"TRANSCODE_FLOW_HOME": str(running_stack.stack.folder)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "temporary server" not in ended.stdout + ended.stderr


def test_on_an_empty_machine_with_nothing_but_the_backups(  # type: ignore[no-untyped-def]  # fixtures
    catalog: CatalogDatabase,
    vault: ObjectStore,
    backup,
    new_jobs,
    tmp_path: Path,
) -> None:
    new_jobs(2)
    assert backup().name == "Completed"
    (made,) = backups_of(catalog, vault)
    folder = Path(tempfile.mkdtemp(prefix="tf-empty-"))
    folder.chmod(0o755)
    credentials = vault.credentials
    assert isinstance(credentials, MinIOCredentials)
    assert credentials.minio_root_password is not None
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")} | {
        "HOME": str(tmp_path), "TRANSCODE_FLOW_HOME": str(tmp_path / "x"),
        "AWS_ACCESS_KEY_ID": credentials.minio_root_user,
        "AWS_SECRET_ACCESS_KEY": credentials.minio_root_password.get_secret_value(),
    }  # fmt: skip
    try:
        postgres.start(folder / "pg")
        restored = subprocess.run(
            [sys.executable, "-m", "flows", "restore", "latest", "--cutover", "--endpoint", vault.endpoint_url,
             "--store-url", f"s3://{vault.bucket}/{vault.prefix}",
             "--database-url", f"postgresql://postgres@/shop?host={folder / 'pg'}"],
            env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert restored.returncode == 0, restored.stderr
        assert f"shop is backup {made.id} now" in restored.stdout
        shop = CatalogDatabase(host=str(folder / "pg"), username="postgres", database="shop")
        assert one(shop, "SELECT count(*) FROM jobs") == 2
        frozen = shop.transaction(read_freeze)
        assert frozen is not None
        assert frozen.claims_pending, "the buckets serve whatever catalog they served, until somebody says so"
        assert one(shop, "SELECT epoch FROM catalog_identity") > 1_000_000
        shop.disconnect()
    finally:
        postgres.stop(folder / "pg")
        shutil.rmtree(folder)


class _Listener(BaseHTTPRequestHandler):
    heard: list[str] = []  # noqa: RUF012 -- all that this one server hears

    def do_POST(self) -> None:
        self.heard.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def phone(prefect_api: str) -> Iterator[list[str]]:
    """A webhook of ours, saved as a notification block."""
    server = HTTPServer(("127.0.0.1", 0), _Listener)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    CustomWebhookNotificationBlock(
        name="phone", url=f"http://127.0.0.1:{server.server_port}/", method="POST", json_data={"text": "{{body}}"}
    ).save("phone", overwrite=True)
    yield _Listener.heard
    server.shutdown()
    thread.join()
    server.server_close()


def touched_at(client: SyncPrefectClient, automation: UUID) -> str:
    return str(client.request("GET", "/automations/{id}", path_params={"id": automation}).json()["updated"])


@pytest.mark.chaos
def test_alarms_ring(saved: str, phone: list[str]) -> None:
    policy, soon = BackupPolicy(), timedelta(seconds=12)
    with get_client(sync_client=True) as client:
        for alarm in wanted(policy):
            for old in client.read_automations_by_name(f"{PREFIX}{alarm}"):
                client.delete_automation(old.id)
    for words in ("phone", "slack-webhook/", "catalog-database/main", "custom-webhook/nobody"):
        with pytest.raises((InvalidInputError, NotFoundError)):
            set_alarms(policy, notify=words)
    assert list_alarms() == []
    set_alarms(policy)
    assert [one.notifies for one in list_alarms()] == [False] * len(wanted(policy))
    notify = f"{CustomWebhookNotificationBlock.get_block_type_slug()}/phone"
    set_alarms(policy, notify=notify, window=soon)
    with get_client(sync_client=True) as client:
        written = [client.read_automations_by_name(f"{PREFIX}{alarm}") for alarm in wanted(policy)]
        assert [len(found) for found in written] == [1] * len(wanted(policy)), "brought up to date by name"
        before = {found[0].id: touched_at(client, found[0].id) for found in written}
        set_alarms(policy, window=soon)
        assert {one_id: touched_at(client, one_id) for one_id in before} == before, "run again it changes nothing"
    assert all(alarm.notifies for alarm in list_alarms())
    tell(DRILL_FAILED, "main", because="a test")
    tell(BACKUP_VERIFIED, "main", backup="of a test")
    for _ in range(120):
        heard = "\n".join(phone)
        if all(name in heard for name in ("a restore drill failed", "no good backup in time", "still no good backup")):
            break
        time.sleep(0.5)
    else:
        raise AssertionError(f"only this was heard: {phone}")
    assert "a backup failed" not in heard
    assert next(alarm for alarm in list_alarms() if alarm.name == "a restore drill failed").fired_at
    run("alarms")
    assert "notification block" in run("alarms").stdout


def test_an_alarm_that_was_called_otherwise_is_not_made_twice(saved: str) -> None:
    set_alarms(BackupPolicy())
    ((name, old),) = FORMERLY.items()
    with get_client(sync_client=True) as client:
        (before,) = client.read_automations_by_name(f"{PREFIX}{name}")
        called_otherwise = AutomationCore(
            name=f"{PREFIX}{old}", description=before.description, trigger=before.trigger, actions=before.actions,
            enabled=False,
        )  # fmt: skip
        client.update_automation(before.id, called_otherwise)
        assert client.read_automations_by_name(f"{PREFIX}{name}") == []
        set_alarms(BackupPolicy())
        (after,) = client.read_automations_by_name(f"{PREFIX}{name}")
        assert client.read_automations_by_name(f"{PREFIX}{old}") == []
        assert (after.id, after.enabled) == (before.id, False)
        client.delete_automation(after.id)
    set_alarms(BackupPolicy())


def test_a_key_that_is_none() -> None:
    for fields in ({}, {"recipient": "age1nobody"}, {"identity": "AGE-SECRET-KEY-1X"}):
        with pytest.raises(ValueError, match="age key") as caught:
            BackupKey(**fields)  # type: ignore[arg-type]  # that is the test
        assert "SECRET-KEY-1X" not in str(caught.value)
    with pytest.raises(ValueError, match="are not one key"):
        BackupKey(recipient=new_key().recipient, identity=new_key().identity)
