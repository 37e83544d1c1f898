"""Backup and restore of about 1 GB, half of it pgbench's and half the catalog's own tables, against pg_dump's way."""

from __future__ import annotations

import os
import shutil
import subprocess
from uuid import uuid4

from blocks.catalog import CatalogDatabase
from blocks.catalog.databases import drop_database, maintenance
from blocks.catalog.programs import find_program
from blocks.object_store import ObjectStore
from blocks.policies import BackupPolicy
from tasks.backups.manifest import Manifest
from tasks.backups.restoring import Restoring, restore_beside
from tasks.backups.taking import Making, take_backup
from tests.benchmarks.harness import Bench, Measured, compare, say, timed
from tests.benchmarks.stocking import grown

SCALE = 36
"""pgbench's: 3.6 million accounts, 0.5 GB. They are mostly blanks, which gzip is fast with; ids and hashes are not."""
OBJECTS = 700_000
"""Rows of the catalog, 0.5 GB with their indexes."""
POLICY = BackupPolicy()


class _Prepared:
    """The database, the store of backups, and the peer's folder; made once for both rows."""

    def __init__(self, bench: Bench) -> None:
        self.catalog = grown(bench, "backups", OBJECTS)
        self.store = bench.location(self.catalog).store
        self.vault: ObjectStore = self.store.model_copy(update={"prefix": "vault"})
        self.folder = bench.folder / "peer"
        self.run("pgbench", "-i", "-q", "-s", str(SCALE))
        with self.catalog.engine.connect() as connection:
            size = connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one()
        say(f"database of {size / 1e9:.2f} GB")

    def run(self, program: str, *arguments: str, database: str = "") -> None:
        where = find_program("pg_dump", at_least=18).path.parent / program
        environment = {
            "PGHOST": self.catalog.host,
            "PGUSER": "postgres",
            "PGDATABASE": database or self.catalog.database,
        }
        subprocess.run([where, *arguments], env=os.environ | environment, check=True, capture_output=True)

    def back_up(self) -> Manifest:
        return take_backup(Making(self.catalog, self.vault, POLICY, lambda _: self.store, kind="catalog")).manifest

    def dump(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.run("pg_dump", "-Fd", "-j2", "-f", str(self.folder))

    def megabytes(self, manifest: Manifest) -> float:
        return manifest.files[0].content_bytes / 1e6


_prepared: list[_Prepared] = []


def _prepare(bench: Bench) -> _Prepared:
    if not _prepared:
        _prepared.append(_Prepared(bench))
    return _prepared[0]


def backup(bench: Bench) -> Measured:
    """Dump into the store, read back and verified, against `pg_dump -Fd -j2` to a local folder."""
    made = _prepare(bench)
    size = made.megabytes(made.back_up())
    return compare(
        "backup", "pg_dump -Fd -j2", 2.0,
        ours=lambda _: timed(made.back_up), theirs=lambda _: timed(made.dump),
        pairs=bench.pairs, amount=size, unit="MB/s",
    )  # fmt: skip


def restore(bench: Bench) -> Measured:
    """Every file verified, restored beside, compared and analysed, against `pg_restore -j2` of a local folder."""
    made = _prepare(bench)
    manifest = made.back_up()
    made.dump()
    return compare(
        "restore", "pg_restore -j2", 0.7,
        ours=lambda _: _restored(made, manifest), theirs=lambda _: _restored_by_peer(made),
        pairs=bench.pairs, amount=made.megabytes(manifest), unit="MB/s",
    )  # fmt: skip


def _restored(made: _Prepared, manifest: Manifest) -> float:
    name = f"ours_{uuid4().hex[:8]}"
    work = Restoring(made.vault, manifest, made.catalog, POLICY)
    seconds = timed(lambda: restore_beside(work, name, note={}))
    _drop(made.catalog, name)
    return seconds


def _restored_by_peer(made: _Prepared) -> float:
    name = f"theirs_{uuid4().hex[:8]}"
    made.run("createdb", name)
    seconds = timed(lambda: made.run("pg_restore", "-j2", "--no-owner", "-d", name, str(made.folder), database=name))
    _drop(made.catalog, name)
    return seconds


def _drop(catalog: CatalogDatabase, name: str) -> None:
    with maintenance(catalog) as connection:
        drop_database(connection, name)
