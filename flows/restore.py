"""The flow `restore`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed

from blocks.catalog import CatalogDatabase
from blocks.catalog.databases import drop_database, maintenance, read_note
from blocks.catalog.in_use import InUse, find_in_use
from blocks.catalog.migrating import upgrade
from blocks.catalog.sweeps import database_lock
from blocks.encryption import BackupKey
from blocks.errors import RefusedError
from blocks.loading import load_block
from blocks.object_store import ObjectStore
from blocks.policies import BackupPolicy, IntegrityPolicy, SafetyPolicy
from flows.common.backing_up import open_key
from flows.common.events import RESTORED, tell
from flows.common.opening import reported, run_label
from flows.common.planned import Work, run_planned, show_plan, was_asked
from flows.common.restored import settle, show_aftermath
from tasks.backups.cutover import cut_over, drop_untouched, reopen, require_owner, require_settled
from tasks.backups.listing import choose, groups_of, mark_restoring
from tasks.backups.manifest import Manifest
from tasks.backups.replacing import plan_replacement
from tasks.backups.restoring import Restored, Restoring, name_beside, restore_beside
from tasks.plans import Outcome, Plan, Report
from tasks.sweeping import Sweep

LEAD = (
    "**restore** puts a backup in the place of the catalog that is in use, which is kept aside. Jobs that are newer "
    "than the backup are forgotten; their objects stay. While customers go on uploading, allow for more than is shown:"
)


@flow(
    name="restore", flow_run_name="restore {backup}, cutover: {cutover}", persist_result=True, result_serializer="json"
)
@reported
def restore(
    backup: str = "latest",
    before: datetime | None = None,
    cutover: bool = False,
    target: str = "main",
    metadata_objects: Literal["none", "missing", "all"] = "missing",
    even_if_damaged: bool = False,
    even_if_unreadable: bool = False,
    take_over_buckets: bool = False,
    key: str = "",
    catalog_id: str = "",
    backups: str = "backups",
    policy: str = "default",
    integrity: str = "default",
    safety: str = "default",
) -> State[Report]:
    """Restore the catalog from a backup, beside the one that is in use; take its place only where cutover is on.

    Every file is verified before the server is touched. The backup is restored into a database of its own, compared
    with its manifest and brought to this version's schema. With cutover it asks first, and shows the jobs that are
    newer than the backup; approved, sessions of the old database are ended and both names are swapped in one
    transaction, or nothing has happened. The old database is kept. Then metadata objects come back, what is provable is
    healed, and the report says which rows lost their bytes and which objects are newer than the catalog. From then on
    nothing is removed from any store until somebody runs confirm-restore. It never drops the old database, and never
    removes or overwrites an object.

    Args:
        backup: A backup's id, or latest.
        before: With latest, the newest that is from before this time.
        cutover: Off, the restored database stays beside, to look at; the next restore drops it after some days.
        target: Name of the Catalog Database block to restore to, such as one of another server.
        metadata_objects: Which metadata objects come back from the backups, those that are missing or wrong, or all.
        even_if_damaged: Go on although copies of metadata objects are damaged; those are left out, and named.
        even_if_unreadable: Take the place of a catalog that cannot be read whole, as after a dropped table, without
            asking: there is nowhere to keep the answer. What it is bound to is carried over as far as it can be read.
        take_over_buckets: Let the restored catalog take the buckets over at once, also where they were not those of
            the one it replaces.
        key: Name of a Backup Key block with the secret key; that of the Backup Policy unless given.
        catalog_id: Which catalog's backups are meant; that of the target's own unless given.
        backups: Name of the Object Store block that holds the backups.
        policy: Name of the Backup Policy block.
        integrity: Name of the Integrity Policy block, for the reconciliation afterwards.
        safety: Name of the Safety Policy block.
    """
    database, source = load_block(CatalogDatabase, target), load_block(ObjectStore, backups)
    rules, caps = load_block(BackupPolicy, policy), load_block(SafetyPolicy, safety)
    # Needed after the cut-over, when it would be too late to be refused.
    checks = load_block(IntegrityPolicy, integrity)
    log = get_run_logger()
    with database_lock(database, "restore", holder=f"restore {run_label()}"):
        keys = load_block(BackupKey, key) if key else open_key(rules)
        if reopen(database):
            log.warning("%s had been left closed by a cut-over that was killed; it is open again", database.database)
        # Beside nothing is replaced: then it is enough to look.
        in_use = find_in_use(database, even_if_unreadable=even_if_unreadable or not cutover)
        # The end of a run's id is its random part: its beginning is a clock.
        name = name_beside(database.database, "restore", run_label().replace("-", "")[-14:])
        drop_untouched(database, rules)
        cut, owned = _cut_over_before(database)
        if cut and (again := _manifest_of(source, cut)):
            # This very run was stopped after its cut-over: what is left is to settle.
            result = settle(
                database, source, again, metadata=metadata_objects, rules=rules,
                integrity=checks, run=run_label(), take_over=owned or take_over_buckets, key=keys,
            )  # fmt: skip
            show_aftermath(result)
            return Completed(message=f"restored from {cut}; {result.summary()}", data=None)
        beside: list[Restored] = []

        def plan(_: Sweep) -> tuple[Plan, Restored]:
            chosen = _manifest(database, in_use, source, name, _Wanted(backup, before, catalog_id))
            if unmarked := mark_restoring(source, chosen, run_label()):
                log.warning(unmarked)
            work = Restoring(source, chosen, database, rules, keys, metadata_objects, even_if_damaged, say=log.info)
            beside.append(_beside(work, name))
            return plan_replacement(in_use, chosen, name), beside[0]

        def apply(_: Sweep, restored: Restored, planned: Plan) -> Report:
            cut = cut_over(
                database, restored.database, restored.manifest, run=run_label(),
                wait=timedelta(minutes=caps.lock_wait_minutes), waiting=lambda by: log.info("waiting for %s", by),
                even_if_unreadable=even_if_unreadable,
            )  # fmt: skip
            log.warning("%s is backup %s now; before it: %s", cut.database, restored.manifest.id, cut.kept_as or "none")
            if cut.lacking:
                log.error(cut.lacking)  # now: whatever ends this run afterwards
            result = settle(
                database, source, restored.manifest, metadata=metadata_objects, rules=rules,
                integrity=checks, run=run_label(),
                take_over=cut.owned or take_over_buckets, key=keys,
            )  # fmt: skip
            show_aftermath(result, kept_as=cut.kept_as)
            tell(RESTORED, target, backup=restored.manifest.id, kept_as=cut.kept_as)
            kept = f"the old database is {cut.kept_as}" if cut.kept_as else "there was none before"
            notes = [f"restored from {restored.manifest.id}", kept, result.summary(), *restored.notes,
                     *_again(planned), cut.lacking]  # fmt: skip
            done = tuple(Outcome(item, "done") for item in planned.items[:1])
            return Report("restore", done, tuple(note for note in notes if note))

        require_settled(in_use, backup)
        if cutover:
            require_owner(database)
        if in_use is None or in_use.unreadable:
            sweep = Sweep(database, (), run_label())
            planned, restored = plan(sweep)
            show_plan(planned, dry_run=not cutover)
            if not cutover:
                return _stays_beside(restored)
            report = apply(sweep, restored, planned)
            return Completed(message=report.summary(), data=report)
        ended = run_planned(
            Work(
                operation="restore", catalog=database, locations=(), caps=caps, plan=plan, apply=apply, scope=target,
                locked=False, always_ask=True, while_frozen=True, lead=LEAD,
            ),
            dry_run=not cutover,
        )  # fmt: skip
        if not cutover and beside:
            return _stays_beside(beside[0])
        if ended.name in ("Denied", "Overtaken"):
            with maintenance(database) as connection:
                drop_database(connection, name)
        return ended


def _again(planned: Plan) -> list[str]:
    """What has to be done once more, for the report."""
    numbers = Counter(item.action for item in planned.items)
    told = {
        "erase again": "jobs were erased since and must be erased again",
        "delete again": "jobs were deleted since and live again: delete them again",
    }
    return [f"{numbers[action]} {words}" for action, words in told.items() if numbers[action]]


def _beside(work: Restoring, name: str) -> Restored:
    """Restored now, or before this run asked for its approval."""
    with maintenance(work.target) as connection:
        note = read_note(connection, name)
        if note.get("ready") is True and note.get("backup") == work.manifest.id and note.get("run") == run_label():
            beside = work.target.named(name)
            upgrade(beside)  # this version may be a newer one
            return Restored(beside, work.manifest, {}, tuple(note.get("notes", ())))
        drop_database(connection, name)
    return restore_beside(work, name, note={"run": run_label()})


@dataclass(frozen=True)
class _Wanted:
    backup: str
    before: datetime | None
    catalog_id: str


def _manifest(
    database: CatalogDatabase, in_use: InUse | None, source: ObjectStore, name: str, wanted: _Wanted
) -> Manifest:
    """The backup that is meant; after an approval the one that was looked at, whatever is newer by now."""
    with maintenance(database) as connection:
        note = read_note(connection, name)
    restored = str(note.get("backup", "")) if note.get("run") == run_label() else ""
    if was_asked() and not restored:
        raise RefusedError(f"the database {name}, which this run restored and asked about, is gone: start it anew")
    found = choose(
        groups_of(source, in_use, wanted.catalog_id), restored or wanted.backup,
        before=None if restored else wanted.before,
    )[1]  # fmt: skip
    if found.manifest is None:
        raise RefusedError(f"backup {found.id} cannot be restored: {found.why_not}")
    return found.manifest


def _cut_over_before(database: CatalogDatabase) -> tuple[str, bool]:
    """The backup that this run has put in the catalog's place already, and whether that one owned the buckets."""
    with maintenance(database) as connection:
        note = read_note(connection, database.database)
    if note.get("run") != run_label():
        return "", False
    return str(note.get("restored", "")), note.get("owned") is True


def _manifest_of(source: ObjectStore, backup: str) -> Manifest | None:
    return next((one.manifest for group in groups_of(source, None, "") for one in group.all if one.id == backup), None)


def _stays_beside(restored: Restored) -> State[Report]:
    steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in restored.seconds.items())
    message = (
        f"backup {restored.manifest.id} is restored beside, as database {restored.database.database} ({steps}), and "
        "compared; the catalog in use is untouched. To take its place run this again with cutover"
    )
    message = "; ".join([message, *restored.notes])
    get_run_logger().info(message)
    return Completed(name="DryRun", message=message, data=None)
