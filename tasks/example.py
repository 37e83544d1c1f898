"""An example: a year of customers and their videos, as rows, for whoever wants to see what reports look like.

Day after day is played as it would have been: videos come in, come again, are read, deleted, compressed and moved;
backups and drills go well or fail; and in the morning the day's figures are taken by the same code as in earnest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID

import numpy as np
from sqlalchemy import Connection

from blocks.catalog import CatalogDatabase, example
from blocks.catalog.customers import list_customers
from blocks.catalog.example import ExampleJob
from blocks.catalog.locations import list_places
from blocks.errors import RefusedError
from blocks.policies import GIB, MIB, TierPolicy
from tasks.analytics.snapshot import refresh

DAYS = 365
SIZE_WITH_OUTPUTS = 2.4
DAILY = 92
MORNING = time(6, 30)


@dataclass(frozen=True)
class Profile:
    """A customer as it behaves: jobs a day at the start and at the end, their size, and what becomes of them.

    `fullness` is the share of its quota that it uses at the end, before what it deletes; none is no quota. `reads` is
    the share of its jobs that are asked for on a day; `keep_days` is after how many it deletes them.
    """

    label: str
    first_day: int
    jobs: tuple[float, float]
    size_mib: float
    fullness: float | None
    reads: float
    again: float = 0.03
    keep_days: int | None = None


PROFILES = (
    Profile("aurora-films", 0, (1.2, 2.6), 900, 0.62, 0.010, again=0.10),
    Profile("bergwerk-tv", 0, (0.8, 3.4), 640, 0.93, 0.030),
    Profile("campus-media", 0, (1.5, 1.5), 260, None, 0.060, again=0.25),
    Profile("delta-sports", 40, (1.0, 4.0), 520, 0.84, 0.020, again=0.08),
    Profile("elm-street-studio", 0, (2.2, 0.4), 300, 0.70, 0.015, keep_days=120),
    Profile("fjord-news", 0, (3.0, 3.2), 90, 0.75, 0.090, again=0.15, keep_days=60),
    Profile("garden-channel", 20, (0.3, 0.5), 60, 0.35, 0.010),
    Profile("harbour-archive", 0, (1.4, 1.4), 1500, 0.58, 0.001),
    Profile("isle-of-music", 90, (0.6, 1.8), 180, 0.99, 0.040, again=0.12),
    Profile("jade-learning", 150, (0.5, 2.0), 340, None, 0.050, again=0.20),
    Profile("kiosk-ads", 359, (2.0, 2.0), 45, 0.20, 0.100),
    Profile("lumen-labs", 0, (0.9, 0.9), 210, 0.50, 0.008),
)
_WORDS = ("morning", "harbour", "interview", "final", "trailer", "lecture", "match", "studio", "night", "tour")


@dataclass(frozen=True)
class Planned:
    """A video that will come in on a day."""

    day: int
    customer: int
    job: ExampleJob
    again: bool


def seed_example(
    catalog: CatalogDatabase,
    *,
    now: datetime,
    days: int = DAYS,
    daily: int = DAILY,
    seed: int = 1,
    progress: Callable[[int], None] = lambda days: None,
) -> int:
    """Play so many days up to `now` in an empty catalog with one location; returns the jobs that came in.

    Of the last `daily` days figures are taken each morning, weekly before that, as what was done is told by the log.
    The same seed gives the same jobs, customers and sizes.

    Raises:
        RefusedError: the catalog holds customers, or no location: it is not one for examples.
    """
    chance = np.random.default_rng(seed)
    today = now.astimezone(UTC).date()
    start = today - timedelta(days=days - 1)
    planned = _plan(chance, days, start)
    by_day: dict[int, list[Planned]] = {}
    for one in planned:
        by_day.setdefault(one.day, []).append(one)
    catalog.transaction(lambda connection: _set_up(connection, start, days))
    arrivals = {number: profile.first_day * days // DAYS for number, profile in enumerate(PROFILES)}
    quotas = {number: _quota(planned, number, days) for number in arrivals}
    keys: dict[int, int] = {}
    known: list[Planned] = []
    for number in range(days):
        day = start + timedelta(days=number)
        at = datetime.combine(day, time(0, 5), UTC) if day < today else min(datetime.combine(day, time(0, 5), UTC), now)
        came = by_day.get(number, [])
        new = {one: quotas[one] for one, first in arrivals.items() if first == number}
        played = _Day(number, at, new, came, known, keys)
        catalog.transaction(lambda connection, day=played: _play(connection, chance, day))  # type: ignore[misc]  # bound here
        known += came
        if days - number <= daily or number % 7 == 0:
            refresh(catalog, TierPolicy(), now=min(now, datetime.combine(day, MORNING, UTC)), run="example")
        progress(1)
    return len(planned)


def _plan(chance: np.random.Generator, days: int, start: date) -> list[Planned]:
    planned = []
    for number, profile in enumerate(PROFILES):
        first = profile.first_day * days // DAYS
        for day in range(first, days):
            part = (day - first) / max(1, days - 1 - first)
            rate = profile.jobs[0] + (profile.jobs[1] - profile.jobs[0]) * part
            # Weekends are quieter.
            rate *= 0.5 if (start + timedelta(days=day)).weekday() >= 5 else 1.2
            for nth in range(int(chance.poisson(rate))):
                size = int(max(1.0, chance.lognormal(0, 0.7) * profile.size_mib) * MIB)
                name = f"{chance.choice(_WORDS)}-{chance.choice(_WORDS)}-{day:03d}{nth}.mp4"
                source = f"{number} {day} {nth}"
                if chance.random() < 0.02:
                    # What everybody has: a clip that makes the rounds.
                    source, size = f"clip {day // 10}", 120 * MIB
                job = UUID(hashlib.sha256(f"{number} {day} {nth}".encode()).hexdigest()[:32])
                at = datetime.combine(start + timedelta(days=day), time(0, 1), UTC) + timedelta(seconds=nth)
                planned.append(
                    Planned(day, number, ExampleJob(str(job), 0, name, source, size, at),
                            bool(chance.random() < profile.again))
                )  # fmt: skip
    # A customer that has a clip already is not let in with it again.
    once: dict[tuple[int, str], Planned] = {}
    for one in planned:
        once.setdefault((one.customer, one.job.source), one)
    return list(once.values())


def _set_up(connection: Connection, start: date, days: int) -> None:
    if list_customers(connection):
        raise RefusedError("the catalog holds customers already: an example is made in an empty one")
    if not (places := list_places(connection)):
        raise RefusedError("the catalog has no location: run probe-store for one first")
    name = places[0].name
    example.add_location(connection, f"{name}-warm", "warm", "STANDARD_IA", name)
    example.add_location(connection, f"{name}-cold", "cold", "GLACIER_IR", name)
    example.add_log_months(connection, start, days // 28 + 2)


def _quota(planned: list[Planned], number: int, days: int) -> int | None:
    """What leaves a customer as full as its profile says: a job comes to so much with its outputs."""
    profile = PROFILES[number]
    if profile.fullness is None:
        return None
    kept = (one for one in planned if one.customer == number
            and (profile.keep_days is None or one.day >= days - profile.keep_days))  # fmt: skip
    total = sum(one.job.size_bytes for one in kept) * SIZE_WITH_OUTPUTS
    return max(1, round(total / profile.fullness / GIB)) * GIB


@dataclass(frozen=True)
class _Day:
    """A day to play: who is new (and their quotas), what comes in, what came before, and the customers' ids."""

    number: int
    at: datetime
    new: dict[int, int | None]
    came: list[Planned]
    known: list[Planned]
    keys: dict[int, int]

    def reads(self, one: Planned) -> float:
        """How likely a job is asked for on this day: the newer the likelier."""
        return PROFILES[one.customer].reads * 3 / (3 + self.number - one.day)


def _play(connection: Connection, chance: np.random.Generator, day: _Day) -> None:
    run, at = f"example {day.number}", day.at
    example.wait_for_no_disk(connection)
    for number, quota in day.new.items():
        label = PROFILES[number].label
        hashed = hashlib.sha256(f"example {label}".encode()).hexdigest()
        day.keys[number] = example.add_customer(connection, label, hashed, quota, at)
    jobs = [replace(one.job, api_key_id=day.keys[one.customer]) for one in day.came]
    if jobs:
        example.add_jobs(connection, jobs, run=run)
        if again := [one.job.id for one in day.came if one.again]:
            example.bring_again(connection, again, at)
    if read := [one.job.id for one in day.known if chance.random() < day.reads(one)]:
        example.read_jobs(connection, read, at)
    for number, key in day.keys.items():
        if (keep := PROFILES[number].keep_days) is not None:
            example.trash_older(connection, key, at - timedelta(days=keep), at, run=run)
    example.purge_trash(connection, at, run=run)
    if day.number % 7 == 0:
        example.compress_texts(connection, at - timedelta(days=90), at, run=run)
        example.move_idle(connection, "cold", ["hot", "warm"], at - timedelta(days=180), at, run=run)
        example.move_idle(connection, "warm", ["hot"], at - timedelta(days=30), at, run=run)
    if day.number in (7, 30, 120):
        example.analyze(connection)
    _play_night(connection, chance, day.number, at)


def _play_night(connection: Connection, chance: np.random.Generator, number: int, at: datetime) -> None:
    backup = f"{at:%Y%m%dT%H%M%SZ}-example"
    failed = bool(chance.random() < 0.01)
    example.note_check(
        connection, "backup", backup, at, ok=not failed, seconds=20 + number / 20, size=MIB * (40 + number),
        because="the store did not answer" if failed else "",
    )  # fmt: skip
    orphans = int(chance.poisson(0.2))
    example.note_finding(
        connection, "reconcile-quota", "orphan" if orphans else "none", at, objects=orphans, size=orphans * 40 * MIB
    )
    if number % 7 == 0:
        example.note_check(connection, "drill", backup, at, ok=True, seconds=35 + number / 10, size=MIB * (40 + number))
        late = int(chance.poisson(0.5))
        example.note_finding(
            connection, "apply-lifecycle", "temp_days overdue" if late else "none", at, objects=late,
            oldest_at=at - timedelta(days=2) if late else None,
        )  # fmt: skip
