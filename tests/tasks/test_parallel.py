"""Work in threads: every item once, in order, and no exception lost."""

from __future__ import annotations

import threading

import pytest

from tasks.parallel import in_parallel


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
