"""Which backups stay, over a year of nights; pure."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from pydantic import ValidationError

from blocks.policies import BackupPolicy
from tasks.backups.listing import Backup, Backups
from tasks.backups.retention import plan_retention
from tests.tasks.backups.test_manifest import make

DAY = timedelta(days=1)
FIRST = datetime(2026, 1, 1, 3, tzinfo=UTC)
POLICY = BackupPolicy()


def night(at: datetime, **changes: object) -> Backup:
    name = f"{at:%Y%m%dT%H%M%SZ}-00000000"
    fields = {"manifest": make(id=name, snapshot_at=at, finished_at=at), "size_bytes": 10, "verified": True} | changes
    return Backup(name, **fields)  # type: ignore[arg-type]  # a test's own words


def plan(kept: list[Backup], now: datetime, policy: BackupPolicy = POLICY) -> tuple[set[str], dict[str, str]]:
    made = plan_retention(Backups(UUID(int=7), tuple(sorted(kept, key=lambda one: one.at, reverse=True))), policy, now)
    assert {item.subject for item in made.items} | {item.subject for item in made.skipped} == {one.id for one in kept}
    return {item.subject for item in made.items}, {item.subject: item.rule for item in made.skipped}


def test_a_year_of_good_nights_keeps_thirty() -> None:
    kept: list[Backup] = []
    for day in range(365):
        now = FIRST + day * DAY
        kept.append(night(now))
        gone, _ = plan(kept, now)
        kept = [one for one in kept if one.id not in gone]
        assert len(kept) == min(day + 1, 30)
        assert kept[-1].at == now


@pytest.mark.parametrize("seed", range(20))
def test_a_year_of_nights_that_fail_clocks_that_jump_and_holds(seed: int) -> None:
    chance = random.Random(seed)
    policy = BackupPolicy(keep_days=chance.choice([1, 7, 30]), keep_verified=chance.choice([2, 7]))
    kept: list[Backup] = []
    for day in range(365):
        now = FIRST + day * DAY
        outcome = chance.random()
        if outcome < 0.4:
            kept.append(night(now, verified=chance.choice([True, True, True, None, False])))
        elif outcome < 0.42:
            kept.append(night(now, hold="an audit"))
        elif outcome < 0.44:
            kept.append(night(now, manifest=None, why_not="its manifest is damaged"))
        jumped = now + (chance.choice([-400, 400, 4000]) * DAY if chance.random() < 0.05 else timedelta())
        good = [one.id for one in kept if one.good]
        gone, rules = plan(kept, jumped, policy)
        before = kept
        kept = [one for one in kept if one.id not in gone]
        assert set(good[-policy.keep_verified :]) <= {one.id for one in kept}, "the newest good ones stay"
        assert all(one in kept for one in before if one.hold or one.manifest is None)
        assert all(rules.values())


def test_weeks_of_failing_nights_remove_nothing_that_can_be_restored() -> None:
    good = [night(FIRST), night(FIRST + DAY)]
    broken = [night(FIRST + n * DAY, verified=False) for n in range(2, 200)]
    gone, rules = plan(good + broken, FIRST + 200 * DAY)
    assert not gone & {one.id for one in good}
    assert set(rules.values()) >= {"keep_verified"}


def test_with_one_good_backup_nothing_goes_at_all() -> None:
    gone, _ = plan([night(FIRST), night(FIRST + DAY, verified=None)], FIRST + 500 * DAY)
    assert gone == set()


def test_a_forged_date_wins_no_place_on_the_floor() -> None:
    real = [night(FIRST + n * DAY) for n in range(2)]
    forged = [night(FIRST + 4000 * DAY + n * DAY, why_not="it was written before that") for n in range(10)]
    gone, rules = plan(real + forged, FIRST + 300 * DAY, BackupPolicy(keep_days=1, keep_verified=2))
    assert gone == set()
    assert rules[real[0].id] == "keep_verified"
    assert rules[forged[0].id] == "not understood"


def test_backups_of_the_catalog_alone_do_not_push_out_full_ones() -> None:
    full = [night(FIRST + n * DAY) for n in range(10)]
    alone = [night(FIRST + (100 + n) * DAY) for n in range(10)]
    alone = [
        night(one.at, manifest=one.manifest.model_copy(update={"kind": "catalog"})) for one in alone if one.manifest
    ]
    gone, _ = plan(full + alone, FIRST + 200 * DAY)
    assert len({one.id for one in full} - gone) == len({one.id for one in alone} - gone) == POLICY.keep_verified


def test_what_is_being_restored_stays() -> None:
    kept = [night(FIRST, restoring_at=FIRST + 139 * DAY), *(night(FIRST + n * DAY) for n in range(100, 140))]
    assert plan(kept, FIRST + 140 * DAY)[1][kept[0].id] == "restoring"
    assert kept[0].id in plan(kept, FIRST + 150 * DAY)[0]


def test_the_last_drilled_one_stays() -> None:
    kept = [night(FIRST, drilled_at=FIRST + DAY), *(night(FIRST + n * DAY) for n in range(100, 140))]
    _, rules = plan(kept, FIRST + 140 * DAY)
    assert rules[kept[0].id] == "drilled"


@pytest.mark.parametrize("fields", [{"keep_verified": 0}, {"keep_verified": 1}, {"keep_days": 0}])
def test_no_policy_goes_below_the_floor(fields: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        BackupPolicy(**fields)  # type: ignore[arg-type]  # that is the test
