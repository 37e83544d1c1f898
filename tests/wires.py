"""Wires to a store that are not what they should be: what comes through is changed, and nobody is told."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from urllib.parse import parse_qs, unquote, urlsplit

from botocore.exceptions import ClientError

from blocks.object_store import ObjectStore
from tests.line import Answer, Call, Fault, Line, Verdict


class OneBit(Fault):
    """Turns one bit of every body on its way up; what is read comes through as it is."""

    def on_its_way(self, call: Call, body: bytes) -> bytes:
        return body[:-1] + bytes([body[-1] ^ 1]) if body and call.what.startswith("PUT ") else body


class Short(Fault):
    """Of every body on its way up the last byte is missing."""

    def on_its_way(self, call: Call, body: bytes) -> bytes:
        return body[:-1] if call.what.startswith("PUT ") else body


@dataclass
class PartAgain(Fault):
    """Right before an upload is put together, one of its parts arrives once more, as something else."""

    store: ObjectStore
    number: int
    content: bytes
    hit: bool = False

    async def before(self, call: Call) -> Verdict | Answer:
        address = urlsplit(call.what.removeprefix("POST "))
        upload = parse_qs(address.query).get("uploadId")
        if call.what.startswith("POST ") and upload:
            self.hit = True
            with suppress(ClientError):  # rclone takes no part twice
                await asyncio.to_thread(
                    self.store.s3.upload_part, Bucket=self.store.bucket, UploadId=upload[0], PartNumber=self.number,
                    Key=unquote(address.path).removeprefix(f"/{self.store.bucket}/"), Body=self.content,
                )  # fmt: skip
        return Verdict.PASS


@dataclass
class Clock(Fault):
    """The store's clock is off: every time that it tells is another one, its own and those of its objects."""

    off: timedelta

    async def after(self, call: Call, answer: Answer | None) -> Verdict | Answer:
        del call
        assert answer is not None
        headers = tuple(
            (name, self._header(value) if name.lower() in ("date", "last-modified") else value)
            for name, value in answer.headers
        )
        body = re.sub(
            rb"(<(LastModified|Initiated)>)([^<]+)(</)",
            lambda found: found[1] + self._iso(found[3]) + found[4],
            answer.body,
        )
        return replace(answer, headers=headers, body=body)

    def _header(self, value: str) -> str:
        return format_datetime(parsedate_to_datetime(value) + self.off, usegmt=True)

    def _iso(self, value: bytes) -> bytes:
        at = datetime.fromisoformat(value.decode()) + self.off
        return at.isoformat().encode()


@contextmanager
def wired(store: ObjectStore, fault: Fault) -> Iterator[ObjectStore]:
    """The same store behind such a wire."""
    server = urlsplit(store.endpoint_url)
    line = Line((server.hostname or "", server.port or 80))
    line.start()
    line.watch(fault)
    try:
        yield store.model_copy(update={"endpoint_url": line.s3_url})
    finally:
        line.stop()
