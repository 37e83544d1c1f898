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
from flows.cli_alarms import alarms, show_alarms
from flows.cli_backup import backup_app, show_health
from flows.cli_options import CatalogName, open_backups
from flows.cli_reports import analyst, example, report
from flows.cli_restore import restore
from flows.console import clear_errors, err, out, plain
from flows.local_stack import local_stack, use_local_prefect

if TYPE_CHECKING:
    from blocks.catalog import CatalogDatabase
    from blocks.catalog.customers import Customer

app = typer.Typer(
    name="flows",
    help="Storage operations for transcode-flow: the embedded stack, customers' keys, and download URLs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
key_app = typer.Typer(help="Customers: API keys and their quotas.", no_args_is_help=True)
app.add_typer(key_app, name="key")
location_app = typer.Typer(help="Locations: where objects live.", no_args_is_help=True)
app.add_typer(location_app, name="location")
app.add_typer(backup_app, name="backup")
app.command()(restore)
app.command()(alarms)
app.command()(report)
app.command()(analyst)
app.command()(example)

StoreName = Annotated[str, typer.Option("--store", help="Name of the Object Store block.")]
KeyName = Annotated[str, typer.Argument(help="Label or id of the customer's key.", metavar="KEY")]


@app.command()
def up(
    videos: Annotated[str, typer.Option(help="Folder that ingest-videos may take videos from.")] = "",
) -> None:
    """Start the embedded stack, or what is missing of it, and print where everything is."""
    from flows.local_stack import bring_up

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

            bring_up(stack, source_roots=roots, say=say)
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
            catalog = _catalog("main")
            _show_freeze(catalog)
            _show_customers(catalog)
            _show_lost(catalog)
            try:
                show_health(open_backups())
            except StorageError as error:
                # The rest is needed most just then.
                out.print(f"[red]backups: {plain(str(error))}[/]", soft_wrap=True, highlight=False)
                whole = False
            from flows.alarms import list_alarms

            show_alarms(list_alarms)
            _show_schedules()
    if not whole:
        raise typer.Exit(3)


@app.command()
def upgrade(catalog: CatalogName = "main") -> None:
    """Migrate the catalog to this version's schema. Safe to run again; the deploy step of a production set-up."""
    with clear_errors():
        use_local_prefect()
        from blocks.catalog.migrating import upgrade as migrate

        out.print(f"the catalog {catalog} is at revision {migrate(_block_catalog(catalog))}")


@app.command()
def demo(
    videos: Annotated[str, typer.Option(help="Folder with your own videos; a few clips are made unless given.")] = "",
    keep_running: Annotated[bool, typer.Option(help="Leave the stack running afterwards.")] = False,
) -> None:
    """Take in real videos, transcode, register, download and play them, and check every step."""
    # Refusals are part of the show; their tracebacks are not.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    from flows.demo import run_demo

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
        from flows.opening import open_locations
        from tasks.access import issue_download_url

        database = _catalog(catalog)
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
        from tasks.history import explain as explain_object

        found = explain_object(_catalog(catalog), load_block(RetentionPolicy, policy), reference)
        table = Table(title=f"newest first: {plain(found.reference)}", title_justify="left")
        for column in ("at (UTC)", "customer", "what", "rule", "run"):
            table.add_column(column, overflow="fold")
        for event in found.events:
            what = plain(event.sentence())
            table.add_row(f"{event.at:%Y-%m-%d %H:%M:%S}", event.customer, what, event.rule, event.run[:8])
        out.print(table)
        for step in found.next_steps or ("nothing is left of it",):
            out.print(f"next: {plain(step)}", highlight=False)


@key_app.command("create")
def key_create(
    label: Annotated[str, typer.Argument(help="Name of the customer: letters, digits and . _ @ -")],
    quota: Annotated[str, typer.Option(help="Such as 500 MiB, 10 GiB, 0 or unlimited.")] = "unlimited",
    catalog: CatalogName = "main",
) -> None:
    """Make a key and print its secret, once. Only the secret is on standard output."""
    with clear_errors():
        use_local_prefect()
        from tasks.customers import create_key

        created = create_key(_catalog(catalog), label, quota)
        err.print(f"key {created.customer.label} (id {created.customer.id}); its secret is shown this once:")
        sys.stdout.write(created.secret + "\n")


@key_app.command("list")
def key_list(catalog: CatalogName = "main") -> None:
    """Show all keys with their quota and use."""
    with clear_errors():
        use_local_prefect()
        _show_customers(_catalog(catalog))


@key_app.command("quota")
def key_quota(
    api_key: KeyName,
    quota: Annotated[str, typer.Argument(help="Such as 500 MiB, 10 GiB, 0 or unlimited.")],
    catalog: CatalogName = "main",
) -> None:
    """Raise, lower or lift a key's quota."""
    with clear_errors():
        use_local_prefect()
        from tasks.customers import set_quota

        out.print(set_quota(_catalog(catalog), api_key=api_key, quota=quota).summary(), highlight=False, markup=False)


@key_app.command("disable")
def key_disable(
    api_key: KeyName,
    enable: Annotated[bool, typer.Option("--enable", help="Enable it again.")] = False,
    catalog: CatalogName = "main",
) -> None:
    """Disable a key: nothing is taken in or handed out for it any more; what it stored stays."""
    with clear_errors():
        use_local_prefect()
        from tasks.customers import set_disabled

        customer = set_disabled(_catalog(catalog), api_key=api_key, disabled=not enable)
        out.print(f"key {customer.label} is {'disabled' if customer.disabled_at else 'enabled'}")


@location_app.command("list")
def location_list(catalog: CatalogName = "main") -> None:
    """Show where objects live: tiers, classes, and how much lies there."""
    with clear_errors():
        use_local_prefect()
        from blocks.catalog.locations import list_places, stored_in
        from blocks.units import format_bytes

        database = _catalog(catalog)
        places = database.transaction(list_places)
        sizes, names = database.transaction(stored_in), {place.id: place.name for place in places}
        table = Table(title="locations", title_justify="left")
        for column in ("location", "tier", "store", "bucket", "class", "objects", "stored", "new files go to"):
            table.add_column(column, justify="right" if column in ("objects", "stored") else "left")
        for place in places:
            objects, size = sizes.get(place.id, (0, 0))
            bucket = f"{place.bucket}/{place.prefix}" if place.prefix else place.bucket
            table.add_row(
                place.name, place.tier + (", restore first" if place.needs_restore else ""), place.store, bucket,
                place.storage_class, str(objects), format_bytes(size), names.get(place.moved_to or 0, ""),
            )  # fmt: skip
        out.print(table)


@location_app.command("retire")
def location_retire(
    name: Annotated[str, typer.Argument(help="Name of the location.")],
    gone: Annotated[bool, typer.Option(help="Its bucket is gone already; refused where it answers.")] = False,
    catalog: CatalogName = "main",
) -> None:
    """Stop looking after a location that is empty since migrate-storage and cleanup; its bucket can go then."""
    with clear_errors():
        use_local_prefect()
        from tasks.stores import retire_location

        retire_location(_catalog(catalog), name, gone=gone)
        out.print(f"location {plain(name)} is retired; probe-store takes it into use again", highlight=False)


def _block_catalog(name: str) -> CatalogDatabase:
    from blocks.catalog import CatalogDatabase
    from blocks.loading import load_block

    return load_block(CatalogDatabase, name)


def _catalog(name: str) -> CatalogDatabase:
    from blocks.catalog.migrating import require_current_schema

    catalog = _block_catalog(name)
    require_current_schema(catalog)
    return catalog


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
    from flows.schedules import list_scheduled

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


def _show_customers(catalog: CatalogDatabase) -> None:
    from blocks.units import format_bytes
    from tasks.customers import list_keys

    def state(customer: Customer) -> str:
        return "disabled" if customer.disabled_at else "in use"

    table = Table(title="customers", title_justify="left")
    for column in ("key", "used", "reserved", "quota", "free", "state"):
        table.add_column(column, justify="left" if column in ("key", "state") else "right")
    for customer in list_keys(catalog):
        table.add_row(
            customer.label, format_bytes(customer.used_bytes), format_bytes(customer.reserved_bytes),
            format_bytes(customer.quota_bytes), format_bytes(customer.free_bytes), state(customer),
        )  # fmt: skip
    out.print(table if table.row_count else "no customers yet; make one with `python -m flows key create LABEL`")


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
