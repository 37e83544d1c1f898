"""One trial for each capability: it tries an effect, and says what it saw instead; None is that it works."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError

from blocks.errors import UnfitStoreError
from blocks.object_store.block import MIB, ObjectStore
from blocks.object_store.copying import copy
from blocks.object_store.deletion import delete_keys
from blocks.object_store.lifecycle import read_rules, write_rules
from blocks.object_store.multipart import abort_multipart_upload, list_multipart_uploads
from blocks.object_store.presigning import presign_get, presign_post
from blocks.object_store.transfer import exists, head, put_bytes, read_bytes, read_range

BODY = b"transcode-flow asks what this server really does\n"
OTHER = b"transcode-flow asks what this server really does?\n"
PROBE_RULE_ID = "transcode-flow-probe"


class _SignsAnotherBody(S3SigV4Auth):
    """Signs as if the body were OTHER: a server that checks what it received must refuse it."""

    def payload(self, request: AWSRequest) -> str:  # noqa: ARG002 -- botocore's signature
        return hashlib.sha256(OTHER).hexdigest()


def _reads_back(store: ObjectStore, key: str) -> str | None:
    put_bytes(store, key, BODY, {"Content-Type": "text/plain"})
    whole, part = read_bytes(store, key, at_most=MIB), read_range(store, key, 10, 14)
    return None if (whole, part) == (BODY, BODY[10:14]) else "read other bytes than were written"


def _answers_ranges(store: ObjectStore, key: str) -> str | None:
    put_bytes(store, key, BODY, {})
    url = presign_get(store, key, timedelta(minutes=5))
    answer = httpx.get(url, headers={"Range": "bytes=10-13"}, timeout=30)
    # Players seek by it, and some take anything but 206 for the whole file.
    return None if (answer.status_code, answer.content) == (206, BODY[10:14]) else f"answered {answer.status_code}"


def _signed_put(store: ObjectStore, key: str, headers: dict[str, str], signer: type[S3SigV4Auth]) -> int:
    """PUT BODY with headers and a signature of our making; answers the status."""
    url = store.s3.generate_presigned_url("put_object", Params={"Bucket": store.bucket, "Key": store.path(key)})
    request = AWSRequest(method="PUT", url=url.split("?", maxsplit=1)[0], data=BODY, headers=headers)
    signer(store.keys, "s3", store.region).add_auth(request)
    prepared = request.prepare()
    return httpx.put(prepared.url, content=BODY, headers=dict(prepared.headers.items()), timeout=30).status_code


def _refused_and_absent(store: ObjectStore, key: str, status: int) -> str | None:
    if status < 400:
        return f"answered {status} to a body with a wrong checksum"
    return "refused, and stored it all the same" if exists(store, key) else None


def _refuses_wrong_signed_sha256(store: ObjectStore, key: str) -> str | None:
    return _refused_and_absent(store, key, _signed_put(store, key, {}, _SignsAnotherBody))


def _refuses_wrong_md5(store: ObjectStore, key: str) -> str | None:
    wrong = base64.b64encode(hashlib.md5(OTHER, usedforsecurity=False).digest()).decode()
    return _refused_and_absent(store, key, _signed_put(store, key, {"Content-MD5": wrong}, S3SigV4Auth))


def _refuses_wrong_checksum_header(store: ObjectStore, key: str) -> str | None:
    wrong = base64.b64encode(hashlib.sha256(OTHER).digest()).decode()
    return _refused_and_absent(store, key, _signed_put(store, key, {"x-amz-checksum-sha256": wrong}, S3SigV4Auth))


def _refuses_wrong_part_checksum(store: ObjectStore, key: str) -> str | None:
    same: Any = {"Bucket": store.bucket, "Key": store.path(key)}
    upload = store.s3.create_multipart_upload(ChecksumAlgorithm="SHA256", **same)["UploadId"]
    wrong = base64.b64encode(hashlib.sha256(OTHER).digest()).decode()
    try:
        store.s3.upload_part(UploadId=upload, PartNumber=1, Body=BODY, ChecksumSHA256=wrong, **same)
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return None if status < 500 else f"answered {status} to a part with a wrong checksum"
    finally:
        store.s3.abort_multipart_upload(UploadId=upload, **same)
    return "took a part with a wrong checksum"


def _puts_once(store: ObjectStore, key: str) -> str | None:
    store.s3.put_object(Bucket=store.bucket, Key=store.path(key), Body=BODY, IfNoneMatch="*")
    try:
        store.s3.put_object(Bucket=store.bucket, Key=store.path(key), Body=OTHER, IfNoneMatch="*")
    except ClientError:
        return None if read_bytes(store, key, at_most=MIB) == BODY else "refused, and overwrote it all the same"
    return "overwrote an object under If-None-Match: *"


def _refuses_stale_if_match(store: ObjectStore, key: str) -> str | None:
    put_bytes(store, key, BODY, {})
    try:
        store.s3.put_object(Bucket=store.bucket, Key=store.path(key), Body=OTHER, IfMatch=f'"{"0" * 32}"')
    except ClientError:
        return None if read_bytes(store, key, at_most=MIB) == BODY else "refused, and overwrote it all the same"
    return "overwrote an object under a stale If-Match"


def _presigned_get(store: ObjectStore, key: str) -> str | None:
    put_bytes(store, key, BODY, {})
    answer = _public_get(store, key)
    return None if answer.content == BODY else f"answered {answer.status_code}"


def _presigned_filename(store: ObjectStore, key: str) -> str | None:
    put_bytes(store, key, BODY, {})
    answer = _public_get(store, key, filename="a film.mp4")
    return None if "a film.mp4" in answer.headers.get("content-disposition", "") else "ignored the file name asked for"


def _presigned_encoding(store: ObjectStore, key: str) -> str | None:
    put_bytes(store, key, BODY, {})
    # Raw bytes: httpx would try to decode what this object only claims to be.
    with httpx.stream("GET", presign_get(store, key, timedelta(minutes=5), encoding="zstd"), timeout=30) as answer:
        return None if answer.headers.get("content-encoding") == "zstd" else "ignored the encoding asked for"


def _altered_url_is_refused(store: ObjectStore, key: str) -> str | None:
    put_bytes(store, key, BODY, {})
    put_bytes(store, f"{key}-other", BODY, {})
    url = presign_get(store, key, timedelta(minutes=5))
    try:
        answer = httpx.get(url.replace(f"{key}?", f"{key}-other?"), timeout=30)
    finally:
        delete_keys(store, [f"{key}-other"])
    return None if answer.status_code in (400, 403) else f"answered {answer.status_code} to an altered URL"


def _public_get(store: ObjectStore, key: str, *, filename: str | None = None) -> httpx.Response:
    return httpx.get(presign_get(store, key, timedelta(minutes=5), filename=filename), timeout=30)


def _post_form(store: ObjectStore, key: str) -> str | None:
    form = presign_post(store, key, size_bytes=len(BODY), expires_in=timedelta(minutes=5))
    small = httpx.post(form.url, data=form.fields, files={"file": BODY[:-1]}, timeout=30)
    large = httpx.post(form.url, data=form.fields, files={"file": BODY + b"x"}, timeout=30)
    if small.status_code < 400 or large.status_code < 400 or exists(store, key):
        return f"took a file of another size ({small.status_code}, {large.status_code})"
    right = httpx.post(form.url, data=form.fields, files={"file": BODY}, timeout=30)
    return None if right.status_code < 300 and exists(store, key) else f"answered {right.status_code} to the right size"


def _copy_with_new_metadata(store: ObjectStore, key: str) -> str | None:
    put_bytes(store, key, BODY, {"about": "before"})
    target = f"{key}-copy"
    store.s3.copy_object(
        Bucket=store.bucket,
        Key=store.path(target),
        CopySource={"Bucket": store.bucket, "Key": store.path(key)},
        MetadataDirective="REPLACE",
        Metadata={"about": "after"},
    )
    seen = dict(head(store, target).metadata)
    delete_keys(store, [target])
    return None if seen.get("about") == "after" else f"the copy carries {seen}"


def _copies_in_parts(store: ObjectStore, key: str) -> str | None:
    put_bytes(store, key, BODY, {})
    target = f"{key}-copy"
    # One part, which is the last one: that may be small.
    in_parts = store.model_copy(update={"multipart_copy_threshold_bytes": 0})
    try:
        copy(store, key, in_parts, target, size_bytes=len(BODY), attributes={})
        return None if read_bytes(store, target, at_most=MIB) == BODY else "the copy has other bytes"
    finally:
        delete_keys(store, [target])


def _multipart_upload(store: ObjectStore, key: str) -> str | None:
    upload = store.s3.create_multipart_upload(Bucket=store.bucket, Key=store.path(key))
    same: Any = {"Bucket": store.bucket, "Key": store.path(key), "UploadId": upload["UploadId"]}
    bodies = [b"\0" * (5 * MIB), BODY]
    parts: list[Any] = [
        {"PartNumber": number, "ETag": store.s3.upload_part(Body=body, PartNumber=number, **same)["ETag"]}
        for number, body in enumerate(bodies, 1)
    ]
    store.s3.complete_multipart_upload(MultipartUpload={"Parts": parts}, **same)
    size = store.s3.head_object(Bucket=store.bucket, Key=store.path(key))["ContentLength"]
    return None if size == sum(map(len, bodies)) else f"has {size} bytes"


def _lists_incomplete_uploads(store: ObjectStore, key: str) -> str | None:
    upload = store.s3.create_multipart_upload(Bucket=store.bucket, Key=store.path(key))["UploadId"]
    try:
        listed = any(one.upload_id == upload for one in list_multipart_uploads(store))
    finally:
        abort_multipart_upload(store, key, upload)
    return None if listed else "left an upload out that was begun"


def _deletes_in_batches(store: ObjectStore, key: str) -> str | None:
    put_bytes(store, key, BODY, {})
    failed = delete_keys(store, [key, f"{key}-never-there"])
    return None if not failed and not exists(store, key) else f"left {failed or key}"


def _lifecycle_rule(store: ObjectStore, rule: dict[str, Any]) -> str | None:
    """Whether the server takes a rule and gives it back; the bucket's own rules stay, whatever happens."""

    def others() -> list[dict[str, Any]]:
        # Without what a probe left that was killed here.
        return [one for one in read_rules(store) if one.get("ID") != PROBE_RULE_ID]

    # Enabled, since servers take any rule that does nothing; for a prefix that never holds anything, and in ten years.
    asked = {"ID": PROBE_RULE_ID, "Status": "Enabled", "Filter": {"Prefix": store.path("probe/none/")}} | rule
    try:
        write_rules(store, [*others(), asked])
    except UnfitStoreError:
        return "took the rule and forgot it"
    finally:
        write_rules(store, others())
    return None


def _expiration_rules(store: ObjectStore, key: str) -> str | None:  # noqa: ARG001 -- a trial's signature
    return _lifecycle_rule(store, {"Expiration": {"Days": 3650}})


def _transition_rules(store: ObjectStore, key: str) -> str | None:  # noqa: ARG001 -- a trial's signature
    return _lifecycle_rule(store, {"Transitions": [{"Days": 3650, "StorageClass": "GLACIER"}]})


def _multipart_rules(store: ObjectStore, key: str) -> str | None:  # noqa: ARG001 -- a trial's signature
    return _lifecycle_rule(store, {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 3650}})


def _clock_agrees(store: ObjectStore, key: str) -> str | None:  # noqa: ARG001 -- a trial's signature
    answer = store.s3.list_objects_v2(Bucket=store.bucket, Prefix=store.path("probe/"), MaxKeys=1)
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if date is None:
        return "sends no Date header"
    seconds = (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds()
    return None if abs(seconds) < 30 else f"is {seconds:+.0f} s away from this machine's"


TRIALS: dict[str, Callable[[ObjectStore, str], str | None]] = {
    "reads_back": _reads_back,
    "answers_ranges": _answers_ranges,
    "refuses_wrong_signed_sha256": _refuses_wrong_signed_sha256,
    "refuses_wrong_md5": _refuses_wrong_md5,
    "refuses_wrong_checksum_header": _refuses_wrong_checksum_header,
    "refuses_wrong_part_checksum": _refuses_wrong_part_checksum,
    "puts_once": _puts_once,
    "refuses_stale_if_match": _refuses_stale_if_match,
    "presigned_get": _presigned_get,
    "presigned_filename": _presigned_filename,
    "presigned_encoding": _presigned_encoding,
    "altered_url_is_refused": _altered_url_is_refused,
    "post_form": _post_form,
    "copy_with_new_metadata": _copy_with_new_metadata,
    "copies_in_parts": _copies_in_parts,
    "multipart_upload": _multipart_upload,
    "lists_incomplete_uploads": _lists_incomplete_uploads,
    "deletes_in_batches": _deletes_in_batches,
    "expiration_rules": _expiration_rules,
    "transition_rules": _transition_rules,
    "multipart_rules": _multipart_rules,
    "clock_agrees": _clock_agrees,
}
NEEDED = frozenset(
    {"reads_back", "presigned_get", "altered_url_is_refused", "presigned_urls_expire", "multipart_upload"}
)
"""Without these the platform would lose bytes or let strangers in."""
