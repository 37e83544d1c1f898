"""Nothing that changes something is left out of the walks."""

from __future__ import annotations

from tests.chaos.acts import ACTS
from tests.hostile.parameters import DEPLOYED

READS = {"explain-object"}


def test_every_flow_that_changes_something_is_an_act() -> None:
    acted = {flow for flow in DEPLOYED if any(act == flow or act.startswith(f"{flow}-") for act in ACTS)}
    assert set(DEPLOYED) - acted == READS
