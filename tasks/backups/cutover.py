"""A database that was restored beside takes the catalog's place, while nobody is in either; or nothing has happened."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection

from blocks.catalog import CatalogDatabase
from blocks.catalog.clock import catalog_now
from blocks.catalog.databases import (
    catalog_errors,
    count_tables,
    database_names,
    database_owner,
    drop_database,
    end_sessions,
    is_open,
    maintenance,
    make_read_only,
    read_note,
    set_open,
    swap_names,
    write_note,
)
from blocks.catalog.in_use import InUse, find_in_use
from blocks.catalog.restored import Obligations, freeze, keep_obligations, read_freeze
from blocks.catalog.sweeps import catalog_lock
from blocks.errors import CatalogUnavailableError, RefusedError, StorageError
from blocks.policies import BackupPolicy
from tasks.backups.manifest import Manifest
from tasks.backups.restoring import name_beside, prefix_beside

UNDO_TRIES, UNDO_PAUSE_SECONDS = 20, 3.0


@dataclass(frozen=True)
class CutOver:
    """What took whose place; `kept_as` is the old database, read-only, empty where there was none.

    `owned` says that the buckets were the old one's, so that they are the new one's now. `unknown` names what the
    old one may have been bound to, such as holds, and could not be asked.
    """

    database: str
    kept_as: str
    epoch: int
    owned: bool
    unknown: tuple[str, ...] = ()

    @property
    def lacking(self) -> str:
        """What was not carried over, for a person; empty where nothing is missing."""
        return f"not carried over, because it could not be read: {', '.join(self.unknown)}" if self.unknown else ""


def cut_over(
    target: CatalogDatabase,
    beside: CatalogDatabase,
    manifest: Manifest,
    *,
    run: str,
    wait: timedelta,
    waiting: Callable[[str], None] = lambda by: None,
    even_if_unreadable: bool = False,
) -> CutOver:
    """Freeze the restored catalog, end every session of both, and swap their names in one transaction.

    It waits for sweeps and backups of the catalog, which hold its lock. Where a step fails the old database is let open
    again, and nothing has changed. Killed in the middle, the old database may be left closed: `reopen` lets it open,
    and every restore begins with that.

    Raises:
        SweepBusyError: a sweep still ran after `wait`.
        RefusedError: sessions did not end, the role must not do that, or what the old catalog is bound to cannot be
            read, and that was not allowed for.
        CatalogUnavailableError: the server went away, or the session that holds the lock.
    """
    with catalog_lock(target, manifest.catalog_id, holder=f"restore {run}", wait=wait, waiting=waiting) as lock:
        in_use = find_in_use(target, even_if_unreadable=even_if_unreadable)
        identity = in_use.identity() if in_use is not None else None
        epoch, owned, bound = _unused_epoch(), False, None
        # Another catalog's epochs say nothing about this one's buckets, nor do its holds about these jobs.
        if in_use is not None and (identity is None or identity.catalog_id == manifest.catalog_id):
            epoch = epoch if identity is None else identity.epoch
            if in_use.is_current():
                owned, bound = identity is not None and _owns_buckets(in_use), in_use
            else:
                # Another version's may lack something of what is asked for; it is replaced all the same.
                bound = replace(in_use, as_far_as_it_can_be_read=True)
        epoch = 1 + max(manifest.epoch, epoch)
        beside.transaction(lambda connection: freeze(connection, backup=manifest.id, epoch=epoch, run=run))
        target.disconnect()
        # In the lock's own session: who slept past the lock, and lost it, swaps nothing.
        session = lock.session
        with catalog_errors(target):
            exists = is_open(session, target.database) is not None
            kept_as = _unused_name(session, target) if exists else ""
            unknown: tuple[str, ...] = ()
            try:
                if exists:
                    write_note(session, target.database, {"cutover": run})
                    if bound is None:
                        set_open(session, target.database, is_open=False)
                    else:
                        kept = _close_and_ask(session, bound, manifest.snapshot_at)
                        unknown = kept.unknown
                        beside.transaction(lambda connection: keep_obligations(connection, kept, run=run))
                    end_sessions(session, target.database)
                beside.disconnect()
                end_sessions(session, beside.database)
                swap_names(session, target.database, beside=beside.database, kept_as=kept_as)
            except BaseException:
                if exists:
                    _undo(target, kept_as, run)
                raise
            write_note(session, target.database, {"restored": manifest.id, "run": run, "owned": owned})
            if exists:
                _keep(session, kept_as, manifest.id)
    return CutOver(target.database, kept_as, epoch, owned, unknown)


def _close_and_ask(session: Connection, in_use: InUse, since: datetime) -> Obligations:
    """Let nobody into a catalog, end who is in it, and ask it then what it is bound to: nobody binds it to more."""
    with in_use.last_session() as (last, process):
        set_open(session, in_use.database.database, is_open=False)
        end_sessions(session, in_use.database.database, but=process)
        return last.obligations(since)


def _unused_name(connection: Connection, target: CatalogDatabase) -> str:
    """The name of this second, or of the next one that no earlier cut-over took."""
    at, taken = datetime.now(UTC), set(database_names(connection, prefix_beside(target.database, "before")))
    while (name := name_beside(target.database, "before", f"{at:%Y%m%d%H%M%S}")) in taken:
        at += timedelta(seconds=1)
    return name


def _owns_buckets(in_use: InUse) -> bool:
    """Whether the buckets carry its epoch: not those of a copy that was restored beside the production it comes from,
    and never confirmed."""
    frozen = in_use.ask(read_freeze, None)
    return frozen is None or not frozen.claims_pending


def _undo(target: CatalogDatabase, kept_as: str, run: str) -> None:
    """Let the old database open again, on a session of its own: the one that failed may be gone."""
    for attempt in range(UNDO_TRIES):
        try:
            with maintenance(target) as connection:
                # Only what this run closed, and where it was not swapped: an answer that was lost may have been a yes.
                ours = read_note(connection, target.database).get("cutover") == run
                if ours and is_open(connection, kept_as) is None:
                    set_open(connection, target.database, is_open=True)
                    write_note(connection, target.database, {})
            return
        except CatalogUnavailableError as error:
            if attempt == UNDO_TRIES - 1:
                raise CatalogUnavailableError(
                    f"{target.database} is left closed, because the server went away: when it is back run "
                    "`python -m flows restore --reopen`"
                ) from error
            time.sleep(UNDO_PAUSE_SECONDS)


def reopen(target: CatalogDatabase) -> bool:
    """Let a database open that a killed cut-over left closed; the caller knows that none is under way.

    Also gives the one that was replaced its read-only setting, where the kill came right after the swap.
    """
    with maintenance(target) as connection:
        prefix = prefix_beside(target.database, "before")
        for name in database_names(connection, prefix):
            # Somebody's own `…_before_upgrade` is not one of ours, whatever it is closed for.
            ours = re.fullmatch("[0-9]{14}", name[len(prefix) :]) and "cutover" in read_note(connection, name)
            if ours and is_open(connection, name) is False:
                _keep(connection, name, "")
        if is_open(connection, target.database) is not False or "cutover" not in read_note(connection, target.database):
            return False
        set_open(connection, target.database, is_open=True)
        write_note(connection, target.database, {})
        return True


def require_settled(in_use: InUse | None, wanted: str) -> None:
    """Refuse `latest` while an earlier restore is not finished: that one would be restored again, or what came of it.

    Raises:
        RefusedError: the catalog comes from a backup, and its buckets have not been told.
    """
    # A catalog of another version may know nothing of restores; it is replaced all the same.
    if in_use is None or wanted != "latest" or not in_use.is_current():
        return
    frozen = in_use.ask(read_freeze, None)
    if frozen is not None and frozen.claims_pending:
        raise RefusedError(
            f"the catalog was restored from {frozen.restored_from} at {frozen.since:%Y-%m-%d %H:%M} UTC, and that is "
            "not finished: run confirm-restore with take_over_buckets. To restore another backup name its id"
        )


def require_owner(target: CatalogDatabase) -> None:
    """See that whoever restores is whose the catalog is: all that is restored is theirs, and others are locked out.

    Raises:
        RefusedError: the database is another role's.
    """
    with maintenance(target) as connection:
        owner, role = database_owner(connection, target.database)
    if owner not in ("", role):
        raise RefusedError(
            f"the database {target.database} is {owner}'s, and this is {role}: everything restored would be {role}'s, "
            f"and {owner} could read none of it; restore as {owner}"
        )


def drop_untouched(target: CatalogDatabase, policy: BackupPolicy) -> list[str]:
    """Drop databases of restores that were killed, or that nobody cut over to for the policy's `untouched_days`."""
    with maintenance(target) as connection:
        oldest = catalog_now(connection) - timedelta(days=policy.untouched_days)

    def keep(note: dict[str, object]) -> bool:
        try:
            return note.get("ready") is True and datetime.fromisoformat(str(note.get("at"))) > oldest
        except ValueError:
            return False

    return drop_leftovers(target, "restore", keep=keep)


def drop_leftovers(target: CatalogDatabase, purpose: str, *, keep: Callable[[dict[str, object]], bool]) -> list[str]:
    """Drop databases that killed restores or drills left beside; `keep` is asked with what each says of itself.

    One that says nothing is somebody else's, unless it is empty: a kill came right after it was made.
    """
    dropped = []
    with maintenance(target) as connection:
        prefix = prefix_beside(target.database, purpose)
        for name in database_names(connection, prefix):
            # Somebody's own `…_restore_analysis` is not one of ours.
            if not re.fullmatch(r"[0-9a-f]{8,14}", name[len(prefix) :]):
                continue
            note = read_note(connection, name)
            if keep(note) or (not note and _is_somebodys(target.named(name))):
                continue
            drop_database(connection, name)
            dropped.append(name)
    return dropped


def _is_somebodys(database: CatalogDatabase) -> bool:
    """Whether a database without our note holds something, or is closed to us: then it is not ours to drop."""
    try:
        return count_tables(database) > 0
    except StorageError:
        return True


def _keep(connection: Connection, name: str, replaced_by: str) -> None:
    set_open(connection, name, is_open=True)
    make_read_only(connection, name)
    write_note(connection, name, {"replaced": datetime.now(UTC).isoformat(), "by": replaced_by})


def _unused_epoch() -> int:
    # Where the catalog is lost nobody knows how often it was restored: minutes since 2020 were surely not used before.
    return int((datetime.now(UTC) - datetime(2020, 1, 1, tzinfo=UTC)).total_seconds() // 60)
