"""Calling flows with whatever, and judging what comes back."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from prefect import Flow, flow
from prefect.client.schemas.objects import State
from prefect.exceptions import ParameterTypeError

from blocks.errors import StorageError
from flows.common.batches import RUNNER

T = TypeVar("T")
LONGEST_MESSAGE = 600
BEGINNING = 20
"""So many characters of a long value tell it from others."""


@dataclass(frozen=True)
class Answer:
    """How a call ended: `error` is None for a result."""

    error: Exception | None
    result: Any = None

    @property
    def refused(self) -> bool:
        """One of our own errors."""
        return isinstance(self.error, StorageError)


def inside_a_run(work: Callable[[], T]) -> T:
    """Do something where flow functions work as they do in a flow run, without a run for each of them."""
    kept: list[T] = []

    @flow(name="siege", task_runner=RUNNER)
    def siege() -> None:
        kept.append(work())

    siege()
    return kept[0]


def ask(asked: Flow[..., Any], parameters: dict[str, Any]) -> Answer:
    """Call the function of a flow as Prefect would: its parameters are held against their types first.

    Anything but a result and an error of ours, or of a type, comes through.
    """
    try:
        ended = asked.fn(**asked.validate_parameters(parameters))
    except (StorageError, ParameterTypeError) as error:
        return Answer(error)
    return answer_of(ended)


def answer_of(ended: Any) -> Answer:
    """What a flow's state, or its result, says."""
    if isinstance(ended, State) and ended.is_failed():
        error = ended.data if isinstance(ended.data, Exception) else ended.result(raise_on_failure=False)
        assert isinstance(error, StorageError), f"{ended.name}: {ended.message}"
        return Answer(error)
    return Answer(None, ended)


def assert_told(error: Exception | None, value: object, rule: str) -> None:
    """A refusal is one short line without control characters, which names the value and tells the rule."""
    told = str(error)
    assert isinstance(error, StorageError), f"{value!r:.80} was taken"
    assert told.isprintable(), f"more than one plain line: {told!r}"
    assert len(told) <= LONGEST_MESSAGE, f"a wall of {len(told)} characters: {told[:100]}…"
    assert re.search(rule, told), told
    assert any(one in told for one in _as_told(value)), f"{value!r:.80} is not named: {told}"


def _as_told(value: object) -> list[str]:
    """The beginnings that a value, or one of several, may be known by in a message."""
    if isinstance(value, list | tuple):
        return [told for one in value for told in _as_told(one)]
    if isinstance(value, dict):
        return [told for pair in value.items() for told in _as_told(pair)]
    if isinstance(value, datetime):
        return [str(value.year)]
    if isinstance(value, str):
        # What is blank may be told as nothing.
        return [repr(value)[1:-1][:BEGINNING]] if value.strip() else [repr(value), "''"]
    return [repr(value)[:BEGINNING]]
