"""Batches that fail: what the flow makes of them, and that the others go on."""

from __future__ import annotations

import pytest
from prefect import flow, task

from blocks.errors import RefusedError, StorageError, StoreUnavailableError
from flows.common.batches import run_batches, unless_terminal
from flows.common.relocating import move_batch
from flows.reconcile_quota import reconcile_range

pytestmark = pytest.mark.prefect


@task
def odd_ones_only(number: int) -> str:
    if number % 2 == 0:
        raise RefusedError(f"{number} is even")
    return f"{number} went well"


@task
def breaks() -> str:
    raise ZeroDivisionError("a fault of the code's own")


def test_the_others_go_on_where_the_flow_can_tell_what_failed(prefect_api: str) -> None:
    @flow
    def told() -> list[str]:
        return run_batches(
            odd_ones_only.submit,
            4,
            at_once=2,
            progress=lambda _: None,
            failed=lambda number, error: f"{number}: {error}",
        )

    assert told() == ["0: 0 is even", "1 went well", "2: 2 is even", "3 went well"]


def test_the_flow_fails_where_it_cannot(prefect_api: str) -> None:
    @flow
    def untold() -> list[str]:
        return run_batches(odd_ones_only.submit, 2, at_once=2, progress=lambda _: None)

    with pytest.raises(RefusedError, match="0 is even"):
        untold()


def test_the_flow_fails_where_every_batch_did(prefect_api: str) -> None:
    @flow
    def none_went_well() -> list[str]:
        return run_batches(
            lambda _: odd_ones_only.submit(2), 2, at_once=2, progress=lambda _: None, failed=lambda *_: "as if"
        )

    with pytest.raises(RefusedError, match="2 is even"):
        none_went_well()


def test_a_fault_of_the_code_is_not_told_as_a_failed_batch(prefect_api: str) -> None:
    @flow
    def broken() -> list[str]:
        def hidden(number: int, error: StorageError) -> str:
            return "nobody sees it"

        return run_batches(lambda _: breaks.submit(), 1, at_once=1, progress=lambda _: None, failed=hidden)

    with pytest.raises(ZeroDivisionError):
        broken()


@pytest.mark.parametrize(
    ("error", "tries"), [(RefusedError("no"), 1), (StoreUnavailableError("down"), 3), (OSError("line"), 3)]
)
def test_only_what_may_go_better_is_tried_again(prefect_api: str, error: Exception, tries: int) -> None:
    tried: list[int] = []

    @task(retries=2, retry_condition_fn=unless_terminal)
    def fails() -> int:
        tried.append(1)
        raise error

    @flow
    def one() -> list[int]:
        return run_batches(lambda _: fails.submit(), 1, at_once=1, progress=lambda _: None)

    with pytest.raises(type(error)):
        one()
    assert len(tried) == tries


def test_the_batches_that_are_tried_again_know_when_not_to() -> None:
    for batch in (move_batch, reconcile_range):
        assert (batch.retries, batch.retry_condition_fn) == (2, unless_terminal)
