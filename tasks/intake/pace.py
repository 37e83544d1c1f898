"""How long a URL's server is waited for, whatever it does meanwhile."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from blocks.errors import SourceUnavailableError
from blocks.policies import IngestPolicy
from blocks.units import shown, told

PIECE_BYTES = 1024**2
LOOKS_A_TIMEOUT, LONGEST_LOOK_SECONDS = 4, 5.0


class Pace:
    """Cuts the connection of a server that answers too slowly: a byte now and then is no answer.

    The client's own timeout is for one read, and begins anew with every byte, of headers and of framing too. What
    counts is the source's own time: where the store is slow, the source waits for us.
    """

    def __init__(self, policy: IngestPolicy, url: str) -> None:
        self._policy, self._url = policy, url
        self._size, self._waited, self._since = 0, 0.0, 0.0
        self._cut_after = 0.0
        self._socket: socket.socket | None = None
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, name="pace", daemon=True)

    def __enter__(self) -> Pace:
        self._watch.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._watch.join()

    def connected(self, event: str, info: Mapping[str, Any]) -> None:
        """Hears from the client which socket it is; the later one where TLS wraps it."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._socket = info["return_value"].get_extra_info("socket")

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """For the answer's headers, which have all of the policy's timeout; the body's time begins after them.

        Raises:
            SourceUnavailableError: they did not come.
        """
        self._socket, self._since = None, time.monotonic()
        try:
            yield
        finally:
            self._since = 0.0
        self.require()

    def kept(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The same in pieces of a MiB, while they come as fast as the policy asks.

        Raises:
            SourceUnavailableError: they came slower.
        """
        piece = bytearray()
        while True:
            self._since = time.monotonic()
            try:
                chunk = next(chunks, b"")
            finally:
                self._waited, self._since = self._waited + time.monotonic() - self._since, 0.0
            self.require()  # also at the end, which may be ours
            if not chunk:
                break
            self._size += len(chunk)
            self._cut_if_late()
            self.require()
            piece += chunk
            if len(piece) >= PIECE_BYTES:
                yield bytes(piece)
                piece.clear()
        if piece:
            yield bytes(piece)

    def require(self) -> None:
        """Raises:
        SourceUnavailableError: it was too slow.
        """
        if self._cut_after:
            raise SourceUnavailableError(
                f"{shown(told(self._url))} gave {self._size} bytes in {self._cut_after:.0f} s, less than "
                f"{self._policy.slowest_url_kib_per_second:g} KiB a second (slowest_url_kib_per_second of the ingest "
                "policy)"
            )

    def _cut_if_late(self) -> bool:
        since = self._since
        waited = self._waited + (time.monotonic() - since if since else 0.0)
        enough = self._policy.slowest_url_kib_per_second * 1024 * waited
        if waited > self._policy.url_timeout_seconds and self._size < enough:
            self._cut_after = waited
        return bool(self._cut_after)

    def _look(self) -> None:
        while not self._over.wait(min(LONGEST_LOOK_SECONDS, self._policy.url_timeout_seconds / LOOKS_A_TIMEOUT)):
            if self._socket is not None and self._cut_if_late():
                # Not its own shutdown, which would take the TLS away from under the thread that reads.
                with suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
                return
