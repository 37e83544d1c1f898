"""Listing what a prefix holds, streamed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import obstore

from blocks.object_store.block import ObjectStore
from blocks.object_store.failures import store_errors


@dataclass(frozen=True)
class Listed:
    """One object of a listing; `key` is relative to the store's prefix."""

    key: str
    size_bytes: int
    etag: str | None
    last_modified: datetime


def list_prefix(store: ObjectStore, prefix: str) -> Iterator[Listed]:
    """Every object under `prefix` (a whole folder: `a/b` does not match `a/bc`)."""
    with store_errors(store, f"listing {prefix}"):
        for page in obstore.list(store.fast, prefix, chunk_size=1000):
            for item in page:
                etag = item["e_tag"]
                yield Listed(
                    key=item["path"],
                    size_bytes=item["size"],
                    etag=etag.strip('"') if etag else None,
                    last_modified=item["last_modified"],
                )
