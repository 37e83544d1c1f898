"""The plans of all statements that the project really sends: those of its functions and triggers as well.

`auto_explain` tells them to the very session that ran them, with the rows and blocks that each scan looked at.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.pool import Pool

_HERE = Path(__file__).parents[2]
_SETTINGS = (
    "LOAD 'auto_explain'",
    "SET auto_explain.log_level = 'notice'",
    "SET auto_explain.log_min_duration = 0",
    "SET auto_explain.log_format = 'json'",
    "SET auto_explain.log_nested_statements = on",
    "SET auto_explain.log_analyze = on",
    "SET auto_explain.log_buffers = on",
    "SET auto_explain.log_timing = off",
)
_PASSED_ON = ("blocks/catalog/block.py", "blocks/catalog/frames.py")
"""Who only hands statements on: the function above it is who asks."""


@dataclass(frozen=True)
class Scan:
    """How one table was read: by which index and condition, what was looked at, and in how many searches."""

    table: str
    how: str
    index: str
    condition: str
    rows: float
    returned: float
    searches: float
    blocks: int


@dataclass(frozen=True)
class Statement:
    """One statement that ran, and the function of the project that sent it."""

    sender: str
    text: str
    scans: tuple[Scan, ...]


@dataclass
class Watch:
    """Statements that ran while it was kept, of whatever session of this process."""

    statements: list[Statement] = field(default_factory=list)


class _Notices(list[str]):
    """What a session was told, and who asked last; psycopg2's own list ends after fifty."""

    sender = "?"


@contextmanager
def watched() -> Iterator[Watch]:
    """Every session that is opened meanwhile tells its plans; pools have to be emptied before and after."""
    watch = Watch()

    def opened(connection: Any, _: object) -> None:
        with connection.cursor() as cursor:
            for setting in _SETTINGS:
                cursor.execute(setting)
        connection.commit()
        connection.notices = _Notices()

    def begins(connection: Any, *_: object) -> None:
        # What was read to its end only now, row by row, is the statement before.
        returned(connection.connection.dbapi_connection)
        connection.connection.dbapi_connection.notices.sender = _sender()

    def ran(connection: Any, *_: object) -> None:
        returned(connection.connection.dbapi_connection)

    def returned(connection: Any, *_: object) -> None:
        if connection is not None and isinstance(notices := connection.notices, _Notices):
            told, notices[:] = list(notices), []
            plans = [notice.partition("plan:\n")[2] for notice in told if "plan:\n" in notice]
            watch.statements += [_read(notices.sender, json.loads(plan)) for plan in plans]

    listeners = (
        (Pool, "connect", opened),
        (Engine, "before_cursor_execute", begins),
        (Engine, "after_cursor_execute", ran),
        (Pool, "checkin", returned),
    )
    for listener in listeners:
        event.listen(*listener)
    try:
        yield watch
    finally:
        for listener in listeners:
            event.remove(*listener)


def _sender() -> str:
    """The nearest function of this repository, such as `blocks.catalog.drift.count_rows`."""
    frame = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(_HERE) and ".venv" not in path.parts:
            where = path.relative_to(_HERE)
            if str(where) not in _PASSED_ON:
                return f"{'.'.join(where.with_suffix('').parts)}.{frame.f_code.co_qualname}"
        frame = frame.f_back
    return "?"


def _read(sender: str, told: dict[str, Any]) -> Statement:
    return Statement(sender, " ".join(told["Query Text"].split()), tuple(_scans(told["Plan"])))


def _scans(node: dict[str, Any]) -> Iterator[Scan]:
    """The scans of tables in a plan. A bitmap's are those of its heap, with the rows that its indexes named."""
    if "Relation Name" in node and node["Node Type"].endswith("Scan"):
        loops = node["Actual Loops"]
        returned = node["Actual Rows"] * loops
        removed = sum(value for name, value in node.items() if name.startswith("Rows Removed by")) * loops
        below = list(_bitmaps(node)) or [node]
        yield Scan(
            node["Relation Name"],
            node["Node Type"],
            " + ".join(sorted({one["Index Name"] for one in below if "Index Name" in one})),
            " and ".join(one["Index Cond"] for one in below if "Index Cond" in one),
            max([returned + removed, *(one["Actual Rows"] * one["Actual Loops"] for one in below if one is not node)]),
            returned,
            sum(one.get("Index Searches", 0) for one in below),
            node["Shared Hit Blocks"] + node["Shared Read Blocks"],
        )
    for child in node.get("Plans", ()):
        yield from _scans(child)


def _bitmaps(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for child in node.get("Plans", ()):
        if child["Node Type"] == "Bitmap Index Scan":
            yield child
        elif child["Node Type"].startswith("Bitmap"):
            yield from _bitmaps(child)
