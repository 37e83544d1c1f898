"""Queries as frames, and frames into tables by COPY."""

from __future__ import annotations

import io
import os
import threading
from typing import TYPE_CHECKING, Any, BinaryIO

from sqlalchemy import Connection, text

from blocks.errors import RefusedError

if TYPE_CHECKING:
    import pandas as pd

_READ_BYTES = 1 << 20


_DTYPES = {16: "boolean", 20: "Int64", 21: "Int64", 23: "Int64", 25: "str", 701: "Float64", 1043: "str",
           1184: "datetime64[us, UTC]"}  # fmt: skip
"""pandas' types by PostgreSQL's: a column without a value in any row has its type nevertheless."""


def read_frame(connection: Connection, statement: str, **parameters: Any) -> pd.DataFrame:
    """The rows of a query, with types that know null."""
    import pandas as pd

    result = connection.execute(text(statement), parameters)
    # As psycopg2 describes a column: its name, and PostgreSQL's number for its type.
    described: Any = result.cursor.description if result.cursor is not None else ()
    types = {one.name: _DTYPES.get(one.type_code, "object") for one in described}
    rows: Any = result.all()  # tuples of SQLAlchemy's own
    return pd.DataFrame.from_records(rows, columns=list(types)).astype(types)


def write_frame(connection: Connection, frame: pd.DataFrame, table: str) -> int:
    """Append a frame to a table by COPY, columns by name; returns its rows. `table` is a name in code, not a user's.

    The text is made by Arrow in a thread while PostgreSQL reads what is there already.
    """
    import pyarrow as pa

    if frame.empty:
        return 0
    arrow = pa.Table.from_pandas(frame, preserve_index=False)
    columns = ", ".join(f'"{name}"' for name in arrow.column_names)
    cursor = connection.connection.cursor()
    reading, writing = os.pipe()
    failed: list[BaseException] = []
    writer = threading.Thread(target=_write_csv, args=(arrow, writing, failed), name="copy")
    writer.start()
    try:
        with os.fdopen(reading, "rb", buffering=0) as source:
            cursor.copy_expert(
                f"COPY {table} ({columns}) FROM STDIN WITH (FORMAT csv)", _Checked(source, failed), size=_READ_BYTES
            )
    finally:
        writer.join()
        cursor.close()
    return len(frame)


class _Checked(io.RawIOBase):
    """A pipe whose end is an error if the writer's was one: half a frame must not look like a whole one."""

    def __init__(self, source: BinaryIO, failed: list[BaseException]) -> None:
        self._source, self._failed = source, failed

    def read(self, size: int = -1) -> bytes:
        piece = self._source.read(size)
        if not piece and self._failed:
            raise RefusedError(f"a frame cannot be written as CSV: {self._failed[0]}")
        return piece


def _write_csv(arrow: Any, writing: int, failed: list[BaseException]) -> None:
    from pyarrow import csv

    with os.fdopen(writing, "wb") as sink:
        try:
            # Texts in quotes, nulls without: that is how COPY tells an empty text from none.
            csv.write_csv(arrow, sink, csv.WriteOptions(include_header=False, batch_size=16_384))
        except BaseException as error:  # whatever it is, the reader must not take this for the end
            failed.append(error)
