"""What happens to a restored catalog after its cut-over, and how a person is told."""

from __future__ import annotations

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact

from blocks.catalog import CatalogDatabase
from blocks.catalog.checks import record_check
from blocks.catalog.clock import catalog_now
from blocks.encryption import BackupKey
from blocks.errors import StorageError
from blocks.loading import load_block
from blocks.object_store import ObjectStore
from blocks.policies import BackupPolicy, IntegrityPolicy
from flows.common.backing_up import open_key
from flows.common.opening import escaped, open_each, show_table
from flows.common.planned import SHOWN
from tasks.backups.aftermath import Aftermath, claim_buckets, reconcile_restored, restore_metadata
from tasks.backups.manifest import Manifest
from tasks.backups.restoring import MetadataChoice
from tasks.sweeping import Sweep


def settle(
    database: CatalogDatabase,
    source: ObjectStore,
    manifest: Manifest | None,
    *,
    metadata: MetadataChoice,
    rules: BackupPolicy,
    integrity: IntegrityPolicy,
    run: str,
    take_over: bool,
    key: BackupKey | None = None,
    look_only: bool = False,
) -> Aftermath:
    """Tell the buckets, bring metadata objects back, and hold the catalog against what is stored.

    It can be called again at any time; what does not answer is told in the result, and is for the next call. With
    `look_only` nothing is changed at all.
    """
    result = Aftermath()
    started = database.transaction(catalog_now)
    if take_over and not look_only:
        claim_buckets(database, lambda name: load_block(ObjectStore, name), result)
    try:
        reached = open_each(database, to_look=look_only)
    except StorageError as error:
        result.failed.append(str(error))
        result.blind = True
        return result
    result.failed += [f"{name}: {error}" for name, error in reached.left_out.items()]
    result.unlooked = list(reached.left_out)
    if not reached.locations:
        result.blind = True
        return result
    sweep = Sweep(database, reached.locations, run)
    if manifest is not None and not look_only:
        restore_metadata(
            sweep, source, manifest, metadata, result,
            key=key or open_key(rules), threads=rules.parallel_transfers,
        )  # fmt: skip
    reconcile_restored(sweep, integrity, result, look_only=look_only)
    if manifest is not None and not look_only:
        seconds = (database.transaction(catalog_now) - started).total_seconds()
        database.transaction(
            lambda connection: record_check(
                connection, what="restore", backup=manifest.id, ok=not result.failed, seconds=seconds,
                because=result.summary(), run=run,
            )
        )  # fmt: skip
    return result


def show_aftermath(result: Aftermath, *, kept_as: str = "", confirming: bool = False) -> None:
    """The report: what is lost, what is newer, what could not be done, and what to do next."""
    rows = [{"what": "lost its bytes", "where": "", "key": key, "size": ""} for key in result.lost]
    rows += [{"what": "failed", "where": "", "key": why, "size": ""} for why in result.failed]
    rows += [
        {"what": "metadata failed", "where": "", "key": why, "size": ""} for why in result.metadata_failed.values()
    ]
    rows += [
        {"what": "not taken over", "where": name, "key": why, "size": ""} for name, why in result.unclaimed.items()
    ]
    rows += [{"what": "healed", "where": "", "key": key, "size": ""} for key in result.healed]
    rows += [{"what": "newer", "where": place, "key": key, "size": str(size)} for place, key, size in result.newer]
    show_table("restore-report", rows[:SHOWN], result.summary())
    steps = [
        "The run's state says whether it is confirmed now; until then nothing is removed from any store."
        if confirming
        else "Nothing is removed from any store until somebody runs **confirm-restore**.",
        "*lost its bytes*: no URL is issued for these; a new upload of the same video heals an original.",
        "*newer*: no row names these objects, or one that was being written when the backup was made; they were stored "
        "after it, or given up before. They stay until the restore is confirmed, and after that for "
        "orphan_grace_hours, or abandoned_hours where a row names them.",
    ]
    if result.unfinished:
        steps.append(
            "Jobs that were under way at the backup are as they were then. Once the restore is confirmed they fail "
            "after stuck_hours: until then register what was made of them, or start them again."
        )
    if kept_as:
        steps.append(f"The catalog before the restore is the database `{kept_as}`, read-only.")
    create_markdown_artifact(
        "\n".join([escaped(result.summary()) + ".", "", *(f"- {step}" for step in steps)]), key="restore",
        description=result.summary(),
    )  # fmt: skip
    get_run_logger().info(result.summary())
