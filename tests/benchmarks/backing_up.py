"""Backup and restore of databases of about 1 GB, against pg_dump's way: a catalog, and one that is half pgbench's."""

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

OBJECTS = 1_400_000
"""Rows of a catalog of about 1 GB: ids and hashes, which gzip is slow with."""
HALF_OBJECTS, SCALE = 700_000, 36
"""Half as many, and 3.6 million of pgbench's accounts: mostly blanks, which cost gzip little."""
MIXED = "half of it pgbench's"
POLICY = BackupPolicy()


class _Prepared:
    """A database, the store of its backups, and the peer's folder."""

    def __init__(self, bench: Bench, name: str, *, objects: int, scale: int = 0) -> None:
        self.catalog = grown(bench, name, objects)
        self.store = bench.location(self.catalog).store
        self.vault: ObjectStore = self.store.model_copy(update={"prefix": f"vault-{name}"})
        self.folder = bench.folder / f"peer-{name}"
        if scale:
            self.run("pgbench", "-i", "-q", "-s", str(scale))
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


_prepared: dict[str, _Prepared] = {}
"""What both rows work on, made once; by what is said of it after the row's name."""


def _prepare(bench: Bench) -> dict[str, _Prepared]:
    if not _prepared:
        _prepared[""] = _Prepared(bench, "backups", objects=OBJECTS)
        _prepared[f", {MIXED}"] = _Prepared(bench, "backups_mixed", objects=HALF_OBJECTS, scale=SCALE)
    return _prepared


def backup(bench: Bench) -> list[Measured]:
    """A catalog's dump into the store, read back and verified, against `pg_dump -Fd -j2` to a local folder."""
    return [_backup(bench, made, f"backup{told}") for told, made in _prepare(bench).items()]


def restore(bench: Bench) -> list[Measured]:
    """Every file verified, restored beside, compared and analysed, against `pg_restore -j2` of a local folder."""
    return [_restore(bench, made, f"restore{told}") for told, made in _prepare(bench).items()]


def _backup(bench: Bench, made: _Prepared, row: str) -> Measured:
    size = made.megabytes(made.back_up())
    return compare(
        row, "pg_dump -Fd -j2", 2.0,
        ours=lambda _: timed(made.back_up), theirs=lambda _: timed(made.dump),
        pairs=bench.pairs, amount=size, unit="MB/s",
    )  # fmt: skip


def _restore(bench: Bench, made: _Prepared, row: str) -> Measured:
    manifest = made.back_up()
    made.dump()
    return compare(
        row, "pg_restore -j2", 0.7,
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
