"""A wire that turns one bit of every body on its way up, without anybody noticing who does not look at the bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from blocks.object_store import ObjectStore
from tests.line import Call, Fault, Line


class _OneBit(Fault):
    def on_its_way(self, call: Call, body: bytes) -> bytes:
        return body[:-1] + bytes([body[-1] ^ 1]) if body and call.what.startswith("PUT ") else body


@contextmanager
def bad_wire(store: ObjectStore) -> Iterator[ObjectStore]:
    """The same store behind such a wire; what is read comes through as it is."""
    server = urlsplit(store.endpoint_url)
    line = Line((server.hostname or "", server.port or 80))
    line.start()
    line.watch(_OneBit())
    try:
        yield store.model_copy(update={"endpoint_url": line.s3_url})
    finally:
        line.stop()
