"""Which jobs' texts and playlists are compressed, and what is left alone because it would gain nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection

from blocks.catalog.clock import catalog_now
from blocks.catalog.locations import list_places
from blocks.catalog.moving import IdleJob, Wanted, jobs_to_compress, sample_keys
from blocks.catalog.tables import ObjectKind
from blocks.errors import StorageError
from blocks.object_store.transfer import read_range
from blocks.policies import CompressionPolicy
from blocks.units import format_bytes
from tasks.content import encode_whole
from tasks.layout import PLAYLISTS, TEXT_KINDS
from tasks.plans import Item, Plan
from tasks.relocation.moving import COMPRESSED, JobMoved, Mark, Move, Recipe
from tasks.stores import Locations
from tasks.sweeping import Sweep

OPERATION = "compress-jobs"
SAMPLE_BYTES = 64 * 1024
SAMPLE_SHARE = 64
"""A sample is at most this part of an object: looking must not cost what is saved by not doing it."""
LEAST_SAMPLE_BYTES = 8 * 1024


@dataclass(frozen=True)
class Sample:
    """What compressing a kind would gain, from a few pieces of it; None where they were too small to tell."""

    kind: str
    sampled: int
    read_bytes: int
    gain_percent: float | None


@dataclass(frozen=True)
class CompressionFacts:
    """Idle jobs that were never compressed, and samples of what they hold beside texts."""

    jobs: tuple[IdleJob, ...]
    now: datetime
    location_names: dict[int, str]
    samples: tuple[Sample, ...] = ()
    looked_through: frozenset[int] = frozenset()
    """Locations, by id: a job that has something elsewhere is not through."""


@dataclass(frozen=True)
class CompressionPlan:
    """The plan, its moves, and jobs that have nothing to compress: they are marked as looked after."""

    plan: Plan
    moves: tuple[Move, ...]
    settled: tuple[UUID, ...]
    mark: Mark
    left_alone: str = ""

    def notes(self, jobs: Mapping[UUID, JobMoved]) -> tuple[str, ...]:
        """Before, after, and what was left alone."""
        before, after = (sum(getattr(one, name) for one in jobs.values()) for name in ("before_bytes", "after_bytes"))
        told = f"{format_bytes(before)} before, {format_bytes(after)} after" if before else ""
        return tuple(note for note in (told, self.left_alone) if note)


def wanted_in(location_ids: Sequence[int], policy: CompressionPolicy) -> Wanted:
    """The objects that are compressed: texts and playlists which are not yet, and not too small."""
    return Wanted(
        tuple(location_ids), TEXT_KINDS, tuple(PLAYLISTS.values()), "identity", at_least_bytes=policy.smallest_bytes
    )


def find_compressible(sweep: Sweep, locations: Locations, policy: CompressionPolicy) -> CompressionFacts:
    """Jobs that are old and idle enough, in the sweep's locations that can be read at once."""
    now = sweep.catalog.transaction(catalog_now)
    shelves = {place for location in sweep.locations for place in location.place.shelf}
    idle_before = now - timedelta(days=policy.idle_days)

    def read(connection: Connection) -> CompressionFacts:
        places = list_places(connection)
        names = {place.id: place.name for place in places if place.id in shelves and not place.needs_restore}
        jobs = jobs_to_compress(
            connection,
            wanted_in(list(names), policy),
            idle_before=idle_before,
            completed_before=now - timedelta(days=policy.after_days),
        )
        return CompressionFacts(tuple(jobs), now, names, looked_through=frozenset(shelves))

    facts = sweep.catalog.transaction(read)
    samples = _look_into(sweep, locations, facts, policy) if policy.sample_objects else ()
    return replace(facts, samples=samples)


def plan_compression(facts: CompressionFacts, policy: CompressionPolicy) -> CompressionPlan:
    """An item for each job that has something to compress; kinds that gain nothing are left alone, each with a line."""
    idle_before = facts.now - timedelta(days=policy.idle_days)
    mark = Mark(COMPRESSED, idle_before, facts.now)
    items: list[Item] = []
    skipped: list[Item] = []
    moves: list[Move] = []
    settled: list[UUID] = []
    left: dict[str, list[int]] = {}
    for job in facts.jobs:
        objects, size = sum(one.wanted_objects for one in job.sums), sum(one.wanted_bytes for one in job.sums)
        because = f"completed {job.completed_at:%Y-%m-%d}, idle since {job.idle_since:%Y-%m-%d}"
        item = Item("compress", "after_days", str(job.id), because, job.customer, objects, size, owner=job.customer_id)
        for one in job.sums:
            if one.kind not in TEXT_KINDS:
                total = left.setdefault(one.kind, [0, 0])
                total[0] += one.objects - one.wanted_objects
                total[1] += one.stored_bytes - one.wanted_bytes
        if job.hold is not None and objects:
            skipped.append(replace(item, because=f"on hold: {job.hold}; {because}"))
        elif not objects:
            if job.hold is None and _is_whole(job, facts):
                settled.append(job.id)
        else:
            items.append(item)
            for place, (count, stored_bytes) in _by_place(job).items():
                recipe = Recipe(
                    wanted_in([place], policy), facts.location_names[place], OPERATION, "after_days", "zstd",
                    policy.level, policy.least_gain_percent, idle_before,
                )  # fmt: skip
                moves.append(Move(job.id, count, stored_bytes, recipe, mark if _is_whole(job, facts) else None))
    samples = {sample.kind: sample for sample in facts.samples}
    skipped += [
        _left_alone(kind, objects, size, samples.get(kind)) for kind, (objects, size) in sorted(left.items()) if objects
    ]
    plan = Plan(OPERATION, tuple(items), tuple(skipped))
    return CompressionPlan(plan, tuple(moves), tuple(settled), mark, _left_note(left, samples))


def _is_whole(job: IdleJob, facts: CompressionFacts) -> bool:
    return all(one.location_id in facts.looked_through for one in job.sums)


def _left_note(left: Mapping[str, Sequence[int]], samples: Mapping[str, Sample]) -> str:
    size = sum(one[1] for one in left.values())
    known = {kind: one.gain_percent for kind, one in samples.items() if kind in left and one.gain_percent is not None}
    if not size:
        return ""
    gain = sum(left[kind][1] * percent / 100 for kind, percent in known.items())
    told = f", which would gain {format_bytes(round(gain))}" if known else ""
    return f"{format_bytes(size)} of video and sound left alone{told}"


def _by_place(job: IdleJob) -> dict[int, tuple[int, int]]:
    """Objects and bytes that are wanted of each location."""
    places: dict[int, tuple[int, int]] = {}
    for one in job.sums:
        if one.wanted_objects:
            objects, size = places.get(one.location_id, (0, 0))
            places[one.location_id] = objects + one.wanted_objects, size + one.wanted_bytes
    return places


def _left_alone(kind: str, objects: int, size_bytes: int, sample: Sample | None) -> Item:
    because = "compressed already by its nature"
    if sample is not None and sample.gain_percent is not None:
        gain = round(size_bytes * sample.gain_percent / 100)
        because += (
            f": a sample of {sample.sampled} ({format_bytes(sample.read_bytes)}) would get {sample.gain_percent:.1f} % "
            f"smaller, all of it {format_bytes(gain)}"
        )
    return Item("leave", "kind", kind, because, "", objects, size_bytes)


def _look_into(
    sweep: Sweep, locations: Locations, facts: CompressionFacts, policy: CompressionPolicy
) -> tuple[Sample, ...]:
    """A few pieces from the middle of some objects of each kind, never more than a sixty-fourth of one."""
    jobs = [job.id for job in facts.jobs]
    present = {one.kind for job in facts.jobs for one in job.sums} - set(TEXT_KINDS)
    samples = []
    for kind in [kind.value for kind in ObjectKind if kind in present]:
        found = sweep.catalog.transaction(
            lambda connection, kind=kind: sample_keys(  # type: ignore[misc]  # bound here
                connection,
                jobs,
                places=list(facts.location_names),
                kinds=[kind],
                but=list(PLAYLISTS.values()),
                most=policy.sample_objects,
            )
        )
        pieces = [_piece(locations, *one) for one in found]
        raw = [piece for piece in pieces if piece]
        size = sum(len(piece) for piece in raw)
        gain = None
        if size >= LEAST_SAMPLE_BYTES:
            packed = sum(min(len(piece), len(encode_whole(piece, level=policy.level))) for piece in raw)
            gain = 100 * (1 - packed / size)
        samples.append(Sample(kind, len(raw), size, gain))
    return tuple(samples)


def _piece(locations: Locations, place: int, key: str, stored_bytes: int) -> bytes:
    length = min(SAMPLE_BYTES, stored_bytes // SAMPLE_SHARE)
    if not length:
        return b""
    start = (stored_bytes - length) // 2
    try:
        return read_range(locations.of(place).store, key, start, start + length)
    except StorageError:
        return b""  # a sample is no reason to fail
