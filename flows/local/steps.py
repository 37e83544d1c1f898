"""One line a step, with what was seen; and that a demo claims nothing it did not see."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from blocks.errors import TerminalError


class DemoError(TerminalError):
    """Something the demo claims did not happen."""


class Steps:
    """What every part of the demo shows its steps with."""

    def __init__(self, out: Console) -> None:
        self.out = out

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[str], None]]:
        """Show what is going on, then one line with the last thing said."""
        started, last = time.monotonic(), [""]
        with self.out.status(f"{title} …") as status:

            def say(line: str) -> None:
                last[0] = line
                status.update(f"{title}: {escape(line)}")

            yield say
        took = time.monotonic() - started
        self.out.print(f"[green]✓[/] {title} [dim]({took:.1f} s)[/]\n    {escape(last[0])}", highlight=False)


def check(true: bool, otherwise: str) -> None:
    """The demo claims nothing that it did not see."""
    if not true:
        raise DemoError(otherwise)
