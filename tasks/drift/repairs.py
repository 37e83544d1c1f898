"""Repairs of what a reconciliation found: each finding is looked at once more at the moment it is mended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from blocks.catalog import counters, drift
from blocks.catalog.content import Content, content_of
from blocks.catalog.drift import Fenced
from blocks.catalog.due import held_jobs
from blocks.catalog.log import Unnamed
from blocks.catalog.objects import NewObject
from blocks.errors import (
    ForeignCatalogError,
    LockLostError,
    NotFoundError,
    OvertakenError,
    SourceChangedError,
    StorageError,
)
from blocks.object_store.transfer import fingerprint
from blocks.policies import IntegrityPolicy
from tasks.content import hash_content
from tasks.drift.judge import Drift, Finding, explain_counters
from tasks.drift.reconcile import look_at, orphans_before
from tasks.intake.healing import heal
from tasks.layout import job_of
from tasks.parallel import in_parallel
from tasks.plans import Item, Outcome, Plan, Report
from tasks.removal.unnamed import remove_unnamed
from tasks.stores import OpenLocation, require_own
from tasks.sweeping import Sweep
from tasks.writing import StoredBlob


def apply_repairs(
    sweep: Sweep, policy: IntegrityPolicy, found: Sequence[Drift], plan: Plan, *, grace: timedelta
) -> Report:
    """Do what was planned, each finding looked at once more; one that is not so any more is skipped."""
    outcomes: list[Outcome] = []
    planned = {(item.place, item.subject): item for item in plan.items}
    places = {location.place.name: location for location in sweep.locations}
    for drifted in found:
        if drifted.refused:
            outcomes.append(Outcome(planned[drifted.place, drifted.place], "failed", drifted.refused))
    # One after the other for all places: what is missing in one may be healed by what lies in another, and only what
    # nobody needed for that is removed.
    for what in ("missing", "mismatch", "returned", "healing", "transition", "orphan"):
        for drifted in found:
            location = places[drifted.place]
            findings = [one for one in drifted.findings if one.what == what]
            for start in range(0, len(findings), 500):
                sweep.before_batch()
                batch = findings[start : start + 500]
                items = [planned[drifted.place, one.key] for one in batch]
                try:
                    results = _repair(sweep, location, policy, what, batch, grace)
                except (LockLostError, ForeignCatalogError):
                    raise
                except StorageError as error:
                    results = [("failed", str(error))] * len(batch)
                outcomes += [_outcome(item, *result) for item, result in zip(items, results, strict=True)]
                sweep.progress(len(batch))
    for item in plan.items:
        if item.action == "repair counters":
            sweep.before_batch()
            repaired = sweep.catalog.transaction(
                lambda connection, owner=item.owner: counters.repair_counters(connection, owner, run=sweep.run)  # type: ignore[misc]  # bound here
            )
            outcomes.append(Outcome(item, "done", explain_counters(repaired)))
    return Report("reconcile-quota", tuple(outcomes))


def _outcome(item: Item, result: str, why: str) -> Outcome:
    # Nothing but a removed orphan gives bytes back.
    done = result == "done" and item.action == "remove orphan"
    return Outcome(item, result, why, item.objects if done else 0, item.size_bytes if done else 0)


def _repair(
    sweep: Sweep, location: OpenLocation, policy: IntegrityPolicy, what: str, batch: Sequence[Finding], grace: timedelta
) -> list[tuple[str, str]]:
    if what == "missing":
        return _mark(sweep, location, batch, "missing", "missing")
    if what == "orphan":
        return _remove_orphans(sweep, location, batch, policy, grace)
    if what == "healing":
        return [_heal(sweep, location, one) for one in batch]
    if what == "transition":
        return _follow(sweep, batch)
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


def _follow(sweep: Sweep, batch: Sequence[Finding]) -> list[tuple[str, str]]:
    """The server moved these to another class of the same bucket: their rows say so from now on."""
    followed: set[UUID] = set()
    for customer_id in sorted({one.customer_id for one in batch}):
        moved = {
            Fenced(one.object_id, one.generation): one.location_id
            for one in batch
            if one.customer_id == customer_id and one.object_id is not None
        }
        followed |= sweep.catalog.transaction(
            lambda connection, owner=customer_id, rows=moved: drift.follow_classes(  # type: ignore[misc]  # bound here
                connection, owner, rows, run=sweep.run
            )
        )
    return [("done", one.because) if one.object_id in followed else ("skipped", "changed meanwhile") for one in batch]


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
    return sweep.catalog.transaction(lambda connection: content_of(connection, wanted)).get(wanted[0])


def _heal(sweep: Sweep, location: OpenLocation, one: Finding) -> tuple[str, str]:
    """A copy under a fresh key: whoever still means to remove the orphan hits bytes that nobody points at."""
    row = _row(sweep, one)
    if row is None or not row.unsound:
        return "skipped", "its row is sound, or in the trash"
    wanted = NewObject(row.id, row.job_id, row.kind, row.name, location.place.id, row.key, row.size_bytes, row.sha256)
    # What is compressed is never as large as its content.
    codec = "identity" if one.size_bytes == row.size_bytes else "zstd"
    source = StoredBlob(one.key, codec, one.size_bytes)
    try:
        heal(sweep.catalog, location, row.customer_id, wanted, row.generation, source, run=sweep.run, rule="orphan")
    except SourceChangedError:
        return "skipped", "its bytes are not those of the row whose id it carries"
    except (NotFoundError, OvertakenError) as error:
        return "skipped", str(error)
    except (LockLostError, ForeignCatalogError):
        raise
    except StorageError as error:  # the others of its batch are healed all the same
        return "failed", str(error)
    return "done", "its content is the row's again"


def _remove_orphans(
    sweep: Sweep, location: OpenLocation, batch: Sequence[Finding], policy: IntegrityPolicy, grace: timedelta
) -> list[tuple[str, str]]:
    """The one removal without a row: only past the grace, and only what nobody names or needs at this very moment."""
    require_own(sweep.catalog, location)
    oldest = orphans_before(sweep.catalog, location, grace)
    seen = in_parallel(lambda one: look_at(location, one.key), batch, threads=policy.parallel_transfers)
    rows = sweep.catalog.transaction(
        lambda connection: content_of(connection, [now.object_id for now in seen if now and now.object_id])
    )
    named = sweep.catalog.transaction(lambda connection: drift.named_keys(connection, [one.key for one in batch]))
    jobs = [job for job in (job_of(one.key) for one in batch) if job is not None]
    held = sweep.catalog.transaction(lambda connection: held_jobs(connection, jobs))
    results: dict[str, tuple[str, str]] = {}
    for one, now in zip(batch, seen, strict=True):
        row = rows.get(now.object_id) if now is not None and now.object_id is not None else None
        if now is None:
            results[one.key] = ("skipped", "gone already")
        elif now.last_modified > oldest:
            results[one.key] = ("skipped", "written anew meanwhile")
        elif one.key in named:
            results[one.key] = ("skipped", "a row names it by now")
        elif job_of(one.key) in held:
            results[one.key] = ("skipped", "its job is on hold by now")
        elif row is not None and row.state != "live":
            results[one.key] = ("skipped", f"row {row.id}, which it carries, is {row.state}: it may be its only copy")
    gone = [one for one in batch if one.key not in results]
    orphans = [Unnamed(one.key, "orphan_grace_hours", one.size_bytes) for one in gone]
    failed = remove_unnamed(sweep.catalog, location.store, orphans, operation="remove-orphan", run=sweep.run)
    return [
        results.get(one.key) or (("failed", failed[one.key]) if one.key in failed else ("done", "")) for one in batch
    ]
