"""Making a backup: dump and metadata objects of one snapshot, read back, and the manifest last."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from blocks.catalog import CatalogDatabase
from blocks.catalog.checks import record_check
from blocks.catalog.clock import catalog_now
from blocks.catalog.locations import Identity, read_identity
from blocks.catalog.migrating import head_revision, require_all_tables, require_known_schema
from blocks.catalog.programs import Program, find_program, running, server_major
from blocks.catalog.restored import read_freeze
from blocks.catalog.snapshots import (
    Snapshot,
    count_parts,
    count_rows,
    database_bytes,
    exported_snapshot,
    named_roles,
    schema_revision,
)
from blocks.encryption import BackupKey
from blocks.errors import DamagedBackupError, RefusedError, StorageError, TransientError
from blocks.object_store import ObjectStore
from blocks.object_store.clock import MOST_APART, store_now
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import exists, put_bytes, read_bytes
from blocks.policies import BackupPolicy
from blocks.units import format_bytes
from tasks.backups.contents import listed
from tasks.backups.listing import Backups, list_backups, remove_folder, write_note
from tasks.backups.manifest import (
    DUMP,
    FORMAT_VERSION,
    LARGEST_MANIFEST_BYTES,
    MANIFEST,
    METADATA_LIST,
    SETTINGS,
    STARTED,
    VERIFICATION,
    BackupFile,
    Kind,
    Manifest,
    SavedMetadata,
    backup_id,
    folder_of,
    parse,
    render,
)
from tasks.backups.metadata import Saving, missing_contents, save_metadata
from tasks.backups.streams import check_stored, write_file

READ_BYTES = 1024**2
PIPE_BYTES = 1024**2
GULP_BYTES = 256 * 1024
GULP_SECONDS = 0.001


@dataclass(frozen=True)
class Making:
    """What a backup is made with. `stores` opens the location of an id; `settings` travel along, without secrets.

    `before_batch` sees that the lock is still held, `progress` hears bytes of the dump.
    """

    catalog: CatalogDatabase
    target: ObjectStore
    policy: BackupPolicy
    stores: Callable[[int], ObjectStore]
    kind: Kind = "full"
    key: BackupKey | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""
    before_batch: Callable[[], None] = lambda: None
    progress: Callable[[int], None] = lambda size_bytes: None


@dataclass(frozen=True)
class Taken:
    """A backup that was made and read back."""

    manifest: Manifest
    copied: int

    def summary(self) -> str:
        """One line for a person."""
        made = self.manifest
        shown = (
            f"backup {made.id}: {sum(made.rows.values())} rows, {format_bytes(made.file(DUMP).content_bytes)} as "
            f"{format_bytes(made.size_bytes)}, in {made.seconds:.1f} s, verified"
        )
        if made.metadata is not None:
            shown += f"; {made.metadata.objects} metadata objects, {self.copied} of them new"
            if made.metadata.unsaved:
                shown += f", {made.metadata.unsaved} could NOT be saved: {'; '.join(made.metadata.reasons[:3])}"
        return shown


def take_backup(making: Making) -> Taken:
    """Make a backup and read it back; the caller holds the backups' lock. Nothing of one that fails is left.

    Raises:
        SchemaError: the catalog's schema is unknown to this code, or it lost a table.
        RefusedError: the catalog was replaced by a restore, or its buckets are not its own yet; or the store's clock is
            so far behind that no restore would believe what is written now.
        ProgramError: no pg_dump fits the server, or it failed.
        CatalogUnavailableError, StoreUnavailableError: one of them went away.
        DamagedBackupError: what was read back is not what was written.
    """
    revision = require_known_schema(making.catalog)
    started = time.monotonic()
    identity = making.catalog.transaction(read_identity)
    backup = ""
    try:
        _require_clock(making)
        if revision == head_revision():
            # A backup of what is left would be the newest one, and be taken for good.
            require_all_tables(making.catalog)
        before = list_backups(making.target, identity.catalog_id)
        _require_in_use(making, identity, revision, before)
        _remove_unfinished(making.target, before)
        with exported_snapshot(making.catalog) as snapshot:
            backup = backup_id(snapshot.taken_at, uuid4())
            write_note(making.target, identity.catalog_id, backup, STARTED, {"run": making.run})
            taken = _take(making, snapshot, identity, backup, started, before)
    except BaseException as error:
        # A backup without a manifest is none, and the next one removes what could not be removed now.
        with suppress(StorageError):
            if backup:
                remove_folder(making.target, identity.catalog_id, backup)
        with suppress(StorageError):
            _record(making, backup, started, because=str(error) or type(error).__name__)
        raise
    made = taken.manifest
    _record(
        making, made.id, started, bytes=made.size_bytes,
        details={"rows": sum(made.rows.values()), "database_bytes": made.database_bytes},
    )  # fmt: skip
    return taken


def _require_clock(making: Making) -> None:
    here, there = making.catalog.transaction(catalog_now), store_now(making.target)
    if here > there + MOST_APART:
        raise RefusedError(
            f"the clock of the store of backups says {there:%Y-%m-%d %H:%M:%S} UTC, and PostgreSQL's "
            f"{here:%Y-%m-%d %H:%M:%S}: a restore takes a backup that is older than itself for forged; set the clock "
            "that is wrong, and run this again"
        )


def _require_in_use(making: Making, identity: Identity, revision: str, before: Backups) -> None:
    """Two catalogs of one name must not save themselves to one folder: `latest` would be a matter of chance."""
    frozen = making.catalog.transaction(read_freeze) if revision == head_revision() else None
    if frozen is not None and frozen.claims_pending:
        raise RefusedError(
            f"the catalog was restored from {frozen.restored_from}, and its buckets are not its own yet: the one "
            "before it may be in use and save itself to the same folder. Run confirm-restore with take_over_buckets"
        )
    for found in before.all:
        if found.manifest is not None and found.manifest.epoch > identity.epoch:
            raise RefusedError(
                f"this catalog was replaced by a restore: backup {found.id} in the same folder is of epoch "
                f"{found.manifest.epoch}, and this catalog is of {identity.epoch}. Where that one was a trial, remove "
                "its backup's folder"
            )


def _record(making: Making, backup: str, started: float, *, because: str = "", **more: Any) -> None:
    making.catalog.transaction(
        lambda connection: record_check(
            connection, what="backup", backup=backup, ok=not because, seconds=time.monotonic() - started,
            because=because, run=making.run, **more,
        )
    )  # fmt: skip


def _take(
    making: Making, snapshot: Snapshot, identity: Identity, backup: str, started: float, before: Backups
) -> Taken:
    catalog_id, epoch = identity.catalog_id, identity.epoch
    major = server_major(snapshot.server_version)
    pg_dump = find_program("pg_dump", at_least=major, folder=making.policy.postgresql_folder)
    pg_restore = find_program("pg_restore", at_least=pg_dump.major, folder=making.policy.postgresql_folder)
    stopped = threading.Event()

    def go_on() -> None:
        if stopped.is_set():
            raise TransientError("the dump failed")
        making.before_batch()

    def write(holds: str, content: Iterator[bytes], *, key: BackupKey | None = making.key) -> BackupFile:
        return write_file(
            making.target, catalog_id, backup, holds, content,
            level=making.policy.compression_level, key=key,
        )  # fmt: skip

    saving = Saving()

    def look() -> tuple[dict[str, Any], BackupFile | None]:
        # All on the snapshot's own connection, while the dump runs on another one that sees the same.
        facts = {
            "rows": count_rows(snapshot.connection),
            "parts": count_parts(snapshot.connection),
            "roles": tuple(named_roles(snapshot.connection)),
            "database_bytes": database_bytes(snapshot.connection),
            "schema_revision": schema_revision(snapshot.connection),
        }
        if making.kind == "catalog":
            return facts, None
        lines = save_metadata(
            snapshot.connection, making.stores, making.target, before, saving, backup=backup,
            key=making.key, threads=making.policy.parallel_transfers, before_batch=go_on,
        )  # fmt: skip
        return facts, write(METADATA_LIST, lines, key=None)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="metadata") as pool:
        looking = pool.submit(look)
        try:
            files = [write(DUMP, listed(_dumped(making, pg_dump, snapshot), pg_restore))]
        except BaseException:
            stopped.set()
            raise
        facts, metadata_list = looking.result()
    if metadata_list is not None:
        files.append(metadata_list)
    files.append(write(SETTINGS, iter([json.dumps(making.settings, indent=1, default=str).encode()])))
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        id=backup,
        kind=making.kind,
        catalog_id=catalog_id,
        epoch=epoch,
        database=making.catalog.database,
        postgres_version=snapshot.server_version,
        dump_version=pg_dump.major,
        snapshot_at=snapshot.taken_at,
        finished_at=making.catalog.transaction(catalog_now),
        seconds=round(time.monotonic() - started, 3),
        encrypted_to=making.key.recipient if making.key else "",
        files=tuple(files),
        metadata=None if metadata_list is None else SavedMetadata(
            objects=saving.objects, size_bytes=saving.size_bytes, unsaved=saving.unsaved, reasons=tuple(saving.reasons)
        ),
        run=making.run,
        **facts,
    )  # fmt: skip
    _read_back(making.target, manifest)
    _require_lock(making, snapshot)
    _commit(making, snapshot, manifest)
    return Taken(manifest, saving.copied)


def _dumped(making: Making, program: Program, snapshot: Snapshot) -> Iterator[bytes]:
    arguments = [
        "--format=custom", "--compress=0", f"--snapshot={snapshot.id}", "--no-password", "--lock-wait-timeout=120s",
    ]  # fmt: skip
    with running(program, arguments, making.catalog) as process:
        assert process.stdout is not None  # noqa: S101 -- it is a pipe
        _widen(process.stdout.fileno())
        while chunk := os.read(process.stdout.fileno(), READ_BYTES):
            making.progress(len(chunk))
            yield chunk
            if len(chunk) < GULP_BYTES:
                # pg_dump writes a few KiB at a time: woken for each, both processes would do little else.
                time.sleep(GULP_SECONDS)


def _widen(pipe: int) -> None:
    """A pipe of 1 MiB: sixteen times fewer switches between the two processes, where the system allows it."""
    import fcntl

    with suppress(OSError, AttributeError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _read_back(target: ObjectStore, manifest: Manifest) -> None:
    for one in manifest.files:
        check_stored(target, manifest.catalog_id, manifest.id, one)
    if gone := missing_contents(target, manifest):
        raise DamagedBackupError(f"{len(gone)} metadata objects were saved and are not there, such as {gone[0]}")


def _require_lock(making: Making, snapshot: Snapshot) -> None:
    making.before_batch()
    snapshot.require()


def _commit(making: Making, snapshot: Snapshot, manifest: Manifest) -> None:
    folder = folder_of(manifest.catalog_id, manifest.id)
    put_bytes(making.target, f"{folder}/{MANIFEST}", render(manifest), {"Content-Type": "application/json"})
    if parse(read_bytes(making.target, f"{folder}/{MANIFEST}", at_most=LARGEST_MANIFEST_BYTES)) != manifest:
        raise DamagedBackupError("the manifest that was read back is not the one that was written")
    # Whoever took the lock from a run that slept here took it for interrupted, and removed its files.
    _require_lock(making, snapshot)
    note = {"ok": True, "at": manifest.finished_at.isoformat(), "run": making.run}
    write_note(making.target, manifest.catalog_id, manifest.id, VERIFICATION, note)
    delete_keys(making.target, [f"{folder}/{STARTED}"])


def _remove_unfinished(target: ObjectStore, found: Backups) -> None:
    """Remove what interrupted backups left; the caller holds the backups' lock, so that nobody is at it any more."""
    for name in found.unfinished:
        # A listing may leave a manifest out: what has one is a backup.
        if not exists(target, f"{folder_of(found.catalog_id, name)}/{MANIFEST}"):
            remove_folder(target, found.catalog_id, name)
