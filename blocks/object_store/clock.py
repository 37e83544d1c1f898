"""The store's clock: ages of objects are measured with the clock that dated them."""

from __future__ import annotations

from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

from blocks.errors import UnfitStoreError
from blocks.object_store.block import ObjectStore
from blocks.object_store.failures import store_errors

MOST_APART = timedelta(hours=1)
"""By how much the clocks of PostgreSQL and of a store may differ before neither is believed."""


def store_now(store: ObjectStore) -> datetime:
    """What time it is for the server, from the Date header of its answer (RFC 9110, 6.6.1).

    Raises:
        UnfitStoreError: it sends none, so that nothing's age is known.
    """
    with store_errors(store, "asking for the time"):
        headers = store.s3.head_bucket(Bucket=store.bucket)["ResponseMetadata"]["HTTPHeaders"]
    if "date" not in headers:
        raise UnfitStoreError(f"the server of bucket {store.bucket} sends no Date header: no object's age is known")
    return parsedate_to_datetime(headers["date"])
