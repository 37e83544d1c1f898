"""Answers of a server, or of what stands before it, that say 200 and nothing of what was asked."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from blocks.errors import StoreUnavailableError
from blocks.object_store import ObjectStore
from blocks.object_store.deletion import delete_keys
from blocks.object_store.listing import list_prefix, list_range
from blocks.object_store.multipart import list_multipart_uploads
from blocks.object_store.transfer import put_bytes
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
    with wired(store, Says(body)) as odd, pytest.raises(StoreUnavailableError, match="removing 1 objects"):
        delete_keys(odd, ["a"])
    assert [one.key for one in list_prefix(store, "")] == ["a"]


@pytest.mark.parametrize("body", [b"", PAGE])
def test_nothing_counts_as_empty(store: ObjectStore, body: bytes) -> None:
    with wired(store, Says(body)) as odd:
        with pytest.raises(StoreUnavailableError):
            list(list_multipart_uploads(odd))
        with pytest.raises(StoreUnavailableError):
            list(list_range(odd, "p", after="", until=None, classes=True))
