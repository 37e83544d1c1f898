"""Histories by seed, with faults, against a model. A seed that fails is replayed by its number: `--seeds 17`."""

from __future__ import annotations

import traceback

import pytest

from tests.chaos.simulating import Simulation
from tests.chaos.walking import numbers_in

STEPS = 6
ENOUGH = 10
"""Histories, to say something of the faults that were met in them."""
IN_A_TEST_RUN, IN_CHAOS = range(100), range(100, 5100)


def run(seeds: range, worlds, through, line) -> None:  # type: ignore[no-untyped-def]
    """All of the seeds; those that failed are told at the end."""
    failed, struck = [], 0
    for seed in seeds:
        with worlds() as world:
            simulation = Simulation(world, through, line, seed)
            try:
                simulation.run(STEPS)
            except Exception:  # told below; the other seeds are tried
                failed.append(f"--seeds {seed}: {'; '.join(simulation.told)}\n{traceback.format_exc()}")
            struck += simulation.struck
    assert not failed, f"{len(failed)} of {len(seeds)} seeds:\n" + "\n\n".join(failed[:5])
    # Two a history, on the whole; a single one may have none.
    assert struck >= len(seeds) or len(seeds) < ENOUGH, f"{struck} faults were met in {len(seeds)} histories"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_histories(worlds, through, line, request) -> None:  # type: ignore[no-untyped-def]
    run(numbers_in(request.config.getoption("--seeds")) or IN_A_TEST_RUN, worlds, through, line)


@pytest.mark.chaos
@pytest.mark.timeout(36000)
def test_thousands_of_histories(worlds, through, line, request) -> None:  # type: ignore[no-untyped-def]
    run(numbers_in(request.config.getoption("--seeds")) or IN_CHAOS, worlds, through, line)
