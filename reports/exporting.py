"""A report as files: the page, and the same figures as CSV and Parquet beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from reports.figures import OF_THE_PLATFORM, Figures
from reports.rendering import render

if TYPE_CHECKING:
    import pandas as pd

PAGE = "report.html"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""


def export(figures: Figures, folder: Path, *, links: bool) -> list[Path]:
    """Write the page and its files into a folder, which exists; returns them, the page first.

    What a report of all customers left there, and a customer's has not, is removed.
    """
    for name in set(OF_THE_PLATFORM) - set(figures.tables):
        for suffix in (".csv", ".parquet"):
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
    written = []
    for name, frame in frames(figures):
        plain = frame.reset_index(drop=True)
        csv, parquet = folder / f"{name}.csv", folder / f"{name}.parquet"
        _harmless(plain).to_csv(csv, index=False)
        _dated(plain).to_parquet(parquet, index=False)
        written += [csv, parquet]
    page = folder / PAGE
    page.write_text(render(figures, names=[one.name for one in written], links=links), "utf-8")
    return [page, *written]


def frames(figures: Figures) -> Iterator[tuple[str, pd.DataFrame]]:
    """Every table of a report, by the name of its files."""
    yield from figures.tables.items()
    yield "daily", figures.daily
    yield "saved_daily", figures.saved_daily


def _dated(frame: pd.DataFrame) -> pd.DataFrame:
    """Days are days in a table without rows too: files of many reports are read as one."""
    import pandas as pd
    import pyarrow as pa

    return frame.astype({"day": pd.ArrowDtype(pa.date32())}) if "day" in frame.columns else frame


def _harmless(frame: pd.DataFrame) -> pd.DataFrame:
    """Texts that a spreadsheet would run begin with an apostrophe: file names are customers'."""
    texts = {
        name: frame[name].map(lambda text: f"'{text}" if isinstance(text, str) and text.startswith(_FORMULA) else text)
        for name in frame.columns
        if str(frame[name].dtype) in ("str", "string", "object")
    }
    return frame.assign(**texts)
