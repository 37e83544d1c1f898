"""Usage by customer and kind, as a frame and as text."""

from __future__ import annotations

import pandas as pd

from blocks.catalog import CatalogDatabase
from blocks.catalog.usage import KindUsage, usage_by_kind
from blocks.units import format_bytes

COLUMNS = ["customer", "kind", "objects", "size_bytes", "stored_bytes"]


def usage_frame(catalog: CatalogDatabase, customers: list[str] | None = None) -> pd.DataFrame:
    """One row a customer and kind, sizes in bytes; empty with the same columns where nothing is stored."""
    rows: list[KindUsage] = catalog.transaction(lambda connection: usage_by_kind(connection, customers))
    return pd.DataFrame([[getattr(row, column) for column in COLUMNS] for row in rows], columns=COLUMNS)


def usage_rows(frame: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    """The frame as lines for a person, with a sum after each customer: (customer, kind, objects, size)."""
    lines: list[tuple[str, str, str, str]] = []
    for customer, part in frame.groupby("customer", sort=True):
        lines += [
            (str(customer), str(kind), str(objects), format_bytes(int(size)))
            for kind, objects, size in zip(part["kind"], part["objects"], part["size_bytes"], strict=True)
        ]
        lines.append((str(customer), "all", str(part["objects"].sum()), format_bytes(int(part["size_bytes"].sum()))))
    return lines
