"""What every flow does first and last: open what its parameters name, and show what happened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run

from blocks.catalog import CatalogDatabase
from blocks.loading import load_block
from blocks.object_store import ObjectStore
from tasks.stores import OpenLocation, open_location


def open_catalog(name: str) -> CatalogDatabase:
    """The catalog saved under this name."""
    return load_block(CatalogDatabase, name)


def open_store(catalog: CatalogDatabase, name: str) -> OpenLocation:
    """The location of the store saved under this name, checked to be this catalog's."""
    return open_location(catalog, load_block(ObjectStore, name), name)


def run_label() -> str:
    """What the operation log calls this run."""
    return str(flow_run.get_id() or "manual")


def show_table(key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
    """A table artifact; every value becomes text or a number, because artifacts are plain JSON."""
    plain = [{name: _plain(value) for name, value in row.items()} for row in rows]
    create_table_artifact(key=key, table=plain, description=description)


def markdown_rows(rows: Iterable[tuple[str, object]]) -> str:
    """A two-column Markdown table; pipes and backticks in values are made harmless."""
    lines = ["| | |", "| --- | --- |"]
    for name, value in rows:
        shown = str(value).replace("|", "\\|").replace("`", "'").replace("\n", " ")
        lines.append(f"| {name} | {shown} |")
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, int | float | str | bool) else str(value)
