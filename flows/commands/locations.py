"""`python -m flows location`: where objects live, and which of it nobody looks after any more."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from flows.commands.console import clear_errors, out, plain
from flows.commands.options import CatalogName
from flows.commands.server import use_local_prefect

location_app = typer.Typer(help="Locations: where objects live.", no_args_is_help=True)


@location_app.command("list")
def location_list(catalog: CatalogName = "main") -> None:
    """Show where objects live: tiers, classes, and how much lies there."""
    with clear_errors():
        use_local_prefect()
        from blocks.catalog.locations import list_places, stored_in
        from blocks.units import format_bytes
        from flows.common.opening import open_catalog

        database = open_catalog(catalog)
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
        from flows.common.opening import open_catalog
        from tasks.declaring import retire_location

        retire_location(open_catalog(catalog), name, gone=gone)
        out.print(f"location {plain(name)} is retired; probe-store takes it into use again", highlight=False)
