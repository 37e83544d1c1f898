"""Figures as people read them, and the one sentence that says what each chart shows. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

from blocks.catalog.analytics import WIDER
from blocks.catalog.customers import NEARLY_FULL_PERCENT
from blocks.units import format_bytes

if TYPE_CHECKING:
    import pandas as pd

    from reports.figures import Figures

LONGEST_DAYS = 3650
"""Beyond ten years a date is no forecast any more."""
REMOVED = ("purge", "remove-orphan")
"""Operations that took content away for good: not old copies of what was moved, nor exports that came to their end."""
TAKEN_IN = ("ingest", "register", "upload")
"""Operations that brought bytes into one."""
LIST_SENTENCES = {
    "largest": "The jobs that hold most bytes of content, up to 25 in each list. Lists of jobs are kept for 31 days.",
    "coldest": "The completed jobs that nobody has asked for longest.",
    "never read": "Completed jobs that nobody ever asked for, largest first.",
}


@dataclass(frozen=True)
class Tile:
    """One figure at the top of a report."""

    label: str
    value: str
    note: str


def money(amount: float) -> str:
    """`1,234`, `12.30`, `0.0042`, `<0.001`, `0`: as many digits as say something."""
    if 0 < amount < 0.001:
        return "<0.001"
    if amount == 0 or abs(amount) >= 100:
        return f"{amount:,.0f}"
    return f"{amount:,.2f}" if abs(amount) >= 1 else f"{amount:.2g}"


def percent(share: float) -> str:
    """`12 %`, `0.4 %`, `<0.1 %`."""
    if 0 < share < 0.1:
        return "<0.1 %"
    if 99 < share < 100 - 1e-6:  # sums of shares are not exact
        return "99 %"  # what is nearly full is not full
    return f"{share:.0f} %" if share >= 10 or share == int(share) else f"{share:.1f} %"


def days(value: float | None) -> str:
    """`12 days`, `less than a day`, `over 10 years`; none is `never`."""
    if value is None:
        return "never"
    if value > LONGEST_DAYS:
        return "over 10 years"
    return "less than a day" if value < 1 else f"{value:.0f} day{'s' if round(value) != 1 else ''}"


def until_full(row: pd.Series) -> str:
    """When a quota is full, with its range, from a row of analytics.customers."""
    kind = str(row["forecast"])
    if kind in ("no quota", "full", "too little history"):
        return kind
    middle, low, high = (_number(row[f"days_until_full{end}"]) for end in ("", "_low", "_high"))
    if middle is None:
        return f"{kind}, {days(low)} at the earliest" if low is not None else kind
    if _number(row["growth_low"]) is None:
        return f"{days(middle)}, range not known yet"
    if low is not None and high is not None and high <= LONGEST_DAYS:
        return f"{days(middle)} ({low:.0f} to {high:.0f})"
    return f"{days(middle)} ({days(low)} to {days(high)})"


def _number(value: object) -> float | None:
    import pandas as pd

    return None if pd.isna(value) else float(value)  # type: ignore[call-overload, arg-type]  # a number or null


def stored(figures: Figures) -> int:
    """Content in bytes on the day."""
    return int(figures.tables["usage"]["size_bytes"].sum())


def cost(figures: Figures) -> float:
    """Money a month on the day."""
    return float(figures.tables["usage"]["monthly_cost"].sum())


def saved(figures: Figures) -> float:
    """Money a month that is saved on the day: not what a wider scope would."""
    table = figures.tables["savings"]
    return float(table.loc[table["source"] != WIDER, "saved_per_month"].sum())


def pressed(figures: Figures) -> pd.DataFrame:
    """Customers above 80 % of their quota, fullest first."""
    table = figures.tables["customers"]
    share = table["used_percent"].astype("float64")
    return table[share.ge(NEARLY_FULL_PERCENT)].sort_values("used_percent", ascending=False)


def tiles(figures: Figures) -> list[Tile]:
    """The figures one looks at first."""
    table = figures.tables["customers"]
    found = [
        Tile("content stored", format_bytes(stored(figures)), growth(figures)),
        Tile("cost a month", money(cost(figures)), "by the locations' prices, or the Tier Policy's"),
        Tile("saved a month", money(saved(figures)), "by deduplication, compression and tiers"),
        Tile("jobs", f"{int(table['jobs'].sum()):,}", "that store something"),
    ]
    if figures.customer:
        use = "no figures yet" if table.empty else _use(table.iloc[0])
        return [*found, Tile("quota used", use, until_full(table.iloc[0]) if len(table) else "")]
    full = pressed(figures)
    return [
        *found,
        Tile("customers", f"{len(table):,}", f"{int(table['quota_bytes'].notna().sum()):,} of them with a quota"),
        Tile("quotas above 80 %", f"{len(full):,}", ", ".join(full["customer"].head(3)) or "none"),
    ]


def growth(figures: Figures, back: int = 30) -> str:
    """How much more or less is stored than some weeks ago."""
    total = _by_day(figures, "size_bytes")
    then = _on_or_before(total, figures.day - timedelta(days=back))
    if then is None:
        return "no figures of a month ago"
    change = stored(figures) - then
    if not then:
        return f"{format_bytes(change)} more than {back} days ago"
    word = "more" if change >= 0 else "less"
    return f"{percent(100 * abs(change) / then)} {word} than {back} days ago"


def of_growth(figures: Figures) -> str:
    """What the chart of growth shows."""
    total = _by_day(figures, "size_bytes")
    if not int(total.max()):
        return "Nothing is stored yet."
    text = f"{_whose(figures)} {format_bytes(stored(figures))}, {growth(figures)}"
    first = total.index[0]
    if (figures.day - first).days > 45:
        text += f", and {format_bytes(int(total.iloc[0]))} on {first}"
    return f"{text}."


def of_pressure(figures: Figures) -> str:
    """What the chart of quotas shows."""
    table = figures.tables["customers"]
    limited = table[table["quota_bytes"].notna()]
    if table.empty and figures.customer:
        return f"There are no figures of {figures.customer} on {figures.day}."
    if limited.empty:
        return "No customer has a quota." if not figures.customer else f"{figures.customer} has no quota."
    if len(limited) == 1:
        return _of_one(limited.iloc[0])
    full = pressed(figures)
    use = "uses" if len(full) == 1 else "use"
    text = f"{len(full)} of {len(limited)} customers with a quota {use} more than 80 % of it"
    # Those that are full already are counted above.
    growing = limited["forecast"].eq("growing") & limited["days_until_full"].astype("float64").le(LONGEST_DAYS)
    soon = limited[growing].sort_values("days_until_full")
    if len(soon):
        text += f"; at the present pace the next to be full is {soon.iloc[0]['customer']}: {until_full(soon.iloc[0])}"
    return f"{text}."


def _of_one(row: pd.Series) -> str:
    used = f"{row['customer']} uses {_use(row)} of its quota"
    if row["forecast"] == "growing":
        return f"{used}; at the present pace it is full in {until_full(row)}."
    return f"{used}: {until_full(row)}."


def _use(row: pd.Series) -> str:
    """Of its quota; one of nothing has no percent."""
    share = _number(row["used_percent"])
    if share is not None:
        return percent(share)
    return "no quota" if _number(row["quota_bytes"]) is None else "all"


def of_tiers(figures: Figures) -> str:
    """What the chart of tiers shows."""
    table = figures.tables["usage"]
    total = int(table["stored_bytes"].sum())
    if not total:
        return "Nothing is stored yet."
    by_tier = table.groupby("tier")["stored_bytes"].sum()
    shares = [f"{percent(100 * int(by_tier.get(tier, 0)) / total)} {tier}" for tier in ("hot", "warm", "cold")]
    trashed = int(table["trashed_bytes"].sum())
    whole = f"with {format_bytes(trashed)} in the trash it" if trashed else "all of it"
    return f"Of {format_bytes(total)} as stored, {_listed(shares)}; {whole} costs {money(cost(figures))} a month."


def of_ages(figures: Figures) -> str:
    """What the chart of ages shows."""
    table = figures.tables["ages"]
    read = table[table["since"] == "read"].groupby("age")["stored_bytes"].sum()
    total = int(read.sum())
    if not total:
        return "Nothing is stored yet."
    idle = sum(int(read.get(age, 0)) for age in ("90 to 180 days", "180 to 365 days", "a year or more"))
    return (
        f"Nobody has ever asked for {percent(100 * int(read.get('never', 0)) / total)} of the bytes, and for "
        f"{percent(100 * idle / total)} not within 90 days."
    )


def of_savings(figures: Figures) -> str:
    """What the chart of savings shows."""
    table = figures.tables["savings"]
    by_source = table.groupby("source")[["saved_bytes", "saved_per_month"]].sum()
    now = by_source.drop(index=WIDER, errors="ignore").sort_values("saved_per_month", ascending=False)
    text = "Nothing is saved yet"
    if len(now):
        parts = [f"{source} {money(float(row['saved_per_month']))}" for source, row in now.iterrows()]
        text = f"{money(saved(figures))} a month are saved: {_listed(parts)}"
    if WIDER in by_source.index:
        wider = by_source.loc[[WIDER]].iloc[0]
        text += (
            f"; deduplication across customers would save {format_bytes(int(wider['saved_bytes']))} more, "
            f"{money(float(wider['saved_per_month']))} a month"
        )
    return f"{text}."


def of_customers(figures: Figures) -> str:
    """What the chart of customers shows."""
    table = figures.tables["customers"].sort_values("monthly_cost", ascending=False)
    total = float(table["monthly_cost"].sum())
    if not total:
        return "Nothing costs anything by these prices." if stored(figures) else "Nothing is stored yet."
    most = table.head(5)
    share = percent(100 * float(most["monthly_cost"].sum()) / total)
    who = "The customer that costs most makes"
    if len(most) > 1:
        who = f"The {len(most)} customers that cost most make"
    first = most.iloc[0]
    alone = percent(100 * float(first["monthly_cost"]) / total)
    return f"{who} {share} of the cost; {first['customer']} alone {alone}."


def of_flow(figures: Figures) -> str:
    """What the chart of bytes in and out shows."""
    table = figures.tables["operations"]
    came = int(table.loc[table["operation"].isin(TAKEN_IN), "bytes"].sum())
    went = int(table.loc[table["operation"].isin(REMOVED), "bytes"].sum())
    return f"In the last 30 days {format_bytes(came)} came in, and {format_bytes(went)} were removed."


def _whose(figures: Figures) -> str:
    return f"{figures.customer} stores" if figures.customer else "Customers store"


def _by_day(figures: Figures, column: str) -> pd.Series:
    # A day on which nothing was stored has no rows, and is a day.
    return figures.daily.groupby("day")[column].sum().reindex(list(figures.days), fill_value=0)


def _on_or_before(series: pd.Series, day: date) -> int | None:
    # A figure of the days just before will do: a night may be missing.
    near = series[(series.index <= day) & (series.index > day - timedelta(days=7))]
    return int(near.iloc[-1]) if len(near) else None


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
