"""What a server really does, found by trying: each capability is judged by its effect, never by an answer's status.

Everything is written under `probe/`, and taken away again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
from botocore.exceptions import BotoCoreError, ClientError

from blocks.errors import RefusedError, StorageError, UnfitStoreError, first_line
from blocks.object_store.block import ObjectStore
from blocks.object_store.deletion import delete_keys
from blocks.object_store.failures import store_errors
from blocks.object_store.listing import list_range
from blocks.object_store.presigning import presign_get
from blocks.object_store.transfer import put_bytes
from blocks.object_store.trials import BODY, NEEDED, TRIALS

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

    def why_not(self, name: str) -> str:
        """What was seen instead of an effect, for a message; empty where it works."""
        seen = next((finding for finding in self.findings if finding.name == name), None)
        if seen is None:
            return "nobody tried yet whether this server does it: run the flow probe-store"
        return "" if seen.works else f"this server does not do it ({seen.detail})"

    @property
    def lists_uploads(self) -> bool:
        """Whether incomplete uploads can be listed; surely not where it was tried in vain."""
        return not any(one.name == "lists_incomplete_uploads" and not one.works for one in self.findings)

    @property
    def reads_checksum_headers(self) -> bool:
        """Whether sending a SHA-256 in a header makes the store refuse other bytes, in one request and in parts."""
        return self.has("refuses_wrong_checksum_header") and self.has("refuses_wrong_part_checksum")

    @property
    def needs_checksum_headers(self) -> bool:
        """Whether a SHA-256 has to go along in a header.

        Every request's signature carries one already; a server that looks at that one would hash all bytes once more
        for the header (a tenth of SeaweedFS's work for an upload).
        """
        return self.reads_checksum_headers and not self.has("refuses_wrong_signed_sha256")

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


def probe(store: ObjectStore) -> Capabilities:
    """Try every capability; some seconds, because a URL has to expire.

    Raises:
        UnfitStoreError: the bucket is versioned, or reading, writing or presigning does not work at all.
    """
    run = f"probe/{uuid4()}"
    versioning = _versioning(store)
    if versioning:
        raise UnfitStoreError(
            f"bucket {store.bucket} is versioned ({versioning}): deletes would free nothing, and no bucket becomes "
            "one without versions again; use another bucket"
        )
    keys: list[str] = []

    def fresh(name: str) -> str:
        keys.append(f"{run}/{name}")
        return keys[-1]

    try:
        expiring, expires_at = _start_expiry(store, fresh("expiring"))
        findings = [_judge(name, trial, store, fresh(name)) for name, trial in TRIALS.items()]
        findings.append(_judge("presigned_urls_expire", lambda *_: _still_answers(expiring, expires_at), store, ""))
    finally:
        delete_keys(store, keys)
    needed = [finding for finding in findings if finding.name in NEEDED and not finding.works]
    if needed:
        raise UnfitStoreError(
            f"bucket {store.bucket} cannot be used: "
            + "; ".join(f"{finding.name}: {finding.detail or 'no'}" for finding in needed)
        )
    return Capabilities(tuple(findings))


def require_class(store: ObjectStore, storage_class: str) -> None:
    """See that the server takes objects of a storage class, and says so afterwards.

    Raises:
        UnfitStoreError: it knows no such class, or forgets it.
    """
    folder = f"probe/{uuid4()}"
    key = f"{folder}/class"
    try:
        put_bytes(store, key, BODY, {"Storage-Class": storage_class})
        # The listing, which reconcile tells locations apart by: rclone repeats any class to HEAD, and lists none.
        (listed,) = list_range(store, folder, after="", until=None, classes=True)
    except (RefusedError, ClientError) as error:
        raise UnfitStoreError(f"bucket {store.bucket} takes no objects of class {storage_class}: {error}") from error
    finally:
        delete_keys(store, [key])
    if (seen := listed.storage_class or "STANDARD") != storage_class:
        raise UnfitStoreError(f"bucket {store.bucket} keeps an object of class {storage_class} as {seen}")


def _judge(name: str, trial: Callable[[ObjectStore, str], str | None], store: ObjectStore, key: str) -> Finding:
    try:
        seen = trial(store, key)
    except (ClientError, BotoCoreError, StorageError, httpx.HTTPError) as error:
        return Finding(name, works=False, detail=first_line(error)[:200])
    return Finding(name, works=seen is None, detail=seen or "")


KNOWS_NO_VERSIONS = (400, 405, 501)
"""How a server without versioning answers to the question."""


def _versioning(store: ObjectStore) -> str:
    with store_errors(store, "looking at the bucket's versioning"):
        try:
            return store.s3.get_bucket_versioning(Bucket=store.bucket).get("Status", "")
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] not in KNOWS_NO_VERSIONS:
                raise  # it may be versioned, and nobody knows
            return ""


def _start_expiry(store: ObjectStore, key: str) -> tuple[str, float]:
    put_bytes(store, key, BODY, {})
    # Seconds are whole in a signature: it ends up to one second late.
    return presign_get(store, key, SHORTEST_URL), time.monotonic() + SHORTEST_URL.total_seconds() + 1.1


def _still_answers(url: str, expires_at: float) -> str | None:
    # That a URL ends can only be seen after its end; the other trials ran meanwhile.
    time.sleep(max(0.0, expires_at - time.monotonic()))
    status = httpx.get(url, timeout=30).status_code
    return None if status in (400, 403) else f"answered {status}"
