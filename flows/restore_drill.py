"""The flow `restore-drill`."""

from __future__ import annotations

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from blocks.catalog import CatalogDatabase
from blocks.catalog.locations import read_identity
from blocks.encryption import BackupKey
from blocks.errors import DamagedBackupError
from blocks.loading import load_block
from blocks.object_store import ObjectStore
from blocks.policies import BackupPolicy
from flows.common.backing_up import health_markdown, health_of, open_key
from flows.common.events import DRILL_FAILED, DRILL_PASSED, tell
from flows.common.opening import open_catalog, reported, run_label
from tasks.backups.drill import Drilled, newest_for_drill, run_drill
from tasks.backups.listing import choose, list_backups
from tasks.backups.restoring import Restoring


@flow(name="restore-drill", flow_run_name="drill {backup}", persist_result=True)
@reported
def restore_drill(
    backup: str = "latest",
    target: str = "",
    metadata_objects: bool = True,
    key: str = "",
    backups: str = "backups",
    catalog: str = "main",
    policy: str = "default",
) -> State[Drilled]:
    """Restore the newest verified backup for real, into a scratch database, compare it, time it, and drop it.

    It takes every step of a restore but the cut-over: files verified, tables loaded, counts and constraints compared,
    schema brought forward, sums looked at. Evidence is kept as a row of backup_checks, beside the backup, and as an
    artifact with the recovery time and the age of the newest verified backup. It runs weekly. It never touches the
    catalog in use, and drops its scratch database however it ends.

    Args:
        backup: A backup's id, or latest, the newest that was verified.
        target: Name of the Catalog Database block whose server takes the scratch database; the catalog's own if empty.
        metadata_objects: Whether the copies of the metadata objects are read too.
        key: Name of a Backup Key block with the secret key; that of the Backup Policy unless given.
        backups: Name of the Object Store block that holds the backups.
        catalog: Name of the Catalog Database block.
        policy: Name of the Backup Policy block.
    """
    log = get_run_logger()
    try:
        database, source = open_catalog(catalog), load_block(ObjectStore, backups)
        rules = load_block(BackupPolicy, policy)
        server = load_block(CatalogDatabase, target) if target else database
        found = list_backups(source, database.transaction(read_identity).catalog_id)
        meant = found.newest_good if backup == "latest" else choose([found], backup)[1]
        work = Restoring(
            source, newest_for_drill(meant), server, rules, load_block(BackupKey, key) if key else open_key(rules),
            "missing" if metadata_objects else "none", say=log.info,
        )  # fmt: skip
        drilled = run_drill(database, work, run=run_label())
    except Exception as error:  # whatever it was, somebody is told
        tell(DRILL_FAILED, catalog, because=str(error))
        raise
    tell(DRILL_PASSED if drilled.ok else DRILL_FAILED, catalog, backup=drilled.backup, because=drilled.because,
         seconds=drilled.recovery_seconds)  # fmt: skip
    health = health_of(database, list_backups(source, found.catalog_id), rules)
    create_markdown_artifact(health_markdown(health), key="restore-drill", description=drilled.summary())
    log.info(drilled.summary())
    if not drilled.ok:
        return Failed(message=drilled.summary(), data=DamagedBackupError(drilled.because))
    return Completed(message=drilled.summary(), data=drilled)
