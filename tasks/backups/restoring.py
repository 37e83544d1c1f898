"""A backup becomes a database beside the catalog: verified first, restored, compared, brought forward. No more."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from blocks.catalog import CatalogDatabase
from blocks.catalog.clock import catalog_now
from blocks.catalog.databases import (
    LONGEST_NAME,
    catalog_errors,
    create_database,
    drop_database,
    maintenance,
    missing_roles,
    server_version,
    write_note,
)
from blocks.catalog.migrating import is_known_revision, upgrade
from blocks.catalog.programs import Program, find_program, run, server_major
from blocks.catalog.snapshots import count_parts, count_rows, schema_revision
from blocks.encryption import BackupKey
from blocks.errors import DamagedBackupError, InvalidInputError, RefusedError, SchemaError
from blocks.object_store import ObjectStore
from blocks.policies import BackupPolicy
from blocks.units import format_bytes
from tasks.backups.contents import listed
from tasks.backups.manifest import DUMP, METADATA_LIST, SETTINGS, Manifest
from tasks.backups.metadata import damaged_contents
from tasks.backups.streams import read_file, require_key
from tasks.parallel import alongside
from tasks.scratch import scratch_folder

MetadataChoice = Literal["none", "missing", "all"]
TOKEN = 14
ROOM_TO_SPARE_BYTES = 64 * 1024**2
SHOWN = 5
# Nobody else reads the database yet, and a crash of the server drops all of it: no commit waits for the disk.
# pg_restore makes several indexes at once, which is faster than several processes for each.
RESTORE_SETTINGS = (
    "-c synchronous_commit=off -c maintenance_work_mem=256MB -c max_parallel_maintenance_workers=0 "
    "-c statement_timeout=0 -c lock_timeout=0"
)


@dataclass(frozen=True)
class Restoring:
    """What a restore is made with. `say` hears what is done now, for a person."""

    source: ObjectStore
    manifest: Manifest
    target: CatalogDatabase
    policy: BackupPolicy = field(default_factory=BackupPolicy)
    key: BackupKey | None = None
    metadata: MetadataChoice = "missing"
    even_if_damaged: bool = False
    say: Callable[[str], None] = lambda step: None


@dataclass(frozen=True)
class Restored:
    """A backup that was restored beside, and compared; seconds of each step."""

    database: CatalogDatabase
    manifest: Manifest
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()
    """What is not as it was backed up, for a person."""


def name_beside(database: str, purpose: str, token: str) -> str:
    """The name of a database beside another, such as `shop_restore_1f2e3d4c`; its token has at most 14 characters."""
    return f"{prefix_beside(database, purpose)}{token[:TOKEN]}"


def prefix_beside(database: str, purpose: str) -> str:
    """How the names of all such databases begin, short enough that PostgreSQL cuts none."""
    ending = f"_{purpose}_"
    kept = database.encode()[: LONGEST_NAME - len(ending) - TOKEN]
    return f"{kept.decode(errors='ignore')}{ending}"


def restore_beside(work: Restoring, name: str, *, note: dict[str, object]) -> Restored:
    """Verify a backup whole, then restore it into a new database of this name on the target's server, and compare.

    A database that cannot be finished is dropped.

    Raises:
        DamagedBackupError: a file is not what the manifest says; the target was not touched.
        RefusedError: no room to verify it, no secret key, a server too old, or a role that must not create databases.
        SchemaError: a newer version of this project made it.
        ProgramError, CatalogUnavailableError: a program is missing or failed, or the server went away.
    """
    pg_restore = _check_fits(work)
    seconds: dict[str, float] = {}
    with _spooled(work, pg_restore, seconds) as (archive, damaged):
        beside = work.target.named(name)
        with maintenance(work.target) as connection:
            lacking = missing_roles(connection, list(work.manifest.roles))
            # By the server's clock, as its age is taken later, by whichever machine.
            note = note | {"backup": work.manifest.id, "at": catalog_now(connection).isoformat()}
            create_database(connection, name, note=note | {"ready": False})
        try:
            with _timed(seconds, "restore"), catalog_errors(beside):
                _load(work, pg_restore, archive, beside, acl=not lacking)
            with _timed(seconds, "compare"), catalog_errors(beside):
                work.say("comparing it with the manifest")
                with alongside(lambda: _analyze(beside)):
                    _compare(work.manifest, beside)
            with _timed(seconds, "migrate"), catalog_errors(beside):
                work.say("bringing its schema forward")
                upgrade(beside)
            notes = _notes(lacking, damaged)
            with maintenance(work.target) as connection:
                # They stay with the database: who approves it hours later is told as well.
                write_note(connection, name, note | {"ready": True, "notes": notes})
        except BaseException:
            beside.disconnect()
            with maintenance(work.target) as connection:
                drop_database(connection, name)
            raise
        finally:
            beside.disconnect()
    return Restored(beside, work.manifest, seconds, tuple(notes))


def _notes(lacking: Sequence[str], damaged: Sequence[str]) -> list[str]:
    notes = [f"grants were left out, because this server has no role {', '.join(lacking)}"] if lacking else []
    if damaged:
        notes.append(
            f"{len(damaged)} copies of metadata objects are damaged and stay out, such as {'; '.join(damaged[:SHOWN])}"
        )
    return notes


def _check_fits(work: Restoring) -> Program:
    manifest = work.manifest
    require_key(manifest, work.key)
    if not is_known_revision(manifest.schema_revision):
        raise SchemaError(
            f"backup {manifest.id} has the schema {manifest.schema_revision}, which this code does not know: a newer "
            "version made it; restore it with that version"
        )
    with maintenance(work.target) as connection:
        major = server_major(server_version(connection))
    made_by = server_major(manifest.postgres_version)
    if major < made_by:
        raise RefusedError(
            f"backup {manifest.id} was made from PostgreSQL {made_by}, the server at {work.target.host} is version "
            f"{major}: restore it to {made_by} or newer"
        )
    return find_program("pg_restore", at_least=max(major, manifest.dump_version), folder=work.policy.postgresql_folder)


@contextmanager
def _spooled(work: Restoring, pg_restore: Program, seconds: dict[str, float]) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """The dump on a local disk, where pg_restore reads it in parallel, after every file was proved."""
    manifest = work.manifest
    dump = manifest.file(DUMP)
    with scratch_folder("restore", below=_scratch(work.policy)) as folder:
        free = shutil.disk_usage(folder).free
        if free < dump.content_bytes + ROOM_TO_SPARE_BYTES:
            raise RefusedError(
                f"{folder.parent} has {format_bytes(free)} free, and the dump of backup {manifest.id} takes "
                f"{format_bytes(dump.content_bytes)}: name a folder with more room (scratch_folder of the Backup "
                "Policy, or --scratch)"
            )
        archive = folder / "catalog.dump"
        with _timed(seconds, "verify"):
            work.say(f"verifying backup {manifest.id}: {format_bytes(manifest.size_bytes)}")
            chunks = read_file(work.source, manifest.catalog_id, manifest.id, dump, key=work.key)
            try:
                with archive.open("wb", buffering=0) as file:
                    for chunk in listed(chunks, pg_restore):
                        view = memoryview(chunk)
                        while view:
                            view = view[file.write(view) :]
            except OSError as error:
                raise RefusedError(
                    f"{folder.parent} took no more of the dump: {error.strerror or error}; name a folder with more room"
                ) from error
            damaged = verify_rest(work)
        yield archive, damaged


def verify_rest(work: Restoring) -> tuple[str, ...]:
    """Every file beside the dump, and, where they are to be restored, the contents of the metadata objects.

    Raises:
        DamagedBackupError: one of them is not what was written, and `even_if_damaged` is off.
    """
    manifest = work.manifest
    for holds, key in ((METADATA_LIST, None), (SETTINGS, work.key)):
        if holds == METADATA_LIST and manifest.metadata is None:
            continue
        for _ in read_file(work.source, manifest.catalog_id, manifest.id, manifest.file(holds), key=key):
            pass
    if work.metadata == "none" or manifest.metadata is None:
        return ()
    work.say(f"verifying {manifest.metadata.objects} metadata objects")
    threads = work.policy.parallel_transfers
    damaged = damaged_contents(work.source, manifest, key=work.key, threads=threads)
    if damaged and not work.even_if_damaged:
        raise DamagedBackupError(
            f"{len(damaged)} of {manifest.metadata.objects} metadata objects of backup {manifest.id} are damaged: "
            f"{'; '.join(list(damaged.values())[:SHOWN])}. Its catalog is whole: restore it with "
            "metadata_objects none, or with even_if_damaged"
        )
    return tuple(damaged.values())


def _load(work: Restoring, pg_restore: Program, archive: Path, beside: CatalogDatabase, *, acl: bool) -> None:
    jobs = work.policy.restore_jobs or os.cpu_count() or 1
    options = ["--no-owner", "--no-password", f"--dbname={beside.database}", f"--jobs={jobs}"]
    options += [] if acl else ["--no-acl"]
    # Since 17 pg_restore sets a limit aside that older servers do not know, and would end at once.
    too_new = pg_restore.major >= 17 > server_major(beside.transaction(server_version))
    options += [] if too_new else ["--exit-on-error"]
    work.say(f"restoring {sum(work.manifest.rows.values())} rows into {beside.database}")
    run(
        pg_restore, [*options, str(archive)], beside, settings=RESTORE_SETTINGS,
        forgiven="transaction_timeout" if too_new else "",
    )  # fmt: skip


def _analyze(beside: CatalogDatabase) -> None:
    beside.single_statement(lambda connection: connection.exec_driver_sql("ANALYZE"))


def _compare(manifest: Manifest, beside: CatalogDatabase) -> None:
    rows, parts, revision = beside.transaction(
        lambda connection: (count_rows(connection), count_parts(connection), schema_revision(connection))
    )
    wrong = [
        f"{name} has {rows.get(name, 'no')} rows, {manifest.rows.get(name, 'none')} were backed up"
        for name in sorted(rows.keys() | manifest.rows.keys())
        if rows.get(name) != manifest.rows.get(name)
    ]
    wrong += [
        f"{parts[name]} {name} where {number} were backed up"
        for name, number in manifest.parts.items()
        # One that this version does not count is an older backup's.
        if name in parts and parts[name] != number
    ]
    if revision != manifest.schema_revision:
        wrong.append(f"the schema is {revision}, {manifest.schema_revision} was backed up")
    if wrong:
        raise DamagedBackupError(f"what was restored is not backup {manifest.id}: {'; '.join(wrong[:SHOWN])}")


def _scratch(policy: BackupPolicy) -> Path | None:
    if not policy.scratch_folder:
        return None
    # os.path's: it has no errors of its own for a name that is too long, or a user who is not there.
    folder = Path(os.path.expanduser(policy.scratch_folder))
    if not os.path.isdir(folder):
        raise InvalidInputError(f"the scratch folder {policy.scratch_folder} is no folder on this machine")
    return folder


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[step] = seconds.get(step, 0.0) + time.monotonic() - started
