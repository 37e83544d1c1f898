"""Which jobs move to a cheaper location, and what that saves: pure, from their sizes, their ages and a price table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection

from blocks.catalog.clock import catalog_now
from blocks.catalog.locations import RANK, Place, find_place, inbox_name, list_places
from blocks.catalog.moving import IdleJob, KindSum, Wanted, jobs_to_tier
from blocks.errors import InvalidInputError
from blocks.policies import GIB, TierPolicy
from tasks.plans import Item, Plan
from tasks.relocation.moving import JobMoved, Mark, Move, Recipe
from tasks.sweeping import Sweep

OPERATION = "tier-jobs"


@dataclass(frozen=True)
class TierFacts:
    """Idle jobs with what they store, by the tier that is due for them; `targets` are the tiers' locations.

    `reached` are the locations that answer, by id: what would come from others or go there waits.
    """

    now: datetime
    due: Mapping[str, tuple[IdleJob, ...]]
    targets: Mapping[str, Place]
    places: Mapping[int, Place]
    reached: frozenset[int]


@dataclass(frozen=True)
class TierPlan:
    """The plan, its moves, what each job saves a month, and jobs that are through without a move, by their mark."""

    plan: Plan
    moves: tuple[Move, ...]
    savings: Mapping[UUID, float]
    settled: Mapping[Mark, tuple[UUID, ...]]

    def notes(self, jobs: Mapping[UUID, JobMoved]) -> tuple[str, ...]:
        """What the jobs that were moved save."""
        saved = sum(self.savings.get(job_id, 0.0) for job_id, job in jobs.items() if job.moved and not job.failed)
        return (f"saves about {saved:.4g} a month by the policy's prices",) if saved else ()


def tier_targets(connection: Connection, policy: TierPolicy) -> dict[str, Place]:
    """The locations that the policy names, coldest first.

    Raises:
        NotFoundError, RefusedError: one was never declared, or is retired.
        InvalidInputError: one is declared as another tier.
    """
    named = {"cold": policy.cold_location, "warm": policy.warm_location}
    targets: dict[str, Place] = {}
    for tier, name in named.items():
        if not name:
            continue
        # Where one was migrated, its objects go where its new files go; unless that is another tier, as where an
        # archive was emptied.
        moved_to = find_place(connection, inbox_name(connection, name))
        place = targets[tier] = moved_to if moved_to.tier == tier else find_place(connection, name)
        if place.tier != tier:
            raise InvalidInputError(
                f"location {place.name} is declared as {place.tier}, the Tier Policy wants it {tier}: run probe-store "
                f"for it with tier={tier}, or name another one"
            )
    return targets


def find_idle(sweep: Sweep, policy: TierPolicy) -> TierFacts:
    """Jobs that a tier is due for. Each costs one look a tier, until somebody asks for it again."""
    now = sweep.catalog.transaction(catalog_now)
    reached = frozenset(place for location in sweep.locations for place in location.place.shelf)

    def read(connection: Connection) -> TierFacts:
        targets = tier_targets(connection, policy)
        found: dict[str, tuple[IdleJob, ...]] = {}
        seen: set[UUID] = set()
        for tier in targets:
            jobs = jobs_to_tier(
                connection,
                tiers=[name for name, rank in RANK.items() if rank < RANK[tier]],
                idle_before=_idle_before(policy, tier, now),
                completed_before=now - timedelta(days=getattr(policy, f"{tier}_after_days")),
                smallest_billed=policy.smallest_billed_kib * 1024,
            )
            found[tier] = tuple(job for job in jobs if job.id not in seen)
            seen |= {job.id for job in jobs}
        return TierFacts(now, found, targets, {place.id: place for place in list_places(connection)}, reached)

    return sweep.catalog.transaction(read)


def plan_tiers(facts: TierFacts, policy: TierPolicy) -> TierPlan:
    """Each kind of a job moves where that saves more than it costs; what is small, on hold or too new there stays."""
    items: list[Item] = []
    skipped: list[Item] = []
    moves: list[Move] = []
    savings: dict[UUID, float] = {}
    settled: dict[Mark, list[UUID]] = {}
    for due_tier, jobs in facts.due.items():
        mark = Mark(due_tier, _idle_before(policy, due_tier, facts.now), facts.now)
        for job in jobs:
            tier, moving, more, waiting = _choose(job, due_tier, facts, policy)
            target, rule = facts.targets[tier], f"{tier}_after_days"
            because = f"completed {job.completed_at:%Y-%m-%d}, last asked for " + (
                f"{job.last_accessed_at:%Y-%m-%d}" if job.last_accessed_at else "never"
            )
            objects, size = sum(one.objects for one in moving), sum(one.stored_bytes for one in moving)
            item = Item(
                f"move to {target.name}", rule, str(job.id), because, job.customer, objects, size,
                owner=job.customer_id, place=target.name,
            )  # fmt: skip
            if job.hold is not None:
                if moving:
                    skipped.append(replace(item, because=f"on hold: {job.hold}; {because}"))
            elif moving:
                saved = sum(_saved(one, tier, facts, policy) for one in moving)
                savings[job.id] = saved
                items.append(replace(item, because=f"{because}; saves {saved:.4g} a month"))
                # What has to wait is looked at again: then the job is not through.
                moves += _moves(job, moving, target.name, rule, mark, through=not (waiting or more))
            elif waiting:
                skipped.append(replace(item, because=f"{waiting[0]}; {because}"))
            else:
                settled.setdefault(mark, []).append(job.id)
    plan = Plan(OPERATION, tuple(items), tuple(skipped))
    return TierPlan(plan, tuple(moves), savings, {mark: tuple(ids) for mark, ids in settled.items()})


def _choose(
    job: IdleJob, due_tier: str, facts: TierFacts, policy: TierPolicy
) -> tuple[str, list[KindSum], bool, list[str]]:
    """The tier that kinds of a job move to now, those kinds, whether others wait for the next night, and for what.

    What is not worth the coldest tier may be worth the one before: it goes there once nothing goes further.
    """
    worth: list[tuple[str, list[KindSum]]] = []
    away: set[KindSum] = set()
    waiting: list[str] = []
    for tier in (tier for tier in facts.targets if RANK[tier] <= RANK[due_tier]):
        # What waits for a store to answer goes nowhere else meanwhile: it would be moved twice.
        why = {one: _why_not(one, tier, facts, policy) for one in job.sums if one not in away}
        away |= {one for one, stay in why.items() if stay is not None and stay.is_away}
        waiting += [stay.waits_for for stay in why.values() if stay is not None and stay.waits_for]
        if moving := [one for one, stay in why.items() if stay is None]:
            worth.append((tier, moving))
    if not worth:
        return due_tier, [], False, waiting
    (tier, moving), *others = worth
    return tier, moving, any(one not in moving for _, kinds in others for one in kinds), waiting


def _moves(
    job: IdleJob, moving: Sequence[KindSum], target: str, rule: str, mark: Mark, *, through: bool
) -> Iterator[Move]:
    """One a location: what stays in another, or came there lately, is not taken along."""
    for place in sorted({one.location_id for one in moving}):
        own = [one for one in moving if one.location_id == place]
        recipe = Recipe(
            Wanted((place,), tuple(sorted(one.kind for one in own))), target, OPERATION, rule,
            idle_before=mark.idle_before,
        )  # fmt: skip
        objects, stored_bytes = sum(one.objects for one in own), sum(one.stored_bytes for one in own)
        yield Move(job.id, objects, stored_bytes, recipe, mark if through else None)


@dataclass(frozen=True)
class _Stay:
    """Why a kind does not move now: for good, or until what it `waits_for`; with `is_away` that is a store."""

    waits_for: str = ""
    is_away: bool = False


_STAYS = _Stay()


def _why_not(one: KindSum, tier: str, facts: TierFacts, policy: TierPolicy) -> _Stay | None:
    """Why a kind does not move to a tier now; None where it moves."""
    place, target = facts.places.get(one.location_id), facts.targets[tier]
    if place is None or place.needs_restore or RANK[place.tier] >= RANK[tier]:
        return _STAYS
    if policy.server_moves_classes and place.shelf == target.shelf:
        # Reconciliation follows it from the listing.
        return _STAYS
    if place.tier == "warm" and one.since + timedelta(days=policy.warm_minimum_days) > facts.now:
        return _Stay(f"billed as warm until {one.since + timedelta(days=policy.warm_minimum_days):%Y-%m-%d}")
    cost = one.objects / 1000 * float(getattr(policy, f"{tier}_price_per_1000_moved"))
    if _saved(one, tier, facts, policy) * policy.pays_back_months <= cost:
        return _STAYS
    away = next((needed.name for needed in (place, target) if needed.id not in facts.reached), None)
    return _Stay(f"{away} does not answer", is_away=True) if away else None


def _saved(one: KindSum, tier: str, facts: TierFacts, policy: TierPolicy) -> float:
    """What moving a kind saves a month: small objects are billed as larger ones there."""
    place, target = facts.places[one.location_id], facts.targets[tier]
    before = one.billed_bytes if place.tier != "hot" else one.stored_bytes
    return (before * _price(place, policy) - one.billed_bytes * _price(target, policy)) / GIB


def _price(place: Place, policy: TierPolicy) -> float:
    """A GiB a month: what was declared of the location, else its tier's price in the policy."""
    if place.price_per_gib_month is not None:
        return float(place.price_per_gib_month)
    return float(getattr(policy, f"{place.tier}_price"))


def _idle_before(policy: TierPolicy, tier: str, now: datetime) -> datetime:
    return now - timedelta(days=getattr(policy, f"{tier}_idle_days"))
