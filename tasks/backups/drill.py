"""A drill: the newest backup is restored for real, beside the catalog or on another server, looked at, and dropped."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from uuid import uuid4

from blocks.catalog import CatalogDatabase, counters
from blocks.catalog.checks import record_check
from blocks.catalog.clock import catalog_now
from blocks.catalog.databases import catalog_errors, drop_database, maintenance
from blocks.catalog.sweeps import database_lock
from blocks.errors import DamagedBackupError, StorageError
from blocks.object_store import ObjectStore
from tasks.backups.cutover import drop_leftovers
from tasks.backups.listing import Backup, list_backups, write_note
from tasks.backups.manifest import DRILL, Manifest
from tasks.backups.restoring import Restoring, name_beside, restore_beside
from tasks.backups.verifying import verify_backup


@dataclass(frozen=True)
class Drilled:
    """What a drill came to. `recovery_seconds` is what the same restore would take before the cut-over."""

    backup: str
    ok: bool
    because: str
    recovery_seconds: float
    steps: dict[str, float] = field(default_factory=dict)
    rows: int = 0

    def summary(self) -> str:
        """One line for a person."""
        if not self.ok:
            return f"drill of backup {self.backup} FAILED after {self.recovery_seconds:.1f} s: {self.because}"
        steps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.steps.items())
        return f"backup {self.backup} was restored in {self.recovery_seconds:.1f} s ({steps}): {self.rows} rows"


def run_drill(catalog: CatalogDatabase, work: Restoring, *, run: str = "") -> Drilled:
    """Restore a backup into a scratch database on the work's target, check it, drop it whatever happens.

    The evidence is a row of the catalog and a note beside the manifest.

    Raises:
        SweepBusyError: another drill is at work.
    """
    started = time.monotonic()
    manifest = work.manifest
    scratch = name_beside(work.target.database, "drill", uuid4().hex[:8])
    with database_lock(work.target, "drill", holder=f"restore-drill {run}"):
        drop_leftovers(work.target, "drill", keep=lambda note: False)
        damaged = False
        try:
            restored = restore_beside(work, scratch, note={"drill": run})
            work.say("looking at its sums")
            _check_sums(restored.database)
            seconds = time.monotonic() - started
            drilled = Drilled(manifest.id, True, "", seconds, restored.seconds, sum(manifest.rows.values()))
        except (StorageError, OSError) as error:
            damaged = isinstance(error, DamagedBackupError)
            drilled = Drilled(manifest.id, False, str(error), time.monotonic() - started)
        finally:
            with maintenance(work.target) as connection:
                drop_database(connection, scratch)
    try:
        if damaged:
            # Damage of its files counts at once, and the next backup writes anew what is rotten. Before the drill is
            # written down: killed in between, it is as if there had been none, and the next one looks again.
            for one in list_backups(work.source, manifest.catalog_id).all:
                if one.id == manifest.id and one.manifest is not None:  # it may have been let go meanwhile
                    verify_backup(catalog, work.source, one, work.policy, key=work.key, contents=True)
    finally:
        _record(catalog, work.source, manifest, drilled, run)
    return drilled


def _check_sums(restored: CatalogDatabase) -> None:
    try:
        with catalog_errors(restored):
            off = restored.transaction(counters.counter_drift)
    finally:
        restored.disconnect()
    if off:
        raise DamagedBackupError(f"the counters of {len(off)} customers are not the sums of their objects")


def _record(catalog: CatalogDatabase, source: ObjectStore, manifest: Manifest, drilled: Drilled, run: str) -> None:
    at = catalog.transaction(catalog_now)
    note = {"ok": drilled.ok, "at": at.isoformat(), "seconds": drilled.recovery_seconds, "run": run,
            "because": drilled.because}  # fmt: skip
    if drilled.ok:
        # Of one that failed the catalog knows: what a drill restored once is kept for that.
        write_note(source, manifest.catalog_id, manifest.id, DRILL, note)
    catalog.transaction(
        lambda connection: record_check(
            connection, what="drill", backup=manifest.id, ok=drilled.ok, seconds=drilled.recovery_seconds,
            bytes=manifest.size_bytes, because=drilled.because, run=run,
            details={"steps": drilled.steps, "rows": drilled.rows},
        )
    )  # fmt: skip


def newest_for_drill(newest: Backup | None) -> Manifest:
    """The manifest to drill with.

    Raises:
        DamagedBackupError: there is no good backup at all.
    """
    if newest is None or newest.manifest is None:
        raise DamagedBackupError("there is no verified backup to drill with: look at the runs of backup")
    return newest.manifest
