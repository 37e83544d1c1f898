"""Batches of a flow as task runs, a bounded number at a time, and how far it is as an artifact."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, TypeVar, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import ThreadPoolTaskRunner

R = TypeVar("R")

# As many as a policy may ask for; how many are under way at once is the policy's to say.
RUNNER: Any = ThreadPoolTaskRunner(max_workers=64)
SECONDS_BETWEEN_UPDATES = 1.0


@contextmanager
def progress_of(key: str, description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress artifact; what is yielded hears how many more of `total` are done."""
    started = create_progress_artifact(0.0, key=f"{key}-progress", description=description)
    artifact = cast(UUID, started)  # outside an event loop it is no coroutine
    done, shown_at = 0, 0.0
    # Work is done in threads that know nothing of Prefect's settings: they borrow those of the flow.
    here = copy_context()

    def more(number: int) -> None:
        nonlocal done, shown_at
        done += number
        if time.monotonic() - shown_at >= SECONDS_BETWEEN_UPDATES:
            shown_at = time.monotonic()
            here.copy().run(update_progress_artifact, artifact, min(100.0, 100.0 * done / max(1, total)))

    yield more
    update_progress_artifact(artifact, 100.0)


def run_batches(
    submit: Callable[[int], PrefectFuture[R]],
    count: int,
    *,
    at_once: int,
    progress: Callable[[int], None],
    before_batch: Callable[[], None] = lambda: None,
) -> list[R]:
    """Submit batches 0 to count - 1, `at_once` under way at a time; returns their results in order."""
    futures: list[PrefectFuture[R]] = []
    under_way: list[PrefectFuture[R]] = []
    for number in range(count):
        while len(under_way) >= at_once:
            under_way.remove(next(as_completed(list(under_way))))
            progress(1)
        before_batch()
        future = submit(number)
        futures.append(future)
        under_way.append(future)
    return [future.result() for future in futures]
