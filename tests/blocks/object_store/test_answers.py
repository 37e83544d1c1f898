"""Answers of a server, or of what stands before it, that say 200 and nothing of what was asked; and none at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from blocks.errors import StoreUnavailableError
from blocks.object_store import ObjectStore
from blocks.object_store.deletion import delete_keys
from blocks.object_store.listing import list_prefix, list_range
from blocks.object_store.multipart import list_multipart_uploads
from blocks.object_store.transfer import head, put_bytes, put_stream, read_bytes, read_stream
from tests.line import Answer, Call, Fault, Verdict
from tests.wires import wired

PAGE = b"<html><body>Please log in</body></html>"
NOBODYS = b"<DeleteResult><Error><Code>InternalError</Code>%s</Error></DeleteResult>"


@dataclass
class Says(Fault):
    """The store is never asked: this is what everybody hears."""

    body: bytes

    async def before(self, call: Call) -> Verdict | Answer:
        del call
        return Answer(200, self.body, (("Content-Type", "application/xml"),))


@pytest.mark.parametrize("body", [b"", b" ", PAGE, b"<DeleteResult", NOBODYS % b"", NOBODYS % b"<Key>another</Key>"])
def test_no_key_counts_as_removed(store: ObjectStore, body: bytes) -> None:
    put_bytes(store, "a", b"1", {})
    with (
        wired(store.model_copy(update={"retries": 0}), Says(body)) as odd,
        pytest.raises(StoreUnavailableError, match="removing 1 objects"),
    ):
        delete_keys(odd, ["a"])
    assert [one.key for one in list_prefix(store, "")] == ["a"]


@pytest.mark.parametrize("body", [b"", PAGE])
def test_nothing_counts_as_empty(store: ObjectStore, body: bytes) -> None:
    with wired(store.model_copy(update={"retries": 0}), Says(body)) as odd:
        with pytest.raises(StoreUnavailableError):
            list(list_multipart_uploads(odd))
        with pytest.raises(StoreUnavailableError):
            list(list_range(odd, "p", after="", until=None, classes=True))


class Silent(Fault):
    """The store takes every request, and never says a word."""

    async def before(self, call: Call) -> Verdict | Answer:
        del call
        await asyncio.sleep(60)
        return Verdict.CUT


CALLS: dict[str, Callable[[ObjectStore], object]] = {
    "write": lambda store: put_bytes(store, "a", b"1", {}),
    "write in parts": lambda store: put_stream(store, "a", iter([b"1"] * 3), part_bytes=5 * 1024**2, attributes={}),
    "read": lambda store: read_bytes(store, "a", at_most=9),
    "read a stream": lambda store: list(read_stream(store, "a")),
    "look": lambda store: head(store, "a"),
    "list": lambda store: list(list_prefix(store, "")),
    "list uploads": lambda store: list(list_multipart_uploads(store)),
    "remove": lambda store: delete_keys(store, ["a"]),
}


@pytest.mark.parametrize("call", CALLS)
def test_nobody_waits_for_ever(store: ObjectStore, call: str) -> None:
    impatient, started = store.model_copy(update={"timeout_seconds": 1, "retries": 0}), time.monotonic()
    with wired(impatient, Silent()) as silent, pytest.raises(StoreUnavailableError):
        CALLS[call](silent)
    assert time.monotonic() - started < 15
