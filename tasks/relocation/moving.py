"""From a policy's decisions to batches of moves, and from their outcomes to a report: shared by all that relocates.

A batch is values only, so that it can run on another machine; what it names is read again when its turn comes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Literal
from uuid import UUID

from sqlalchemy import Connection

from blocks.catalog import CatalogDatabase
from blocks.catalog.content import Content
from blocks.catalog.moving import (
    MovedBefore,
    Wanted,
    forget_marks,
    mark_compressed,
    mark_tiered,
    moved_before,
    objects_of,
    still_idle,
)
from blocks.catalog.relocations import LIVE, LIVE_OR_TRASHED
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import put_bytes, put_stream, read_stream
from blocks.policies import GIB, RelocationPolicy
from tasks.layout import UPLOADS
from tasks.parallel import ahead
from tasks.plans import Item, Outcome, Plan, Report
from tasks.relocation.relocate import Relocated, Why, relocate
from tasks.relocation.rewriting import Target
from tasks.stores import Locations, OpenLocation

ENOUGH_BATCHES = 50
"""They tell how far a run is; each is a task run, which costs Prefect some tens of milliseconds of a processor."""
LARGER = 5
"""A batch may have so many times the policy's objects where that makes fewer of them; it works in chunks anyway."""
MOST_BATCHES = 240
"""However many objects there are."""
BATCH_BYTES = 32 * GIB
"""However few: a terabyte of videos is no more than five hundred of them."""
COMPRESSED = "compressed"
"""What a job is marked as, beside the tiers."""


@dataclass(frozen=True)
class Mark:
    """What a job is marked as when all of its moves went well: if nobody has asked for it since `idle_before`, and
    nothing of it changed since `planned_at`."""

    what: str
    idle_before: datetime
    planned_at: datetime


@dataclass(frozen=True)
class Recipe:
    """What is done to the objects of a job: which ones, where to, how they are stored there, and why."""

    wanted: Wanted
    target: str
    operation: str
    rule: str
    codec: str | None = None
    level: int = 19
    least_gain_percent: int = 5
    idle_before: datetime | None = None
    """Jobs that were asked for since are left alone when their turn comes."""


@dataclass(frozen=True)
class Move:
    """One recipe for one job; so many objects and bytes as stored were there when it was planned.

    `mark` is for when all went well.
    """

    job_id: UUID
    objects: int
    stored_bytes: int
    recipe: Recipe
    mark: Mark | None = None


@dataclass(frozen=True)
class MoveBatch:
    """Jobs of one recipe that go through together; `records` is where a line for each of their objects is written.

    What its run has moved of them from `since` on was moved by an earlier try of this batch.
    """

    number: int
    job_ids: tuple[UUID, ...]
    recipe: Recipe
    run: str
    records: str = ""
    since: datetime | None = None


@dataclass
class JobMoved:
    """What became of a job's objects, bytes as stored; `error` is the first reason of those that are not moved."""

    moved: int = 0
    skipped: int = 0
    changed: int = 0
    failed: int = 0
    before_bytes: int = 0
    after_bytes: int = 0
    error: str = ""

    def add(self, one: Relocated) -> None:
        """Count one object's outcome."""
        self.moved += one.result == "moved"
        self.skipped += one.result == "skipped"
        self.changed += one.result == "changed"
        self.failed += one.result == "failed"
        self.before_bytes += one.before_bytes if one.result == "moved" else 0
        self.after_bytes += one.after_bytes
        if one.error and (not self.error or one.result == "failed"):
            self.error = f"{one.name}: {one.error}"

    def join(self, other: JobMoved) -> None:
        """Count another batch's outcomes of the same job."""
        for name in ("moved", "skipped", "changed", "failed", "before_bytes", "after_bytes"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.error = other.error if other.failed or not self.error else self.error


@dataclass(frozen=True)
class BatchMoved:
    """What became of a batch, by job. It travels between processes: values only."""

    number: int
    jobs: dict[UUID, JobMoved] = field(default_factory=dict)
    records: str = ""


def split(
    moves: Sequence[Move], policy: RelocationPolicy, *, run: str, records: str = "", since: datetime | None = None
) -> list[MoveBatch]:
    """Moves of one recipe together, about as many objects in each batch, and no more batches than a run should have.

    A batch is no larger than `BATCH_BYTES` where there are that many: between two, the sweep's lock is looked at.

    With `since`, the time before they begin by PostgreSQL's clock, a batch can be tried again.
    """
    total = sum(move.objects for move in moves)
    fewer = min(-(-total // ENOUGH_BATCHES), LARGER * policy.batch_objects)
    size = max(policy.batch_objects, fewer, -(-total // MOST_BATCHES))
    size_bytes = max(BATCH_BYTES, -(-sum(move.stored_bytes for move in moves) // MOST_BATCHES))
    batches: list[MoveBatch] = []
    by_recipe: dict[Recipe, list[Move]] = {}
    for move in moves:
        by_recipe.setdefault(move.recipe, []).append(move)
    for recipe, own in by_recipe.items():
        jobs: list[UUID] = []
        objects = stored_bytes = 0
        for move in own:
            if jobs and (objects + move.objects > size or stored_bytes + move.stored_bytes > size_bytes):
                batches.append(MoveBatch(len(batches), tuple(jobs), recipe, run, records, since))
                jobs, objects, stored_bytes = [], 0, 0
            jobs.append(move.job_id)
            objects += move.objects
            stored_bytes += move.stored_bytes
        batches.append(MoveBatch(len(batches), tuple(jobs), recipe, run, records, since))
    return batches


def move_batch(
    catalog: CatalogDatabase,
    locations: Locations,
    policy: RelocationPolicy,
    batch: MoveBatch,
) -> BatchMoved:
    """Relocate what is there of these jobs by now; what an earlier try of this batch has moved counts as moved.

    A job that was asked for before its turn is left alone; one that is begun is finished, since streams move whole.
    """
    recipe = batch.recipe
    begun: set[UUID] = set()

    def still_wanted(chunk: Sequence[Content]) -> Sequence[Content]:
        idle_before = recipe.idle_before
        if idle_before is None:
            return chunk
        new = list({row.job_id for row in chunk} - begun)
        begun.update(catalog.transaction(lambda connection: still_idle(connection, new, idle_before)))
        return [row for row in chunk if row.job_id in begun]

    def read(connection: Connection) -> tuple[list[MovedBefore], list[Content]]:
        before: list[MovedBefore] = []
        if batch.since is not None:
            before = moved_before(connection, batch.job_ids, recipe.wanted, run=batch.run, since=batch.since)
        return before, objects_of(connection, batch.job_ids, recipe.wanted)

    before, rows = catalog.transaction(read)
    target = Target(locations.named(recipe.target), recipe.codec, recipe.level, recipe.least_gain_percent)
    why = Why(recipe.operation, recipe.rule, batch.run)
    movable = LIVE_OR_TRASHED if "trashed" in recipe.wanted.states else LIVE
    outcomes = [
        Relocated(one.object_id, one.job_id, one.name, "moved", "", one.before_bytes, one.after_bytes) for one in before
    ]
    outcomes += relocate(catalog, locations, policy, rows, target, why, movable=movable, still_wanted=still_wanted)
    outcomes = [_nameless(one) for one in outcomes]
    jobs: dict[UUID, JobMoved] = {job_id: JobMoved() for job_id in batch.job_ids}
    for one in outcomes:
        jobs[one.job_id].add(one)
    records = ""
    if batch.records:
        records = f"{batch.records}/part-{batch.number:05d}.csv"
        lay = {one.object_id: (one.old_location_id, one.old_key) for one in before}
        lay |= {row.id: (row.location_id, row.key) for row in rows}
        lines = [
            _record(one, locations.of(lay[one.object_id][0]).place.name, lay[one.object_id][1], recipe.target)
            for one in outcomes
        ]
        put_bytes(target.location.store, records, _csv(lines), {"Content-Type": "text/csv"})
    return BatchMoved(batch.number, jobs, records)


def given_up(batch: MoveBatch, moves: Sequence[Move], error: str) -> BatchMoved:
    """What a batch comes to whose outcome nobody knows: all that it was to move counts as failed, for the next run."""
    planned = {move.job_id: move.objects for move in moves if move.recipe == batch.recipe}
    return BatchMoved(batch.number, {job_id: JobMoved(failed=planned[job_id], error=error) for job_id in batch.job_ids})


def sum_up(results: Sequence[BatchMoved]) -> dict[UUID, JobMoved]:
    """What became of each job, over all of its batches."""
    jobs: dict[UUID, JobMoved] = {}
    for result in results:
        for job_id, one in result.jobs.items():
            jobs.setdefault(job_id, JobMoved()).join(one)
    return jobs


def forget_changed(results: Sequence[BatchMoved], moves: Sequence[Move]) -> None:
    """What had changed meanwhile in these jobs is looked at again: what is left of them then, that pass tells."""
    again = {move.job_id for move in moves}
    for result in results:
        for job_id in again & result.jobs.keys():
            result.jobs[job_id].changed = 0


def look_anew(catalog: CatalogDatabase, what: Literal["tier", "compressed_at"]) -> None:
    """Forget of all jobs that a nightly flow is through with them, as after its policy was changed."""
    after: UUID | None = UUID(int=0)
    while after is not None:
        after = catalog.transaction(lambda connection, last=after: forget_marks(connection, what, after=last))  # type: ignore[misc]  # bound here


def mark_through(
    catalog: CatalogDatabase,
    moves: Sequence[Move],
    jobs: Mapping[UUID, JobMoved],
    settled: Mapping[Mark, Sequence[UUID]] = MappingProxyType({}),
) -> None:
    """Jobs all of whose moves went well, or that had none to make, need not be looked at again until they change."""
    through = {mark: list(ids) for mark, ids in settled.items()}
    for move in moves:
        job = jobs.get(move.job_id)
        if move.mark is not None and job is not None and not job.failed and not job.changed:
            through.setdefault(move.mark, []).append(move.job_id)

    def note(connection: Connection) -> None:
        for mark, ids in through.items():
            if mark.what == COMPRESSED:
                mark_compressed(connection, ids, idle_before=mark.idle_before, planned_at=mark.planned_at)
            else:
                mark_tiered(connection, ids, mark.what, idle_before=mark.idle_before, planned_at=mark.planned_at)

    if through:
        catalog.transaction(note)


def report_moves(
    operation: str, plan: Plan, jobs: Mapping[UUID, JobMoved], *, saved: bool, notes: Sequence[str] = ()
) -> Report:
    """Every item's outcome. Its bytes are what was moved, or with `saved` what came back by it."""
    outcomes = tuple(_outcome(item, jobs.get(UUID(item.subject)), saved) for item in plan.items)
    return Report(operation, outcomes, tuple(notes))


def _outcome(item: Item, job: JobMoved | None, saved: bool) -> Outcome:
    if job is None:
        return Outcome(item, "failed", "its batch did not run; the next run goes on")
    size = job.before_bytes - job.after_bytes if saved else job.after_bytes
    if job.failed:
        return Outcome(item, "failed", f"{job.failed} objects were not moved; {job.error}", job.moved, size)
    if not job.moved:
        return Outcome(item, "skipped", job.error or "asked for, deleted or moved meanwhile")
    others = job.skipped + job.changed
    left = f"{others} objects were left; {job.error}" if others else ""
    return Outcome(item, "done", left, job.moved, size)


COLUMNS = ("job_id", "object_id", "name", "result", "from", "from_key", "to", "bytes_before", "bytes_after", "error")


def collect_records(location: OpenLocation, results: Sequence[BatchMoved], key: str) -> str:
    """Put the batches' records together under `key`, streamed, and remove the parts."""
    parts = [one.records for one in sorted(results, key=lambda one: one.number) if one.records]

    def lines() -> Iterator[bytes]:
        yield _csv([COLUMNS])
        for part in parts:
            yield from ahead(read_stream(location.store, part))

    put_stream(
        location.store, key, lines(), part_bytes=location.store.multipart_upload_part_bytes,
        attributes={"Content-Type": "text/csv"}, checksums=location.capabilities.needs_checksum_headers,
    )  # fmt: skip
    delete_keys(location.store, parts)
    return key


def renumbered(batches: Sequence[MoveBatch], first: int) -> list[MoveBatch]:
    """The batches of a later pass, numbered on."""
    return [replace(batch, number=batch.number + first) for batch in batches]


def _record(one: Relocated, place: str, key: str, target: str) -> tuple[str | int, ...]:
    return (
        str(one.job_id), str(one.object_id), one.name, one.result, place, key,
        target if one.result == "moved" else "", one.before_bytes, one.after_bytes, one.error,
    )  # fmt: skip


def _nameless(one: Relocated) -> Relocated:
    """Without the name that a customer gave a file: an erasure takes it out of no record, and out of no artifact."""
    if not one.name.startswith(f"{UPLOADS}/"):
        return one
    return replace(one, name="upload", error=one.error.replace(one.name, "upload"))


def _csv(lines: Sequence[Sequence[str | int]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([[_harmless(value) for value in line] for line in lines])
    return text.getvalue().encode()


def _harmless(value: str | int) -> str | int:
    # A spreadsheet takes what begins like this for a formula (OWASP, CSV injection); names are customers'.
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
