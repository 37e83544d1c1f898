"""What every flow does first and last: open what its parameters name, and show what happened."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, get_type_hints

from prefect import get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from blocks.catalog import CatalogDatabase
from blocks.catalog.locations import list_places
from blocks.catalog.migrating import require_current_schema
from blocks.errors import NotFoundError, StorageError
from blocks.loading import load_block
from blocks.object_store import ObjectStore
from tasks.stores import OpenLocation, open_location


def open_catalog(name: str) -> CatalogDatabase:
    """The catalog saved under this name."""
    return load_block(CatalogDatabase, name)


def open_store(catalog: CatalogDatabase, name: str) -> OpenLocation:
    """The location of the store saved under this name, checked to be this catalog's."""
    return open_location(catalog, load_block(ObjectStore, name), name)


def open_stores(catalog: CatalogDatabase, names: Sequence[str]) -> tuple[OpenLocation, ...]:
    """The locations of these stores, or of all that were ever declared where none is named."""
    require_current_schema(catalog)
    wanted = list(dict.fromkeys(names)) or catalog.transaction(list_places)
    if not wanted:
        raise NotFoundError("no store is declared yet; run the flow probe-store first")
    return tuple(open_store(catalog, name) for name in wanted)


P = ParamSpec("P")
R = TypeVar("R")


def reported(flow_function: Callable[P, R]) -> Callable[P, R | State[R]]:
    """End a run with the project's own error as its message, without a traceback for a quota that is full.

    Called as a function the flow raises that error, as any function would.
    """

    @functools.wraps(flow_function)
    def run(*arguments: P.args, **options: P.kwargs) -> R | State[R]:
        try:
            return flow_function(*arguments, **options)
        except StorageError as error:
            get_run_logger().error("%s", error)
            return Failed(message=str(error), data=error)

    # Names in annotations belong to the flow's module; Prefect would look for them in this one.
    run.__annotations__ = get_type_hints(flow_function)
    run.__signature__ = inspect.signature(flow_function, eval_str=True)  # type: ignore[attr-defined]  # read by inspect
    return run


def done(message: str, data: Any = None) -> State[Any]:
    """The end of a run that went well, with its summary where the UI shows it."""
    get_run_logger().info(message)
    return Completed(message=message, data=data)


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


def escaped(text: str) -> str:
    """A user's text as Markdown that shows just that: a file name must not become a link or an image."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~&-])", r"\\\1", text)


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, int | float | str | bool) else str(value)
