"""Usage by customer and kind, against an independent sum."""

from __future__ import annotations

from blocks.catalog import CatalogDatabase
from reports.usage import COLUMNS, usage_frame, usage_rows
from tests.helpers import one


def test_nothing_is_stored(catalog: CatalogDatabase) -> None:
    frame = usage_frame(catalog)
    assert list(frame.columns) == COLUMNS
    assert frame.empty
    assert usage_rows(frame) == []


def test_sums_are_the_quotas(catalog: CatalogDatabase, new_job) -> None:  # type: ignore[no-untyped-def]
    new_job(b"x" * 1500)
    frame = usage_frame(catalog, ["acme"])
    assert frame["size_bytes"].sum() == one(catalog, "SELECT storage_used_bytes FROM api_keys") == 1500
    assert usage_rows(frame) == [("acme", "original", "1", "1.5 KiB"), ("acme", "all", "1", "1.5 KiB")]
    assert usage_frame(catalog, ["nobody"]).empty
