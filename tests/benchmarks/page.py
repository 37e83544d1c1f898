"""The README's table of figures, written by the command that measures them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tests.benchmarks.harness import Measured

BEGIN, END = "<!-- figures: make bench README=1 -->", "<!-- end of figures -->"
HEAD = (
    "| row | ours | theirs | unit | ratio (spread) | bar | measured |",
    "| --- | ---: | ---: | --- | ---: | ---: | --- |",
)


def with_figures(
    readme: str, found: Mapping[str, Sequence[Measured]], told: Mapping[str, str], machine: str, day: str
) -> str:
    """The README with these rows' figures in place of their older ones; other rows keep theirs.

    `found` are figures by the name of their row, `told` says what each row does, in the order of the table.

    Raises:
        ValueError: figures of some rows are those of another machine.
    """
    before, _, rest = readme.partition(BEGIN)
    old, _, after = rest.partition(END)
    kept = {name: [line for line in old.splitlines() if _is_of(line, name)] for name in told if name not in found}
    said = re.search(r"^Measured on (.*)\.$", old, re.MULTILINE)
    if said and said[1] != machine and any(kept.values()):
        raise ValueError(f"the README's other rows are of {said[1]!r}, this is {machine!r}: measure all rows, or none")
    lines: list[str] = []
    for name, what in told.items():
        lines += (
            kept[name]
            if name in kept
            else [_line(one, what if number == 0 else "", day) for number, one in enumerate(found[name])]
        )
    return f"{before}{BEGIN}\n\nMeasured on {machine}.\n\n" + "\n".join([*HEAD, *lines]) + f"\n\n{END}{after}"


def _is_of(line: str, name: str) -> bool:
    return re.match(rf"\| {re.escape(name)}[ ,:|]", line) is not None


def _line(one: Measured, what: str, day: str) -> str:
    theirs = "" if one.theirs is None else f"{_figure(one.theirs)} ({one.peer})"
    ratio = f"{one.ratio:.2f} ({one.spread[0]:.2f} to {one.spread[1]:.2f})"
    return (
        f"| {one.row}{': ' + what if what else ''} | {_figure(one.ours)} | {theirs} | {one.unit} "
        f"| {ratio if one.ok else f'**{ratio}**'} | {one.bar:g} | {day} |"
    )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
