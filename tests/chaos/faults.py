"""What can happen to a call on its way."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from tests.chaos.line import Answer, Call, Fault, Moment, Verdict

DEAD_SECONDS = 10


class Count(Fault):
    """Nothing happens; the line counts."""


@dataclass
class Point(Fault):
    """Something happens at one call: before the server gets it, or after the server has done it.

    `hit` is the call, once it was met.
    """

    number: int
    moment: Moment
    hit: Call | None = None

    async def before(self, call: Call) -> Verdict | Answer:
        if (call.number, self.moment) != (self.number, "before"):
            return Verdict.PASS
        self.hit = call
        return await self.strike(call)

    async def after(self, call: Call, answer: Answer | None) -> Verdict | Answer:
        del answer
        if (call.number, self.moment) != (self.number, "after"):
            return Verdict.PASS
        self.hit = call
        return await self.strike(call)

    async def strike(self, call: Call) -> Verdict | Answer:
        """What happens."""
        raise NotImplementedError


@dataclass
class Kill(Point):
    """SIGKILL for whoever called; the answer finds nobody."""

    pid: int = 0

    async def strike(self, call: Call) -> Verdict | Answer:
        del call
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

    async def strike(self, call: Call) -> Verdict | Answer:
        del call
        return Verdict.CUT


@dataclass
class Say(Point):
    """The store answers something else for `times` calls in a row; the catalog's connection breaks."""

    answer: Answer = field(default_factory=lambda: error(503, "SlowDown"))
    times: int = 1

    async def before(self, call: Call) -> Verdict | Answer:
        reached = self.moment == "before" and self.number <= call.number < self.number + self.times
        return await self._say(call) if reached else Verdict.PASS

    async def after(self, call: Call, answer: Answer | None) -> Verdict | Answer:
        reached = self.moment == "after" and self.number <= call.number < self.number + self.times
        if reached and self.answer.broken and answer is not None:
            self.hit = call
            return Answer(answer.status, answer.body, answer.headers, broken=True)
        return await self._say(call) if reached else Verdict.PASS

    async def _say(self, call: Call) -> Verdict | Answer:
        self.hit = self.hit or call
        return self.answer if call.to == "store" else Verdict.CUT


@dataclass
class Sleep(Point):
    """The call waits on its way until `meanwhile` has happened, in a thread of its own."""

    meanwhile: Callable[[], None] = lambda: None
    _happening: Future[None] | None = None

    async def strike(self, call: Call) -> Verdict | Answer:
        del call
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
