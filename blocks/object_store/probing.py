"""What a server really does, found by trying: each capability is judged by its effect, never by an answer's status.

Everything is written under `probe/`, and taken away again.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import uuid4

import httpx
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, ClientError

from blocks.errors import StorageError, UnfitStoreError
from blocks.object_store.block import MIB, ObjectStore
from blocks.object_store.failures import store_errors
from blocks.object_store.presigning import presign_get, presign_post
from blocks.object_store.transfer import delete_keys, exists, put_bytes, read_bytes

BODY = b"transcode-flow asks what this server really does\n"
OTHER = b"transcode-flow asks what this server really does?\n"
SHORTEST_URL = timedelta(seconds=1)


@dataclass(frozen=True)
class Finding:
    """One capability: whether the effect was seen, and what was seen instead."""

    name: str
    works: bool
    detail: str = ""


@dataclass(frozen=True)
class Capabilities:
    """All findings of one probe, as stored in `locations.capabilities`."""

    findings: tuple[Finding, ...] = field(default_factory=tuple)

    def has(self, name: str) -> bool:
        """Whether an effect was proved; an effect nobody probed is not there."""
        return any(finding.name == name and finding.works for finding in self.findings)

    @property
    def reads_checksum_headers(self) -> bool:
        """Whether sending a SHA-256 in a header makes the store refuse other bytes, in one request and in parts."""
        return self.has("refuses_wrong_checksum_header") and self.has("refuses_wrong_part_checksum")

    @property
    def checks_uploads(self) -> bool:
        """Whether the store itself refuses other bytes than were sent: then no read-back is needed."""
        return self.has("refuses_wrong_signed_sha256") or self.reads_checksum_headers

    def as_json(self) -> dict[str, Any]:
        """The form that the catalog keeps."""
        return {finding.name: {"works": finding.works, "detail": finding.detail} for finding in self.findings}

    @classmethod
    def from_json(cls, stored: dict[str, Any] | None) -> Capabilities:
        """Back from the catalog; None (never probed) has no capability at all."""
        return cls(tuple(Finding(name, one["works"], one["detail"]) for name, one in (stored or {}).items()))


class _SignsAnotherBody(S3SigV4Auth):
    """Signs as if the body were OTHER: a server that checks what it received must refuse it."""

    def payload(self, request: AWSRequest) -> str:  # noqa: ARG002 -- botocore's signature
        return hashlib.sha256(OTHER).hexdigest()


def probe(store: ObjectStore) -> Capabilities:
    """Try every capability; some seconds, because a URL has to expire.

    Raises:
        UnfitStoreError: the bucket is versioned, or reading, writing or presigning does not work at all.
    """
    run = f"probe/{uuid4()}"
    versioning = _versioning(store)
    if versioning:
        raise UnfitStoreError(
            f"bucket {store.bucket} is versioned ({versioning}): deletes would free nothing; suspend versioning and "
            "remove old versions, or use another bucket"
        )
    keys: list[str] = []

    def fresh(name: str) -> str:
        keys.append(f"{run}/{name}")
        return keys[-1]

    try:
        expiring, expires_at = _start_expiry(store, fresh("expiring"))
        findings = [_judge(name, trial, store, fresh(name)) for name, trial in TRIALS.items()]
        findings.append(_finish_expiry(expiring, expires_at))
    finally:
        delete_keys(store, keys)
    needed = [finding for finding in findings if finding.name in NEEDED and not finding.works]
    if needed:
        raise UnfitStoreError(
            f"bucket {store.bucket} cannot be used: "
            + "; ".join(f"{finding.name}: {finding.detail or 'no'}" for finding in needed)
        )
    return Capabilities(tuple(findings))


def _judge(name: str, trial: Callable[[ObjectStore, str], str | None], store: ObjectStore, key: str) -> Finding:
    try:
        seen = trial(store, key)
    except (ClientError, BotoCoreError, StorageError, httpx.HTTPError) as error:
        return Finding(name, works=False, detail=str(error).splitlines()[0][:200])
    return Finding(name, works=seen is None, detail=seen or "")


def _versioning(store: ObjectStore) -> str:
    try:
        return store.s3.get_bucket_versioning(Bucket=store.bucket).get("Status", "")
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] in (404, 403) and "Bucket" in str(error):
            with store_errors(store, "looking at the bucket"):
                raise
        return ""  # a server without versioning says so with an error


def _reads_back(store: ObjectStore, key: str) -> str | None:
    put_bytes(store, key, BODY, {"Content-Type": "text/plain"})
    return None if read_bytes(store, key, at_most=MIB) == BODY else "read other bytes than were written"


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
    answer = httpx.get(url.replace(f"{key}?", f"{key}-other?"), timeout=30)
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
    seen = store.s3.head_object(Bucket=store.bucket, Key=store.path(target))["Metadata"]
    delete_keys(store, [target])
    return None if seen.get("about") == "after" else f"the copy carries {seen}"


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


def _deletes_in_batches(store: ObjectStore, key: str) -> str | None:
    put_bytes(store, key, BODY, {})
    failed = delete_keys(store, [key, f"{key}-never-there"])
    return None if not failed and not exists(store, key) else f"left {failed or key}"


def _lifecycle_rule(store: ObjectStore, rule: dict[str, Any]) -> str | None:
    """Whether the server takes a rule and gives it back; the bucket's own rules are put back whatever happens."""
    try:
        before = store.s3.get_bucket_lifecycle_configuration(Bucket=store.bucket).get("Rules", [])
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        before = []
    # Enabled, since servers take any rule that does nothing; for a prefix that never holds anything, and in ten years.
    asked: Any = {"ID": "probe", "Status": "Enabled", "Filter": {"Prefix": store.path("probe/none/")}} | rule
    try:
        store.s3.put_bucket_lifecycle_configuration(
            Bucket=store.bucket, LifecycleConfiguration={"Rules": [*before, asked]}
        )
        rules = store.s3.get_bucket_lifecycle_configuration(Bucket=store.bucket).get("Rules", [])
        kept = any(one.get("ID") == "probe" and rule.keys() <= one.keys() for one in rules)
        return None if kept else "took the rule and forgot it"
    finally:
        if before:
            store.s3.put_bucket_lifecycle_configuration(Bucket=store.bucket, LifecycleConfiguration={"Rules": before})
        else:
            store.s3.delete_bucket_lifecycle(Bucket=store.bucket)


def _expiration_rules(store: ObjectStore, key: str) -> str | None:  # noqa: ARG001 -- a trial's signature
    return _lifecycle_rule(store, {"Expiration": {"Days": 3650}})


def _transition_rules(store: ObjectStore, key: str) -> str | None:  # noqa: ARG001 -- a trial's signature
    return _lifecycle_rule(store, {"Transitions": [{"Days": 3650, "StorageClass": "GLACIER"}]})


def _clock_agrees(store: ObjectStore, key: str) -> str | None:  # noqa: ARG001 -- a trial's signature
    answer = store.s3.list_objects_v2(Bucket=store.bucket, Prefix=store.path("probe/"), MaxKeys=1)
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if date is None:
        return "sends no Date header"
    seconds = (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds()
    return None if abs(seconds) < 30 else f"is {seconds:+.0f} s away from this machine's"


def _start_expiry(store: ObjectStore, key: str) -> tuple[str, float]:
    put_bytes(store, key, BODY, {})
    # Seconds are whole in a signature: it ends up to one second late.
    return presign_get(store, key, SHORTEST_URL), time.monotonic() + SHORTEST_URL.total_seconds() + 1.1


def _finish_expiry(url: str, expires_at: float) -> Finding:
    # The one wait of the project: that a URL ends can only be seen after its end. The other trials ran meanwhile.
    time.sleep(max(0.0, expires_at - time.monotonic()))
    status = httpx.get(url, timeout=30).status_code
    return Finding("presigned_urls_expire", status in (400, 403), "" if status in (400, 403) else f"answered {status}")


TRIALS: dict[str, Callable[[ObjectStore, str], str | None]] = {
    "reads_back": _reads_back,
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
    "multipart_upload": _multipart_upload,
    "deletes_in_batches": _deletes_in_batches,
    "expiration_rules": _expiration_rules,
    "transition_rules": _transition_rules,
    "clock_agrees": _clock_agrees,
}
NEEDED = frozenset(
    {"reads_back", "presigned_get", "altered_url_is_refused", "presigned_urls_expire", "multipart_upload"}
)
"""Without these the platform would lose bytes or let strangers in."""
