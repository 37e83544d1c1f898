"""Listing what a prefix holds, streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

import obstore
from obstore.exceptions import InvalidPathError

from blocks.errors import NotFoundError, UnfitStoreError
from blocks.object_store.block import ObjectStore
from blocks.object_store.failures import store_errors


@dataclass(frozen=True, slots=True)
class Listed:
    """One object of a listing; `key` is relative to the store's prefix."""

    key: str
    size_bytes: int
    etag: str | None
    last_modified: datetime
    storage_class: str | None = None
    """Where it was asked for; `STANDARD` is empty."""


def list_prefix(store: ObjectStore, prefix: str) -> Iterator[Listed]:
    """Every object under `prefix` (a whole folder: `a/b` does not match `a/bc`)."""
    with store_errors(store, f"listing {prefix}"):
        yield from _from(store, prefix, "")


def list_folders(store: ObjectStore, prefix: str = "") -> list[str]:
    """The folders right below `prefix` (empty, or ending in a slash), without their last slash."""
    root = len(store.path(""))
    folders = []
    with store_errors(store, f"listing {prefix or 'folders'}"):
        pages = store.s3.get_paginator("list_objects_v2").paginate(
            Bucket=store.bucket, Prefix=store.path(prefix), Delimiter="/"
        )
        for page in pages:
            folders += [one["Prefix"][root:].rstrip("/") for one in page.get("CommonPrefixes", [])]
    return folders


def list_names(store: ObjectStore, beginning: str, *, most: int = 100) -> list[str]:
    """Keys that begin like this, a few of them, in order."""
    root = len(store.path(""))
    with store_errors(store, f"listing {beginning}"):
        page = store.s3.list_objects_v2(Bucket=store.bucket, Prefix=store.path(beginning), MaxKeys=most)
    return [one["Key"][root:] for one in page.get("Contents", [])]


def list_range(
    store: ObjectStore, prefix: str, *, after: str, until: str | None, classes: bool = False
) -> Iterator[Listed]:
    """Every object under `prefix` whose key sorts behind `after` and up to `until`: parts that are listed side by side.

    With `classes` each object's storage class is told, which costs three times the time.

    Raises:
        UnfitStoreError: the server does not list in the order of keys, as S3 does: its end would be missed.
    """
    latest = ""
    with store_errors(store, f"listing {prefix}"):
        for item in _by_boto3(store, prefix, after) if classes else _from(store, prefix, after):
            folder = item.key[len(prefix) + 1 :].partition("/")[0]
            # Servers agree on the order of folders of one length, such as ids; others keep `a-b` before `a/`.
            if len(folder) == ID_LENGTH:
                if folder < latest:
                    raise UnfitStoreError(f"the server lists {item.key} behind {latest}: it does not list in order")
                latest = folder
            if until is not None and item.key > until:
                return
            yield item


def find_etags(store: ObjectStore, keys: Sequence[str], *, threads: int = 16) -> dict[str, tuple[str | None, int]]:
    """ETag and size of each of these objects that is there; neighbours are listed, single ones are asked for."""
    folders: dict[str, list[str]] = {}
    for key in keys:
        folders.setdefault(key.rpartition("/")[0], []).append(key)
    found: dict[str, tuple[str | None, int]] = {}

    def look(folder: str) -> None:
        own = sorted(folders[folder])
        if len(own) >= WORTH_LISTING:
            wanted = set(own)
            for item in list_range(store, folder, after=own[0][:-1], until=own[-1]):
                if item.key in wanted:
                    found[item.key] = (item.etag, item.size_bytes)
            own = [key for key in own if key not in found]
        for key in own:
            try:
                with store_errors(store, f"looking at {key}"):
                    meta = obstore.head(store.fast, key)
            except NotFoundError:
                continue
            found[key] = (meta["e_tag"].strip('"') if meta["e_tag"] else None, meta["size"])

    with ThreadPoolExecutor(max_workers=threads) as pool:
        list(pool.map(look, folders))
    return found


WORTH_LISTING = 4
"""Keys of one folder from which on a listing is cheaper than asking for each."""


def _from(store: ObjectStore, prefix: str, after: str) -> Iterator[Listed]:
    try:
        while True:
            for item in _by_obstore(store, prefix, after):
                if not item.size_bytes or _LOST in item.key:
                    break
                after = item.key
                yield item
            else:
                return
            # obstore drops the slash at the end of what a console calls a folder, and what is in no XML: a page is
            # asked for as it is.
            page = list(islice(_by_boto3(store, prefix, after), PAGE))
            yield from page
            if len(page) < PAGE:
                return
            after = page[-1].key
    except InvalidPathError:
        # S3 takes keys that are no paths (`a//b`, `a/./b`), and obstore gives up at the first of them.
        yield from _by_boto3(store, prefix, after)


def _by_obstore(store: ObjectStore, prefix: str, after: str) -> Iterator[Listed]:
    for page in obstore.list(store.fast, prefix, offset=after or None, chunk_size=PAGE):
        for item in page:
            etag = item["e_tag"]
            yield Listed(item["path"], item["size"], etag.strip('"') if etag else None, item["last_modified"])


PAGE = 1000
"""Keys of one answer of S3."""
_LOST = "\ufffd"
"""What stands for a character that could not be read."""


def _by_boto3(store: ObjectStore, prefix: str, after: str) -> Iterator[Listed]:
    # Slower than obstore, whose listing leaves storage classes out.
    pages = store.s3.get_paginator("list_objects_v2").paginate(
        Bucket=store.bucket, Prefix=store.path(f"{prefix}/"), StartAfter=store.path(after or prefix)
    )
    root = len(store.path(""))
    for page in pages:
        for item in page.get("Contents", []):
            listed_class = item.get("StorageClass", "")
            yield Listed(
                item["Key"][root:],
                item["Size"],
                item["ETag"].strip('"') if item.get("ETag") else None,
                item["LastModified"],
                "" if listed_class == "STANDARD" else listed_class,
            )


ID_LENGTH = 36
"""Characters of a job's id, as folders under `processed/` are called."""
