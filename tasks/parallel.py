"""The same work for many items in some threads, and the next item fetched while one is worked on."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar, cast

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(work: Callable[[T], R], items: Sequence[T], *, threads: int) -> list[R]:
    """Results in the order of the items; the first exception of `work` is raised when all threads are through.

    Each thread takes the next item when it is done with one. A future for each of thousands of small files would cost
    as much as hashing them.
    """
    with ThreadPoolExecutor(max_workers=max(1, min(threads, len(items)))) as pool:
        return _shared_out(work, items, pool, threads)


def on_cores(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """As `in_parallel`, for work that keeps a processor busy: in threads that all callers share, one for each core.

    Who comes first is through first, and goes on with other work while the next one's items are worked on.
    """
    return _shared_out(work, items, _CORES, _CORE_COUNT)


_CORE_COUNT = os.cpu_count() or 1
_CORES = ThreadPoolExecutor(max_workers=_CORE_COUNT, thread_name_prefix="core")


def _shared_out(work: Callable[[T], R], items: Sequence[T], pool: ThreadPoolExecutor, threads: int) -> list[R]:
    results: dict[int, R] = {}
    numbers = iter(range(len(items)))  # shared: the interpreter hands out each number once

    def run() -> None:
        for number in numbers:
            results[number] = work(items[number])

    runs = [pool.submit(run) for _ in range(max(1, min(threads, len(items))))]
    wait(runs)
    for one in runs:
        one.result()
    return [results[number] for number in range(len(items))]


class Turns:
    """One at a time for each key: who works on the same thing waits, who works on another does not."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[object, tuple[threading.Lock, int]] = {}

    @contextmanager
    def of(self, key: object) -> Iterator[bool]:
        """The turn of this key; whether somebody had one before, and was waited for."""
        with self._guard:
            lock, waiting = self._locks.get(key, (threading.Lock(), 0))
            self._locks[key] = lock, waiting + 1
        try:
            waited = not lock.acquire(blocking=False)
            if waited:
                lock.acquire()
            try:
                yield waited
            finally:
                lock.release()
        finally:
            with self._guard:
                lock, waiting = self._locks.pop(key)
                if waiting > 1:
                    self._locks[key] = lock, waiting - 1


@contextmanager
def alongside(work: Callable[[], object]) -> Iterator[None]:
    """Work in another thread while the block runs; its exception is raised at the end, unless the block has one."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="alongside") as pool:
        running = pool.submit(work)
        yield
        running.result()


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each fetched in another thread while the one before it is worked on.

    What a store's client reads while it writes must be fetched so: it calls us inside its own loop, which cannot wait
    for itself.
    """
    end = object()

    def fetch() -> T | object:
        return next(items, end)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead") as pool:
        coming = pool.submit(fetch)
        while (item := coming.result()) is not end:
            coming = pool.submit(fetch)
            yield cast(T, item)
