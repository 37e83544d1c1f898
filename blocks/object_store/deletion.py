"""Removing objects, with an outcome for every key."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from blocks.errors import NotFoundError, RefusedError
from blocks.object_store.block import ObjectStore
from blocks.object_store.failures import store_errors

MOST_KEYS = 1000
"""S3 takes no more in one request."""
KEYS_A_REQUEST = 100
"""Servers work through a request key by key: ten of a hundred keys at once take half the time of one of a thousand."""
PARALLEL_REQUESTS = 10


def delete_keys(store: ObjectStore, keys: Sequence[str]) -> dict[str, str]:
    """Remove objects; returns the keys that could not be removed, each with the store's reason.

    A key without an object counts as removed, as it does for S3.
    """
    if odd := [key for key in keys if _NOT_IN_XML.search(key)]:
        even = [key for key in keys if not _NOT_IN_XML.search(key)]
        return delete_keys(store, even) | {key: why for key in odd if (why := _delete_one(store, key))}
    requests = [keys[start : start + KEYS_A_REQUEST] for start in range(0, len(keys), KEYS_A_REQUEST)]
    if len(requests) <= 1:
        return _delete(store, requests[0]) if requests else {}
    with ThreadPoolExecutor(max_workers=min(PARALLEL_REQUESTS, len(requests))) as pool:
        answers = list(pool.map(lambda some: _delete(store, some), requests))
    return {key: why for answer in answers for key, why in answer.items()}


_NOT_IN_XML = re.compile("[\x00-\x1f\ufffe\uffff]")
"""One such key makes a request of many malformed (XML 1.0, 2.2), or names another object than was meant."""


def _delete_one(store: ObjectStore, key: str) -> str:
    try:
        with store_errors(store, f"removing {key!r}"):
            store.s3.delete_object(Bucket=store.bucket, Key=store.path(key))
    except NotFoundError:
        return ""
    except RefusedError as error:
        return str(error)
    return ""


def _delete(store: ObjectStore, keys: Sequence[str]) -> dict[str, str]:
    with store_errors(store, f"removing {len(keys)} objects"):
        answer = store.s3.delete_objects(
            Bucket=store.bucket,
            Delete={"Objects": [{"Key": store.path(key)} for key in keys], "Quiet": True},
        )
        names = {store.path(key): key for key in keys}
        return {
            names[error["Key"]]: f"{error.get('Code')}: {error.get('Message')}"
            for error in answer.get("Errors", [])
            if error.get("Code") != "NoSuchKey"
        }
