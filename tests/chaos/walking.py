"""Walking through an act's calls: something happens at one of them, and what follows must come to the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import text

from blocks.catalog.databases import is_open, maintenance
from blocks.catalog.restored import read_freeze
from blocks.errors import StorageError
from tests.chaos.acts import Act
from tests.chaos.faults import Kill, Point, Sleep
from tests.chaos.victims import KILLED, REFUSED, victim
from tests.chaos.world import World
from tests.helpers import execute
from tests.line import Fault, Line, Moment

T = TypeVar("T")
Worlds = Callable[[], AbstractContextManager[World]]
Choice = Callable[[Sequence[int]], Sequence[int]]
"""Which of a walk's points to go to, by their numbers."""
MOMENTS: tuple[Moment, Moment] = ("before", "after")
IDLE = frozenset({"BEGIN", "ROLLBACK"})
"""Nothing happens there that did not happen at the call before."""


@dataclass(frozen=True)
class Where:
    """A point of a walk."""

    number: int
    moment: Moment


class Walk:
    """One act, and what an undisturbed run of it comes to."""

    def __init__(self, act: Act, worlds: Worlds, line: Line, through: Callable[[World], World]) -> None:
        self.act, self.worlds, self.line, self.through = act, worlds, line, through
        with worlds() as world:
            act.prepare(world)
            line.watch(Fault())
            # In a process as well: what is already open in this one would not be asked for again.
            assert victim(act.name, through(world).address).run() == 0
            self.calls = list(line.calls)
            self.store = world.store("home")
            self.expected = self._afterwards(world)
        self.points = [Where(call.number, moment) for call in self.calls for moment in MOMENTS if call.what not in IDLE]

    def die(self, where: Where) -> bool:
        """SIGKILL at a point; returns whether it was reached."""
        with self.worlds() as world:
            self.act.prepare(world)
            doomed = victim(self.act.name, self.through(world).address)
            kill = Kill(where.number, where.moment, pid=doomed.pid)
            self.line.watch(kill)
            code = doomed.run()
            self.line.watch(Fault())
            # Threads take turns: a run may have fewer calls than the one that was counted.
            assert code == (0 if kill.hit is None else KILLED), f"{where} of {self.act.name}: exit code {code}"
            self._check(world, kill)
        return kill.hit is not None

    def meet(self, fault: Point) -> bool:
        """Act while a fault strikes; it ends well, or in one of our errors. Returns whether it struck."""
        with self.worlds() as world:
            self.act.prepare(world)
            if isinstance(fault, Sleep) and fault.meanwhile is None:
                fault.meanwhile = lambda: self._others_go_on(world)
            self.line.watch(fault)
            seen = self.through(world)
            try:
                with suppress(StorageError):
                    self.act.do(seen)
            finally:
                if isinstance(fault, Sleep):
                    fault.wait()
                seen.catalog.disconnect()
                self.line.watch(Fault())
            self._check(world, fault)
        return fault.hit is not None

    def twice(self) -> list[int]:
        """Two processes at the same act in the same moment; returns how each ended."""
        with self.worlds() as world:
            self.act.prepare(world)
            both = [victim(self.act.name, world.address) for _ in range(2)]
            for one in both:
                one.begin()
            codes = [one.end() for one in both]
            assert all(code in (0, REFUSED) for code in codes), codes
            self._check(world, None)
        return codes

    def _others_go_on(self, world: World) -> None:
        """What happens while a run sleeps: its locks and reservations lapse, the next one comes, nights pass."""
        theirs = text(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_locks WHERE locktype = 'advisory' AND pid = ANY(:theirs)"
        )
        with maintenance(world.catalog) as connection:
            connection.execute(theirs, {"theirs": list(self.line.backends)})
            # Asleep in a cut-over: nobody is let in until the next run.
            closed = is_open(connection, world.catalog.database) is False
        if not closed:
            execute(world.catalog, "UPDATE reservations SET expires_at = clock_timestamp()")
        self.act.next_run(world.reopened())
        world.reopened().nights_pass()

    def _check(self, world: World, fault: Point | None) -> None:
        _sessions_end(world)
        try:
            if not self.act.damaged and _is_settled(world):
                world.reopened().assert_sound()
            found = self._afterwards(world)
            differs = (
                [row for row in found if row not in self.expected],
                [row for row in self.expected if row not in found],
            )
            assert found == self.expected, f"there is {differs[0]}, where {differs[1]} was to be"
        except BaseException as error:
            if fault:
                error.add_note(self._told(fault))
            raise

    def _afterwards(self, world: World) -> list[object]:
        try:
            self.act.next_run(world.reopened())
            later = world.reopened()
            later.nights_pass()
            later.assert_settled()
            later.assert_vault_sound()
            return list(later.picture())
        finally:
            self.act.tidy(world)

    def _told(self, fault: Point) -> str:
        before = [call for call in self.calls if fault.number - 12 <= call.number <= fault.number]
        lines = [f"  {call.number} {call.to} {call.what}" for call in before]
        return "\n".join([f"{self.act.name}: {fault.moment} {fault.hit}; the calls up to it:", *lines])


def _is_settled(world: World) -> bool:
    """Not after a cut-over that was killed: the catalog may be closed, or its buckets may not have been told of it. The
    next run begins with that."""
    with maintenance(world.catalog) as connection:
        if is_open(connection, world.catalog.database) is False:
            return False
    frozen = world.catalog.transaction(read_freeze)
    return frozen is None or not frozen.claims_pending


def _sessions_end(world: World) -> None:
    """Until PostgreSQL has noticed that somebody is gone: locks go with their sessions."""
    until = time.monotonic() + 20
    busy = text(
        "SELECT pid, state, left(query, 200) FROM pg_stat_activity "
        " WHERE datname = :name AND backend_type = 'client backend'"
    )
    world.catalog.disconnect()
    # Asked from outside: the catalog may be closed.
    with maintenance(world.catalog) as connection:
        while left := connection.execute(busy, {"name": world.catalog.database}).all():
            assert time.monotonic() < until, f"a dead process's session stays: {left}"
            time.sleep(0.02)


def numbers_in(chosen: str) -> Sequence[int]:
    """What `--point` and `--seeds` say: 17, or 100-199; nothing where they are not given."""
    first, _, last = chosen.partition("-")
    return range(int(first), int(last or first) + 1) if first else ()


def spread(found: Sequence[T], count: int) -> list[T]:
    """A few of many, from all over."""
    count = min(len(found), count)
    return [found[(2 * number + 1) * len(found) // (2 * count)] for number in range(count)]


def walk_all(points: Sequence[Where], strike: Callable[[Where], bool], choose: Choice) -> None:
    """The points that were chosen; the first failures are told, after all of them were tried.

    Threads take turns, so that a run may end before the last of the calls that another one made; most are met.
    """
    failed, met = [], 0
    chosen = choose(range(len(points)))
    assert chosen or not points, f"there are only points 0 to {len(points) - 1}"
    for number in chosen:
        try:
            met += strike(points[number])
        except Exception as error:  # told below; the other points are tried
            failed.append("\n".join([f"--point {number}: {error!r}", *getattr(error, "__notes__", [])]))
    missed = max(1, len(chosen) // 10) if len(chosen) > 1 else 0
    assert met + len(failed) >= len(chosen) - missed, f"{met} of {len(chosen)} points were met"
    assert not failed, f"{len(failed)} of {len(chosen)} points:\n" + "\n\n".join(failed[:5])
