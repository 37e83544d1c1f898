"""SIGKILL before and after every call of everything that changes something; the next run finishes or undoes it."""

from __future__ import annotations

import pytest

from tests.chaos.acts import ACTS
from tests.chaos.walking import Choice, Walk, spread, walk_all


@pytest.mark.slow
@pytest.mark.parametrize("walk", ACTS, indirect=True)
def test_killed_in_the_middle(walk: Walk) -> None:
    """Each act once; `make chaos` is for every point."""
    (middle,) = spread(walk.points, 1)
    assert walk.die(middle)


@pytest.mark.chaos
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("walk", ACTS, indirect=True)
def test_killed_at_every_point(walk: Walk, choose: Choice) -> None:
    walk_all(walk.points, walk.die, choose)
