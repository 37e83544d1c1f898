"""The line between the project and its servers: every call passes here, and can be stopped on its way.

One HTTP request or one SQL statement is one *call*. A `Fault` is asked before a call goes to the server and again
before its answer goes back: that is the place to cut, to delay, to answer something else, or to kill whoever called.
Nothing of the project knows of it: blocks that point at the line are all it takes.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import h11

NO_ENCRYPTION = {80877103, 80877104}
"""What a client asks before it says who it is: TLS, and GSSAPI. The line answers N to both."""
HELD_BYTES = 1 << 20
"""Of a longer answer of PostgreSQL the beginning goes through; its end waits for the fault."""
Server = Literal["store", "catalog"]
Moment = Literal["before", "after"]


@dataclass(frozen=True)
class Call:
    """One request or statement; `number` counts from 0 since the line was last watched."""

    number: int
    to: Server
    what: str


@dataclass(frozen=True)
class Answer:
    """Said to the client in the store's stead."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    broken: bool = False
    """Whether the connection breaks in the middle of the body."""


class Verdict(Enum):
    """What becomes of a call."""

    PASS = "pass"
    CUT = "cut"


class Fault:
    """Does nothing. The others say what happens at which call."""

    async def before(self, call: Call) -> Verdict | Answer:
        """Asked before the server gets the call."""
        del call
        return Verdict.PASS

    def on_its_way(self, call: Call, body: bytes) -> bytes:
        """What the store gets for what was sent."""
        del call
        return body

    async def after(self, call: Call, answer: Answer | None) -> Verdict | Answer:
        """Asked when the server has done it; `answer` is the store's, None where the catalog's."""
        del call, answer
        return Verdict.PASS


@dataclass
class Line:
    """Listens on loopback for one S3 server, and one PostgreSQL where it is given, in a thread of its own."""

    s3_address: tuple[str, int]
    postgres_folder: Path | None = None
    store_port: int = 0
    catalog_port: int = 0
    calls: list[Call] = field(default_factory=list)
    backends: set[int] = field(default_factory=set)
    """Process ids of the PostgreSQL sessions that went through here since the line was last watched."""

    def __post_init__(self) -> None:
        self._fault = Fault()
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="line")

    def start(self) -> None:
        """Listen; the ports are known afterwards."""
        self._thread.start()
        self.store_port = self._run(self._listen(self._serve_http))
        if self.postgres_folder:
            self.catalog_port = self._run(self._listen(self._serve_postgres))

    def stop(self) -> None:
        """Cut what is open and end the thread."""
        self._run(self._hang_up())
        for server in self._servers:
            self._loop.call_soon_threadsafe(server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def s3_url(self) -> str:
        """Where blocks find the store."""
        return f"http://127.0.0.1:{self.store_port}"

    def watch(self, fault: Fault) -> None:
        """Count calls anew, and do to them what the fault says."""

        async def change() -> None:
            await self._hang_up()
            self.calls, self.backends, self._fault = [], set(), fault

        self._run(change())

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=60)

    async def _hang_up(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()
        others = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _listen(self, serve: Any) -> int:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            self._open.add(writer)
            # A client that is killed, a server that goes away, a cut: all of them end the connection, and nothing else.
            with suppress(OSError, EOFError, asyncio.CancelledError, h11.ProtocolError):
                await serve(reader, writer)
            self._open.discard(writer)
            self._tasks.discard(task)
            writer.transport.abort()

        server = await asyncio.start_server(handle, "127.0.0.1", 0, limit=1 << 20)
        self._servers = [*getattr(self, "_servers", []), server]
        port: int = server.sockets[0].getsockname()[1]
        return port

    @asynccontextmanager
    async def _upstream(self, opening: Any) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await opening
        self._open.add(writer)
        try:
            yield reader, writer
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    def _called(self, to: Server, what: str) -> Call:
        call = Call(len(self.calls), to, " ".join(what.split())[:400])
        self.calls.append(call)
        return call

    # The store

    async def _serve_http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        while True:
            request, body = await _read_message(client, reader, writer)
            if request is None:
                return
            assert isinstance(request, h11.Request)
            call = self._called("store", f"{request.method.decode()} {request.target.decode()}")
            verdict = await self._fault.before(call)
            if verdict is Verdict.PASS:
                answer = await self._forward(request, self._fault.on_its_way(call, body))
                verdict = await self._fault.after(call, answer)
                if verdict is Verdict.PASS:
                    verdict = answer
            if not isinstance(verdict, Answer):
                return
            await _send_answer(client, writer, verdict, head=request.method == b"HEAD")
            if verdict.broken or client.our_state is not h11.DONE or client.their_state is not h11.DONE:
                return
            client.start_next_cycle()

    async def _forward(self, request: h11.Request, body: bytes) -> Answer:
        # As it came, the Host header above all: the signature covers it.
        skipped = (b"expect", b"transfer-encoding", b"content-length", b"connection")
        headers = [(name, value) for name, value in request.headers.raw_items() if name.lower() not in skipped]
        headers += [(b"Content-Length", str(len(body)).encode()), (b"Connection", b"close")]
        async with self._upstream(asyncio.open_connection(*self.s3_address)) as (reader, writer):
            server = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
            sent = h11.Request(method=request.method, target=request.target, headers=headers)
            writer.write(server.send(sent) or b"")
            writer.write(server.send(h11.Data(data=body)) or b"")
            writer.write(server.send(h11.EndOfMessage()) or b"")
            response, found = await _read_message(server, reader, writer)
            if not isinstance(response, h11.Response):
                raise ConnectionResetError("the store closed the connection")
        kept = [
            (name.decode(), value.decode("latin-1"))
            for name, value in response.headers.raw_items()
            if name.lower() not in (b"transfer-encoding", b"connection")
        ]
        return Answer(response.status_code, found, tuple(kept))

    # The catalog

    async def _serve_postgres(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opening = await _read_startup(reader)
        while struct.unpack("!I", opening[4:8])[0] in NO_ENCRYPTION:
            writer.write(b"N")
            opening = await _read_startup(reader)
        assert self.postgres_folder is not None
        socket = str(self.postgres_folder / ".s.PGSQL.5432")
        async with self._upstream(asyncio.open_unix_connection(socket, limit=1 << 20)) as (from_server, to_server):
            to_server.write(opening)
            under_way: list[Call] = []
            ways = [
                asyncio.create_task(self._statements(reader, to_server, under_way)),
                asyncio.create_task(self._results(from_server, writer, under_way)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)

    async def _statements(
        self, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter, under_way: list[Call]
    ) -> None:
        while True:
            kind, message = await _read_pg(reader)
            if kind == b"Q":
                call = self._called("catalog", message[5:-1].decode(errors="replace"))
                if await self._fault.before(call) is not Verdict.PASS:
                    return
                under_way.append(call)
            to_server.write(message)
            await to_server.drain()

    async def _results(
        self, from_server: asyncio.StreamReader, writer: asyncio.StreamWriter, under_way: list[Call]
    ) -> None:
        held: list[bytes] = []
        size = 0
        while True:
            kind, message = await _read_pg(from_server)
            if kind == b"K":
                self.backends.add(struct.unpack("!I", message[5:9])[0])
            held.append(message)
            size += len(message)
            if kind == b"Z" and under_way and await self._fault.after(under_way.pop(0), None) is not Verdict.PASS:
                return
            if kind in (b"Z", b"G", b"W", b"R", b"E") or size > HELD_BYTES:
                writer.write(b"".join(held))
                await writer.drain()
                held, size = [], 0


async def _read_message(
    connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> tuple[h11.Request | h11.Response | None, bytes]:
    """The next whole request or response; None where the other side is through."""
    head: h11.Request | h11.Response | None = None
    body: list[bytes] = []
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                going_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
                writer.write(connection.send(going_on) or b"")
            connection.receive_data(await reader.read(1 << 20))
        elif isinstance(event, h11.Request | h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            return head, b"".join(body)
        elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
            return None, b""


async def _send_answer(connection: h11.Connection, writer: asyncio.StreamWriter, answer: Answer, *, head: bool) -> None:
    headers = [(name, value) for name, value in answer.headers if head or name.lower() != "content-length"]
    if not head and answer.status not in (204, 304):
        headers.append(("Content-Length", str(len(answer.body))))
    writer.write(connection.send(h11.Response(status_code=answer.status, headers=headers)) or b"")
    if answer.broken:
        writer.write(connection.send(h11.Data(data=answer.body[: len(answer.body) // 2])) or b"")
        await writer.drain()
        return
    if not head and answer.body:
        writer.write(connection.send(h11.Data(data=answer.body)) or b"")
    writer.write(connection.send(h11.EndOfMessage()) or b"")
    await writer.drain()


async def _read_startup(reader: asyncio.StreamReader) -> bytes:
    length = await reader.readexactly(4)
    return length + await reader.readexactly(struct.unpack("!I", length)[0] - 4)


async def _read_pg(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    return head[:1], head + await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
