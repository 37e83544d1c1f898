"""The command line: `python -m flows`. Prefect is imported inside the commands, after its settings are chosen."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer
from rich.table import Table

from blocks.errors import InvalidInputError, RefusedError, StorageError
from blocks.units import shown
from flows.commands.alarms import alarms, show_alarms
from flows.commands.backup import backup_app, show_health
from flows.commands.console import clear_errors, err, out, plain
from flows.commands.customers import KeyName, key_app, show_customers
from flows.commands.locations import location_app
from flows.commands.options import CatalogName, open_backups
from flows.commands.reports import analyst, example, report
from flows.commands.restore import restore
from flows.commands.server import use_local_prefect
from flows.local.setup import local_stack

if TYPE_CHECKING:
    from blocks.catalog import CatalogDatabase

app = typer.Typer(
    name="flows",
    help="Storage operations for transcode-flow: the embedded stack, customers' keys, and download URLs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(key_app, name="key")
app.add_typer(location_app, name="location")
app.add_typer(backup_app, name="backup")
app.command()(restore)
app.command()(alarms)
app.command()(report)
app.command()(analyst)
app.command()(example)

StoreName = Annotated[str, typer.Option("--store", help="Name of the location: its Object Store block's.")]


@app.command()
def up(
    videos: Annotated[str, typer.Option(help="Folder that ingest-videos may take videos from.")] = "",
) -> None:
    """Start the embedded stack, or what is missing of it, and print where everything is."""
    from flows.local.setup import bring_up

    with clear_errors():
        stack, more = local_stack(), _folder(videos)
        inbox = stack.folder / "videos"
        inbox.mkdir(parents=True, exist_ok=True)
        roots = ", ".join(str(root) for root in (inbox, more) if root)
        with out.status("starting") as status:

            def say(part: str) -> None:
                status.update(f"starting: {part}")
                if not out.is_terminal:  # a log shows no status
                    err.print(f"· {part}", highlight=False)

            bring_up(stack, source_roots=roots, keep=True, say=say)
        _show_addresses()
        out.print(
            f"Videos in {roots} can be taken in. To use Prefect's own commands in this shell:\n"
            f"  export PREFECT_API_URL={stack.environment()['PREFECT_API_URL']}",
            soft_wrap=True, highlight=False,
        )  # fmt: skip


@app.command()
def down() -> None:
    """Stop everything that `up` started; data stays for the next `up`."""
    with clear_errors():
        stopped = local_stack().stop()
        out.print(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


@app.command()
def status() -> None:
    """Show which parts run, where they are, and what the catalog holds; exit code 3 where something does not run.

    Where Prefect's settings name a server elsewhere, as in production, what runs on this machine is left out.
    """
    with clear_errors():
        running = local_stack().status()
        here = running["prefect"] is not None
        elsewhere = not here and _is_elsewhere()
        if not elsewhere:
            _show_addresses()
        whole = elsewhere or None not in running.values()
        if elsewhere or (here and running["postgres"] is not None):
            use_local_prefect()
            from flows.common.opening import open_catalog

            catalog = open_catalog("main")
            _show_freeze(catalog)
            show_customers(catalog)
            _show_lost(catalog)
            try:
                show_health(open_backups())
            except StorageError as error:
                # The rest is needed most just then.
                out.print(f"[red]backups: {plain(str(error))}[/]", soft_wrap=True, highlight=False)
                whole = False
            from flows.common.alarms import list_alarms

            show_alarms(list_alarms)
            _show_schedules()
    if not whole:
        raise typer.Exit(3)


@app.command()
def upgrade(catalog: CatalogName = "main") -> None:
    """Migrate the catalog to this version's schema. Safe to run again; the deploy step of a production set-up."""
    with clear_errors():
        use_local_prefect()
        from blocks.catalog import CatalogDatabase
        from blocks.catalog.migrating import upgrade as migrate
        from blocks.loading import load_block

        out.print(f"the catalog {catalog} is at revision {migrate(load_block(CatalogDatabase, catalog))}")


@app.command()
def demo(
    videos: Annotated[str, typer.Option(help="Folder with your own videos; a few clips are made unless given.")] = "",
    keep_running: Annotated[bool, typer.Option(help="Leave the stack running afterwards.")] = False,
) -> None:
    """Take in real videos, transcode, register, download and play them, and check every step."""
    # Refusals are part of the show; their tracebacks are not.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    from flows.local.demo import run_demo

    with clear_errors():
        if not run_demo(out, videos=_folder(videos), keep_running=keep_running):
            raise typer.Exit(1)


@app.command()
def url(
    api_key: KeyName,
    job_id: Annotated[str, typer.Argument(help="Id of the job.")],
    kind: Annotated[str, typer.Argument(help="original, video_360p, video_720p, audio, hls_720p, …")] = "original",
    expires_in: Annotated[int | None, typer.Option(help="Seconds until the URL ends.")] = None,
    accept_encoding: Annotated[str, typer.Option(help="Encodings you decode, for example zstd.")] = "",
    name: Annotated[str | None, typer.Option(help="Which of several files of the kind.")] = None,
    store: StoreName = "main",
    catalog: CatalogName = "main",
    policy: Annotated[str, typer.Option(help="Name of the Access Policy block.")] = "default",
) -> None:
    """Print a presigned download URL, without a flow run. The URL is all that goes to standard output."""
    with clear_errors():
        use_local_prefect()
        from blocks.loading import load_block
        from blocks.policies import AccessPolicy, RelocationPolicy
        from flows.common.opening import open_catalog, open_locations
        from tasks.access import issue_download_url

        database = open_catalog(catalog)
        issued = issue_download_url(
            database, open_locations(database, store), load_block(AccessPolicy, policy),
            api_key=api_key, job_id=job_id, kind=kind, expires_in=expires_in,
            accept_encoding=accept_encoding, name=name, relocation=load_block(RelocationPolicy, "default"),
        )  # fmt: skip
        sys.stdout.write(issued.url + "\n")
        err.print(f"{plain(issued.filename)}, until {issued.expires_at:%Y-%m-%d %H:%M:%S} UTC", highlight=False)


@app.command()
def explain(
    reference: Annotated[str, typer.Argument(help="An object's id, a key it has or had, or its job's id.")],
    catalog: CatalogName = "main",
    policy: Annotated[str, typer.Option(help="Name of the Retention Policy block.")] = "default",
) -> None:
    """Where is this object, what was done to it, by which run and rule, and what comes next?"""
    with clear_errors():
        use_local_prefect()
        from blocks.loading import load_block
        from blocks.policies import RetentionPolicy
        from flows.common.opening import open_catalog
        from tasks.history import explain as explain_object
        from tasks.history import sentence

        found = explain_object(open_catalog(catalog), load_block(RetentionPolicy, policy), reference)
        table = Table(title=f"newest first: {plain(found.reference)}", title_justify="left")
        for column in ("at (UTC)", "customer", "what", "rule", "run"):
            table.add_column(column, overflow="fold")
        for event in found.events:
            what = plain(sentence(event))
            table.add_row(f"{event.at:%Y-%m-%d %H:%M:%S}", event.customer, what, event.rule, event.run[:8])
        out.print(table)
        for step in found.next_steps or ("nothing is left of it",):
            out.print(f"next: {plain(step)}", highlight=False)


def _show_addresses() -> None:
    stack = local_stack()
    places, running = stack.endpoints(), stack.status()
    table = Table(title="transcode-flow on this machine", title_justify="left")
    for column in ("part", "state", "where"):
        table.add_column(column, overflow="fold")
    rows = {
        "postgres": ("PostgreSQL", f"psql -h {places.postgres_folder} -U postgres transcode_flow"),
        "s3": ("S3 (SeaweedFS)", f"{places.s3_url}, bucket videos"),
        "prefect": ("Prefect UI", places.prefect_url),
        "worker": ("worker", "work pool local"),
    }
    for name, (title, where) in rows.items():
        pid = running[name]
        table.add_row(title, f"[green]runs[/], pid {pid}" if pid else "[red]stopped[/]", where)
    table.add_row("files", "", f"{stack.folder} (logs in logs/)")
    out.print(table)


def _is_elsewhere() -> bool:
    """Whether the settings name a server that is not the embedded one of this folder, which may be stopped."""
    named = urlsplit(os.environ.get("PREFECT_API_URL", "")).hostname
    if (local_stack().folder / "stack.json").exists() and named in (None, "127.0.0.1", "localhost"):
        return False
    try:
        use_local_prefect()
    except RefusedError:
        return False
    return True


def _show_freeze(catalog: CatalogDatabase) -> None:
    from blocks.catalog.restored import read_freeze

    if (frozen := catalog.transaction(read_freeze)) is not None:
        out.print(f"[red]{plain(str(frozen.refusal()))}[/]", soft_wrap=True, highlight=False)


def _show_schedules() -> None:
    from flows.common.schedules import list_scheduled

    scheduled = list_scheduled()
    if never := [one.name for one in scheduled if one.next_at is None]:
        out.print(
            f"[red]no run of {', '.join(never)} is scheduled[/]: it takes Prefect's server some seconds after it "
            f"started; later look into {local_stack().log('prefect')}",
            soft_wrap=True, highlight=False,
        )  # fmt: skip
    elif scheduled:
        first = scheduled[0]
        out.print(
            f"{len(scheduled)} flows run by schedule; the next is {first.name}, at {first.next_at:%Y-%m-%d %H:%M} UTC"
        )


def _show_lost(catalog: CatalogDatabase) -> None:
    from blocks.catalog.drift import unsound_keys

    keys, number = catalog.transaction(lambda connection: unsound_keys(connection, 1))
    for key in keys:
        out.print(
            f"[red]{number} objects are missing or corrupt[/], such as {plain(key)}; `python -m flows explain KEY` "
            "tells since when, and the table of verify-objects what could heal them",
            highlight=False,
        )


def _folder(given: str) -> Path | None:
    # A shell leaves the tilde of `VIDEOS=~/Videos` alone.
    if not given:
        return None
    folder = os.path.expanduser(given)
    if not os.path.isdir(folder):
        raise InvalidInputError(f"{shown(given)} is no folder")
    if "," in folder:
        raise InvalidInputError(f"{shown(given)}: a list of folders is separated by commas; give it another name")
    return Path(folder).resolve()
