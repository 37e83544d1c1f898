"""Any flow with any parameters that its types allow ends in a result or in one of our errors, never in anything else.

The strategies are made of the flows' signatures, so that a new flow is swept too. `make test` tries a few examples that
are always the same; `make chaos` thousands of fresh ones. The platform is one of its own: what is swept is really done.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from blocks.embedded import Endpoints
from blocks.object_store.probing import Capabilities
from tests.hostile.asking import LONGEST_MESSAGE, ask, inside_a_run
from tests.hostile.besieged import Platform
from tests.hostile.conftest import laid_out, use
from tests.hostile.parameters import DEPLOYED, working
from tests.hostile.values import MORE_TEXT, NUMBERS

pytestmark = [pytest.mark.prefect, pytest.mark.slow]

FEW, HEAVY = 3, 1
"""Examples of `make test`: for a flow, and for one that reads or restores all there is."""
LONG = ("backup", "restore", "restore-drill", "refresh-analytics", "probe-store", "verify-objects", "reconcile-quota")
MANY = 300
TEXTS = st.one_of(st.sampled_from(MORE_TEXT), st.text(st.characters(), max_size=60))
BY_TYPE: dict[Any, SearchStrategy[Any]] = {
    str: TEXTS,
    int: st.one_of(st.sampled_from(NUMBERS), st.integers(-5, 40_000)),
    float: st.floats(),
    bool: st.booleans(),
    NoneType: st.none(),
    datetime: st.datetimes(timezones=st.sampled_from([None, timezone.utc])),  # noqa: UP017 -- as people write it
}


def of_type(kind: Any) -> SearchStrategy[Any]:
    """Whatever a declared type allows."""
    if kind in BY_TYPE:
        return BY_TYPE[kind]
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return st.sampled_from(inner)
    if origin in (Union, UnionType):
        return st.one_of(*(of_type(one) for one in inner))
    if origin is list:
        return st.lists(of_type(inner[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(of_type(inner[0]), of_type(inner[1]), max_size=3)
    raise AssertionError(f"a parameter has the type {kind}, which belongs into this table")


def parameters(flow: str, platform: Platform) -> SearchStrategy[dict[str, Any]]:
    """What works, with some of it replaced: if all were replaced, nothing would come past the first check."""
    types = {name: kind for name, kind in get_type_hints(DEPLOYED[flow].fn).items() if name != "return"}
    some = st.fixed_dictionaries({}, optional={name: of_type(kind) for name, kind in types.items()})
    one = st.sampled_from(sorted(types)).flatmap(lambda name: st.fixed_dictionaries({name: of_type(types[name])}))
    return st.one_of(one, one, some).map(lambda changed: working(flow, platform) | changed)


@pytest.fixture(scope="module")
def ravaged(
    prefect_api: str, endpoints: Endpoints, sql: Callable[[str], None], template: str, capabilities: Capabilities,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Platform]:  # fmt: skip
    """A platform that may be changed; the next module finds the first one's blocks again."""
    folder = tmp_path_factory.mktemp("ravaged")
    with laid_out(endpoints, sql, template, capabilities, folder, database="ravaged") as platform:
        use(platform)
        # Leftovers of killed runs are looked for among temporary folders: not among other people's.
        (folder / "scratch").mkdir()
        before, tempfile.tempdir = tempfile.tempdir, str(folder / "scratch")
        yield platform
        tempfile.tempdir = before


def sweep(flow: str, platform: Platform, how: settings) -> None:
    """Try a flow with everything."""

    @how
    @given(parameters(flow, platform))
    def anything(given_ones: dict[str, Any]) -> None:
        answer = ask(DEPLOYED[flow], given_ones)
        if answer.refused:
            told = str(answer.error)
            assert told.isprintable(), f"more than one plain line: {told!r}"
            assert len(told) <= LONGEST_MESSAGE, f"a wall of {len(told)} characters"

    inside_a_run(anything)


QUIET = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


@pytest.mark.parametrize("flow", DEPLOYED)
def test_a_result_or_one_of_our_errors(ravaged: Platform, flow: str) -> None:
    examples = HEAVY if flow in LONG else FEW
    # What fails is not made smaller here: that would take the time of many examples.
    phases = (Phase.explicit, Phase.generate)
    sweep(flow, ravaged, settings(max_examples=examples, derandomize=True, phases=phases, **QUIET))


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("flow", DEPLOYED)
def test_a_result_or_one_of_our_errors_at_length(ravaged: Platform, flow: str) -> None:
    sweep(flow, ravaged, settings(max_examples=MANY // 10 if flow in LONG else MANY, **QUIET))
