"""The flow `confirm-restore`."""

from __future__ import annotations

from typing import Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from blocks.catalog.locations import read_identity
from blocks.catalog.restored import read_freeze, thaw
from blocks.encryption import BackupKey
from blocks.errors import NotFoundError, RefusedError
from blocks.loading import load_block
from blocks.object_store import ObjectStore
from blocks.policies import BackupPolicy, IntegrityPolicy
from flows.common.opening import open_catalog, reported, run_label
from flows.common.restored import settle, show_aftermath
from tasks.backups.listing import list_backups


@flow(name="confirm-restore", flow_run_name="confirm the restore, dry run: {dry_run}", persist_result=True)
@reported
def confirm_restore(
    dry_run: bool = True,
    take_over_buckets: bool = False,
    metadata_objects: Literal["none", "missing", "all"] = "none",
    key: str = "",
    backups: str = "backups",
    catalog: str = "main",
    policy: str = "default",
    integrity: str = "default",
) -> State[None]:
    """Look at a restored catalog once more, and, with dry_run off, let things be removed again.

    It reports which rows lost their bytes and which objects are newer than the catalog; with dry_run off it also
    finishes what a restore that was killed left undone. Confirmed, newer objects are orphans as any other, from that
    moment on: reconcile-quota removes them a grace later, and cleanup, tiers and compression go on. It never removes
    anything itself, and confirms nothing while a store does not answer.

    Args:
        dry_run: Report only, and change nothing; turn it off to confirm.
        take_over_buckets: Write this catalog's id and epoch into its buckets; whatever catalog they served before is
            refused from then on.
        metadata_objects: Which metadata objects come back from the backups.
        key: Name of a Backup Key block with the secret key; that of the Backup Policy unless given.
        backups: Name of the Object Store block that holds the backups.
        catalog: Name of the Catalog Database block.
        policy: Name of the Backup Policy block.
        integrity: Name of the Integrity Policy block.
    """
    database = open_catalog(catalog)
    frozen = database.transaction(read_freeze)
    if frozen is None:
        return Completed(message="nothing to confirm: this catalog was not restored, or is confirmed", data=None)
    source, rules = load_block(ObjectStore, backups), load_block(BackupPolicy, policy)
    known = list_backups(source, database.transaction(read_identity).catalog_id).all
    manifest = next((one.manifest for one in known if one.id == frozen.restored_from), None)
    if manifest is None and metadata_objects != "none":
        raise NotFoundError(
            f"backup {frozen.restored_from}, which this catalog comes from, is not in the store of backups: metadata "
            "objects cannot come back from it; look at the store, or run this with metadata_objects none"
        )
    result = settle(
        database, source, manifest, metadata=metadata_objects, rules=rules,
        integrity=load_block(IntegrityPolicy, integrity), run=run_label(), take_over=take_over_buckets,
        key=load_block(BackupKey, key) if key else None, look_only=dry_run,
    )  # fmt: skip
    show_aftermath(result, confirming=not dry_run)
    if dry_run:
        return Completed(name="DryRun", message=f"not confirmed yet: {result.summary()}", data=None)
    now = database.transaction(read_freeze)
    if now is not None and now.claims_pending:
        raise RefusedError(
            "not confirmed: some buckets still carry the epoch before the restore; run it with take_over_buckets, if "
            f"no other catalog uses them. {result.summary()}"
        )
    if result.failed or result.unclaimed:
        raise RefusedError(f"not confirmed, because not everything could be looked at: {result.summary()}")
    if result.metadata_failed:
        raise RefusedError(
            f"not confirmed, because metadata objects did not come back, and would not after it: {result.summary()}; "
            "name the key that opens them, or give them up with metadata_objects none"
        )
    if not database.transaction(lambda connection: thaw(connection, frozen, run=run_label())):
        raise RefusedError("not confirmed: the catalog was restored once more meanwhile; look at that restore first")
    return Completed(message=f"confirmed: {result.summary()}", data=None)
