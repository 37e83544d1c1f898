"""Giving space back: what is due is found, planned, and removed, each rule with its own outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from uuid import UUID

from sqlalchemy import Connection

from blocks.catalog import due, housekeeping, relocations
from blocks.catalog.clock import catalog_now
from blocks.catalog.objects import Extent
from blocks.catalog.trash import Changed, claim_failed, claim_trashed, fail_stuck
from blocks.errors import LockLostError, StorageError
from blocks.object_store.deletion import MOST_KEYS
from blocks.object_store.multipart import abort_multipart_upload, list_multipart_uploads
from blocks.policies import RetentionPolicy
from tasks.layout import is_ours, job_of
from tasks.plans import Item, Outcome, Plan, Report
from tasks.relocation.intents import finish_unfinished
from tasks.removal.aging import Aged, find_aged, remove_aged, still_wanted, under_way
from tasks.removal.cleanup_plan import CleanupFacts, PlaceFacts, intent_subject
from tasks.removal.deletion import apply_erasure
from tasks.removal.purging import PurgeResult, purge_released
from tasks.scratch import find_leftovers, remove_leftover
from tasks.stores import OpenLocation, require_own
from tasks.sweeping import Sweep, check_as_of, customers_batches, job_outcomes, store_clock


def find_due(
    sweep: Sweep, policy: RetentionPolicy, *, as_of: datetime | None = None, dry_run: bool = False
) -> CleanupFacts:
    """Everything that is due, at this moment or as of another one.

    Raises:
        InvalidInputError: `as_of` lies in the future, and this is no dry run.
        RefusedError: PostgreSQL's clock and a store's are far apart.
    """
    clock = sweep.catalog.transaction(catalog_now)
    now = check_as_of(as_of, clock, dry_run=dry_run)
    ahead = now - clock

    def read(connection: Connection) -> CleanupFacts:
        return CleanupFacts(
            now=now,
            failed=tuple(due.failed_jobs(connection, now - timedelta(days=policy.failed_days))),
            trashed=tuple(due.trashed_jobs(connection, now)),
            erasures=tuple(due.erasures(connection)),
            stuck=tuple(due.stuck_jobs(connection, now - timedelta(hours=policy.stuck_hours))),
            abandoned=tuple(due.abandoned_writings(connection, now - timedelta(hours=policy.abandoned_hours))),
            reservations=tuple(due.lapsed_reservations(connection, now)),
            uploads=tuple(due.expired_uploads(connection, now - timedelta(days=policy.temp_days))),
            intents=tuple(
                relocations.find_unfinished(
                    connection,
                    now=now,
                    abandoned_before=now - timedelta(hours=policy.abandoned_hours),
                    # Those of a store that is down would leave no room for others.
                    location_ids=[place for location in sweep.reached for place in location.place.shelf],
                )
            ),
        )

    # First: what fails there is not reached any more.
    places = tuple(found for _, found in sweep.each(lambda location: _place_facts(sweep, location, policy, ahead)))
    facts = sweep.catalog.transaction(read)
    leftovers = find_leftovers(timedelta(days=policy.scratch_days), now=now)
    return replace(facts, places=places, leftovers=tuple(leftovers))


def _place_facts(sweep: Sweep, location: OpenLocation, policy: RetentionPolicy, ahead: timedelta) -> PlaceFacts:
    at = store_clock(sweep.catalog, location) + ahead
    oldest = at - timedelta(days=policy.multipart_days)
    aged: list[Aged] = []
    for batch in _batches(find_aged(location.store, policy, now=at, most=due.MOST)):
        wanted = still_wanted(sweep.catalog, location, [one.listed.key for one in batch])
        aged += [one for one in batch if one.listed.key not in wanted]
    begun = list_multipart_uploads(location.store) if location.capabilities.lists_uploads else ()
    old = [*islice((one for one in begun if one.initiated_at <= oldest and is_ours(one.key)), due.MOST)]
    going_on = under_way(sweep.catalog, location, [one.key for one in old])
    return PlaceFacts(
        place=location.place.name,
        aged=tuple(aged),
        multiparts=tuple(one for one in old if one.key not in going_on),
        released=sweep.catalog.transaction(lambda connection: due.released_extent(connection, location.place.shelf)),
    )


def _batches(aged: Iterator[Aged]) -> Iterator[list[Aged]]:
    while some := list(islice(aged, MOST_KEYS)):
        yield some


def apply_cleanup(sweep: Sweep, policy: RetentionPolicy, facts: CleanupFacts, plan: Plan) -> Report:
    """Do what was planned, each item checked again as it is done; returns every item's outcome."""
    outcomes: list[Outcome] = []

    def say(more: Sequence[Outcome]) -> None:
        outcomes.extend(more)
        sweep.progress(len(more))

    claims: list[Outcome] = []
    for item_batch in customers_batches([one for one in plan.items if one.owner and one.action != "erase job"]):
        sweep.before_batch()
        changed = _attempted(item_batch, lambda batch: _change_rows(sweep, policy, facts, batch))
        claims += [one for one in changed if one.item.action in _RELEASES]
        say([one for one in changed if one.item.action not in _RELEASES])
    intents = [one for one in plan.items if one.action == "finish intents"]
    say(_finish_intents(sweep, facts, intents))
    say(_remove_released(sweep, claims, [one for one in plan.items if one.action == "remove bytes"]))
    if erasures := [one for one in plan.items if one.action == "erase job"]:
        # With some stores only it is refused: the rest of the night goes on, and the next whole one erases.
        say(_attempted(erasures, lambda some: list(apply_erasure(sweep, Plan("cleanup", tuple(some))).outcomes)))
    # What was done before is told also where no store answers any more.
    sweep.each(lambda location: _clean_place(sweep, location, facts, plan, say), some=False)
    if sweep.left_out:
        told = {one.item for one in outcomes}
        say([
            Outcome(item, "failed", f"{item.place} was left out: {sweep.left_out[item.place]}")
            for item in plan.items if item.place in sweep.left_out and item not in told
        ])  # fmt: skip
    say([_remove_folder(one) for one in plan.items if one.action == "remove folder"])
    sweep.catalog.transaction(
        lambda connection: relocations.forget_done(connection, facts.now - timedelta(days=FORGET_INTENTS_DAYS))
    )
    keep = timedelta(days=policy.log_days)
    sweep.catalog.transaction(lambda connection: housekeeping.tidy_totals(connection, keep=keep))
    months = sweep.catalog.transaction(lambda connection: housekeeping.turn_log(connection, keep_days=policy.log_days))
    notes: tuple[str, ...] = (f"{len(months)} months of the log removed",) if months else ()
    if months is None:
        notes = ("somebody reads the log: its months are turned the next night",)
    return Report("cleanup", tuple(outcomes), notes)


FORGET_INTENTS_DAYS = 30
"""What is done is in the log; the intents themselves serve nobody any more."""
_RELEASES = ("purge job", "give up writing", "fail job")


def _attempted(items: Sequence[Item], work: Callable[[Sequence[Item]], list[Outcome]]) -> list[Outcome]:
    try:
        return work(items)
    except LockLostError:
        raise
    except StorageError as error:
        return [Outcome(item, "failed", str(error)) for item in items]


def _change_rows(sweep: Sweep, policy: RetentionPolicy, facts: CleanupFacts, items: Sequence[Item]) -> list[Outcome]:
    first, now = items[0], facts.now
    if first.action == "release quota":
        ended = {one.customer_id: one for one in facts.reservations}
        sweep.catalog.transaction(
            lambda connection: housekeeping.end_lapsed(connection, first.owner, ended[first.owner].reservations)
        )
        return [Outcome(first, "done")]
    if first.action == "close form":
        closed = sweep.catalog.transaction(
            lambda connection: housekeeping.close_forms(connection, first.owner, [UUID(item.subject) for item in items])
        )
        return [
            Outcome(item, "done") if UUID(item.subject) in closed else Outcome(item, "skipped", "completed meanwhile")
            for item in items
        ]
    job_ids = [UUID(item.subject) for item in items]

    def change(connection: Connection) -> Changed:
        if first.action == "fail job":
            idle = now - timedelta(hours=policy.stuck_hours)
            return fail_stuck(connection, first.owner, job_ids, idle_since=idle, run=sweep.run, rule=first.rule)
        if first.action == "give up writing":
            before = now - timedelta(hours=policy.abandoned_hours)
            return housekeeping.give_up_writings(connection, first.owner, job_ids, before=before, run=sweep.run)
        if first.rule == "trash_days":
            return claim_trashed(connection, first.owner, job_ids, due_at=now, run=sweep.run, rule=first.rule)
        before = now - timedelta(days=policy.failed_days)
        return claim_failed(connection, first.owner, job_ids, failed_before=before, run=sweep.run, rule=first.rule)

    return job_outcomes(items, sweep.catalog.transaction(change))


def _remove_released(sweep: Sweep, claims: Sequence[Outcome], leftovers: Sequence[Item]) -> list[Outcome]:
    """The bytes of everything that is released, whoever did it: this run, or one that was killed."""
    freed: dict[UUID, Extent] = {}
    failed: dict[str, str] = {}
    outcomes: list[Outcome] = []
    claimed = {UUID(one.item.subject) for one in claims}

    def purge(location: OpenLocation) -> PurgeResult:
        require_own(sweep.catalog, location)
        return purge_released(sweep.catalog, location, None, run=sweep.run, before_batch=sweep.before_batch)

    for location, purged in sweep.each(purge):
        failed |= purged.failed
        others = Extent()
        for job_id, extent in purged.deleted.items():
            if job_id in claimed:
                freed[job_id] = freed.get(job_id, Extent()) + extent
            else:
                others += extent
        for item in leftovers:
            if item.place == location.place.name:
                result = "failed" if purged.failed else "done"
                outcomes.append(Outcome(item, result, _first(purged.failed), others.objects, others.stored_bytes))
    kept_of = {job_of(key): why for key, why in failed.items()}
    for claim in claims:
        # One that two rules claim is counted once.
        extent = freed.pop(UUID(claim.item.subject), Extent())
        kept = kept_of.get(UUID(claim.item.subject), "")
        result = "failed" if kept and claim.result == "done" else claim.result
        outcomes.append(Outcome(claim.item, result, kept or claim.error, extent.objects, extent.stored_bytes))
    return outcomes


def _finish_intents(sweep: Sweep, facts: CleanupFacts, items: Sequence[Item]) -> list[Outcome]:
    finished = finish_unfinished(sweep, facts.intents)
    keys: dict[str, list[str]] = {}
    for one in facts.intents:
        keys.setdefault(intent_subject(one.state, one.location_id), []).append(one.key)
    gone = {intent_subject(state, place): extent for (place, state), extent in finished.gone.items()}
    outcomes = []
    for item in items:
        extent = gone.get(item.subject, Extent())
        failed = {key: finished.failed[key] for key in keys[item.subject] if key in finished.failed}
        if not extent.objects and not failed:
            outcomes.append(Outcome(item, "skipped", "finished meanwhile"))
        else:
            result = "failed" if failed else "done"
            outcomes.append(Outcome(item, result, _first(failed), extent.objects, extent.stored_bytes))
    return outcomes


def _clean_place(
    sweep: Sweep, location: OpenLocation, facts: CleanupFacts, plan: Plan, say: Callable[[Sequence[Outcome]], None]
) -> None:
    """Each batch is told when it is done: what went before the store failed did go."""
    name = location.place.name
    items = {one.subject: one for one in plan.items if one.action == "remove object" and one.place == name}
    (place,) = (one for one in facts.places if one.place == name)
    aged = [one for one in place.aged if one.listed.key in items]
    sizes = {one.listed.key: one.listed.size_bytes for one in aged}
    for start in range(0, len(aged), MOST_KEYS):
        sweep.before_batch()
        outcomes = []
        for key, result, error in remove_aged(sweep.catalog, location, aged[start : start + MOST_KEYS], run=sweep.run):
            size = sizes[key] if result == "done" else 0
            outcomes.append(Outcome(items[key], result, error, int(result == "done"), size))
        say(outcomes)
    for item in plan.items:
        if item.action == "abort upload" and item.place == name:
            sweep.before_batch()
            say([_abort(sweep, location, item)])


def _abort(sweep: Sweep, location: OpenLocation, item: Item) -> Outcome:
    key, _, upload_id = item.subject.rpartition(" ")
    if under_way(sweep.catalog, location, [key]):
        return Outcome(item, "skipped", "under way")
    try:
        abort_multipart_upload(location.store, key, upload_id)
    except StorageError as error:
        return Outcome(item, "failed", str(error))
    return Outcome(item, "done")


def _remove_folder(item: Item) -> Outcome:
    try:
        remove_leftover(Path(item.subject))
    except OSError as error:
        return Outcome(item, "failed", f"{error.strerror or error}")
    return Outcome(item, "done", size_bytes=item.size_bytes)


def _first(failed: dict[str, str]) -> str:
    return next((f"{len(failed)} keys, the first {key}: {why}" for key, why in failed.items()), "")
