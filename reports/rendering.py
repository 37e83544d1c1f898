"""The report as one HTML page, which opens without a network: tiles, charts, tables, and what each figure is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from blocks.catalog.analytics import WIDER
from blocks.units import format_bytes
from reports import words
from reports.charts import draw_charts
from reports.figures import Figures

if TYPE_CHECKING:
    import pandas as pd
    from jinja2 import Template

_JOB_COLUMNS = ["customer", "size_bytes", "stored_bytes", "objects", "tier", "created_at", "last_read_at", "job_id"]
MOST_ROWS = 200
"""Rows of a table on the page; the files have all."""


@dataclass(frozen=True)
class Column:
    """A column's name, what it means, and whether it is set as a number."""

    name: str
    meaning: str
    numeric: bool


@dataclass(frozen=True)
class Cell:
    """What is shown, and what it is sorted by where that is something else."""

    text: str
    sort: str | None
    numeric: bool


@dataclass(frozen=True)
class Listing:
    """A table of the page."""

    key: str
    title: str
    sentence: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    more: str


def render(figures: Figures, *, names: Sequence[str], links: bool) -> str:
    """The page. `names` are the files beside it; `links` is whether they can be reached from there by name alone."""
    folder = files("reports") / "page"
    script = "".join((folder / name).read_text("utf-8") for name in ("sortable.min.js", "sortable.a11y.min.js"))
    from markupsafe import Markup

    return _template().render(
        figures=figures,
        tiles=words.tiles(figures),
        charts=draw_charts(figures),
        tables=listings(figures),
        files=names,
        links=links,
        style=Markup((folder / "report.css").read_text("utf-8")),  # noqa: S704 -- a file of our own
        script=Markup(script),  # noqa: S704 -- as above
    )


def listings(figures: Figures) -> list[Listing]:
    """The tables of the page, those that are most asked for first."""
    tables = figures.tables
    usage = tables["usage"].drop(columns=["api_key_id"])
    sums = [one for one in usage.columns if one not in ("customer", "kind", "tier")]
    by_kind = usage.groupby(["kind", "tier"], as_index=False)[sums].sum()
    savings = tables["savings"]
    savings = savings[savings["source"] != WIDER]
    found = [
        _listing(figures, "customers", "Customers", "Quota, use, growth, and when each quota is full (80 % range).",
                 _with_forecast(tables["customers"]).sort_values("used_bytes", ascending=False)),
        _listing(figures, "usage", "By kind and tier", "What is stored, and what it costs a month.",
                 by_kind.sort_values("size_bytes", ascending=False)),
        _listing(figures, "savings", "Savings", "What is not stored, and what that saves a month.",
                 savings.drop(columns="api_key_id").sort_values("saved_per_month", ascending=False)),
    ]  # fmt: skip
    jobs = tables["notable_jobs"]
    for name, sentence in words.LIST_SENTENCES.items():
        mine = jobs.loc[jobs["list"] == name, _JOB_COLUMNS]
        found.append(
            _listing(figures, "notable_jobs", f"{name.capitalize()} jobs", sentence, mine, key=name.replace(" ", "-"))
        )
    recent = tables["operations"].groupby(["operation", "rule"], as_index=False)[["objects", "bytes"]].sum()
    found.append(
        _listing(figures, "operations", "Done in the last 30 days", "From the operation log, by what asked for it.",
                 recent.sort_values("bytes", ascending=False))
    )  # fmt: skip
    if not figures.customer:
        found += [
            _listing(figures, "findings", "Drift and lag", "What each operation found when it last looked.",
                     tables["findings"]),
            _listing(figures, "backups", "Backups", "How the backups are, and how the last drill went.",
                     tables["backups"]),
        ]  # fmt: skip
    return found


def _with_forecast(customers: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    # Sorted by the middle of the forecast, those that are full first and those that never are last.
    order = customers["days_until_full"].astype("float64").fillna(float("1e12"))
    full = [
        Cell(words.until_full(row), str(at), True) for (_, row), at in zip(customers.iterrows(), order, strict=True)
    ]
    return customers.assign(quota_full=pd.Series(full, index=customers.index, dtype="object"))[
        ["customer", "used_bytes", "quota_bytes", "used_percent", "quota_full", "growth_bytes_per_day", "jobs",
         "monthly_cost", "free_bytes", "reserved_bytes", "history_days", "disabled"]
    ]  # fmt: skip


def _listing(figures: Figures, table: str, title: str, sentence: str, frame: pd.DataFrame, *, key: str = "") -> Listing:
    meanings = {one.column: one.meaning for one in figures.definitions[table][1]}
    columns = [Column(_title(name), meanings.get(name, ""), _is_number(name, frame[name])) for name in frame.columns]
    rows = [
        [_cell(name, value, column.numeric) for name, value, column in zip(frame.columns, row, columns, strict=True)]
        for row in frame.head(MOST_ROWS).itertuples(index=False, name=None)
    ]
    more = f"{MOST_ROWS} of {len(frame):,}; all are in {table}.csv." if len(frame) > MOST_ROWS else ""
    return Listing(f"table-{key or table}", title, sentence, columns, rows, more)


def _title(column: str) -> str:
    plain = column.removesuffix("_bytes").removesuffix("_at").replace("_", " ")
    return {"size": "content", "stored": "as stored", "growth bytes per day": "growth a day"}.get(plain, plain)


def _is_number(name: str, values: pd.Series) -> bool:
    return str(values.dtype) in ("Int64", "Float64", "int64", "float64") or name == "quota_full"


def _cell(name: str, value: Any, numeric: bool) -> Cell:
    import pandas as pd

    if isinstance(value, Cell):
        return value
    if pd.isna(value):
        return Cell("", "", numeric)
    for suffix, shown, sort in _SHOWN:
        if name.endswith(suffix):
            return Cell(shown(value), str(sort(value)), numeric)
    if numeric:
        return Cell(f"{value:,.1f}" if isinstance(value, float) else f"{value:,}", str(value), numeric)
    return Cell(str(value), None, numeric)


_SHOWN: tuple[tuple[str, Callable[[Any], str], Callable[[Any], object]], ...] = (
    ("bytes", lambda size: format_bytes(round(size)), round),
    ("bytes_per_day", lambda size: format_bytes(round(size)), round),
    ("monthly_cost", lambda amount: words.money(float(amount)), float),
    ("saved_per_month", lambda amount: words.money(float(amount)), float),
    ("used_percent", lambda share: words.percent(float(share)), float),
    ("_at", lambda at: f"{at:%Y-%m-%d %H:%M}", lambda at: f"{at:%Y%m%d%H%M}"),
    ("disabled", lambda yes: "yes" if yes else "no", int),
    ("drill_ok", lambda yes: "yes" if yes else "no", int),
)
"""By the end of a column's name: how a value is shown, and what it is sorted by."""


@lru_cache(maxsize=1)
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("reports", "page")
    # Every value is escaped: file names and labels are customers'.
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("report.html.j2")
