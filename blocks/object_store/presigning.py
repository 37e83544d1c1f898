"""Presigned URLs and forms. They carry the public endpoint, because a signature covers the host."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import obstore

from blocks.object_store.block import ObjectStore
from blocks.object_store.failures import store_errors


@dataclass(frozen=True, repr=False)
class UploadForm:
    """A POST form: send `fields`, then the file as field `file`, to `url`. Not printed: it is a credential."""

    url: str
    fields: dict[str, str]


def presign_get(
    store: ObjectStore, key: str, expires_in: timedelta, *, filename: str | None = None, encoding: str | None = None
) -> str:
    """A download URL; `filename` is what a browser saves under, `encoding` the Content-Encoding of the answer."""
    parameters: dict[str, Any] = {"Bucket": store.bucket, "Key": store.path(key)}
    if filename is not None:
        parameters["ResponseContentDisposition"] = content_disposition(filename)
    if encoding is not None:
        parameters["ResponseContentEncoding"] = encoding
    with store_errors(store, f"signing {key}"):
        return store.public_s3.generate_presigned_url(
            "get_object", Params=parameters, ExpiresIn=int(expires_in.total_seconds())
        )


def presign_many(store: ObjectStore, keys: Sequence[str], expires_in: timedelta) -> list[str]:
    """Plain download URLs for many keys at once, at a twentieth of botocore's cost a URL."""
    if not keys:
        return []
    with store_errors(store, f"signing {len(keys)} keys"):
        return list(obstore.sign(store.public_fast, "GET", list(keys), expires_in))


def presign_post(store: ObjectStore, key: str, *, size_bytes: int, expires_in: timedelta) -> UploadForm:
    """A form that takes exactly `size_bytes` bytes onto exactly this key."""
    with store_errors(store, f"signing a form for {key}"):
        form = store.public_s3.generate_presigned_post(
            Bucket=store.bucket,
            Key=store.path(key),
            Conditions=[["content-length-range", size_bytes, size_bytes]],
            ExpiresIn=int(expires_in.total_seconds()),
        )
    return UploadForm(url=form["url"], fields=form["fields"])


def content_disposition(filename: str) -> str:
    """RFC 6266: an ASCII name for old clients, the real one in UTF-8 for the others."""
    plain = re.sub(r'[^\x20-\x7e]|["\\%;]', "_", filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"
