"""How fast customers grow, and when their quotas are full: pure, from what they used on earlier days."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

WEEKS = 13
"""Weeks whose differences say how sure a forecast is."""
PACE_DAYS = 28
"""Days that the pace is measured over: longer, and what grows faster and faster looks slow."""
LEAST_DAYS = 7
LEAST_WEEKS = 3
"""A range needs so many weeks that can differ."""
AHEAD = 1 / 2
"""Variance of what comes, in that of a week. For the average of many weeks it would be less, but weeks are neither
alike nor independent: with this one, 8 of 10 paces of six weeks fell into their range in a year of the example."""
_T90 = (1.886, 1.638, 1.533, 1.476, 1.440, 1.415, 1.397, 1.383, 1.372, 1.363, 1.356, 1.350)
"""Student's t at 90 %, for 2, 3, … degrees of freedom: 80 % lie between the two ends."""


def days_to_compare(day: date, known: Sequence[date]) -> list[date]:
    """The days that growth is read from: for each week back the last one known, where that week has any.

    `known` are days before `day`, newest first.
    """
    found = []
    for week in range(1, WEEKS + 1):
        until = day - timedelta(days=7 * week)
        first = next((one for one in known if one <= until), None)
        if first is not None and first > until - timedelta(days=7):
            found.append(first)
    # Younger than a week, or with a gap at its start: the oldest day is where the history begins.
    oldest = next((one for one in reversed(known) if one >= day - timedelta(days=7 * WEEKS)), None)
    return sorted({*found, *([oldest] if oldest else [])})


def forecast(customers: pd.DataFrame, history: pd.DataFrame, day: date) -> pd.DataFrame:
    """Growth and days until full, for each row of `customers`, in its order.

    Growth is the pace of the last four weeks, or since the first bytes. Its range comes from how whole weeks differ,
    and takes for granted that the next ones are as those were.

    Args:
        customers: api_key_id, used_bytes, free_bytes, quota_bytes (null: no limit).
        history: api_key_id, day, used_bytes of `days_to_compare`, sorted by both.
        day: The day that `customers` is of.
    """
    import pandas as pd

    now = customers[["api_key_id", "used_bytes"]].assign(day=day)
    line = pd.concat([history, now], ignore_index=True) if len(history) else now
    line = line.astype({"api_key_id": "int64", "used_bytes": "float64"}).sort_values(
        ["api_key_id", "day"], kind="stable"
    )
    line["at"] = pd.to_datetime(line["day"])
    # A key that was made long before its first video did not grow by nothing meanwhile.
    empty = line.groupby("api_key_id")["used_bytes"].cumsum().eq(0)
    line = line[~(empty & empty.groupby(line["api_key_id"]).shift(-1, fill_value=False))].copy()
    by_key = line.groupby("api_key_id", sort=False)
    first, last = by_key.first(), by_key.last()
    # The pace begins at the last day that is four weeks back; after a gap there, at the first day since.
    back = (pd.Timestamp(day) - line["at"]).dt.days
    begins = first
    # Each is better than those before it, where a customer has one.
    for of_key in (
        line[back >= PACE_DAYS].groupby("api_key_id", sort=False).last(),
        line[(back < PACE_DAYS) & (back >= LEAST_DAYS)].groupby("api_key_id", sort=False).first(),
        line[(back >= PACE_DAYS) & (back < PACE_DAYS + 7)].groupby("api_key_id", sort=False).last(),
    ):
        found = of_key.reindex(last.index)
        begins = found.where(found["at"].notna(), begins)
    spent = (last["at"] - begins["at"]).dt.days
    growth = ((last["used_bytes"] - begins["used_bytes"]) / spent).where(spent >= LEAST_DAYS)
    # Weeks only: what lies between two days that are closer says nothing of a week.
    line["days"] = by_key["at"].diff().dt.days
    line["rate"] = (by_key["used_bytes"].diff() / line["days"]).where(line["days"] >= LEAST_DAYS - 1)
    rates = line.groupby("api_key_id", sort=False)["rate"]
    weeks = rates.count()
    t = pd.Series(_T90, index=range(LEAST_WEEKS, LEAST_WEEKS + len(_T90))).reindex(weeks).to_numpy()
    margin = (rates.std(ddof=1) * (7 / spent + AHEAD) ** 0.5 * t).where(weeks >= LEAST_WEEKS)
    found = pd.DataFrame(
        {"history_days": (last["at"] - first["at"]).dt.days, "growth_bytes_per_day": growth,
         "growth_low": growth - margin, "growth_high": growth + margin}
    ).reindex(customers["api_key_id"].astype("int64")).reset_index(drop=True)  # fmt: skip
    free = customers["free_bytes"].astype("Float64").astype("float64").reset_index(drop=True)

    def until_full(rate: pd.Series) -> pd.Series:
        return (free / rate.where(rate > 0)).where(free > 0, 0.0).where(free.notna())

    rate = found["growth_bytes_per_day"]
    found["days_until_full"] = until_full(rate)
    found["days_until_full_low"] = until_full(found["growth_high"])
    found["days_until_full_high"] = until_full(found["growth_low"])
    label = pd.Series("steady", index=found.index, dtype="str")
    label[rate > 0], label[rate < 0] = "growing", "shrinking"
    label[rate.isna()] = "too little history"
    label[free.eq(0)] = "full"
    label[free.isna()] = "no quota"
    return found.assign(forecast=label)
