"""Work in threads: every item once, in order, and no exception lost."""

from __future__ import annotations

import threading

import pytest

from tasks.parallel import alongside, in_parallel


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
