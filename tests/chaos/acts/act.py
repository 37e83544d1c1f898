"""What an act is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.world import World


def _nothing(world: World) -> None:
    del world


@dataclass(frozen=True)
class Act:
    """One flow's work without Prefect.

    `do` is what is stopped, cut or doubled. `again` is what somebody would do next, in the same world: the same, unless
    the act is one that nobody repeats. `tidy` removes what a world does not take along when it goes. A world that is
    `damaged` begins with what the act is there to find: it is sound only afterwards.
    """

    name: str
    prepare: Callable[[World], object]
    do: Callable[[World], object]
    again: Callable[[World], object] | None = None
    tidy: Callable[[World], object] = _nothing
    damaged: bool = False

    def next_run(self, world: World) -> None:
        """What comes after it."""
        (self.again or self.do)(world)
