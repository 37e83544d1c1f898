"""What every flow does first and last: open what its parameters name, and show what happened."""

from __future__ import annotations

import functools
import inspect
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeVar, get_type_hints

from prefect import get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.variables import Variable

from blocks.catalog import CatalogDatabase
from blocks.catalog.locations import list_places
from blocks.catalog.migrating import require_current_schema
from blocks.errors import NotFoundError, StorageError
from blocks.loading import load_block
from flows.common.events import watching_schedule
from tasks.stores import Locations, OpenLocation, open_for_new_files, open_named

TIMEZONE_VARIABLE = "storage_timezone"
"""Prefect variable with the time zone of all schedules, such as Europe/Berlin."""


def open_catalog(name: str) -> CatalogDatabase:
    """The catalog saved under this name.

    Raises:
        NotFoundError: there is no such block.
        SchemaError: its schema is another version's, or not whole.
    """
    catalog = load_block(CatalogDatabase, name)
    require_current_schema(catalog)
    return catalog


def open_locations(catalog: CatalogDatabase, name: str) -> Locations:
    """All locations of the catalog, each opened when it is needed; what is made for a caller lands in this one."""
    return Locations(catalog, open_for_new_files(catalog, name))


def open_stores(catalog: CatalogDatabase, names: Sequence[str]) -> tuple[OpenLocation, ...]:
    """The locations of these names, or all that are in use where none is named: one for each bucket and prefix.

    What differs in its storage class alone lies in one listing, and is looked through together.
    """
    return _one_a_shelf([open_named(catalog, name) for name in _names_of_stores(catalog, names)])


@dataclass(frozen=True)
class Reached:
    """Locations that could be opened, and why others could not, by their names."""

    locations: tuple[OpenLocation, ...]
    left_out: dict[str, StorageError]


def reach_stores(catalog: CatalogDatabase, names: Sequence[str]) -> Reached:
    """As `open_stores`, but where none is named, one that is down keeps no sweep from the others.

    Raises:
        StorageError: one that was named cannot be opened, or none can.
    """
    if names:
        return Reached(open_stores(catalog, names), {})
    reached = open_each(catalog)
    for name, error in reached.left_out.items():
        get_run_logger().error("%s is left out: %s", name, error)
    if not reached.locations:
        raise next(iter(reached.left_out.values()))
    return reached


def open_each(catalog: CatalogDatabase, *, to_look: bool = False) -> Reached:
    """All locations that can be opened, and why others cannot; `to_look` as `tasks.stores.open_named`."""
    opened: list[OpenLocation] = []
    left_out: dict[str, StorageError] = {}
    for name in _names_of_stores(catalog, []):
        try:
            opened.append(open_named(catalog, name, to_look=to_look))
        except StorageError as error:
            left_out[name] = error
    return Reached(_one_a_shelf(opened), left_out)


def _names_of_stores(catalog: CatalogDatabase, names: Sequence[str]) -> list[str]:
    wanted = list(dict.fromkeys(names)) or [place.name for place in catalog.transaction(list_places)]
    if not wanted:
        raise NotFoundError("no store is declared yet; run the flow probe-store first")
    return wanted


def _one_a_shelf(opened: Sequence[OpenLocation]) -> tuple[OpenLocation, ...]:
    return tuple({location.place.shelf: location for location in reversed(opened)}.values())[::-1]


def storage_timezone() -> str:
    """The time zone of schedules and of days in figures: the Prefect variable, UTC where it is not set."""
    return str(Variable.get(TIMEZONE_VARIABLE, default="UTC"))


P = ParamSpec("P")
R = TypeVar("R")


def reported(flow_function: Callable[P, R]) -> Callable[P, R | State[R]]:
    """End a run with the project's own error as its message, without a traceback for a quota that is full.

    Where a schedule started it, events say that the schedule was kept, and that the run failed. Called as a function
    the flow raises that error, as any function would.
    """

    @functools.wraps(flow_function)
    def run(*arguments: P.args, **options: P.kwargs) -> R | State[R]:
        with watching_schedule() as failed:
            try:
                result: R | State[R] = flow_function(*arguments, **options)
            except StorageError as error:
                get_run_logger().error("%s", error)
                result = Failed(message=str(error), data=error)
            if isinstance(result, State) and result.is_failed():
                failed(str(result.message))
        outlast_first_heartbeat()
        return result

    # Names in annotations belong to the flow's module; Prefect would look for them in this one.
    run.__annotations__ = get_type_hints(flow_function)
    run.__signature__ = inspect.signature(flow_function, eval_str=True)  # type: ignore[attr-defined]  # read by inspect
    return run


SHORTEST_RUN_SECONDS = 3.0


def outlast_first_heartbeat() -> None:
    """A deployed run that ends, or suspends, right at its first heartbeat is taken for crashed by the automation that
    looks for those: to the server it may come after the end."""
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    if run is None or run.deployment_id is None:
        return
    started_at = run.start_time or datetime.now(UTC)
    time.sleep(max(0.0, SHORTEST_RUN_SECONDS - (datetime.now(UTC) - started_at).total_seconds()))


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


def markdown_rows(rows: Iterable[tuple[str, object]], *, head: tuple[str, str]) -> str:
    """A two-column Markdown table; pipes and backticks in values are made harmless."""
    lines = [f"| {head[0]} | {head[1]} |", "| --- | --- |"]
    for name, value in rows:
        shown = str(value).replace("|", "\\|").replace("`", "'").replace("\n", " ")
        lines.append(f"| {name} | {shown} |")
    return "\n".join(lines)


def escaped(text: str) -> str:
    """A user's text as Markdown that shows just that: a file name must not become a link or an image."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~&-])", r"\\\1", text)


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, int | float | str | bool) else str(value)
