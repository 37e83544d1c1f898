"""Batches of a flow as task runs, a bounded number at a time, and how far it is as an artifact.

The environment variable TRANSCODE_FLOW_BATCHES says where they run: `threads` of the flow's own process, which is the
default, `dask:4` for four processes beside it, or `dask:tls://scheduler:8786` for a Dask cluster that is there already.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, TypeVar, cast
from uuid import UUID

from prefect import Task, get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from blocks.errors import InvalidInputError, StorageError, TerminalError, WorkerLostError

R = TypeVar("R")

SETTING = "TRANSCODE_FLOW_BATCHES"
MOST_PROCESSES = 256
SHORTEST_UPDATE_SECONDS, LONGEST_UPDATE_SECONDS = 1.0, 10.0
"""How often a bar moves: at first each second, then each twentieth of the time so far. Each costs Prefect's server some
tens of milliseconds, and who looks at a run of an hour does not look each second."""
NO_PROFILE = {"distributed.worker.profile.enabled": False}
"""For Dask's workers, which take it over from this process. Their profiler looks at all threads each 10 ms; if that
begins a garbage collection while another thread is started, CPython 3.11 stands still (gh-106883), until Dask gives
the process up after five minutes."""


def batch_runner(setting: str) -> TaskRunner[Any]:
    """What runs batches, by the words of the setting.

    Raises:
        InvalidInputError: they are none of those that the setting knows, or Dask is not installed.
    """
    kind, _, where = setting.strip().partition(":")
    if kind in ("", "threads") and not where:
        # As many as a policy may ask for; how many are under way at once is the policy's to say.
        return ThreadPoolTaskRunner(max_workers=64)
    number = int(where) if re.fullmatch("[0-9]{1,3}", where) else 0
    if kind != "dask" or not (1 <= number <= MOST_PROCESSES or re.fullmatch(r"(tcp|tls)://\S+:[0-9]+", where)):
        raise InvalidInputError(
            f"{SETTING}={setting!r} is none of threads, dask:N with 1 to {MOST_PROCESSES} processes, "
            "and dask:tls://HOST:PORT or dask:tcp://HOST:PORT of a scheduler"
        )
    try:
        import dask
        from prefect_dask.task_runners import DaskTaskRunner
    except ModuleNotFoundError as error:
        raise InvalidInputError(
            f"{SETTING}={setting!r} needs Dask: install the project with its extra, transcode-flow[dask]"
        ) from error
    if not number:
        return cast("TaskRunner[Any]", DaskTaskRunner(address=where))
    dask.config.set(NO_PROFILE)
    cluster = {
        "n_workers": number,
        "threads_per_worker": 1,  # a batch has transfers in parallel of its own
        "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0",  # 8787 unless said otherwise, which is one for all runs of a machine
        "security": True,  # keys for this run alone: whoever can reach a scheduler can run code in its workers
        "protocol": "tls",
        "memory_limit": 0,  # batches keep to their policy's MiB; Dask would end a process whose share is less than that
    }
    return cast("TaskRunner[Any]", DaskTaskRunner(cluster_kwargs=cluster))


def unless_terminal(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001 -- Prefect's
    """Whether a batch that failed is worth another try: not where our own error says that nothing would change."""
    return not isinstance(state.result(raise_on_failure=False), TerminalError)


THREADS: Any = batch_runner("threads")
"""For batches that need what only the flow's own machine has, such as a folder of videos."""
RUNNER: Any = batch_runner(os.environ.get(SETTING, ""))
"""For batches of names and ids, which run anywhere."""


@contextmanager
def progress_of(key: str, description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress artifact; what is yielded hears how many more of `total` are done."""
    started = create_progress_artifact(0.0, key=f"{key}-progress", description=description)
    artifact = cast(UUID, started)  # outside an event loop it is no coroutine
    began, done, shown_at = time.monotonic(), 0, 0.0
    # Work is done in threads that know nothing of Prefect's settings: they borrow those of the flow.
    here = copy_context()

    def more(number: int) -> None:
        nonlocal done, shown_at
        done += number
        now = time.monotonic()
        if now - shown_at >= min(LONGEST_UPDATE_SECONDS, max(SHORTEST_UPDATE_SECONDS, (now - began) / 20)):
            shown_at = now
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
    failed: Callable[[int, StorageError], R] | None = None,
) -> list[R]:
    """Submit batches 0 to count - 1 and return their results in order.

    `at_once` of them are under way at a time, or one in each process of a cluster that has more. `failed` says what a
    batch comes to that failed through all of its retries, and the others go on; without it, and where every batch
    failed, the run fails.

    Raises:
        StorageError: what a batch failed with.
        WorkerLostError: processes ended under a batch again and again.
    """
    at_once = max(at_once, _processes()) if count else at_once
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
    results: list[R] = []
    errors: list[StorageError] = []
    for number, future in enumerate(futures):
        try:
            results.append(_result(number, future))
        except StorageError as error:
            errors.append(error)
            if failed is None or len(errors) == count:
                raise
            get_run_logger().error("batch %s: %s", number, error)
            results.append(failed(number, error))
    return results


def _processes() -> int:
    """How many processes wait for batches beside this one."""
    context = FlowRunContext.get()
    client = getattr(context.task_runner, "client", None) if context else None
    return len(client.ncores()) if client is not None else 0


def _result(number: int, future: PrefectFuture[R]) -> R:
    try:
        return future.result()
    except Exception as error:
        # By its name, since Dask is an extra.
        if type(error).__name__ != "KilledWorker":
            raise
        raise WorkerLostError(f"every process that worked at batch {number} ended: {error}") from error
