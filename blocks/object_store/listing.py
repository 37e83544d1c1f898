"""Listing what a prefix holds, streamed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import obstore

from blocks.errors import UnfitStoreError
from blocks.object_store.block import ObjectStore
from blocks.object_store.failures import store_errors


@dataclass(frozen=True, slots=True)
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


def list_range(store: ObjectStore, prefix: str, *, after: str, until: str | None) -> Iterator[Listed]:
    """Every object under `prefix` whose key sorts behind `after` and up to `until`: parts that are listed side by side.

    Raises:
        UnfitStoreError: the server does not list in the order of keys, as S3 does: its end would be missed.
    """
    latest = ""
    with store_errors(store, f"listing {prefix}"):
        for page in obstore.list(store.fast, prefix, offset=after or None, chunk_size=1000):
            for item in page:
                key = item["path"]
                folder = key[len(prefix) + 1 :].partition("/")[0]
                # Servers agree on the order of folders of one length, such as ids; others keep `a-b` before `a/`.
                if len(folder) == ID_LENGTH:
                    if folder < latest:
                        raise UnfitStoreError(f"the server lists {key} behind {latest}: it does not list in order")
                    latest = folder
                if until is not None and key > until:
                    return
                etag = item["e_tag"]
                yield Listed(key, item["size"], etag.strip('"') if etag else None, item["last_modified"])


ID_LENGTH = 36
"""Characters of a job's id, as folders under `processed/` are called."""
