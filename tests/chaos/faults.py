"""What can happen to a call on its way."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from blocks.object_store import ObjectStore
from tests.line import Answer, Call, Fault, Moment, Server, Verdict

DEAD_SECONDS = 10


@dataclass
class Point(Fault, ABC):
    """Something happens at a call, or at `times` in a row: before the server gets it, or after the server has done it.

    `hit` is the first such call, once it was met; `only` lets calls to the other server through.
    """

    number: int
    moment: Moment
    times: int = 1
    hit: Call | None = None
    only: Server | None = None

    async def before(self, call: Call) -> Verdict | Answer:
        return await self._met(call, "before", None)

    async def after(self, call: Call, answer: Answer | None) -> Verdict | Answer:
        return await self._met(call, "after", answer)

    async def _met(self, call: Call, moment: Moment, answer: Answer | None) -> Verdict | Answer:
        meant = self.number <= call.number < self.number + self.times and self.only in (None, call.to)
        if moment != self.moment or not meant:
            return Verdict.PASS
        self.hit = self.hit or call
        return await self.strike(call, answer)

    @abstractmethod
    async def strike(self, call: Call, answer: Answer | None) -> Verdict | Answer:
        """What happens; `answer` is what the store has said by then."""


@dataclass
class Kill(Point):
    """SIGKILL for whoever called; the answer finds nobody."""

    pid: int = 0

    async def strike(self, call: Call, answer: Answer | None) -> Verdict | Answer:
        del call, answer
        os.kill(self.pid, signal.SIGKILL)
        # Connections end when the process is gone, as they would without a line between.
        for _ in range(DEAD_SECONDS * 100):
            await asyncio.sleep(0.01)
            with suppress(ProcessLookupError, FileNotFoundError):
                if _state(self.pid) != "Z":
                    continue
            break
        return Verdict.CUT


class Cut(Point):
    """The connection breaks."""

    async def strike(self, call: Call, answer: Answer | None) -> Verdict | Answer:
        del call, answer
        return Verdict.CUT


@dataclass
class Say(Point):
    """The store answers something else, or its own answer breaks off; the catalog's connection breaks."""

    answer: Answer = field(default_factory=lambda: error(503, "SlowDown"))

    async def strike(self, call: Call, answer: Answer | None) -> Verdict | Answer:
        if call.to == "catalog":
            return Verdict.CUT
        return replace(answer, broken=True) if self.answer.broken and answer is not None else self.answer


@dataclass
class Rewrite(Point):
    """The store has done it, and its answer says something else: `says` makes the body from its own."""

    says: Callable[[bytes], bytes] = lambda body: body

    async def strike(self, call: Call, answer: Answer | None) -> Verdict | Answer:
        del call
        assert answer is not None, "there is nothing to rewrite before the store has answered"
        return replace(answer, body=self.says(answer.body))


def half_a_listing(body: bytes) -> bytes:
    """Every second object is left out, and nothing says that there is more."""
    return _every_second(rb"<Contents>.*?</Contents>", body, b"")


def an_empty_listing(body: bytes) -> bytes:
    """Nothing is there."""
    return re.sub(rb"<Contents>.*?</Contents>", b"", body, flags=re.DOTALL)


def _every_second(pattern: bytes, body: bytes, instead: bytes) -> bytes:
    found = itertools.count()

    def change(match: re.Match[bytes]) -> bytes:
        return match.expand(instead) if next(found) % 2 == 0 else match[0]

    return re.sub(pattern, change, body, flags=re.DOTALL)


@dataclass
class SomeStay(Point):
    """DeleteObjects answers 200, and for every second key an error: it is still there, or `gone` all the same.

    What a client signed cannot be changed on its way: those are put back after they went.
    """

    store: ObjectStore = field(kw_only=True)
    gone: bool = False
    _kept: dict[str, dict[str, Any]] = field(default_factory=dict)

    def on_its_way(self, call: Call, body: bytes) -> bytes:
        if self.number <= call.number < self.number + self.times:
            for key in re.findall(r"<Key>(.*?)</Key>", body.decode())[::2]:
                with suppress(self.store.s3.exceptions.NoSuchKey):
                    found = self.store.s3.get_object(Bucket=self.store.bucket, Key=key)
                    read = found["Body"].read()
                    self._kept[key] = {
                        "Body": read, "Metadata": found["Metadata"], "ContentType": found["ContentType"]
                    }  # fmt: skip
        return body

    async def strike(self, call: Call, answer: Answer | None) -> Verdict | Answer:
        del call
        if not self._kept:
            return Verdict.PASS
        assert answer is not None
        told = ""
        for key, content in self._kept.items():
            if not self.gone:
                self.store.s3.put_object(Bucket=self.store.bucket, Key=key, **content)
            told += f"<Error><Key>{key}</Key><Code>InternalError</Code><Message>the line says so</Message></Error>"
        self._kept.clear()
        assert b"</DeleteResult>" in answer.body
        return replace(answer, body=answer.body.replace(b"</DeleteResult>", f"{told}</DeleteResult>".encode()))


@dataclass
class Sleep(Point):
    """The call waits on its way until `meanwhile` has happened, in a thread of its own.

    Unless something is given, that is what others do while a run sleeps past its lock.
    """

    meanwhile: Callable[[], None] | None = None
    _happening: Future[None] | None = None

    async def strike(self, call: Call, answer: Answer | None) -> Verdict | Answer:
        del call, answer
        assert self.meanwhile is not None
        pool = ThreadPoolExecutor(max_workers=1)
        self._happening = pool.submit(self.meanwhile)
        pool.shutdown(wait=False)
        with suppress(Exception):  # told by `wait`
            await asyncio.wrap_future(self._happening)
        return Verdict.PASS

    def wait(self) -> None:
        """Until it has happened, also where the caller did not wait for it; raises what went wrong."""
        if self._happening:
            self._happening.result()


def error(status: int, code: str) -> Answer:
    """An error in S3's own words."""
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>the line says so</Message></Error>'
    return Answer(status, body.encode(), (("Content-Type", "application/xml"),))


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
