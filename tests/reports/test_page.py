"""The page and the files of a report: complete, offline, harmless, and true to the figures."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from uuid import UUID

import pandas as pd
import pytest
from pyarrow.dataset import dataset

from blocks.catalog import CatalogDatabase
from blocks.errors import NotFoundError
from blocks.policies import TierPolicy
from reports import words
from reports.exporting import PAGE, export
from reports.figures import read_figures
from tasks.analytics.snapshot import refresh
from tasks.customers import create_key
from tasks.stores import OpenLocation
from tests.helpers import execute, one, rows

NOW = datetime(2026, 11, 20, 6, 30, tzinfo=UTC)
"""The moment up to which the catalog was played."""


class Page(HTMLParser):
    """What a browser would find: tables by their section, texts, addresses, elements that are not closed."""

    VOID = ("meta", "link", "br", "img", "hr", "rect", "path", "line", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[tuple[str, str]]]] = {}
        self.captions: dict[str, str] = {}
        self.addresses: list[str] = []
        self.scripts = 0
        self._open: list[str] = []
        self._section = self._sort = ""
        self._cell: str | None = None
        self._caption = False
        self.feed(text)
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag not in self.VOID:
            self._open.append(tag)
        self.addresses += [value for name in ("href", "src", "xlink:href") if (value := given.get(name))]
        self.scripts += tag == "script"
        if tag in ("section", "figure"):
            self._section = given.get("id") or ""
        if tag == "tr":
            self.tables.setdefault(self._section, []).append([])
        if tag in ("td", "th"):
            self._cell, self._sort = "", given.get("data-sort") or ""
        self._caption = tag == "figcaption"

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open.pop() == tag
        if tag in ("td", "th"):
            self.tables[self._section][-1].append((self._cell or "", self._sort))
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell += data
        if self._caption:
            self.captions[self._section] = data
            self._caption = False

    def column(self, table: str, name: str) -> list[tuple[str, str]]:
        head, *body = self.tables[f"table-{table}"]
        number = [cell[0] for cell in head].index(name)
        return [row[number] for row in body]


def read(catalog: CatalogDatabase, folder: Path, customer: str = "") -> tuple[str, Page]:
    export(read_figures(catalog, customer=customer), folder, links=True)
    text = (folder / PAGE).read_text("utf-8")
    return text, Page(text)


def test_numbers_on_the_page_are_those_of_sql(played: CatalogDatabase, tmp_path: Path) -> None:
    _, page = read(played, tmp_path)
    used = dict(
        zip(*([cell[0] for cell in page.column("customers", name)] for name in ("customer", "used")), strict=True)
    )
    sizes = {name: int(cell[1]) for name, cell in zip(used, page.column("customers", "used"), strict=True)}
    assert sizes == {row.label: row.storage_used_bytes for row in rows(played, "SELECT * FROM api_keys")}
    by_kind = {
        (kind[0], tier[0]): int(size[1])
        for kind, tier, size in zip(*(page.column("usage", name) for name in ("kind", "tier", "content")), strict=True)
    }
    assert by_kind == {
        (row.kind, row.tier): row.size
        for row in rows(
            played,
            "SELECT o.kind, l.tier, sum(o.size_bytes) FILTER (WHERE o.state = 'live')::bigint AS size "
            "  FROM stored_objects o JOIN locations l ON l.id = o.location_id GROUP BY 1, 2",
        )
    }
    largest = page.column("largest", "job id")
    assert [cell[0] for cell in largest] == [
        str(row.job_id)
        for row in rows(
            played,
            "SELECT job_id, sum(size_bytes) AS size FROM stored_objects WHERE state = 'live' GROUP BY 1 "
            " ORDER BY size DESC, job_id LIMIT 25",
        )
    ]
    coldest = page.column("coldest", "job id")
    assert [cell[0] for cell in coldest] == [
        str(row.id)
        for row in rows(
            played,
            "SELECT id FROM jobs WHERE deleted_at IS NULL AND completed_at IS NOT NULL "
            " ORDER BY greatest(completed_at, last_accessed_at), id LIMIT 25",
        )
    ]


def test_every_chart_is_drawn_and_says_what_it_shows(played: CatalogDatabase, tmp_path: Path) -> None:
    text, page = read(played, tmp_path)
    charts = ("growth", "pressure", "customers", "tiers", "savings", "ages", "flow")
    assert [name for name in charts if name not in page.captions] == []
    assert all(page.captions[name].endswith(".") for name in charts)
    assert text.count("<svg") == 2 * len(charts), "wide and narrow"
    assert "<title>" in text.split("</head>")[1], "marks tell their value"
    figures = read_figures(played)
    assert html.unescape(page.captions["tiers"]) == words.of_tiers(figures)


def test_the_page_needs_nothing_from_elsewhere(played: CatalogDatabase, tmp_path: Path) -> None:
    text, page = read(played, tmp_path)
    assert [one for one in page.addresses if not re.fullmatch(r"#[a-z -]+|[a-z_]+\.(csv|parquet)", one)] == []
    assert "default-src 'none'" in text
    outside = set(re.findall(r"https?://[^\"'\s<)]+", text)) - {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert outside == set()


def test_every_column_is_explained_or_says_itself(played: CatalogDatabase, tmp_path: Path) -> None:
    figures = read_figures(played)
    for table, (meaning, columns) in figures.definitions.items():
        assert meaning.endswith("."), table
        assert all(one.meaning.endswith((".", "…")) for one in columns), table
    text, _ = read(played, tmp_path)
    assert html.escape("Free bytes over growth; null where it does not grow, or without a quota.") in text


def test_files_hold_what_the_tables_hold(played: CatalogDatabase, tmp_path: Path) -> None:
    read(played, tmp_path)
    for name in ("usage", "customers", "savings", "ages"):
        wanted = one(played, f"SELECT count(*) FROM analytics.{name} WHERE day = :day", day=NOW.date())
        csv, parquet = pd.read_csv(tmp_path / f"{name}.csv"), pd.read_parquet(tmp_path / f"{name}.parquet")
        assert len(csv) == len(parquet) == wanted, name
        assert list(csv.columns) == list(parquet.columns)
    assert int(pd.read_parquet(tmp_path / "usage.parquet")["size_bytes"].sum()) == int(
        one(played, "SELECT sum(storage_used_bytes) FROM api_keys")
    )


def test_a_customers_report_tells_of_nobody_else(played: CatalogDatabase, tmp_path: Path) -> None:
    text, page = read(played, tmp_path, "bergwerk-tv")
    others = [row.label for row in rows(played, "SELECT label FROM api_keys WHERE label <> 'bergwerk-tv'")]
    everything = text + "".join(path.read_text("utf-8") for path in tmp_path.glob("*.csv"))
    assert [name for name in others if name in everything] == []
    assert "wider deduplication" not in {cell[0] for row in page.tables["table-savings"][1:] for cell in row}
    _, of_all = read(played, tmp_path)
    saved = [float(cell[1]) for cell in of_all.column("savings", "saved per month")]
    assert sum(saved) == pytest.approx(words.saved(read_figures(played))), "only what is really saved is a row"
    text, page = read(played, tmp_path, "bergwerk-tv")
    assert {path.stem for path in tmp_path.glob("*.csv")} & {"findings", "backups"} == set()
    assert [cell[0] for cell in page.column("customers", "customer")] == ["bergwerk-tv"]
    assert "wider deduplication" in (tmp_path / PAGE).read_text("utf-8"), "its definition alone"


def test_a_folder_that_held_the_report_of_all(played: CatalogDatabase, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("of somebody else")
    read(played, tmp_path)
    files = export(read_figures(played, customer="bergwerk-tv"), tmp_path, links=True)
    assert {path.name for path in tmp_path.iterdir()} == {*(path.name for path in files), "mine.csv"}


def test_files_of_several_days_are_read_as_one(played: CatalogDatabase, catalog: CatalogDatabase, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Also of a catalog where nothing has been saved yet."""
    refresh(catalog, TierPolicy(), now=NOW)
    for name, database in (("full", played), ("empty", catalog)):
        (tmp_path / name).mkdir()
        export(read_figures(database), tmp_path / name, links=True)
    for file in ("daily", "saved_daily", "operations"):
        parts = [str(tmp_path / name / f"{file}.parquet") for name in ("full", "empty")]
        table = dataset(parts).to_table()
        assert str(table.schema.field("day").type) == "date32[day]", file
        assert table.num_rows == len(pd.read_parquet(parts[0])), file


def test_marks_tell_what_they_show(played: CatalogDatabase, tmp_path: Path) -> None:
    """An area is one mark for all of its days: it says whose it is, and no day's figure."""
    text, _ = read(played, tmp_path)
    told = set(re.findall(r'aria-label="([^"]*)" role="graphics-symbol"', text.partition("<script>")[0]))
    assert {"hot", "warm", "compression", "tiers", "deduplication"} <= told
    assert [one for one in told if "rank" in one or (one.startswith("day: ") and "TiB" in one and "tier" in one)] == []
    assert [one for one in told if re.fullmatch(r"bergwerk-tv: [\d.,]+ % of the quota, .*", one)] != []
    assert [one for one in told if re.fullmatch(r"bergwerk-tv: [\d.,]+ a month, (hot|warm|cold)", one)] != []


def test_one_far_past_its_quota_leaves_room_for_the_others(
    catalog: CatalogDatabase, new_job: Callable[..., UUID], tmp_path: Path
) -> None:
    new_job(b"x" * 1000)
    execute(catalog, "UPDATE api_keys SET storage_quota_bytes = 1")
    refresh(catalog, TierPolicy(), now=NOW)
    text, _ = read(catalog, tmp_path)
    assert "acme: 100,000.0 % of the quota, full" in text
    assert "percent of the quota; bars end at 150" in text
    assert ">150<" in text or ">140<" in text
    assert ">100,000<" not in text.partition("<table")[0]


def test_an_empty_catalog(catalog: CatalogDatabase, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there are no figures yet: run the flow refresh-analytics"):
        read_figures(catalog)
    refresh(catalog, TierPolicy(), now=NOW)
    text, page = read(catalog, tmp_path)
    assert page.captions["growth"] == "Nothing is stored yet."
    assert page.captions["pressure"] == "No customer has a quota."
    assert text.count("Nothing to list.") > 5
    assert "NaN" not in text.partition("<script>")[0]
    assert "&lt;NA&gt;" not in text


def test_one_customer_on_the_first_day(catalog: CatalogDatabase, new_job: Callable[..., UUID], tmp_path: Path) -> None:
    new_job(b"x" * 3000)
    refresh(catalog, TierPolicy())
    text, page = read(catalog, tmp_path)
    assert page.captions["growth"] == "Customers store 2.9 KiB, no figures of a month ago."
    assert page.captions["pressure"] == "acme uses <0.1 % of its quota: too little history."
    assert page.captions["customers"] == "The customer that costs most makes 100 % of the cost; acme alone 100 %."
    assert page.column("customers", "quota full") == [("too little history", "1000000000000.0")]
    assert text.count("<svg") >= 10


def test_keys_without_a_quota(catalog: CatalogDatabase, tmp_path: Path) -> None:
    create_key(catalog, "free", "unlimited")
    create_key(catalog, "closed", "0")
    refresh(catalog, TierPolicy())
    _, page = read(catalog, tmp_path)
    full = dict(
        zip(*([cell[0] for cell in page.column("customers", n)] for n in ("customer", "quota full")), strict=True)
    )
    assert full == {"free": "no quota", "closed": "full"}
    _, page = read(catalog, tmp_path, "free")
    assert page.captions["pressure"] == "free has no quota."


HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">'


def test_names_with_markup_are_text(catalog: CatalogDatabase, new_job: Callable[..., UUID], tmp_path: Path) -> None:
    new_job(b"a")
    # A label cannot be made like this; whoever reaches the table could.
    execute(catalog, "UPDATE api_keys SET label = :name", name=HOSTILE)
    refresh(catalog, TierPolicy())
    text, page = read(catalog, tmp_path)
    assert page.scripts == 1
    assert [one for one in page.addresses if "alert" in one or one == "x"] == []
    assert [cell[0] for cell in page.column("largest", "customer")] == [HOSTILE]
    assert HOSTILE not in text


def test_no_report_tells_the_name_of_a_file(
    catalog: CatalogDatabase, new_job: Callable[..., UUID], tmp_path: Path
) -> None:
    job = new_job(b"a")
    execute(catalog, "UPDATE jobs SET filename = 'a secret.mp4' WHERE id = CAST(:id AS uuid)", id=str(job))
    refresh(catalog, TierPolicy())
    assert one(catalog, "SELECT count(*) FROM analytics.notable_jobs WHERE filename = 'a secret.mp4'") == 1
    text, _ = read(catalog, tmp_path)
    assert str(job) in text
    for path in tmp_path.iterdir():
        assert b"a secret" not in path.read_bytes(), path.name


def test_a_spreadsheet_runs_nothing(catalog: CatalogDatabase, new_job: Callable[..., UUID], tmp_path: Path) -> None:
    new_job(b"a")
    names = ["=1+1", "+49", "-2", "@SUM(A1)", "\tx", "plain"]
    for number, name in enumerate(names):
        create_key(catalog, f"key-{number}")
        execute(catalog, "UPDATE api_keys SET label = :name WHERE label = :made", name=name, made=f"key-{number}")
    refresh(catalog, TierPolicy())
    read(catalog, tmp_path)
    kept = pd.read_csv(tmp_path / "customers.csv", keep_default_na=False)["customer"]
    assert set(kept) == {"acme", "plain", *(f"'{name}" for name in names[:-1])}
    assert set(pd.read_parquet(tmp_path / "customers.parquet")["customer"]) == {"acme", *names}


def test_a_day_on_which_nothing_was_stored_is_a_day(
    catalog: CatalogDatabase, location: OpenLocation, acme: str
) -> None:
    def hold(size: int, back: int) -> None:
        execute(catalog, "DELETE FROM stored_objects")
        if size:
            execute(
                catalog,
                "INSERT INTO jobs (id, api_key_id, status, filename) VALUES (gen_random_uuid(), 1, 'queued', 'f')",
            )
            execute(
                catalog,
                "INSERT INTO stored_objects (id, job_id, api_key_id, kind, name, location_id, key, size_bytes, "
                "  stored_bytes, sha256, state) SELECT gen_random_uuid(), id, 1, 'original', 'f', :location, "
                "  CAST(id AS text), :size, :size, repeat('0', 64), 'live' FROM jobs ORDER BY created_at DESC LIMIT 1",
                location=location.place.id, size=size,
            )  # fmt: skip
        refresh(catalog, TierPolicy(), now=NOW - timedelta(days=back))

    for size, back in ((1000, 34), (0, 33), (0, 30), (0, 1), (4000, 0)):
        hold(size, back)
    figures = read_figures(catalog)
    assert words.growth(figures) == "3.9 KiB more than 30 days ago"


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0"), (0.00000001, "<0.001"), (0.0042, "0.0042"), (1.5, "1.50"), (1234.4, "1,234"), (-3.0, "-3.00")],
)
def test_money(amount: float, text: str) -> None:
    assert words.money(amount) == text


@pytest.mark.parametrize(
    ("days", "text"),
    [(None, "never"), (0.2, "less than a day"), (1.0, "1 day"), (12.4, "12 days"), (1e9, "over 10 years")],
)
def test_days(days: float | None, text: str) -> None:
    assert words.days(days) == text
