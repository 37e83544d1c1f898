"""The flow `backup`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from blocks.catalog import due
from blocks.catalog.checks import backups_made
from blocks.catalog.clock import catalog_now
from blocks.catalog.locations import read_identity
from blocks.catalog.restored import read_freeze
from blocks.catalog.sweeps import backup_lock
from blocks.errors import SweepBusyError
from blocks.loading import load_block
from blocks.object_store import ObjectStore
from blocks.object_store.clock import store_now
from blocks.policies import BackupPolicy, SafetyPolicy
from flows.common.backing_up import health_markdown, health_of, open_key, settings, stores_of
from flows.common.batches import progress_of
from flows.common.events import BACKUP_FAILED, BACKUP_SMALL, BACKUP_VERIFIED, tell
from flows.common.opening import open_catalog, reported, run_label
from flows.common.planned import is_scheduled, show_plan, show_report
from tasks.backups.health import too_small
from tasks.backups.listing import list_backups
from tasks.backups.retention import apply_retention, plan_retention
from tasks.backups.taking import Making, take_backup


@flow(name="backup", flow_run_name="backup, {kind}", persist_result=True, result_serializer="json")
@reported
def backup(
    kind: Literal["full", "catalog"] = "full",
    dry_run: bool = False,
    backups: str = "backups",
    catalog: str = "main",
    policy: str = "default",
    safety: str = "default",
) -> State[Any]:
    """Back up the catalog and the metadata objects, read the backup back, and let old ones go.

    The dump streams through zstd, and encryption if the Backup Policy names a key, into the store of backups, without a
    temporary disk; one snapshot ties it to the row counts and to the list of metadata objects, each of which is stored
    once for all nights. The manifest is written last: an interrupted backup is none, and the next one removes its
    parts. Then backups past keep_days go. It runs daily. It never removes one of the last keep_verified that were read
    back whole, one on hold, or one it does not understand, and never changes the catalog.

    Args:
        kind: full, or the catalog alone without metadata objects, such as before an upgrade.
        dry_run: Make nothing and remove nothing; show which backups would go, and why the others stay.
        backups: Name of the Object Store block that backups go to.
        catalog: Name of the Catalog Database block.
        policy: Name of the Backup Policy block.
        safety: Name of the Safety Policy block, which says how long to wait for another backup.
    """
    log = get_run_logger()
    try:
        database, target = open_catalog(catalog), load_block(ObjectStore, backups)
        rules, caps = load_block(BackupPolicy, policy), load_block(SafetyPolicy, safety)
        identity = database.transaction(read_identity)
        wait = timedelta(minutes=caps.lock_wait_minutes if is_scheduled() else 0)
        with backup_lock(
            database, identity.catalog_id, holder=f"backup {run_label()}", wait=wait,
            waiting=lambda by: log.info("waiting for %s", by),
        ) as lock:  # fmt: skip
            message, partial = "", False
            if not dry_run:
                size = database.transaction(due.dump_bytes)
                with progress_of("backup", f"Dumping {database.database}", size) as progress:
                    taken = take_backup(
                        Making(
                            database, target, rules, stores_of(database), kind=kind, key=open_key(rules),
                            settings=settings(), run=run_label(), before_batch=lock.require,
                            progress=progress,
                        )
                    )  # fmt: skip
                message = taken.summary()
                partial = taken.manifest.metadata is not None and taken.manifest.metadata.unsaved > 0
                tell(BACKUP_VERIFIED, catalog, backup=taken.manifest.id, bytes=taken.manifest.size_bytes)
            found = list_backups(target, identity.catalog_id)
            newest = found.newest_good
            if not dry_run and newest is not None and (why := too_small(newest, found.all, rules)):
                tell(BACKUP_SMALL, catalog, backup=newest.id, because=why)
                message, partial = f"{message}; {why}", True
            # Two clocks, and the earlier one: none of them alone makes backups old.
            now = min(database.transaction(catalog_now), store_now(target))
            plan = plan_retention(found, rules, now)
            show_plan(plan, dry_run=dry_run)
            if frozen := database.transaction(read_freeze):
                stays = f"no backup goes until {frozen.restored_from}, which was restored, is confirmed"
                message = f"{message}; {stays}" if message else stays
            elif not dry_run:
                made = database.transaction(backups_made)
                report = apply_retention(target, found, plan, recorded=made, before_batch=lock.require)
                if report.outcomes:
                    show_report(report)
                    message = f"{message}; {report.summary()}"
            health = health_of(database, list_backups(target, identity.catalog_id), rules)
    except SweepBusyError as error:
        if is_scheduled():
            tell(BACKUP_FAILED, catalog, because=str(error))
            raise
        return Completed(name="Skipped", message=str(error), data=None)
    except Exception as error:  # whatever it was, somebody is told
        tell(BACKUP_FAILED, catalog, because=str(error))
        raise
    create_markdown_artifact(health_markdown(health), key="backup-health", description=message or plan.summary())
    log.info(message or plan.summary())
    if dry_run:
        return Completed(name="DryRun", message=f"dry run, nothing is changed: {plan.summary()}", data=None)
    return Completed(name="Partial" if partial else "Completed", message=message, data=None)
