"""Every flow with hostile values in each of its parameters: refused in one line, before anything is written.

The functions of the flows are called as Prefect calls them, many inside one run; `test_as_a_run_of_its_own` makes a
real run of each flow. `make chaos` tries all values everywhere, and makes a run for each parameter. What names, ids and
hashes are is tried at length in tests/tasks/test_checks.py, private addresses in tests/tasks/intake/test_fetching.py.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

import pytest
from prefect.exceptions import ParameterTypeError

from blocks.catalog import CatalogDatabase
from blocks.catalog.customers import find_customer, storable
from blocks.catalog.locations import find_place, inbox_name
from blocks.errors import InvalidInputError, NotFoundError
from blocks.loading import load_block
from blocks.policies import RetentionPolicy
from tasks.access import issue_download_url
from tasks.history import explain
from tests.helpers import execute
from tests.hostile.asking import Answer, answer_of, ask, assert_told, inside_a_run
from tests.hostile.besieged import OWNER, Platform
from tests.hostile.parameters import DEPLOYED, FLOWS, TYPED, meaning, signature, working
from tests.hostile.values import BLOCK, BLOCK_LATER, MORE_TEXT

pytestmark = [pytest.mark.prefect, pytest.mark.slow]

WRONG_TYPES: tuple[Any, ...] = ("neither", -7, 1.5, ["a", 1], {"a": object()}, object(), None)


def test_every_flow_and_parameter_is_in_the_table() -> None:
    assert set(FLOWS) == set(DEPLOYED), "a new flow belongs into tests/hostile/parameters.py"
    for flow in DEPLOYED:
        assert set(meaning(flow)) == set(signature(flow)), flow


def test_each_works_with_what_the_table_says(besieged: Platform) -> None:
    """Otherwise whatever is refused later might be refused for another reason."""

    def all_of_them() -> None:
        for flow in DEPLOYED:
            answer = ask(DEPLOYED[flow], working(flow, besieged))
            assert answer.error is None, f"{flow}: {answer.error}"

    inside_a_run(all_of_them)


def some(flow: str, name: str) -> tuple[Any, ...]:
    """All values of a meaning for the first flow that has it; for each other one of them, and not the same one."""
    kind = meaning(flow)[name]
    others = [(one, other) for one in DEPLOYED for other in meaning(one) if meaning(one)[other] is kind]
    at = others.index((flow, name))
    return kind.refused if at == 0 else tuple(islice(cycle(kind.refused), at, at + 1))


def attack(platform: Platform, flow: str, chosen: Callable[[str, str], tuple[Any, ...]]) -> None:
    """Try the values of each parameter; what is refused leaves everything as it was."""
    before = platform.written()
    for name, kind in meaning(flow).items():
        given = working(flow, platform) | FLOWS[flow].with_others.get(name, {})
        for value in chosen(flow, name) if kind.refused else ():
            answer = ask(DEPLOYED[flow], given | {name: value})
            assert_told(answer.error, value, kind.rule)
        assert platform.written() == before, f"{flow}: what was refused for its {name} was written"
        for value in kind.odd:
            ask(DEPLOYED[flow], given | {name: value})
        if kind.odd:
            before = platform.written()


@pytest.mark.parametrize("flow", DEPLOYED)
def test_is_refused_and_nothing_is_written(besieged: Platform, flow: str) -> None:
    inside_a_run(lambda: attack(besieged, flow, some))


@pytest.mark.parametrize("name", [name for name, kind in meaning("confirm-restore").items() if kind is BLOCK_LATER])
def test_a_restore_is_confirmed_with_blocks_that_exist(besieged: Platform, name: str) -> None:
    """They are looked for where there is something to confirm."""
    frozen = "UPDATE catalog_identity SET frozen_since = clock_timestamp(), restored_from = 'x'"
    execute(besieged.catalog, frozen)
    before = besieged.written()
    try:
        for value in BLOCK.refused:
            given = working("confirm-restore", besieged) | {"dry_run": False, name: value}
            answers: list[Answer] = []
            inside_a_run(lambda: answers.append(ask(DEPLOYED["confirm-restore"], given)))  # noqa: B023 -- runs at once
            assert_told(answers[0].error, value, BLOCK.rule)
        assert besieged.written() == before
    finally:
        execute(besieged.catalog, "UPDATE catalog_identity SET frozen_since = NULL, restored_from = NULL")


@pytest.mark.chaos
@pytest.mark.parametrize("flow", DEPLOYED)
def test_every_value_in_every_parameter(besieged: Platform, flow: str) -> None:
    inside_a_run(lambda: attack(besieged, flow, lambda flow, name: meaning(flow)[name].refused))


LOOKED_UP: dict[str, Callable[[Platform, str], object]] = {
    "a block": lambda platform, name: load_block(CatalogDatabase, name),
    "a location": lambda platform, name: platform.catalog.transaction(lambda one: find_place(one, name)),
    "an inbox": lambda platform, name: platform.catalog.transaction(lambda one: inbox_name(one, name)),
    "a customer": lambda platform, name: platform.catalog.transaction(lambda one: find_customer(one, name)),
    "a file of a job": lambda platform, name: issue_download_url(
        platform.catalog, platform.locations, platform.access, api_key=OWNER, job_id=platform.jobs[OWNER],
        kind="audio", name=name,
    ),
    "an object": lambda platform, name: explain(platform.catalog, RetentionPolicy(), name),
}  # fmt: skip


@pytest.mark.parametrize("what", LOOKED_UP)
def test_what_is_looked_up_by_name_is_not_found(besieged: Platform, what: str) -> None:
    """More values than a flow is asked with; the name of a block becomes a part of the address of a request."""
    before = besieged.written()
    for value in MORE_TEXT:
        with pytest.raises((NotFoundError, InvalidInputError)) as caught:
            LOOKED_UP[what](besieged, value)
        assert_told(caught.value, value, "^(no |neither |job )|is no object id")
    assert besieged.written() == before


@pytest.mark.parametrize("flow", DEPLOYED)
def test_a_choice_or_a_switch_is_nothing_else(flow: str, platform: Platform) -> None:
    """The declared types refuse it, before the flow is called; in the UI the form does."""
    for name, kind in meaning(flow).items():
        wrong = WRONG_TYPES if kind is TYPED else WRONG_TYPES[3:6]
        for value in wrong:
            given = working(flow, platform) | {name: value}
            if value is None and signature(flow)[name].default is None:
                continue
            with pytest.raises(ParameterTypeError):
                DEPLOYED[flow].validate_parameters(given)


def of_a_run() -> list[tuple[str, str]]:
    """A parameter of each flow, whose rule no other flow's run tells if there is such a one."""
    told: set[str] = set()
    chosen = {}
    for flow in DEPLOYED:
        refused = {name: kind.rule for name, kind in meaning(flow).items() if kind.refused}
        chosen[flow] = next((name for name, rule in refused.items() if rule not in told), catalog_of(flow))
        told.add(refused[chosen[flow]])
    return list(chosen.items())


def catalog_of(flow: str) -> str:
    """The parameter that names the catalog."""
    return "catalog" if "catalog" in signature(flow) else "target"


def prefect_keeps(value: Any) -> bool:
    """Whether there can be a run with this parameter at all: Prefect's server stores it as JSON in PostgreSQL, and
    answers 503 to a NUL or half a character, again and again for two minutes. Nothing of ours is called then.
    """
    return storable(str(value)) and "\\x00" not in repr(value) and "\\ud8" not in repr(value)


def run(platform: Platform, flow: str, name: str) -> None:
    """A real run with a hostile value in this parameter."""
    kind = meaning(flow)[name]
    value = next(one for one in kind.refused if prefect_keeps(one))
    before = platform.written()
    ended = DEPLOYED[flow](
        **working(flow, platform) | FLOWS[flow].with_others.get(name, {}) | {name: value}, return_state=True
    )
    assert_told(answer_of(ended).error, value, kind.rule)
    assert ended.name == "Failed"
    assert "Traceback" not in str(ended.message)
    assert platform.written() == before


@pytest.mark.parametrize(("flow", "name"), of_a_run())
def test_as_a_run_of_its_own(besieged: Platform, flow: str, name: str) -> None:
    run(besieged, flow, name)


@pytest.mark.chaos
@pytest.mark.parametrize("flow", DEPLOYED)
def test_every_parameter_in_a_run_of_its_own(besieged: Platform, flow: str) -> None:
    for name, kind in meaning(flow).items():
        if kind.refused:
            run(besieged, flow, name)
