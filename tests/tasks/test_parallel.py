"""Work in threads: every item once, in order, and no exception lost."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.parallel import alongside, in_parallel, on_cores


@pytest.mark.parametrize("threads", [1, 3, 64])
def test_every_item_once_and_in_order(threads: int) -> None:
    seen: list[int] = []

    def work(number: int) -> int:
        seen.append(number)
        return number * 2

    assert in_parallel(work, range(5000), threads=threads) == [number * 2 for number in range(5000)]
    assert sorted(seen) == list(range(5000))


def test_nothing_to_do() -> None:
    assert in_parallel(lambda item: item, [], threads=4) == []


def test_an_exception_comes_through_after_the_others_are_done() -> None:
    meet = threading.Barrier(2, timeout=10)
    done = []

    def work(number: int) -> None:
        meet.wait()
        if number == 0:
            raise ValueError("the first")
        done.append(number)

    with pytest.raises(ValueError, match="the first"):
        in_parallel(work, [0, 1], threads=2)
    assert done == [1]


def test_alongside_both_are_through_and_the_works_exception_comes_at_the_end() -> None:
    meet = threading.Barrier(2, timeout=10)
    done = []

    def work() -> None:
        meet.wait()
        raise ValueError("beside")

    def both() -> None:
        with alongside(work):
            meet.wait()
            done.append("block")

    with pytest.raises(ValueError, match="beside"):
        both()
    assert done == ["block"]


def test_alongside_the_blocks_own_exception_is_the_one_that_is_told() -> None:
    done = []
    with pytest.raises(KeyError, match="block"), alongside(lambda: done.append("work")):
        raise KeyError("block")
    assert done == ["work"]


def test_those_who_share_the_cores_go_one_after_the_other() -> None:
    """Whoever comes first is through first, in as many threads as there are cores, however many ask."""
    seen: list[str] = []
    began = threading.Event()

    def work(item: str) -> str:
        began.set()
        time.sleep(0.005)
        seen.append(item)
        return item.upper()

    with ThreadPoolExecutor(2) as callers:
        first = callers.submit(on_cores, work, ["a"] * 40)
        assert began.wait(10)
        second = callers.submit(on_cores, work, ["b"] * 40)
        assert (first.result(), second.result()) == (["A"] * 40, ["B"] * 40)
    assert seen[:30] == ["a"] * 30
    with pytest.raises(ValueError, match="invalid literal"):
        on_cores(int, ["no number"])
