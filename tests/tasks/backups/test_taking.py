"""A backup is of one moment, whole, read back, and stores each metadata object once; or there is none."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pyrage
import pytest
from zstandard import ZstdDecompressor

from blocks.catalog import CatalogDatabase
from blocks.catalog.programs import server_major
from blocks.catalog.snapshots import exported_snapshot
from blocks.catalog.sweeps import backup_lock
from blocks.encryption import BackupKey, new_key
from blocks.errors import (
    CatalogUnavailableError,
    DamagedBackupError,
    ProgramError,
    RefusedError,
    SweepBusyError,
    TransientError,
)
from blocks.object_store import ObjectStore
from blocks.object_store.deletion import delete_keys
from blocks.object_store.listing import list_prefix
from blocks.object_store.multipart import list_multipart_uploads
from blocks.object_store.transfer import head, put_bytes, read_bytes
from blocks.policies import BackupPolicy
from tasks.backups import listing, taking
from tasks.backups.listing import Backups
from tasks.backups.manifest import DUMP, folder_of
from tasks.backups.metadata import list_of
from tasks.backups.retention import remove_backup
from tasks.backups.taking import Taken
from tasks.backups.verifying import verify_backup
from tasks.removal.purging import purge_released
from tasks.stores import OpenLocation
from tests.helpers import execute, one, rows
from tests.tasks.backups.conftest import FAST, contents
from tests.wires import Clock, wired


def test_what_is_in_it(
    catalog: CatalogDatabase, job: UUID, take: Callable[..., Taken], vault: ObjectStore, listed, catalog_id
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take(settings={"retention-policy": {"default": {"trash_days": 7}}}, run="a night").manifest
    (found,) = listed().all
    assert found.manifest == made
    assert found.good
    assert made.rows["public.jobs"] == 1
    assert made.rows["public.stored_objects"] == one(catalog, "SELECT count(*) FROM stored_objects")
    assert made.schema_revision == one(catalog, "SELECT version_num FROM alembic_version")
    assert made.metadata is not None
    assert (made.metadata.objects, made.metadata.unsaved) == (1, 0)
    saved = one(catalog, "SELECT sha256 FROM stored_objects WHERE kind = 'metadata'")
    assert contents(vault, catalog_id) == [f"{saved}-{made.id}"]
    assert read_bytes(vault, f"{catalog_id}/metadata/{saved}-{made.id}", at_most=100) == b"{}"
    assert [entry.sha256 for entry in list_of(vault, made)] == [saved]
    assert rows(catalog, "SELECT what, ok, run FROM backup_checks") == [("backup", True, "a night")]
    stored = read_bytes(vault, f"{folder_of(catalog_id, made.id)}/catalog.dump.zst", at_most=10**8)
    assert ZstdDecompressor().decompressobj().decompress(stored).startswith(b"PGDMP"), "zstd and pg_restore read it"


def test_thirty_nights_store_each_metadata_object_once(catalog, job, take, vault, catalog_id, listed) -> None:  # type: ignore[no-untyped-def]  # fixtures
    first = take()
    assert (first.copied, take().copied, take().copied) == (1, 0, 0)
    assert len(contents(vault, catalog_id)) == 1
    assert len(listed().all) == 3


def test_everything_is_of_one_moment(
    catalog: CatalogDatabase, job: UUID, take, monkeypatch: pytest.MonkeyPatch, beside
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """Rows that are written while it runs are in none of its parts."""
    real = taking._dumped

    def later(*arguments: object) -> Iterator[bytes]:
        execute(catalog, "UPDATE stored_objects SET kind = 'upload' WHERE kind = 'metadata'")
        execute(catalog, "INSERT INTO reservations SELECT gen_random_uuid(), id, NULL, 0, now(), now() FROM api_keys")
        yield from real(*arguments)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(taking, "_dumped", later)
    made = take().manifest
    assert made.rows["public.reservations"] == 0
    assert made.metadata.objects == 1
    restored = beside(made).database
    assert one(restored, "SELECT count(*) FROM reservations") == 0
    assert one(restored, "SELECT count(*) FROM stored_objects WHERE kind = 'metadata'") == 1
    restored.disconnect()


def major_of(catalog: CatalogDatabase) -> int:
    return server_major(int(one(catalog, "SELECT current_setting('server_version_num')")))


def test_a_limit_of_transactions_ends_no_snapshot(catalog: CatalogDatabase, sql) -> None:  # type: ignore[no-untyped-def]  # a fixture
    if major_of(catalog) < 17:
        pytest.skip("transaction_timeout came with PostgreSQL 17")
    sql(f"ALTER DATABASE {catalog.database} SET transaction_timeout = '500ms'")
    with exported_snapshot(catalog) as snapshot:
        time.sleep(0.8)
        snapshot.require()


def test_metadata_stays_while_a_backup_runs(catalog: CatalogDatabase, location: OpenLocation, job: UUID) -> None:
    execute(catalog, "UPDATE stored_objects SET state = 'purging' WHERE kind IN ('metadata', 'audio')")
    key = one(catalog, "SELECT key FROM stored_objects WHERE kind = 'metadata'")
    with exported_snapshot(catalog):
        assert purge_released(catalog, location, None).objects == 1, "the sound goes, the metadata stays"
        assert head(location.store, key)
    assert purge_released(catalog, location, None).objects == 1


def test_metadata_that_cannot_be_read_is_named_and_the_rest_is_saved(catalog, location, job, take, vault) -> None:  # type: ignore[no-untyped-def]  # fixtures
    key = one(catalog, "SELECT key FROM stored_objects WHERE kind = 'metadata'")
    delete_keys(location.store, [key])
    taken = take()
    assert (taken.manifest.metadata.objects, taken.manifest.metadata.unsaved) == (0, 1)
    assert key in taken.manifest.metadata.reasons[0]
    assert "could NOT be saved" in taken.summary()
    put_bytes(location.store, key, b"others", {})
    assert "not those that its row names" in take().manifest.metadata.reasons[0]
    put_bytes(location.store, key, b"{}", {})
    assert take().manifest.metadata.objects == 1


def test_metadata_whose_bytes_are_lost_stays_in_the_backups(catalog, location, job, take, vault, catalog_id) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """Theirs may be the only copy; what no backup holds is told each night."""
    take()
    delete_keys(location.store, [one(catalog, "SELECT key FROM stored_objects WHERE kind = 'metadata'")])
    execute(catalog, "UPDATE stored_objects SET state = 'missing' WHERE kind = 'metadata'")
    made = take().manifest
    assert (made.metadata.objects, made.metadata.unsaved) == (1, 0)
    for name in contents(vault, catalog_id):
        delete_keys(vault, [f"{catalog_id}/metadata/{name}"])
    assert take().manifest.metadata.unsaved == 1


def test_encrypted_to_a_public_key_alone(
    catalog, job, take, vault, catalog_id, secret: BackupKey, listed, beside
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    public = BackupKey(recipient=f" {secret.recipient}\n")  # as it is pasted
    made = take(key=public).manifest
    dump = made.file(DUMP)
    stored = read_bytes(vault, f"{folder_of(catalog_id, made.id)}/{dump.name}", at_most=10**8)
    assert dump.name.endswith(".zst.age")
    identity = pyrage.x25519.Identity.from_str(secret.identity.get_secret_value())
    opened = ZstdDecompressor().decompressobj().decompress(pyrage.decrypt(stored, [identity]))
    assert opened.startswith(b"PGDMP"), "any age program opens it"
    assert contents(vault, catalog_id) == []
    (name,) = contents(vault, catalog_id, f"metadata-{secret.recipient}")
    body = read_bytes(vault, f"{catalog_id}/metadata-{secret.recipient}/{name}", at_most=1000)
    assert b"{}" not in body
    assert verify_backup(catalog, vault, listed().all[0], FAST, key=public).ok, "by its hashes"
    assert verify_backup(catalog, vault, listed().all[0], FAST, key=secret, contents=True).ok
    assert verify_backup(catalog, vault, listed().all[0], FAST, key=new_key()).ok, "by its hashes again"
    for blind in (new_key(), public, None):
        with pytest.raises(RefusedError, match="encrypted|secret key"):
            verify_backup(catalog, vault, listed().all[0], FAST, key=blind, contents=True)
    restored = beside(made, key=secret).database
    assert one(restored, "SELECT count(*) FROM jobs") == 1
    restored.disconnect()


def test_interrupted_it_is_none_and_nothing_is_left(catalog, job, take, vault, listed, monkeypatch) -> None:  # type: ignore[no-untyped-def]  # fixtures
    def broken(*arguments: object) -> None:
        raise CatalogUnavailableError("gone")

    for step in ("_read_back", "_commit"):
        with monkeypatch.context() as patch:
            patch.setattr(taking, step, broken)
            with pytest.raises(CatalogUnavailableError):
                take()
        assert listed() == Backups(listed().catalog_id)
    assert list(list_multipart_uploads(vault)) == []
    take()
    assert len(listed().all) == 1
    written = rows(catalog, "SELECT ok, because FROM backup_checks ORDER BY at")
    assert list(map(tuple, written)) == [(False, "gone"), (False, "gone"), (True, "")], "what failed is on record"


def test_a_manifest_that_comes_late_makes_no_backup(catalog, job, take, vault, catalog_id, listed) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """A run sleeps while it sends its manifest; the next one took its lock, and its files for leftovers."""

    def lock() -> None:
        if any(listed.key.endswith("/manifest.json") for listed in list_prefix(vault, f"{catalog_id}/backups")):
            raise TransientError("another run has the lock")

    with pytest.raises(TransientError, match="another run"):
        take(before_batch=lock)
    assert listed() == Backups(catalog_id)
    (written,) = rows(catalog, "SELECT ok, because FROM backup_checks")
    assert tuple(written) == (False, "another run has the lock")


def test_the_dumps_connection_is_cut(catalog, job, take, vault, listed, monkeypatch) -> None:  # type: ignore[no-untyped-def]  # fixtures
    real = taking._dumped

    def cut(*arguments: object) -> Iterator[bytes]:
        chunks = real(*arguments)  # type: ignore[arg-type]  # passed on
        yield next(chunks)
        execute(
            catalog,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            " WHERE application_name = 'transcode-flow backup' AND datname = current_database()",
        )
        yield from chunks

    # Enough rows that the dump is not through before it is cut.
    execute(
        catalog,
        "INSERT INTO operation_log (run, operation) SELECT repeat('x', 900), 'test' FROM generate_series(1, 40000)",
    )
    monkeypatch.setattr(taking, "_dumped", cut)
    with pytest.raises((ProgramError, CatalogUnavailableError), match="pg_dump"):
        take()
    assert listed() == Backups(listed().catalog_id)
    assert list(list_multipart_uploads(vault)) == []


def test_what_a_killed_one_left_is_removed_by_the_next(catalog, job, take, vault, catalog_id, listed) -> None:  # type: ignore[no-untyped-def]  # fixtures
    folder = folder_of(catalog_id, "20260101T030000Z-0badcafe")
    put_bytes(vault, f"{folder}/catalog.dump.zst", b"half", {})
    put_bytes(vault, f"{folder}/started.json", b"{}", {})
    copied = folder_of(catalog_id, "20260102T030000Z-0badcafe")
    put_bytes(vault, f"{copied}/catalog.dump.zst", b"half", {})
    upload = vault.s3.create_multipart_upload(Bucket=vault.bucket, Key=vault.path(f"{folder}/settings.json.zst"))
    assert upload["UploadId"]
    assert listed().all == ()
    assert listed().unfinished == {"20260101T030000Z-0badcafe": 6}
    take()
    assert listed().unfinished == {}
    assert list(list_multipart_uploads(vault)) == []
    assert list(list_prefix(vault, folder)) == []
    assert len(list(list_prefix(vault, copied))) == 1, "what somebody copies in is theirs"


def test_a_store_whose_clock_is_behind_takes_none(catalog, take, vault: ObjectStore, job: UUID, listed) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """What it dated, a restore would take for forged: nobody is to find that out then."""
    with wired(vault, Clock(timedelta(hours=-3))) as behind, pytest.raises(RefusedError, match="set the clock"):
        take(target=behind)
    assert (listed().all, listed().unfinished) == ((), {})
    assert rows(catalog, "SELECT ok, because LIKE '%set the clock%' FROM backup_checks") == [(False, True)]
    with wired(vault, Clock(timedelta(hours=3))) as ahead:
        made = take(target=ahead).manifest
        assert [(one.id, one.good) for one in listing.list_backups(ahead, made.catalog_id).all] == [(made.id, True)]


def test_one_at_a_time(catalog: CatalogDatabase, catalog_id: UUID) -> None:
    with (
        backup_lock(catalog, catalog_id, holder="backup one", wait=timedelta(0)),
        pytest.raises(SweepBusyError, match="backup one"),
        backup_lock(catalog, catalog_id, holder="backup two", wait=timedelta(0)),
    ):
        pass


def test_no_program_fits(catalog: CatalogDatabase, job: UUID, take, tmp_path: Path, listed) -> None:  # type: ignore[no-untyped-def]  # fixtures
    old = tmp_path / "pg_dump"
    old.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.1'\n")
    old.chmod(0o755)
    major = major_of(catalog)
    with pytest.raises(
        ProgramError, match=rf"no pg_dump of version {major} or newer.*version 9.*postgresql-client-{major}"
    ):
        take(policy=BackupPolicy(postgresql_folder=str(tmp_path)))
    with pytest.raises(ProgramError, match="none at all"):
        take(policy=BackupPolicy(postgresql_folder=str(tmp_path / "nowhere")))
    assert listed().all == ()


def test_verification_tells_and_remembers(catalog, job, take, vault, catalog_id, listed) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest
    assert verify_backup(catalog, vault, listed().all[0], FAST, contents=True).ok
    (name,) = contents(vault, catalog_id)
    put_bytes(vault, f"{catalog_id}/metadata/{name}", b"[]", {})
    assert verify_backup(catalog, vault, listed().all[0], FAST).ok, "it is there"
    found = verify_backup(catalog, vault, listed().all[0], FAST, contents=True)
    assert not found.ok
    assert "metadata" in found.because
    assert not verify_backup(catalog, vault, listed().all[0], FAST).ok, "whoever reads less does not know better"
    (backup,) = listed().all
    assert len(backup.rotten) == 1
    assert (backup.verified, backup.good, backup.usable) == (False, False, False)
    assert take().copied == 1, "the next night writes anew what is rotten"
    assert verify_backup(catalog, vault, listed().all[0], FAST, contents=True).ok
    put_bytes(vault, f"{catalog_id}/metadata/{name}", b"longer", {})
    assert take().copied == 1, "and what has another size"
    remove_backup(vault, listed(), listed().all[0].id)
    remove_backup(vault, listed(), listed().all[0].id)
    assert remove_backup(vault, listed(), made.id) == ""
    assert listed().all == ()


def test_the_right_program_is_taken_though_an_older_one_is_first_on_the_path() -> None:
    from blocks.catalog.programs import find_program

    found = find_program("pg_dump", at_least=18)
    assert found.major >= 18
    said = subprocess.run([found.path, "--version"], capture_output=True, text=True, check=True).stdout
    assert f") {found.major}" in said


def test_it_counts_only_once_it_was_read_back(take, vault: ObjectStore, job: UUID, listed, monkeypatch) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """A store that keeps other bytes than it was sent: there is no backup, and the next one tidies up."""
    write_file = taking.write_file

    def kept_wrongly(target: ObjectStore, catalog_id: UUID, backup: str, holds: str, *arguments, **options):  # type: ignore[no-untyped-def]
        written = write_file(target, catalog_id, backup, holds, *arguments, **options)
        if holds == DUMP:
            key = f"{folder_of(catalog_id, backup)}/{written.name}"
            stored = bytearray(read_bytes(target, key, at_most=10**8))
            stored[len(stored) // 2] ^= 1
            put_bytes(target, key, bytes(stored), {})
        return written

    # Killed while it reads back, it must not look like one: what is listed at that moment counts.
    read_back, meanwhile = taking._read_back, []
    with monkeypatch.context() as patched:
        patched.setattr(taking, "write_file", kept_wrongly)
        patched.setattr(taking, "_read_back", lambda *given: meanwhile.append(listed().all) or read_back(*given))
        with pytest.raises(DamagedBackupError):
            take()
    assert (meanwhile, listed().all) == ([()], ())
    take()
    assert (len(listed().all), listed().unfinished) == (1, {})
