"""SIGKILL before and after every call of everything that changes something; the next run finishes or undoes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import pytest

from tests.chaos.acts import ACTS, Act
from tests.chaos.conftest import Worlds
from tests.chaos.faults import Count, Kill
from tests.chaos.line import Line, Moment
from tests.chaos.victims import KILLED, victim
from tests.chaos.world import World
from tests.helpers import rows

MOMENTS: tuple[Moment, Moment] = ("before", "after")
IDLE = frozenset({"BEGIN", "ROLLBACK"})
"""Nothing happens there that did not happen at the call before."""
IN_A_TEST_RUN = 6
"""Points of each act that `make test` walks; `make chaos` walks all."""


class Walk:
    """One act, and what an undisturbed run of it comes to."""

    def __init__(self, act: Act, worlds: Worlds, line: Line, through: Callable[[World], World]) -> None:
        self.act, self.worlds, self.line, self.through = act, worlds, line, through
        with worlds() as world:
            act.prepare(world)
            line.watch(Count())
            # In a process as well: what is already open in this one would not be asked for again.
            assert victim(act.name, through(world).address).run() == 0
            self.calls = list(line.calls)
            self.points = [(call.number, moment) for call in self.calls for moment in MOMENTS if call.what not in IDLE]
            self.expected = self._afterwards(world)

    def die(self, point: int) -> None:
        """Kill at a point."""
        number, moment = self.points[point]
        with self.worlds() as world:
            self.act.prepare(world)
            doomed = victim(self.act.name, self.through(world).address)
            kill = Kill(number, moment, pid=doomed.pid)
            self.line.watch(kill)
            code = doomed.run()
            self.line.watch(Count())
            told = f"{self.act.name}, point {point}: {moment} {kill.hit}"
            if kill.hit is None:
                assert code == 0, f"{told}: exit code {code}"
            else:
                assert code == KILLED, f"{told}: exit code {code}"
            _sessions_end(world)
            try:
                if not self.act.damaged:
                    world.reopened().assert_sound()
                assert self._afterwards(world) == self.expected
            except BaseException as error:
                error.add_note(f"{told}\nthe calls up to it:\n" + "\n".join(
                    f"  {call.number} {call.to} {call.what}" for call in self.calls[max(0, number - 12) : number + 1]
                ))  # fmt: skip
                raise

    def _afterwards(self, world: World) -> list[object]:
        try:
            self.act.next_run(world.reopened())
            later = world.reopened()
            later.nights_pass()
            later.assert_settled()
            return list(later.picture())
        finally:
            self.act.tidy(world)


def _sessions_end(world: World) -> None:
    """Until PostgreSQL has noticed that the process is gone: its locks go with its sessions."""
    until = time.monotonic() + 20
    busy = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
    world.catalog.engine.dispose()
    while rows(world.catalog, busy + "AND backend_type = 'client backend'"):
        assert time.monotonic() < until, "a dead process's session stays"
        time.sleep(0.02)


def some(points: int) -> Iterable[int]:
    """A few points, spread over all of them."""
    count = min(points, IN_A_TEST_RUN)
    return sorted({(2 * number + 1) * points // (2 * count) for number in range(count)})


@pytest.fixture
def walk(request: pytest.FixtureRequest, worlds: Worlds, line: Line, through: Callable[[World], World]) -> Walk:
    return Walk(ACTS[request.param], worlds, line, through)


@pytest.mark.slow
@pytest.mark.parametrize("walk", ACTS, indirect=True)
def test_killed_at_some_points(walk: Walk) -> None:
    for point in some(len(walk.points)):
        walk.die(point)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("walk", ACTS, indirect=True)
def test_killed_at_every_point(walk: Walk, request: pytest.FixtureRequest) -> None:
    only = request.config.getoption("--point")
    failed = []
    for point in range(len(walk.points)) if only is None else [only]:
        try:
            walk.die(point)
        except AssertionError as error:
            failed.append("\n".join([str(error), *getattr(error, "__notes__", [])]))
    assert not failed, f"{len(failed)} of {len(walk.points)} points:\n" + "\n\n".join(failed[:5])
