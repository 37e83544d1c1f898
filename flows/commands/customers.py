"""`python -m flows key`: customers, their keys and quotas."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from flows.commands.console import clear_errors, err, out
from flows.commands.options import CatalogName
from flows.commands.server import use_local_prefect

if TYPE_CHECKING:
    from blocks.catalog import CatalogDatabase
    from blocks.catalog.customers import Customer

KeyName = Annotated[str, typer.Argument(help="Label or id of the customer's key.", metavar="KEY")]

key_app = typer.Typer(help="Customers: API keys and their quotas.", no_args_is_help=True)


@key_app.command("create")
def key_create(
    label: Annotated[str, typer.Argument(help="Name of the customer: letters, digits and . _ @ -")],
    quota: Annotated[str, typer.Option(help="Such as 500 MiB, 10 GiB, 0 or unlimited.")] = "unlimited",
    catalog: CatalogName = "main",
) -> None:
    """Make a key and print its secret, once. Only the secret is on standard output."""
    with clear_errors():
        use_local_prefect()
        from flows.common.opening import open_catalog
        from tasks.customers import create_key

        created = create_key(open_catalog(catalog), label, quota)
        err.print(f"key {created.customer.label} (id {created.customer.id}); its secret is shown this once:")
        sys.stdout.write(created.secret + "\n")


@key_app.command("list")
def key_list(catalog: CatalogName = "main") -> None:
    """Show all keys with their quota and use."""
    with clear_errors():
        use_local_prefect()
        from flows.common.opening import open_catalog

        show_customers(open_catalog(catalog))


@key_app.command("quota")
def key_quota(
    api_key: KeyName,
    quota: Annotated[str, typer.Argument(help="Such as 500 MiB, 10 GiB, 0 or unlimited.")],
    catalog: CatalogName = "main",
) -> None:
    """Raise, lower or lift a key's quota."""
    with clear_errors():
        use_local_prefect()
        from flows.common.opening import open_catalog
        from tasks.customers import set_quota

        out.print(
            set_quota(open_catalog(catalog), api_key=api_key, quota=quota).summary(), highlight=False, markup=False
        )


@key_app.command("disable")
def key_disable(
    api_key: KeyName,
    enable: Annotated[bool, typer.Option("--enable", help="Enable it again.")] = False,
    catalog: CatalogName = "main",
) -> None:
    """Disable a key: nothing is taken in or handed out for it any more; what it stored stays."""
    with clear_errors():
        use_local_prefect()
        from flows.common.opening import open_catalog
        from tasks.customers import set_disabled

        customer = set_disabled(open_catalog(catalog), api_key=api_key, disabled=not enable)
        out.print(f"key {customer.label} is {'disabled' if customer.disabled_at else 'enabled'}")


def show_customers(catalog: CatalogDatabase) -> None:
    """Print what each customer has, uses and may use."""
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
