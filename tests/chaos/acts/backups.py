"""Backups, drills, a restore with its cut-over, and the schema itself."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

from blocks.catalog import CatalogDatabase
from blocks.catalog.checks import backups_made
from blocks.catalog.clock import catalog_now
from blocks.catalog.databases import drop_database, maintenance
from blocks.catalog.locations import read_identity
from blocks.catalog.migrating import upgrade
from blocks.catalog.restored import read_freeze, thaw
from blocks.catalog.sweeps import backup_lock
from blocks.errors import NotFoundError, RefusedError
from blocks.object_store.copying import copy
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import put_bytes
from blocks.policies import BackupPolicy, IntegrityPolicy
from tasks.backups.aftermath import Aftermath, claim_buckets, reconcile_restored, restore_metadata
from tasks.backups.cutover import cut_over, drop_leftovers, reopen
from tasks.backups.drill import run_drill
from tasks.backups.listing import Backups, groups_of, list_backups
from tasks.backups.manifest import Manifest
from tasks.backups.restoring import Restoring, name_beside, restore_beside
from tasks.backups.retention import apply_retention, plan_retention
from tasks.backups.taking import Making, take_backup
from tests.chaos.acts.act import Act
from tests.chaos.acts.looking import reconcile_twice
from tests.chaos.world import World
from tests.helpers import execute, one, rows, sha256

POLICY = BackupPolicy(compression_level=1, restore_jobs=1, keep_verified=2, keep_days=1, parallel_transfers=1)


def _id(world: World) -> UUID:
    return world.catalog.transaction(read_identity).catalog_id


def _listed(world: World) -> Backups:
    return list_backups(world.store("vault"), _id(world))


def _newest(world: World) -> Manifest:
    return _manifest_of(_listed(world))


def _manifest_of(*listed: Backups) -> Manifest:
    """The newest whole backup's. A listing may have left it out, which an operator would be told in these words."""
    for backups in listed:
        if backups.newest_good is not None and backups.newest_good.manifest is not None:
            return backups.newest_good.manifest
    raise NotFoundError("there is no whole backup in the vault")


def _a_job(world: World) -> None:
    world.job("summer")


def _take(world: World) -> None:
    with backup_lock(world.catalog, _id(world), holder="backup", wait=timedelta(seconds=20)) as lock:
        take_backup(
            Making(world.catalog, world.store("vault"), POLICY, lambda _: world.home.store, before_batch=lock.require)
        )


def _three_backups(world: World) -> None:
    """Each with metadata that only it is made of."""
    _a_job(world)
    for number in range(3):
        content = f'{{"version": {number}}}'.encode()
        put_bytes(world.home.store, _metadata_key(world), content, {})
        execute(
            world.catalog,
            "UPDATE stored_objects SET sha256 = :sha256, size_bytes = :size, stored_bytes = :size, etag = NULL "
            " WHERE kind = 'metadata'",
            sha256=sha256(content), size=len(content),
        )  # fmt: skip
        _take(world)


def _metadata_key(world: World) -> str:
    return str(one(world.catalog, "SELECT key FROM stored_objects WHERE kind = 'metadata'"))


def _let_old_ones_go(world: World) -> None:
    """As if days had passed: all but the two newest are past their days."""
    with backup_lock(world.catalog, _id(world), holder="backup", wait=timedelta(seconds=20)) as lock:
        found = _listed(world)
        plan = plan_retention(found, POLICY, world.catalog.transaction(catalog_now) + timedelta(days=3))
        made = world.catalog.transaction(backups_made)
        apply_retention(world.store("vault"), found, plan, recorded=made, before_batch=lock.require)
    assert len([backup for backup in _listed(world).all if backup.good]) >= POLICY.keep_verified


def _next_night(world: World) -> None:
    """As the flow: a backup, which finishes what was left half removed, and then retention."""
    _take(world)
    _let_old_ones_go(world)


def _a_backup(world: World) -> None:
    _a_job(world)
    _take(world)


def _drill(world: World) -> None:
    drilled = run_drill(world.catalog, Restoring(world.store("vault"), _newest(world), world.catalog, POLICY))
    assert drilled.ok or drilled.because, drilled


def _restore(world: World) -> None:
    """As the flow: what a killed one left, a database beside, the cut-over, the buckets, the confirmation."""
    catalog, made = world.catalog, _newest_of_all(world)
    reopen(catalog)
    drop_leftovers(catalog, "restore", keep=lambda note: note.get("ready") is True)
    run = uuid4().hex[:8]
    beside = name_beside(catalog.database, "restore", run)
    restored = restore_beside(Restoring(world.store("vault"), made, catalog, POLICY), beside, note={"run": run})
    cut_over(catalog, restored.database, made, run=run, wait=timedelta(seconds=20))
    _settle(world)


def _newest_of_all(world: World) -> Manifest:
    # The catalog may be closed by a cut-over that was killed: nobody asks it which backups are its own.
    return _manifest_of(*groups_of(world.store("vault"), None, ""))


def _settle(world: World) -> None:
    claimed = Aftermath()
    claim_buckets(world.catalog, world.store, claimed)
    assert not claimed.failed, claimed.failed
    frozen = world.catalog.transaction(read_freeze)
    if frozen is not None:
        assert world.catalog.transaction(lambda connection: thaw(connection, frozen, run="restore"))


def _restore_or_go_on(world: World) -> None:
    """The next run: a cut-over that came through is only settled."""
    reopen(world.catalog)
    frozen = world.catalog.transaction(read_freeze)
    if frozen is None and one(world.catalog, "SELECT epoch FROM catalog_identity") == 1:
        _restore(world)
    else:
        _settle(world)


def _a_restored_catalog(world: World) -> None:
    """Since its backup an object was moved, metadata was lost, and a job came."""
    _a_backup(world)
    store = world.home.store
    (moved,) = rows(world.catalog, "SELECT id, key, sha256, size_bytes FROM stored_objects WHERE kind = 'audio'")
    known = {"object-id": str(moved.id), "sha256": moved.sha256}
    copy(store, moved.key, store, f"{moved.key}.moved", size_bytes=moved.size_bytes, attributes=known)
    delete_keys(store, [moved.key, _metadata_key(world)])
    world.job("newer", outputs=False)
    made = _newest(world)
    beside = name_beside(world.catalog.database, "restore", uuid4().hex[:8])
    restored = restore_beside(
        Restoring(world.store("vault"), made, world.catalog, POLICY), beside, note={"run": "restore"}
    )
    cut_over(world.catalog, restored.database, made, run="restore", wait=timedelta(seconds=20))


def _confirm(world: World) -> None:
    """As the flow: buckets, metadata from the backup, what is provable; and nothing is frozen any more."""
    frozen = world.catalog.transaction(read_freeze)
    if frozen is None:
        return
    result = Aftermath()
    claim_buckets(world.catalog, world.store, result)
    sweep = world.reopened().sweep("confirm")
    made = next((one.manifest for one in _listed(world).all if one.id == frozen.restored_from), None)
    if made is None:
        raise NotFoundError("the backup is not in the vault")
    restore_metadata(sweep, world.store("vault"), made, "missing", result, key=None, threads=1)
    reconcile_restored(sweep, IntegrityPolicy(parallel_listings=1, parallel_transfers=1), result)
    if result.failed or result.unclaimed or result.metadata_failed:
        raise RefusedError(result.summary())
    world.catalog.transaction(lambda connection: thaw(connection, frozen, run="confirm"))


def _confirm_and_reconcile(world: World) -> None:
    """And the grace is over: what nobody's row names goes."""
    _confirm(world)
    reconcile_twice(world.reopened())


def _drop_what_was_kept(world: World) -> None:
    world.catalog.disconnect()
    for purpose in ("before", "restore", "drill", "upgrade"):
        drop_leftovers(world.catalog, purpose, keep=lambda note: False)
    with maintenance(world.catalog) as connection:
        drop_database(connection, _empty(world).database)


def _empty(world: World) -> CatalogDatabase:
    return world.catalog.named(f"{world.catalog.database}_new")


def _an_empty_database(world: World) -> None:
    _a_job(world)
    with maintenance(world.catalog) as connection:
        connection.exec_driver_sql(f'CREATE DATABASE "{_empty(world).database}"')


def _upgrade(world: World) -> None:
    made = _empty(world)
    try:
        upgrade(made)
        assert one(made, "SELECT count(*) FROM catalog_identity") == 1
    finally:
        made.disconnect()


ACTS = (
    Act("backup", _a_job, _take),
    Act("backup-retention", _three_backups, _let_old_ones_go, again=_next_night),
    Act("restore-drill", _a_backup, _drill, tidy=_drop_what_was_kept),
    Act("restore", _a_backup, _restore, again=_restore_or_go_on, tidy=_drop_what_was_kept),
    Act(
        "confirm-restore",
        _a_restored_catalog,
        _confirm,
        again=_confirm_and_reconcile,
        tidy=_drop_what_was_kept,
        damaged=True,
    ),
    Act("upgrade", _an_empty_database, _upgrade, tidy=_drop_what_was_kept),
)
