"""Copies inside a server, from key to key and from bucket to bucket: the bytes never come here."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import obstore

from blocks.errors import RefusedError
from blocks.object_store.block import ObjectStore
from blocks.object_store.failures import store_errors
from blocks.object_store.transfer import MOST_PARTS, Written, head

PARALLEL_PARTS = 8


def same_server(source: ObjectStore, target: ObjectStore) -> bool:
    """Whether one server holds both, and the target's credentials are good for the source as well."""
    return (source.endpoint_url, source.region, source.keys.access_key) == (
        target.endpoint_url, target.region, target.keys.access_key,
    )  # fmt: skip


def copy_as_it_is(source: ObjectStore, source_key: str, target: ObjectStore, target_key: str) -> None:
    """Copy an object with its metadata, in one request and at twice the rate of `copy`.

    The answer is not looked at: whoever copies asks `listing.find_etags` for many keys at once what is there.
    """
    with store_errors(target, f"copying {source_key} to {target_key}"):
        obstore.copy(target.copier(source), source.path(source_key), target.path(target_key))


def copy(
    source: ObjectStore,
    source_key: str,
    target: ObjectStore,
    target_key: str,
    *,
    size_bytes: int,
    attributes: Mapping[str, str],
) -> Written:
    """Copy inside one server with attributes of its own; above the target's limit in parts.

    Raises:
        NotFoundError: there is nothing to copy.
        RefusedError: the server does not copy, or not in parts.
    """
    # Said even where it is the usual one: a server may keep the source's class otherwise (SeaweedFS does).
    metadata, headers = _boto3_attributes({"Storage-Class": "STANDARD", **attributes})
    origin: Any = {"Bucket": source.bucket, "Key": source.path(source_key)}
    place: Any = {"Bucket": target.bucket, "Key": target.path(target_key)}
    with store_errors(target, f"copying {source_key} to {target_key}"):
        if size_bytes <= target.multipart_copy_threshold_bytes:
            target.s3.copy_object(CopySource=origin, MetadataDirective="REPLACE", Metadata=metadata, **place, **headers)
        else:
            _copy_in_parts(target, origin, place, size_bytes, {"Metadata": metadata, **headers})
    written = head(target, target_key)
    return Written(etag=written.etag, size_bytes=written.size_bytes)


def _copy_in_parts(store: ObjectStore, source: Any, target: Any, size_bytes: int, options: Any) -> None:
    s3 = store.s3
    upload_id = s3.create_multipart_upload(**target, **options)["UploadId"]
    step = max(store.multipart_copy_part_bytes, -(-size_bytes // MOST_PARTS))
    starts = range(0, size_bytes, step)

    def copy_part(number: int) -> Any:
        start = starts[number - 1]
        answer = s3.upload_part_copy(
            **target,
            CopySource=source,
            CopySourceRange=f"bytes={start}-{min(start + step, size_bytes) - 1}",
            PartNumber=number,
            UploadId=upload_id,
        )
        # A server that knows no such request takes it for a part without bytes, and answers 200 (rclone does).
        if (etag := answer.get("CopyPartResult", {}).get("ETag")) is None:
            raise RefusedError(
                f"the server of bucket {store.bucket} does not copy in parts: raise multipart_copy_threshold_bytes in "
                "the store block, if it copies larger objects at once; probe-store shows this as copies_in_parts"
            )
        return {"PartNumber": number, "ETag": etag}

    try:
        with ThreadPoolExecutor(max_workers=PARALLEL_PARTS) as pool:
            parts = list(pool.map(copy_part, range(1, len(starts) + 1)))
        s3.complete_multipart_upload(**target, UploadId=upload_id, MultipartUpload={"Parts": parts})
    except BaseException:
        s3.abort_multipart_upload(**target, UploadId=upload_id)
        raise


def _boto3_attributes(attributes: Mapping[str, str]) -> tuple[dict[str, str], dict[str, Any]]:
    headers = {"Content-Type": "ContentType", "Storage-Class": "StorageClass", "Content-Encoding": "ContentEncoding"}
    return (
        {name: value for name, value in attributes.items() if name not in headers},
        {headers[name]: value for name, value in attributes.items() if name in headers},
    )
