"""A wire that turns one bit of every body on its way up, without anybody noticing who does not look at the bytes."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from blocks.embedded.processes import LOOPBACK
from blocks.object_store import ObjectStore

_OWN = ("connection", "transfer-encoding", "content-length")


@contextmanager
def bad_wire(store: ObjectStore) -> Iterator[ObjectStore]:
    """The same store behind such a wire; what is read comes through as it is."""

    class Wire(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            body = bytearray(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            if self.command == "PUT" and body:
                body[-1] ^= 1
            server = http.client.HTTPConnection(urlsplit(store.endpoint_url).netloc, timeout=60)
            try:
                # As it came, the Host header above all: the signature covers it.
                server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in ("connection", "expect"):
                        server.putheader(name, value)
                server.endheaders(bytes(body))
                answer = server.getresponse()
                content = answer.read()
            finally:
                server.close()
            with suppress(ConnectionError):  # whoever asked may be gone by now
                self._answer(answer, content)

        def _answer(self, answer: http.client.HTTPResponse, content: bytes) -> None:
            self.send_response_only(answer.status, answer.reason)
            for name, value in answer.getheaders():
                if name.lower() not in _OWN:
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            if length is not None and answer.status != 204:
                self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass

        def log_message(self, *_: Any) -> None:
            """Not on the terminal."""

    wire = ThreadingHTTPServer((LOOPBACK, 0), Wire)
    thread = Thread(target=wire.serve_forever)
    thread.start()
    try:
        yield store.model_copy(update={"endpoint_url": f"http://{LOOPBACK}:{wire.server_port}"})
    finally:
        wire.shutdown()
        thread.join()
        wire.server_close()
