"""Processes that act, and can be killed: forked from one that has everything imported, so that each costs no second."""

from __future__ import annotations

import multiprocessing
import sys
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

from blocks.errors import StorageError
from tests.chaos.world import Address

_IMPORTED = ["tests.chaos.acts"]
_CONTEXT = multiprocessing.get_context("forkserver")
KILLED = -9
REFUSED = 3
"""It ended in one of the project's own errors."""


def _act(name: str, address: Address, go: Connection) -> None:
    from tests.chaos.acts import ACTS
    from tests.chaos.world import World

    world = World(address)
    go.recv()
    try:
        with world.scratch():
            ACTS[name].do(world)
    except StorageError:
        sys.exit(REFUSED)


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

    def begin(self) -> None:
        """Let it act."""
        self.go.send(True)

    def run(self) -> int:
        """Let it act; returns its exit code."""
        self.begin()
        return self.end()

    def end(self, seconds: float = 120) -> int:
        """Until it has ended; 0, `REFUSED` or `KILLED`, and anything else where it failed."""
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
