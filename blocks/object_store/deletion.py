"""Removing objects, with an outcome for every key."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

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
    requests = [keys[start : start + KEYS_A_REQUEST] for start in range(0, len(keys), KEYS_A_REQUEST)]
    if len(requests) <= 1:
        return _delete(store, requests[0]) if requests else {}
    with ThreadPoolExecutor(max_workers=min(PARALLEL_REQUESTS, len(requests))) as pool:
        answers = list(pool.map(lambda some: _delete(store, some), requests))
    return {key: why for answer in answers for key, why in answer.items()}


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
