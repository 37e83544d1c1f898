"""Repairs of what a reconciliation found: each finding is looked at once more at the moment it is mended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from blocks.catalog import counters, drift
from blocks.catalog.drift import Content, Fenced
from blocks.errors import NotFoundError, RefusedError, StorageError, StoreUnavailableError
from blocks.object_store.clock import store_now
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import fingerprint, hash_object, head
from blocks.policies import IntegrityPolicy
from tasks.content import hash_content
from tasks.parallel import in_parallel
from tasks.plans import Item, Outcome, Plan, Report
from tasks.reconcile import Drift, Finding, explain_counters
from tasks.stores import OpenLocation, require_own
from tasks.sweeping import Sweep


def apply_repairs(
    sweep: Sweep, policy: IntegrityPolicy, found: Sequence[Drift], plan: Plan, *, grace: timedelta
) -> Report:
    """Do what was planned, each finding looked at once more; one that is not so any more is skipped."""
    outcomes: list[Outcome] = []
    planned = {(item.place, item.subject): item for item in plan.items}
    places = {location.place.name: location for location in sweep.locations}
    for drifted in found:
        location = places[drifted.place]
        for what in ("missing", "mismatch", "returned", "healing", "orphan"):
            findings = [one for one in drifted.findings if one.what == what]
            for start in range(0, len(findings), 500):
                sweep.before_batch()
                batch = findings[start : start + 500]
                items = [planned[drifted.place, one.key] for one in batch]
                try:
                    results = _repair(sweep, location, policy, what, batch, grace)
                except (RefusedError, StoreUnavailableError) as error:
                    results = [("failed", str(error))] * len(batch)
                outcomes += [_outcome(item, *result) for item, result in zip(items, results, strict=True)]
                sweep.progress(len(batch))
    for item in plan.items:
        if item.action == "repair counters":
            repaired = sweep.catalog.transaction(
                lambda connection, owner=item.owner: counters.repair_counters(connection, owner, run=sweep.run)  # type: ignore[misc]  # bound here
            )
            outcomes.append(Outcome(item, "done", explain_counters(repaired)))
    return Report("reconcile-quota", tuple(outcomes))


def _outcome(item: Item, result: str, why: str) -> Outcome:
    # Only an orphan's item counts an object and bytes: nothing else gives any back.
    done = result == "done"
    return Outcome(item, result, why, item.objects if done else 0, item.size_bytes if done else 0)


def _repair(
    sweep: Sweep, location: OpenLocation, policy: IntegrityPolicy, what: str, batch: Sequence[Finding], grace: timedelta
) -> list[tuple[str, str]]:
    if what == "missing":
        return _mark(sweep, location, batch, "missing", "missing")
    if what == "orphan":
        return _remove_orphans(sweep, location, batch, grace)
    if what == "healing":
        return [_heal(sweep, location, one) for one in batch]
    # What came back, or looks different, is read: only its content says what it is.
    states = in_parallel(lambda one: _content_state(sweep, location, one), batch, threads=policy.parallel_transfers)
    results: dict[str, tuple[str, str]] = {}
    for state in ("live", "corrupt", "missing"):
        some = [one for one, seen in zip(batch, states, strict=True) if seen == state]
        results |= dict(zip([one.key for one in some], _mark(sweep, location, some, state, what), strict=True))
    return [results.get(one.key, ("skipped", "changed meanwhile, or could not be read")) for one in batch]


def _mark(
    sweep: Sweep, location: OpenLocation, batch: Sequence[Finding], state: str, rule: str
) -> list[tuple[str, str]]:
    if state == "missing":
        there = in_parallel(lambda one: fingerprint(location.store, one.key), batch, threads=8)
        batch_now = [one for one, seen in zip(batch, there, strict=True) if seen is None]
    else:
        batch_now = list(batch)
    marked: set[UUID] = set()
    for customer_id in sorted({one.customer_id for one in batch_now}):
        fenced = [
            Fenced(one.object_id, one.generation)
            for one in batch_now
            if one.customer_id == customer_id and one.object_id is not None
        ]
        marked |= sweep.catalog.transaction(
            lambda connection, owner=customer_id, rows=fenced: drift.mark(  # type: ignore[misc]  # bound here
                connection, owner, rows, state=state, run=sweep.run, rule=rule
            )
        )
    return [("done", f"now {state}") if one.object_id in marked else ("skipped", "changed meanwhile") for one in batch]


def _content_state(sweep: Sweep, location: OpenLocation, one: Finding) -> str:
    row = _row(sweep, one)
    if row is None or row.generation != one.generation:
        return ""
    try:
        sound = hash_content(location.store, row.key, row.codec, at_most=row.size_bytes) == (row.sha256, row.size_bytes)
        return "live" if sound else "corrupt"
    except NotFoundError:
        return "missing"
    except StorageError:
        return ""


def _row(sweep: Sweep, one: Finding) -> Content | None:
    if one.object_id is None:
        return None
    wanted = [one.object_id]
    return sweep.catalog.transaction(lambda connection: drift.content_of(connection, wanted)).get(wanted[0])


def _heal(sweep: Sweep, location: OpenLocation, one: Finding) -> tuple[str, str]:
    row = _row(sweep, one)
    if row is None or not row.unsound:
        return "skipped", "its row is sound"
    sha256, size = hash_object(location.store, one.key)
    if (sha256, size) != (row.sha256, row.size_bytes):
        return "skipped", "its bytes are not what its metadata say"
    if sweep.catalog.transaction(lambda connection: drift.named_keys(connection, location.place.id, [one.key])):
        return "skipped", "another row names it by now"
    etag = head(location.store, one.key).etag
    healed = sweep.catalog.transaction(
        lambda connection: drift.adopt(
            connection, location.place.id, row, key=one.key, etag=etag, size_bytes=size, run=sweep.run
        )
    )
    return ("done", "its row points at it now") if healed else ("skipped", "changed meanwhile")


def _remove_orphans(
    sweep: Sweep, location: OpenLocation, batch: Sequence[Finding], grace: timedelta
) -> list[tuple[str, str]]:
    """The one removal without a row: only past the grace, and only what nobody names at this very moment."""
    require_own(sweep.catalog, location)
    oldest = store_now(location.store) - grace
    seen = in_parallel(lambda one: fingerprint(location.store, one.key), batch, threads=16)
    named = sweep.catalog.transaction(
        lambda connection: drift.named_keys(connection, location.place.id, [one.key for one in batch])
    )
    results: dict[str, tuple[str, str]] = {}
    for one, now in zip(batch, seen, strict=True):
        if now is None:
            results[one.key] = ("skipped", "gone already")
        elif now[1] > oldest:
            results[one.key] = ("skipped", "written anew meanwhile")
        elif one.key in named:
            results[one.key] = ("skipped", "a row names it by now")
    keys = [one.key for one in batch if one.key not in results]
    failed = delete_keys(location.store, keys)
    gone = [one for one in batch if one.key in set(keys) - failed.keys()]
    sweep.catalog.transaction(
        lambda connection: drift.record_orphans(connection, [(one.key, one.size_bytes) for one in gone], run=sweep.run)
    )
    return [
        results.get(one.key) or (("failed", failed[one.key]) if one.key in failed else ("done", "")) for one in batch
    ]
