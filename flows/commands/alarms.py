"""`python -m flows alarms`: who is told when something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer
from rich.table import Table

from flows.commands.console import clear_errors, out
from flows.commands.options import PolicyName
from flows.commands.server import use_local_prefect


def alarms(
    notify: Annotated[str, typer.Option(help="Notification block to tell, such as slack-webhook/ops.")] = "",
    policy: PolicyName = "default",
) -> None:
    """Make the alarms in Prefect, or bring them up to date; safe to run at every deployment."""
    with clear_errors():
        use_local_prefect()
        from blocks.loading import load_block
        from blocks.policies import BackupPolicy
        from flows.common.alarms import list_alarms, set_alarms

        set_alarms(load_block(BackupPolicy, policy), notify=notify)
        show_alarms(list_alarms)


def show_alarms(read: Callable[[], list]) -> None:  # type: ignore[type-arg]  # flows.common.alarms imports Prefect: not here
    """The alarms as a table."""
    table = Table(title="alarms", title_justify="left")
    for column in ("alarm", "state", "tells", "fired last"):
        table.add_column(column, overflow="fold")
    shown = read()
    for one in shown:
        tells = "a notification block" if one.notifies else "the event feed"
        table.add_row(one.name, "on" if one.enabled else "[yellow]off[/]", tells, one.fired_at or "never")
    if any(not one.notifies for one in shown):
        table.caption = "for the others: python -m flows alarms --notify TYPE/NAME names a notification block"
    out.print(table if shown else "no alarms yet; make them with `python -m flows alarms`")
