"""A number of bytes that may be under way at once, shared by all threads of a process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """Hands out shares in turn: who asks for much is not overtaken by those who ask for little."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._free = size_bytes
        self._turn = threading.Lock()
        self._given_back = threading.Condition()

    @contextmanager
    def share(self, least: int, most: int) -> Iterator[int]:
        """Wait for `least` bytes, and get up to `most` of what is free then; more than all there is counts as all."""
        needed = min(least, self.size_bytes)
        with self._turn, self._given_back:
            while self._free < needed:
                self._given_back.wait()
            taken = max(needed, min(most, self._free))
            self._free -= taken
        try:
            yield max(least, taken)
        finally:
            with self._given_back:
                self._free += taken
                self._given_back.notify_all()
