"""Growth and its range, on frames alone: no catalog, no clock."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from tasks.analytics.forecast import days_to_compare, forecast

DAY = date(2026, 6, 1)
FREE = 10**12


def line(used: list[float], key: int = 1, *, free: int | None = FREE) -> pd.DataFrame:
    """The forecast of a customer who used so much a week apart, the last today."""
    days = [DAY - timedelta(days=7 * back) for back in range(len(used) - 1, -1, -1)]
    history = pd.DataFrame({"api_key_id": key, "day": days[:-1], "used_bytes": used[:-1]})
    now = pd.DataFrame({"api_key_id": [key], "used_bytes": [used[-1]], "free_bytes": [free], "quota_bytes": [free]})
    return forecast(now, history, DAY)


def test_the_pace_is_that_of_the_last_four_weeks() -> None:
    (row,) = line([0, 7, 14, 21, 28, 98, 168, 238, 308]).itertuples()
    assert (row.growth_bytes_per_day, row.history_days, row.forecast) == (10, 56, "growing")
    assert row.growth_low < 10 < row.growth_high


@pytest.mark.parametrize("gap", [28, 35, 60])
def test_a_gap_makes_the_pace_no_older(gap: int) -> None:
    """Nothing for a long time, no figures for weeks, then 10 a day: it is 10 a day."""
    days = [DAY - timedelta(days=back) for back in (gap + 30, gap, 21, 14, 7)]
    used = [0, 0, *(10 * (21 - back) for back in (21, 14, 7))]
    history = pd.DataFrame({"api_key_id": 1, "day": days, "used_bytes": [1000 + one for one in used]})
    now = pd.DataFrame({"api_key_id": [1], "used_bytes": [1210], "free_bytes": [FREE], "quota_bytes": [FREE]})
    (row,) = forecast(now, history, DAY).itertuples()
    assert row.growth_bytes_per_day == pytest.approx(10 if gap >= 35 else 7.5)


def test_a_key_that_waited_for_its_first_video() -> None:
    (row,) = line([0, 0, 0, 0, 0, 0, 0, 0, 70, 140]).itertuples()
    assert (row.growth_bytes_per_day, row.history_days) == (10, 14)


@pytest.mark.parametrize(
    ("used", "free", "kind"),
    [
        ([5, 5, 5, 5], FREE, "steady"),
        ([50, 40, 30, 20], FREE, "shrinking"),
        ([1, 2, 3, 4], None, "no quota"),
        ([1, 2, 3, 4], 0, "full"),
        ([4], FREE, "too little history"),
    ],
)
def test_kinds(used: list[float], free: int | None, kind: str) -> None:
    (row,) = line(used, free=free).itertuples()
    assert row.forecast == kind


def test_less_than_a_week_says_nothing() -> None:
    now = pd.DataFrame({"api_key_id": [1], "used_bytes": [9], "free_bytes": [FREE], "quota_bytes": [FREE]})
    history = pd.DataFrame({"api_key_id": [1], "day": [DAY - timedelta(days=6)], "used_bytes": [1]})
    (row,) = forecast(now, history, DAY).itertuples()
    assert row.forecast == "too little history"
    assert pd.isna(row.growth_bytes_per_day)


def test_the_earliest_is_before_the_latest() -> None:
    (row,) = line([0, 10, 30, 35, 50, 80, 90]).itertuples()
    assert row.days_until_full_low < row.days_until_full
    assert pd.isna(row.days_until_full_high) or row.days_until_full < row.days_until_full_high


def test_days_to_compare() -> None:
    known = [DAY - timedelta(days=back) for back in range(1, 60)]
    found = days_to_compare(DAY, known)
    assert found == sorted({DAY - timedelta(days=7 * week) for week in range(1, 9)} | {DAY - timedelta(days=59)})
    assert days_to_compare(DAY, []) == []
    # A week without any is left out.
    assert days_to_compare(DAY, [DAY - timedelta(days=9), DAY - timedelta(days=30)]) == [
        DAY - timedelta(days=30), DAY - timedelta(days=9),
    ]  # fmt: skip


def test_the_range_holds_as_often_as_it_says() -> None:
    """Weeks of few large videos, growing over the time: how often the next six weeks' pace falls into the range."""
    chance = np.random.default_rng(7)
    weeks = [[chance.lognormal(0, 0.7, chance.poisson(4 + week / 8)).sum() * 1e9 for week in range(19)]
             for _ in range(300)]  # fmt: skip
    used = np.cumsum(np.pad(weeks, ((0, 0), (1, 0))), axis=1)
    keys, days = np.arange(1, 301), [DAY - timedelta(days=7 * back) for back in range(13, 0, -1)]
    history = pd.DataFrame({"api_key_id": np.repeat(keys, 13), "day": days * 300, "used_bytes": used[:, :13].ravel()})
    now = pd.DataFrame({"api_key_id": keys, "used_bytes": used[:, 13], "free_bytes": FREE, "quota_bytes": FREE})
    found = forecast(now, history, DAY)
    pace = (used[:, 19] - used[:, 13]) / 42
    assert 0.75 < ((found["growth_low"] <= pace) & (pace <= found["growth_high"])).mean() < 0.95
