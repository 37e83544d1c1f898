"""The same work for many items, in some threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(work: Callable[[T], R], items: Sequence[T], *, threads: int) -> list[R]:
    """Results in the order of the items; the first exception of `work` is raised when all threads are through.

    Each thread takes the next item when it is done with one. A future for each of thousands of small files would cost
    as much as hashing them.
    """
    results: dict[int, R] = {}
    numbers = iter(range(len(items)))  # shared: the interpreter hands out each number once

    def run() -> None:
        for number in numbers:
            results[number] = work(items[number])

    workers = max(1, min(threads, len(items)))
    with ThreadPoolExecutor(max_workers=workers) as pool:
        runs = [pool.submit(run) for _ in range(workers)]
    for one in runs:
        one.result()
    return [results[number] for number in range(len(items))]
