"""A bucket's lifecycle rules: read, and written so that what others put there comes back byte for byte.

S3 has no conditional write of a lifecycle configuration: it is one document, and the last writer wins. What is possible
is done: it is read immediately before it is written, the write is refused if it is not what the caller decided on, and
it is read again afterwards. Between that read and the write (one round trip) another writer can still be lost.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from blocks.errors import OvertakenError, RefusedError, StorageError, UnfitStoreError
from blocks.object_store.block import ObjectStore
from blocks.object_store.failures import store_errors

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

Rule = dict[str, Any]
"""One rule as boto3 has it."""

READ_AGAIN_SECONDS = (0.2, 0.5, 1.0, 2.0, 4.0)
"""Pauses before a configuration that is not there yet is looked at again: AWS takes its time until a read shows it."""

SMALLEST_MOVED = 128 * 1024
"""AWS, since September 2024, by default: a smaller object costs more in another class than it does where it is."""
_NONE_SMALLER = "all_storage_classes_128K"
_NO_LIFECYCLE = ("NotImplemented", "MethodNotAllowed", "BucketAlreadyExists", "BucketAlreadyOwnedByYou")
"""A server that knows no `?lifecycle` takes the request for one to create the bucket (rclone does)."""
_RULE = re.compile(rb"<Rule\b[^>]*>.*?</Rule>", re.DOTALL)
# What the handlers below hand to and from one call: a shared client has no other way to carry it.
_fragments: ContextVar[Sequence[bytes | None]] = ContextVar("_fragments", default=())


@dataclass(frozen=True)
class _Configuration:
    """What the server gave: the rules, each rule's own bytes, and the one setting beside them."""

    rules: list[Rule]
    fragments: list[bytes]
    smallest_transition: str | None

    def fragment(self, rule: Rule) -> bytes | None:
        return next((own for known, own in zip(self.rules, self.fragments, strict=False) if known == rule), None)


def read_rules(store: ObjectStore) -> list[Rule]:
    """All rules of the bucket, ours and others'; none where it has no configuration or the server has no such thing."""
    return _read(store).rules


def smallest_moved(store: ObjectStore) -> int:
    """Bytes that an object must have for the server to move it to another class by a rule; 0 where it says nothing."""
    return SMALLEST_MOVED if _read(store).smallest_transition == _NONE_SMALLER else 0


def write_rules(store: ObjectStore, rules: list[Rule], *, former: list[Rule] | None = None) -> None:
    """Make these all rules of the bucket (none removes the configuration), and see that they are there.

    A rule that is there already is sent as the server gave it, with what boto3 has no name for; where all are, nothing
    is written. `former` are the rules that the caller decided on.

    Raises:
        OvertakenError: the rules are not `former` any more, or somebody else wrote them at the same time.
        RefusedError: the server does not take one of the rules; nothing was changed.
        UnfitStoreError: the server took the rules and forgot some; the former ones were put back.
    """
    before = _read(store)
    if former is not None and before.rules != former:
        raise OvertakenError(
            f"the lifecycle rules of bucket {store.bucket} changed while they were planned: nothing was written; "
            "run it again"
        )
    if rules == before.rules:
        return
    _put(store, rules, before)
    for pause in (*READ_AGAIN_SECONDS, None):
        seen = _read(store).rules
        lost = [rule for rule in rules if not _holds(seen, rule)]
        if not lost and len(seen) == len(rules):
            return
        if any(not _holds(rules, rule) and not _holds(before.rules, rule) for rule in seen):
            raise OvertakenError(
                f"somebody else wrote the lifecycle rules of bucket {store.bucket} at the same time: theirs are in "
                "place; run it again"
            )
        if pause is not None:
            time.sleep(pause)
    if seen != before.rules:
        # A server that keeps no rules at all has forgotten them already, and must not be asked to remove them: one that
        # knows no `?lifecycle` takes that for a request to remove the bucket, and does so (rclone, where it is empty).
        _put(store, before.rules, before)
    raise UnfitStoreError(
        f"bucket {store.bucket}: the server took the lifecycle rules and does not give back "
        f"{', '.join(map(name_of, lost)) or 'what was asked for'}; the former rules were put back; run the flow "
        "probe-store to see what this server does with rules"
    )


def rule_id(store_prefix: str, name: str) -> str:
    """The ID that tells our rule of this name for this store's prefix; a bucket can be shared by several stores."""
    # An ID ends at 255 characters, a prefix much later.
    long = len(store_prefix.encode()) > 200
    return f"transcode-flow:{hashlib.sha256(store_prefix.encode()).hexdigest() if long else store_prefix or '/'}:{name}"


def own_name(rule: Rule, store_prefix: str) -> str | None:
    """The rule's name if it is ours and this store's: prefix `a` is not to take a rule of `a:b` for its own."""
    head, identifier = rule_id(store_prefix, ""), str(rule.get("ID") or "")
    name = identifier.removeprefix(head)
    return name if identifier.startswith(head) and re.fullmatch(r"[a-z_]+", name) else None


def due_at(written_at: datetime, days: int) -> datetime:
    """When a rule is due: S3 adds whole days and goes on to midnight UTC, unless it is midnight (AWS's rounding)."""
    exact = written_at.astimezone(UTC) + timedelta(days=days)
    midnight = exact.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight if midnight == exact else midnight + timedelta(days=1)


def name_of(rule: Rule) -> str:
    """How a person finds the rule: its ID, or the prefix it is for."""
    return str(rule.get("ID") or f"a rule without ID for {_filter(rule).get('Prefix') or 'the whole bucket'}")


def expires_under(rule: Rule, prefix: str) -> bool:
    """Whether the rule removes objects under this prefix (as the server knows it), be it only some of them."""
    reached = _filter(rule).get("Prefix") or ""
    overlap = prefix.startswith(reached) or reached.startswith(prefix)
    return overlap and rule.get("Status") == "Enabled" and bool(rule.get("Expiration"))


def same_rule(one: Rule, other: Rule) -> bool:
    """Whether two rules mean the same, however each server writes it.

    Servers write the prefix at the top instead of in the filter, or a filter of one condition as an `And`, reorder
    lists, and add what is off by default.
    """
    return bool(_meaning(one) == _meaning(other))


def _holds(rules: list[Rule], rule: Rule) -> bool:
    # A server may give a rule an ID that came without one.
    return any(
        same_rule(one, rule) and (not rule.get("ID") or not one.get("ID") or rule["ID"] == one["ID"]) for one in rules
    )


def _filter(rule: Rule) -> dict[str, Any]:
    inner = rule.get("Filter") or {}
    found = {"Prefix": rule.get("Prefix")} | inner | (inner.get("And") or {})
    found.pop("And", None)
    tags = [*found.pop("Tags", []), *([tag] if (tag := found.pop("Tag", None)) else [])]
    return found | {"Tags": tags}


def _meaning(rule: Rule) -> Any:
    apart = {name: value for name, value in rule.items() if name not in ("ID", "Filter", "Prefix")}
    return _plain(apart | {"Filter": _filter(rule)})


def _plain(value: Any) -> Any:
    """The value without order and without what says nothing."""
    if isinstance(value, dict):
        return frozenset((name, plain) for name, one in value.items() if (plain := _plain(one)) not in _NOTHING)
    if isinstance(value, list | tuple):
        return frozenset(_plain(one) for one in value)
    return value


_NOTHING: tuple[Any, ...] = (None, False, "", frozenset())


def _read(store: ObjectStore) -> _Configuration:
    try:
        with store_errors(store, "reading the lifecycle rules"):
            answer: dict[str, Any] = dict(_client(store).get_bucket_lifecycle_configuration(Bucket=store.bucket))
    except StorageError as error:
        cause = error.__cause__
        code = cause.response.get("Error", {}).get("Code", "") if isinstance(cause, ClientError) else ""
        if code in ("NoSuchLifecycleConfiguration", *_NO_LIFECYCLE):
            return _Configuration([], [], None)
        raise
    rules = answer.get("Rules", [])
    fragments = _RULE.findall(answer["Body"])
    return _Configuration(
        rules, fragments if len(fragments) == len(rules) else [], answer.get("TransitionDefaultMinimumObjectSize")
    )


def _put(store: ObjectStore, rules: list[Rule], before: _Configuration) -> None:
    names = ", ".join(name_of(rule) for rule in rules if before.fragment(rule) is None)
    with store_errors(store, f"writing the lifecycle rules {names}".rstrip()):
        client = _client(store)
        if not rules:
            client.delete_bucket_lifecycle(Bucket=store.bucket)
            return
        # It is the whole bucket's and not ours: a write without it would reset it.
        beside: Any = (
            {"TransitionDefaultMinimumObjectSize": before.smallest_transition} if before.smallest_transition else {}
        )
        given = _fragments.set([before.fragment(rule) for rule in rules])
        try:
            client.put_bucket_lifecycle_configuration(
                Bucket=store.bucket,
                LifecycleConfiguration={"Rules": rules},  # type: ignore[typeddict-item]  # as the server gave them
                **beside,
            )
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") not in _NO_LIFECYCLE:
                raise
            raise RefusedError(
                f"the server of bucket {store.bucket} does not do what the lifecycle rules ask for ({names}): nothing "
                "was changed; run the flow probe-store, which finds out what it does"
            ) from error
        finally:
            _fragments.reset(given)


def _client(store: ObjectStore) -> S3Client:
    client = store.s3
    # Once a client, however often it is asked for; other calls of it are left as they are.
    client.meta.events.register(
        "before-parse.s3.GetBucketLifecycleConfiguration", _keep_body, unique_id="transcode-flow-lifecycle-read"
    )
    client.meta.events.register(
        "before-call.s3.PutBucketLifecycleConfiguration", _send_fragments, unique_id="transcode-flow-lifecycle-write"
    )
    return client


def _keep_body(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    customized_response_dict["Body"] = response_dict["body"]


def _send_fragments(params: dict[str, Any], **_: Any) -> None:
    """Put each known rule's own bytes in place of what boto3 made of it: boto3 drops elements it has no name for."""
    fragments = iter(_fragments.get())
    params["body"] = _RULE.sub(lambda made: next(fragments, None) or made.group(), params["body"])
