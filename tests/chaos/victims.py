"""Processes that act, and can be killed: forked from one that has everything imported, so that each costs no second."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

from tests.chaos.world import Address

_IMPORTED = ["tests.chaos.acts"]
_CONTEXT = multiprocessing.get_context("forkserver")
KILLED = -9


def _act(name: str, address: Address, go: Connection) -> None:
    from tests.chaos.acts import ACTS
    from tests.chaos.world import World

    world = World(address)
    go.recv()
    with world.scratch():
        ACTS[name].do(world)


@dataclass
class Victim:
    """A process that acts once it is told to."""

    process: ForkServerProcess
    go: Connection

    @property
    def pid(self) -> int:
        """What to kill."""
        assert self.process.pid is not None
        return self.process.pid

    def run(self, seconds: float = 120) -> int:
        """Let it act; returns its exit code, -9 where it was killed."""
        self.go.send(True)
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"still at it after {seconds:.0f} s")
        return self.process.exitcode


def import_everything() -> None:
    """Start the process that victims are forked from."""
    # Not a fork of this one: obstore's and the line's threads do not survive it. That one forks before there are any.
    _CONTEXT.set_forkserver_preload(_IMPORTED)
    forkserver.ensure_running()


def victim(name: str, address: Address) -> Victim:
    """A process that will do one act in one world."""
    theirs, ours = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_act, args=(name, address, theirs), daemon=True)
    process.start()
    theirs.close()
    return Victim(process, ours)
