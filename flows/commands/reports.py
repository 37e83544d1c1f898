"""`python -m flows report`, `analyst` and `example`: what is stored, as a page, for whoever reads it."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from blocks.errors import RefusedError
from blocks.units import shown
from flows.commands.console import clear_errors, err, out, plain
from flows.commands.options import CatalogName
from flows.commands.server import use_local_prefect
from flows.local.setup import local_stack

if TYPE_CHECKING:
    from blocks.catalog import CatalogDatabase

EXAMPLE = "example"
EXAMPLE_DATABASE = "transcode_flow_example"


def report(
    folder: Annotated[Path, typer.Argument(help="Folder to write to; it is made where it is missing.")],
    key: Annotated[str, typer.Option(help="Label or id of a customer, for a report of that one.")] = "",
    date: Annotated[str, typer.Option(help="Day, such as 2026-05-01; the newest unless given.")] = "",
    catalog: CatalogName = "main",
) -> None:
    """Write the report of a day into a folder: a page that opens offline, and the figures as CSV and Parquet."""
    with clear_errors():
        use_local_prefect()
        from flows.common.opening import open_catalog

        write_report(open_catalog(catalog), folder, key=key, date=date)


def write_report(database: CatalogDatabase, folder: Path, *, key: str = "", date: str = "") -> None:
    """Write a report, and say where."""
    from reports.exporting import export
    from reports.figures import read_figures
    from tasks.analytics.snapshot import check_day

    figures = read_figures(database, customer=key, day=check_day(date))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        page, *others = export(figures, folder, links=True)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise RefusedError(f"{shown(str(folder))} cannot be written: {why}") from error
    out.print(f"{page.resolve()}", soft_wrap=True, highlight=False, markup=False)
    err.print(
        f"{plain(figures.scope)} on {figures.day}, and the same in {len(others)} files beside it", highlight=False
    )


def analyst(
    name: Annotated[str, typer.Argument(help="Name of the role: letters in lower case, digits and _.")],
    catalog: CatalogName = "main",
) -> None:
    """Make a role that can read the schema analytics and nothing else; its password is printed, once."""
    with clear_errors():
        use_local_prefect()
        from blocks.catalog.readers import STATEMENT_MINUTES, create_reader
        from flows.common.opening import open_catalog

        database = open_catalog(catalog)
        password = create_reader(database, name)
        err.print(
            f"role {name} reads the schema analytics of {database.database}, {STATEMENT_MINUTES} minutes a query; "
            f"connect with: psql -h {database.host} -p {database.port} -U {name} {database.database}\n"
            "its password is shown this once:", soft_wrap=True, highlight=False,
        )  # fmt: skip
        sys.stdout.write(password + "\n")


def example(
    folder: Annotated[Path | None, typer.Option(help="Folder for the report; .local/example unless given.")] = None,
    days: Annotated[int, typer.Option(min=2, max=730, help="Days of history.")] = 365,
    again: Annotated[bool, typer.Option("--again", help="Drop the example that is there, and make a new one.")] = False,
) -> None:
    """Make a catalog of its own with a year of customers and their videos, and the report of it; takes a minute.

    It lies in a database and a bucket of its own, as the blocks named example; the catalog in use is not touched. The
    rows have no bytes behind them: it is there to be read.
    """
    with clear_errors():
        stack = local_stack()
        if missing := [part for part in ("postgres", "s3", "prefect") if stack.status()[part] is None]:
            raise RefusedError(f"the embedded stack does not run ({', '.join(missing)}): start it with `make up`")
        use_local_prefect()
        from flows.local.setup import prepare_example
        from tasks.example import seed_example

        database = prepare_example(stack, EXAMPLE_DATABASE, EXAMPLE, again=again)
        finished = stack.folder / "example.finished"
        if _is_empty(database):
            finished.unlink(missing_ok=True)
            with Progress(TextColumn("playing a year"), BarColumn(), TimeRemainingColumn(), console=err) as bar:
                task = bar.add_task("days", total=days)
                jobs = seed_example(
                    database, now=datetime.now(UTC), days=days, progress=lambda more: bar.update(task, advance=more)
                )
            finished.touch()
            err.print(f"{jobs} jobs came in, over {days} days", highlight=False)
        elif not finished.exists():
            raise RefusedError(
                "the example that is there was not played to its end, or by another version: --again makes it anew"
            )
        elif folder is None:
            err.print("the example is there already; --again makes a new one")
        write_report(database, folder or stack.folder / EXAMPLE)
        err.print(
            f"the tables: psql -h {database.host} -U {database.username} {database.database}\n"
            "a report of one customer: python -m flows report FOLDER --catalog example --key bergwerk-tv",
            soft_wrap=True, highlight=False,
        )  # fmt: skip


def _is_empty(database: CatalogDatabase) -> bool:
    from tasks.customers import list_keys

    return not list_keys(database)
