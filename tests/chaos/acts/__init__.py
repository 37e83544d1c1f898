"""Everything that changes something, as one act each: what it begins with, what it does, and what its next run does."""

from __future__ import annotations

from tests.chaos.acts import backups, customers, looking, moving, removing
from tests.chaos.acts.act import Act

ACTS: dict[str, Act] = {
    act.name: act for module in (customers, removing, looking, moving, backups) for act in module.ACTS
}

__all__ = ["ACTS", "Act"]
