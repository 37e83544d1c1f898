"""The charts of a report as SVG, drawn by Vega-Lite when the report is made: the page needs no script to show them.

Colours are names that the page's style sheet gives a value, so that one drawing is light and dark. Each chart is drawn
twice, wide and narrow: text keeps its size on a telephone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Literal

from blocks.catalog.customers import FULL_PERCENT, NEARLY_FULL_PERCENT
from blocks.catalog.facts import AGES
from reports import words
from reports.figures import HISTORY_DAYS, RECENT_DAYS, Figures

if TYPE_CHECKING:
    import pandas as pd

Drawing = Any
"""A chart of Altair's; None where there is nothing to draw."""
TIERS = ("hot", "warm", "cold")
SOURCES = ("deduplication", "compression", "tiers")
MOST_BARS = 12
FURTHEST_PERCENT = 150.0
"""Of a quota: bars end there, and say how far they would go."""
_FONT = "Arial, Helvetica, 'Liberation Sans', sans-serif"
"""Widths of labels are measured when the chart is drawn: it has to be a font that readers have, or one as wide."""
_UNITS = ((2**50, "PiB"), (2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))


@dataclass(frozen=True)
class Chart:
    """One chart: its title, the sentence that says what it shows, and two drawings; empty where there is nothing."""

    key: str
    title: str
    sentence: str
    wide: str
    narrow: str


@dataclass(frozen=True)
class Size:
    """Width and height of a drawing, in CSS pixels of the plot."""

    width: int
    height: int
    ticks: int


WIDE, NARROW = Size(440, 190, 6), Size(240, 190, 3)


def draw_charts(figures: Figures) -> list[Chart]:
    """All charts of a report, in the order in which one wants to look at them."""
    drawn: list[tuple[str, str, str, Callable[[Figures, Size], Drawing]]] = [
        ("growth", "Content stored", words.of_growth(figures), growth),
        ("pressure", "Quotas", words.of_pressure(figures), pressure),
        ("customers", "Customers by cost", words.of_customers(figures), customers),
        ("tiers", "Tiers over time", words.of_tiers(figures), tiers),
        ("savings", "Savings", words.of_savings(figures), savings),
        ("ages", "Age of the data", words.of_ages(figures), ages),
        ("flow", "Bytes in and out", words.of_flow(figures), flow),
    ]
    if figures.customer:
        # One bar says less than its sentence.
        drawn = [one for one in drawn if one[0] != "customers"]
    return [
        Chart(key, title, sentence, _svg(make(figures, WIDE)), _svg(make(figures, NARROW)))
        for key, title, sentence, make in drawn
    ]


def growth(figures: Figures, size: Size) -> Drawing:
    """Content by tier over the days, one above the other."""
    return _over_time(figures, size, figures.daily, "size_bytes", "tier", TIERS)


def tiers(figures: Figures, size: Size) -> Drawing:
    """Each tier's share of the bytes as stored, over the days."""
    return _over_time(figures, size, figures.daily, "stored_bytes", "tier", TIERS, stack="normalize")


def savings(figures: Figures, size: Size) -> Drawing:
    """Money saved a month by source, over the days."""
    return _over_time(figures, size, figures.saved_daily, "saved_per_month", "source", SOURCES)


def pressure(figures: Figures, size: Size) -> Drawing:
    """The fullest quotas in percent, with lines at 80 and 100."""
    import altair as alt
    import pandas as pd

    table = figures.tables["customers"]
    table = table[table["used_percent"].notna()].sort_values("used_percent", ascending=False).head(MOST_BARS)
    if table.empty:
        return None
    share = table["used_percent"].astype("float64")
    data = pd.DataFrame(
        {"customer": table["customer"].astype(str), "percent": share.round(1),
         "state": ["full" if one >= FULL_PERCENT else "nearly full" if one >= NEARLY_FULL_PERCENT else "room left"
                   for one in share]}
    )  # fmt: skip
    # One that is far past a quota which was lowered would leave no room for the others.
    furthest = min(max(100.0, float(share.max())), FURTHEST_PERCENT)
    data["drawn"] = data["percent"].clip(upper=furthest)
    title = "percent of the quota" + (f"; bars end at {furthest:.0f}" if float(share.max()) > furthest else "")
    data["told"] = [f"{one.customer}: {one.percent:,} % of the quota, {one.state}" for one in data.itertuples()]
    bars = (
        alt.Chart(data, width=size.width, height=alt.Step(22))
        .mark_bar(cornerRadiusEnd=2)
        .encode(
            y=alt.Y("customer:N", sort=None, title=None, axis=_names(size)),
            x=alt.X("drawn:Q", title=title, axis=_axis(size), scale=alt.Scale(domain=[0, furthest])),
            color=_color("state", ("room left", "nearly full", "full")),
            description="told:N",
        )
    )  # fmt: skip
    limits = pd.DataFrame({"percent": [NEARLY_FULL_PERCENT, FULL_PERCENT]})
    lines = alt.Chart(limits).mark_rule(color="var(--ink-soft)", strokeDash=[4, 3], aria=False).encode(x="percent:Q")
    return alt.layer(bars, lines)


def customers(figures: Figures, size: Size) -> Drawing:
    """The customers that cost most, by tier."""
    import altair as alt

    table = figures.tables["usage"]
    most = table.groupby("customer")["monthly_cost"].sum().sort_values(ascending=False).head(MOST_BARS)
    data = (
        table[table["customer"].isin(most.index)].groupby(["customer", "tier"], as_index=False)[["monthly_cost"]].sum()
    )
    if data.empty or not data["monthly_cost"].sum():
        return None
    data = data.astype({"customer": "str", "tier": "str", "monthly_cost": "float64"})
    data["told"] = [
        f"{one.customer}: {words.money(float(cost))} a month, {one.tier}"
        for one, cost in zip(data.itertuples(), data["monthly_cost"], strict=True)
    ]
    return (
        alt.Chart(data, width=size.width, height=alt.Step(22))
        .mark_bar()
        .encode(
            y=alt.Y("customer:N", sort=list(most.index), title=None, axis=_names(size)),
            x=alt.X("monthly_cost:Q", title="cost a month", axis=_axis(size)),
            color=_color("tier", TIERS),
            order=alt.Order("rank:Q"),
            description="told:N",
        )
        .transform_calculate(rank=f"indexof({list(TIERS)}, datum.tier)")
    )


def ages(figures: Figures, size: Size) -> Drawing:
    """Bytes by how long ago they came in, and by how long ago anybody asked for them."""
    import altair as alt

    table = figures.tables["ages"].groupby(["since", "age"], as_index=False)[["stored_bytes"]].sum()
    if table.empty:
        return None
    data, unit = _scaled(table.astype({"since": "str", "age": "str"}), "stored_bytes")
    data["since"] = data["since"].map({"created": "came in", "read": "last asked for"})
    return (
        alt.Chart(data, width=size.width, height=alt.Step(11))
        .mark_bar(cornerRadiusEnd=2)
        .encode(
            y=alt.Y("age:N", sort=list(AGES), title=None, axis=_names(size)),
            yOffset=alt.YOffset("since:N", sort=["came in", "last asked for"]),
            x=alt.X(f"{unit}:Q", title=unit, axis=_axis(size)),
            color=_color("since", ("came in", "last asked for")),
        )
    )


def flow(figures: Figures, size: Size) -> Drawing:
    """Bytes that came in upwards, bytes that were removed downwards, for each of the last days."""
    import altair as alt
    import pandas as pd

    table = figures.tables["operations"]
    came = table[table["operation"].isin(words.TAKEN_IN)].assign(way="came in")
    went = table[table["operation"].isin(words.REMOVED)].assign(way="removed")
    both = pd.concat([came, went.assign(bytes=-went["bytes"])])
    if both.empty:
        return None
    summed = both.groupby(["day", "way"], as_index=False)[["bytes"]].sum()
    data, unit = _scaled(summed, "bytes")
    data["day"] = data["day"].map(str)
    first = figures.day - timedelta(days=RECENT_DAYS - 1)
    return (
        alt.Chart(data, width=size.width, height=size.height - 40)
        .mark_bar(width=max(3, size.width // RECENT_DAYS - 3))
        .encode(
            x=_time(size, first, figures.day),
            y=alt.Y(f"{unit}:Q", title=unit, axis=_axis(size)),
            color=_color("way", ("came in", "removed")),
        )
    )


def _over_time(
    figures: Figures, size: Size, table: pd.DataFrame, column: str, by: str, order: tuple[str, ...],
    stack: Literal["zero", "normalize"] = "zero",
) -> Drawing:  # fmt: skip
    import altair as alt

    if table.empty or not float(table[column].sum()):
        return None
    data, unit = (
        _scaled(table, column) if column.endswith("_bytes") else (table.rename(columns={column: "a month"}), "a month")
    )
    data = _whole(data[["day", by, unit]], by, unit, figures)
    title = None if stack == "normalize" else unit
    y_axis = _axis(size, percent=True) if stack == "normalize" else _axis(size)
    first = max(min(table["day"]), figures.day - timedelta(days=HISTORY_DAYS - 1))
    return (
        alt.Chart(data, width=size.width, height=size.height)
        # Steps: each day's figures are those of one moment, and a missing day shows the one before.
        .mark_area(interpolate="step-after", line=False)
        .encode(
            x=_time(size, first, figures.day + timedelta(days=1)),
            y=alt.Y(f"{unit}:Q", title=title, stack=stack, axis=y_axis),
            color=_color(by, order),
            order=alt.Order("rank:Q"),
            # An area is one mark: without this it would tell the first day's figure for all of them.
            description=f"{by}:N",
        )
        .transform_calculate(rank=f"indexof({list(order)}, datum['{by}'])")
    )


def _whole(data: pd.DataFrame, by: str, value: str, figures: Figures) -> pd.DataFrame:
    """A value for each day and series, 0 where there is none: areas end where their series ends."""
    wide = data.pivot_table(index="day", columns=by, values=value, aggfunc="sum", fill_value=0)
    wide = wide.reindex([one for one in figures.days if one >= min(data["day"])], fill_value=0)
    # The last day is drawn as wide as a day, as all others.
    wide.loc[wide.index[-1] + timedelta(days=1)] = wide.iloc[-1]
    long = wide.rename_axis("day").reset_index().melt("day", var_name=by, value_name=value)
    return long.assign(day=long["day"].map(str)).astype({by: "str", value: "float64"})


def _scaled(table: pd.DataFrame, column: str) -> tuple[pd.DataFrame, str]:
    """The table with its bytes in the unit that fits the largest sum, in a column that is called like it."""
    sizes = table[column].astype("float64")
    largest = float(sizes.abs().groupby(table.iloc[:, 0].map(str)).sum().max()) if len(table) else 0.0
    factor, unit = next((one for one in _UNITS if largest >= one[0]), _UNITS[-1])
    return table.drop(columns=column).assign(**{unit: (sizes / factor).round(3)}), unit


def _time(size: Size, first: date, last: date) -> Any:
    import altair as alt

    until = max(last, first + timedelta(days=1))
    days = (until - first).days
    # A few days have a tick each: Vega's own would be hours.
    few = [str(first + timedelta(days=one)) for one in range(days + 1)] if days <= 2 * size.ticks else alt.Undefined
    label = "utcFormat(datum.value, '%d %b')"
    if days > 100:
        # The year stands below its first month, and below the first of all.
        first_of_year = "datum.index == 0 || utcFormat(datum.value, '%m') == '01'"
        label = f"[utcFormat(datum.value, '%b'), {first_of_year} ? utcFormat(datum.value, '%Y') : '']"
    return alt.X(
        "day:T",
        title=None,
        scale=alt.Scale(type="utc", domain=[str(first), str(until)]),
        axis=alt.Axis(
            labelExpr=label,
            values=few,
            tickCount=size.ticks,
            labelOverlap="greedy",
            labelSeparation=8,
            grid=False,
        ),
    )


def _names(size: Size) -> Any:
    """The axis of names, with room for those that are wider where they are read than where they were drawn."""
    import altair as alt

    room = 112 if size is WIDE else 92
    return alt.Axis(minExtent=room, labelLimit=room - 8)


def _axis(size: Size, *, percent: bool = False) -> Any:
    import altair as alt

    return alt.Axis(tickCount=min(size.ticks, 5), format="%" if percent else ",~f")


def _color(column: str, order: tuple[str, ...]) -> Any:
    import altair as alt

    names = [f"var(--{re.sub(r'[^a-z]+', '-', one)})" for one in order]
    return alt.Color(
        f"{column}:N",
        scale=alt.Scale(domain=list(order), range=names),
        legend=alt.Legend(title=None, orient="top", columns=3, columnPadding=24, symbolType="square"),
    )


def _svg(chart: Any) -> str:
    """The drawing, with a tooltip for each mark; empty where there is nothing to draw."""
    if chart is None:
        return ""
    import vl_convert

    themed = (
        chart.configure(background="transparent", font=_FONT, padding=2)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor="var(--ink-soft)", titleColor="var(--ink-soft)", gridColor="var(--line)",
            domainColor="var(--line)", tickColor="var(--line)", labelFontSize=12, titleFontSize=12,
            titleFontWeight="normal",
        )
        .configure_legend(labelColor="var(--ink)", labelFontSize=12)
    )  # fmt: skip
    drawn: str = vl_convert.vegalite_to_svg(themed.to_dict(), allowed_base_urls=[])
    return _responsive(drawn)


_MARK = re.compile(r'(<(path|rect)\b[^>]*aria-label="([^"]*)"[^>]*role="graphics-symbol"[^>]*?)(/>|></\2>)')


def _responsive(svg: str) -> str:
    """Without a fixed size, and with what screen readers hear as a tooltip too."""
    svg = re.sub(r' width="[\d.]+" height="[\d.]+"', "", svg, count=1)
    return _MARK.sub(r"\1><title>\3</title></\2>", svg)
