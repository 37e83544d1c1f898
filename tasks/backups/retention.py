"""Which backups stay. Pure: what there is, the policy and the time in; a plan out.

Age alone never removes the last good ones: the newest `keep_verified` that were read back whole stay however late it
is, so that neither a clock nor a policy nor weeks of failing nights leave nothing to restore from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime, timedelta

from blocks.errors import StorageError
from blocks.object_store import ObjectStore
from blocks.object_store.transfer import exists
from blocks.policies import BackupPolicy
from blocks.policies.backup import LEAST_VERIFIED
from tasks.backups.listing import Backups, remove_folder, require_full_listing, restoring_since
from tasks.backups.manifest import HOLD, folder_of
from tasks.backups.metadata import remove_unused
from tasks.plans import Item, Outcome, Plan, Report


def plan_retention(backups: Backups, policy: BackupPolicy, now: datetime) -> Plan:
    """What goes (by age), and what stays, each with its rule and reason. `now` is the earlier of two clocks."""
    good = [one for one in backups.all if one.good]
    # Of each kind: backups of the catalog alone, as before an upgrade, must not push out those with metadata objects.
    full = [one for one in good if one.manifest is not None and one.manifest.kind == "full"]
    least = max(policy.keep_verified, LEAST_VERIFIED)
    floor = {one.id for one in (*good[:least], *full[:least])}
    drilled = backups.drilled()
    oldest = now - timedelta(days=policy.keep_days)
    items: list[Item] = []
    skipped: list[Item] = []

    def decide(keep: bool, rule: str, because: str) -> None:
        item = Item("keep" if keep else "remove backup", rule, one.id, because, objects=int(not keep),
                    size_bytes=one.size_bytes)  # fmt: skip
        (skipped if keep else items).append(item)

    for one in backups.all:
        dated = f"from {one.at:%Y-%m-%d %H:%M} UTC"
        if one.hold:
            decide(True, "hold", f"on hold: {one.hold}")
        elif one.manifest is None or one.why_not:
            decide(True, "not understood", one.why_not or "its manifest cannot be read")
        elif one.restoring_at is not None and one.restoring_at > now - timedelta(days=policy.untouched_days):
            decide(True, "restoring", f"a restore began with it at {one.restoring_at:%Y-%m-%d %H:%M} UTC")
        elif one.at > oldest:
            decide(True, "keep_days", dated)
        elif one.id in floor:
            decide(True, "keep_verified", f"{dated}, one of the last {len(floor)} that were verified")
        elif drilled is not None and one.id == drilled.id:
            decide(True, "drilled", f"{dated}, the last one that a drill restored")
        elif len(floor) < LEAST_VERIFIED:
            decide(True, "keep_verified", f"{dated}, and only {len(floor)} backups are verified")
        else:
            decide(False, "keep_days", f"{dated}, older than {policy.keep_days} days")
    return Plan("backup", tuple(items), tuple(skipped))


def apply_retention(
    store: ObjectStore,
    backups: Backups,
    plan: Plan,
    *,
    recorded: Collection[str] = (),
    before_batch: Callable[[], None] = lambda: None,
) -> Report:
    """Remove what was planned, and the metadata objects that only those were made of; the caller holds the lock.

    `recorded` are the backups that the catalog knows of: a listing that leaves one out says nothing of what is unused.
    """
    outcomes = []
    for item in plan.items:
        before_batch()
        try:
            failed = remove_backup(store, backups, item.subject)
        except StorageError as error:
            failed = str(error)
        outcomes.append(
            Outcome(item, "failed", failed) if failed else Outcome(item, "done", "", item.objects, item.size_bytes)
        )
    notes: tuple[str, ...] = ()
    if any(one.result == "done" for one in outcomes):
        gone = {one.item.subject for one in outcomes if one.result == "done"}
        left = Backups(backups.catalog_id, tuple(one for one in backups.all if one.id not in gone))
        try:
            require_full_listing(store, backups, recorded)
            removed = remove_unused(store, left, before_batch=before_batch)
            notes = (f"{removed} metadata objects that no backup needs any more were removed",) if removed else ()
        except StorageError as error:
            notes = (f"metadata objects that no backup needs were left: {error}",)
    return Report("backup", tuple(outcomes), notes)


def remove_backup(store: ObjectStore, backups: Backups, backup: str) -> str:
    """Remove one; returns why it could not be, empty where it is gone."""
    folder = folder_of(backups.catalog_id, backup)
    if exists(store, f"{folder}/{HOLD}"):
        return "it was put on hold meanwhile"
    known = next((one.restoring_at for one in backups.all if one.id == backup), None)
    if restoring_since(store, backups.catalog_id, backup) != known:
        return "a restore of it began meanwhile"
    failed = remove_folder(store, backups.catalog_id, backup)
    return "; ".join(f"{key}: {why}" for key, why in failed.items())
