"""Reading backups back, and what is said of them: verified, damaged, on hold."""

from __future__ import annotations

import time
from dataclasses import dataclass
from uuid import UUID

from blocks.catalog import CatalogDatabase
from blocks.catalog.checks import record_check
from blocks.catalog.clock import catalog_now
from blocks.catalog.programs import find_program
from blocks.encryption import BackupKey
from blocks.errors import DamagedBackupError
from blocks.object_store import ObjectStore
from blocks.object_store.deletion import delete_keys
from blocks.policies import BackupPolicy
from tasks.backups.contents import listed
from tasks.backups.listing import Backup, write_note
from tasks.backups.manifest import DUMP, HOLD, VERIFICATION, Manifest, folder_of
from tasks.backups.metadata import damaged_contents, missing_contents
from tasks.backups.streams import check_stored, read_file, require_key
from tasks.checks import check_reason


@dataclass(frozen=True)
class Verified:
    """Whether a backup is what its manifest says; `because` where it is not."""

    backup: str
    ok: bool
    because: str
    seconds: float


def verify_backup(
    catalog: CatalogDatabase,
    store: ObjectStore,
    backup: Backup,
    policy: BackupPolicy,
    *,
    key: BackupKey | None = None,
    contents: bool = False,
) -> Verified:
    """Read a backup back whole and write down what came of it; with `contents` each metadata object too.

    Without the secret key an encrypted dump is held against its hash only; its content was looked at when it was made.
    What was found rotten by reading contents stays so until they are read again.

    Raises:
        DamagedBackupError: it has no manifest that could be verified.
        RefusedError: its contents are encrypted, and this key does not open them.
    """
    if backup.manifest is None:
        raise DamagedBackupError(f"backup {backup.id} cannot be verified: {backup.why_not}")
    contents = contents and backup.manifest.metadata is not None
    if contents:
        require_key(backup.manifest, key)
    started, because = time.monotonic(), ""
    rotten = dict.fromkeys(backup.rotten, "read before this")
    try:
        check_files(store, backup.manifest, policy, key=key)
        if contents:
            rotten = damaged_contents(store, backup.manifest, key=key, threads=policy.parallel_transfers)
    except DamagedBackupError as error:
        because = str(error)
    if rotten:
        name, why = next(iter(rotten.items()))
        objects = f"{len(rotten)} metadata objects are damaged, such as {name}: {why}"
        because = f"{because}; {objects}" if because else objects
    seconds = time.monotonic() - started
    at = catalog.transaction(catalog_now)
    note: dict[str, object] = {"ok": not because, "at": at.isoformat(), "because": because}
    # For the next backup, which writes these anew: verification itself changes nothing.
    note |= {"rotten": sorted(rotten)} if rotten else {}
    write_note(store, backup.manifest.catalog_id, backup.id, VERIFICATION, note)
    catalog.transaction(
        lambda connection: record_check(
            connection, what="verification", backup=backup.id, ok=not because, seconds=seconds,
            bytes=backup.size_bytes, because=because,
        )
    )  # fmt: skip
    return Verified(backup.id, not because, because, seconds)


def check_files(store: ObjectStore, manifest: Manifest, policy: BackupPolicy, *, key: BackupKey | None) -> None:
    """Hold every file against its hash, and the dump, where this key opens it, against pg_restore.

    Raises:
        DamagedBackupError: something is not what was written.
    """
    for one in manifest.files:
        if one.holds == DUMP and _opens(manifest, key):
            program = find_program("pg_restore", at_least=manifest.dump_version, folder=policy.postgresql_folder)
            for _ in listed(read_file(store, manifest.catalog_id, manifest.id, one, key=key), program):
                pass
        else:
            check_stored(store, manifest.catalog_id, manifest.id, one)
    if gone := missing_contents(store, manifest):
        raise DamagedBackupError(f"{len(gone)} metadata objects are gone from the backups, such as {gone[0]}")


def _opens(manifest: Manifest, key: BackupKey | None) -> bool:
    # With another key, such as the one that took its place since, a backup is not damaged: it is held against hashes.
    return not manifest.encrypted_to or (key is not None and key.opens and key.recipient == manifest.encrypted_to)


def hold_backup(store: ObjectStore, backup: Backup, catalog_id: UUID, reason: str) -> None:
    """Keep a backup however old it gets, until it is released.

    Raises:
        InvalidInputError: no reason, or one that nobody reads to its end.
    """
    write_note(store, catalog_id, backup.id, HOLD, {"reason": check_reason(reason)})


def release_backup(store: ObjectStore, backup: Backup, catalog_id: UUID) -> None:
    """Let a backup go when its time has come."""
    delete_keys(store, [f"{folder_of(catalog_id, backup.id)}/{HOLD}"])
