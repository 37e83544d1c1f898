"""Removing what no row names: an orphan, a leftover that is too old, whatever lies in an erased job's folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from blocks.catalog import CatalogDatabase
from blocks.catalog.log import Unnamed, record_unnamed, strike_out
from blocks.errors import StorageError
from blocks.object_store import ObjectStore
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import fingerprint
from tasks.parallel import in_parallel

PARALLEL_LOOKS = 16


def remove_unnamed(
    catalog: CatalogDatabase, store: ObjectStore, objects: Sequence[Unnamed], *, operation: str, run: str
) -> dict[str, str]:
    """Remove objects, with a line of the log for each; returns the keys that the store refused to remove, and why.

    The lines come first: killed in between, the log says what may have gone. Those of objects that are still there are
    taken back.
    """
    if not objects:
        return {}
    lines = catalog.transaction(lambda connection: record_unnamed(connection, objects, operation=operation, run=run))
    try:
        failed = delete_keys(store, [one.key for one in objects])
    except StorageError:
        _take_back(catalog, store, lines)
        raise
    _take_back(catalog, store, {key: lines[key] for key in failed})
    return failed


def _take_back(catalog: CatalogDatabase, store: ObjectStore, lines: Mapping[str, int]) -> None:
    with suppress(StorageError):  # what is not known may have gone
        there = in_parallel(lambda key: fingerprint(store, key), list(lines), threads=PARALLEL_LOOKS)
        kept = [line for line, seen in zip(lines.values(), there, strict=True) if seen is not None]
        if kept:
            catalog.transaction(lambda connection: strike_out(connection, kept))
