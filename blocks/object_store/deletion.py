"""Removing objects, with an outcome for every key."""

from __future__ import annotations

from blocks.object_store.block import ObjectStore
from blocks.object_store.failures import store_errors

MOST_KEYS = 1000
"""S3 takes no more in one request."""


def delete_keys(store: ObjectStore, keys: list[str]) -> dict[str, str]:
    """Remove objects; returns the keys that could not be removed, each with the store's reason.

    A key without an object counts as removed, as it does for S3.
    """
    failed: dict[str, str] = {}
    for start in range(0, len(keys), MOST_KEYS):
        batch = keys[start : start + MOST_KEYS]
        with store_errors(store, f"removing {len(batch)} objects"):
            answer = store.s3.delete_objects(
                Bucket=store.bucket,
                Delete={"Objects": [{"Key": store.path(key)} for key in batch], "Quiet": True},
            )
        names = {store.path(key): key for key in batch}
        for error in answer.get("Errors", []):
            if error.get("Code") != "NoSuchKey":
                failed[names[error["Key"]]] = f"{error.get('Code')}: {error.get('Message')}"
    return failed
