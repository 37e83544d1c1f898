"""Two runs of the same at once: one does it, or both do, and it comes to the same; none fails in a way of its own."""

from __future__ import annotations

import pytest

from tests.chaos.acts import ACTS
from tests.chaos.victims import REFUSED
from tests.chaos.walking import Walk

TIMES = 3
WITHOUT_A_LOCK = (
    "ingest-videos",
    "register-outputs",
    "complete-upload-of-a-video",
    "complete-upload-for-a-job",
    "delete-jobs",
    "erase-jobs",
    "rehydrate-job",
)
"""Where nothing but generations and rows keeps two apart; the others wait for each other, or one of them is refused."""


@pytest.mark.slow
@pytest.mark.parametrize("walk", WITHOUT_A_LOCK, indirect=True)
def test_two_at_once(walk: Walk) -> None:
    assert walk.twice() != [REFUSED, REFUSED]


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("walk", ACTS, indirect=True)
def test_two_at_once_of_everything(walk: Walk) -> None:
    for _ in range(TIMES):
        assert walk.twice() != [REFUSED, REFUSED]
