"""Multipart uploads that were begun and neither completed nor aborted: their parts lie in no listing, and cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

from blocks.errors import StoreUnavailableError
from blocks.object_store.block import ObjectStore
from blocks.object_store.failures import store_errors


@dataclass(frozen=True, slots=True)
class Incomplete:
    """One upload; `key` is relative to the store's prefix."""

    key: str
    upload_id: str
    initiated_at: datetime


def list_multipart_uploads(store: ObjectStore, *, page_uploads: int = 1000) -> Iterator[Incomplete]:
    """Every upload under the store's prefix, streamed, in the server's order (SeaweedFS sorts by upload id).

    Raises:
        StoreUnavailableError: the server says that there is more and not where.
    """
    found = False
    for one in _uploads(store, store.path(""), page_uploads):
        found = True
        yield one
    if store.prefix and not found:
        # MinIO takes a prefix for a whole key and answers that there is nothing; without one it lists the bucket.
        yield from _uploads(store, "", page_uploads)


def _uploads(store: ObjectStore, prefix: str, page_uploads: int) -> Iterator[Incomplete]:
    own = store.path("")
    marker: dict[str, str] = {}
    while True:
        with store_errors(store, "listing incomplete multipart uploads"):
            try:
                page: Any = store.s3.list_multipart_uploads(
                    Bucket=store.bucket,
                    Prefix=prefix,
                    MaxUploads=page_uploads,
                    **marker,  # type: ignore[arg-type]  # only the two markers
                )
            except ClientError as error:
                # rclone's word for a bucket in which none was ever begun.
                if error.response.get("Error", {}).get("Code") != "NoSuchUpload":
                    raise
                return
        for upload in page.get("Uploads", []):
            # Some servers have taken the prefix for a hint: what is aborted must be ours.
            if upload["Key"].startswith(own):
                yield Incomplete(upload["Key"][len(own) :], upload["UploadId"], upload["Initiated"])
        if not page.get("IsTruncated"):
            return
        # Exactly what the server gave: AWS gives both, SeaweedFS no key (and takes one to mean only that key).
        names = {"NextKeyMarker": "KeyMarker", "NextUploadIdMarker": "UploadIdMarker"}
        following = {asked: page[given] for given, asked in names.items() if page.get(given)}
        if not following or following == marker:
            raise StoreUnavailableError(
                f"bucket {store.bucket}: the server's listing of incomplete multipart uploads says that there is more, "
                "and not where; the rest was not looked at; run it again"
            )
        marker = following


def abort_multipart_upload(store: ObjectStore, key: str, upload_id: str) -> None:
    """Free an upload's parts. One that is gone (completed, aborted, expired) is as good: some servers do not tell."""
    with store_errors(store, f"aborting the multipart upload of {key}"):
        try:
            store.s3.abort_multipart_upload(Bucket=store.bucket, Key=store.path(key), UploadId=upload_id)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") != "NoSuchUpload":
                raise


def uploaded_bytes(store: ObjectStore, key: str, upload_id: str) -> int:
    """The bytes of an upload's parts so far; one request a thousand parts. 0 if it is gone."""
    total = 0
    with store_errors(store, f"listing the parts of {key}"):
        try:
            pages = store.s3.get_paginator("list_parts").paginate(
                Bucket=store.bucket, Key=store.path(key), UploadId=upload_id
            )
            for page in pages:
                total += sum(part["Size"] for part in page.get("Parts", []))
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") != "NoSuchUpload":
                raise
            return 0
    return total
