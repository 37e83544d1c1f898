"""`python -m flows backup …`: which backups there are, and how they are."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from blocks.errors import DamagedBackupError, InvalidInputError, NotFoundError, RefusedError, StorageError
from blocks.units import shown
from flows.commands.console import clear_errors, err, out, plain
from flows.commands.options import (
    BackupId,
    CatalogName,
    Endpoint,
    IdentityFile,
    Opened,
    PolicyName,
    Store,
    StoreUrl,
    open_backups,
)
from flows.commands.server import use_local_prefect

if TYPE_CHECKING:
    from prefect.blocks.core import Block

    from tasks.backups.listing import Backup

LARGEST_SETTINGS_BYTES = 16 * 1024**2
"""They are read whole; a manifest that somebody forged could say any number."""

backup_app = typer.Typer(
    help="Backups of the catalog: list, verify, hold, and read what they hold.", no_args_is_help=True
)


@backup_app.command("list")
def backup_list(
    store_url: StoreUrl = "", endpoint: Endpoint = "", backups: Store = "backups", catalog: CatalogName = "main",
    policy: PolicyName = "default",
) -> None:  # fmt: skip
    """Show every backup, whether it is good, and by which rule it stays."""
    with clear_errors():
        if not store_url:
            use_local_prefect()
        from blocks.object_store.clock import store_now
        from blocks.units import format_bytes
        from tasks.backups.retention import plan_retention

        opened = open_backups(store_url=store_url, endpoint=endpoint, backups=backups, catalog=catalog, policy=policy)
        for group in opened.groups():
            plan = plan_retention(group, opened.policy, store_now(opened.store))
            rules = {item.subject: item.rule for item in plan.skipped}
            table = Table(title=f"backups of catalog {group.catalog_id}", title_justify="left")
            for column in ("backup", "size", "state", "drilled", "stays by"):
                # Nothing but a reason is broken over lines: ids are copied, and states are looked for.
                side: Literal["left", "right"] = "right" if column == "size" else "left"
                table.add_column(column, justify=side, overflow="fold", no_wrap=column in ("backup", "size"))
            for one in group.all:
                drilled = f"{one.drilled_at:%Y-%m-%d}, {one.drill_seconds or 0:.0f} s" if one.drilled_at else ""
                stays = rules.get(one.id, "goes with the next backup")
                table.add_row(one.id, format_bytes(one.size_bytes), plain(_state(one)), drilled, stays)
            out.print(table if table.row_count else f"no backups of catalog {group.catalog_id} yet")
            for name, size in group.unfinished.items():
                out.print(f"{name}: interrupted or under way, {format_bytes(size)}; the next backup removes it")
        if not store_url:
            try:
                show_health(opened)
            except StorageError as error:  # the catalog may be what is to be restored
                err.print(f"[yellow]their state as a whole is not known: {plain(str(error))}[/]", highlight=False)


def _state(one: Backup) -> str:
    if one.why_not or one.manifest is None:
        return one.why_not
    words = [{True: "verified", False: "DAMAGED", None: "not verified"}[one.verified]]
    words += ["encrypted"] if one.manifest.encrypted_to else []
    words += ["catalog only"] if one.manifest.kind == "catalog" else []
    words += [f"on hold: {one.hold}"] if one.hold else []
    return ", ".join(words)


@backup_app.command("verify")
def backup_verify(
    backup: BackupId = "latest",
    contents: Annotated[bool, typer.Option(help="Read every metadata object too.")] = False,
    identity_file: IdentityFile = "", backups: Store = "backups", catalog: CatalogName = "main",
    policy: PolicyName = "default",
) -> None:  # fmt: skip
    """Read a backup back and hold it against its manifest; one that is damaged counts no more."""
    with clear_errors():
        use_local_prefect()
        from tasks.backups.verifying import verify_backup

        opened = open_backups(identity_file=identity_file, backups=backups, catalog=catalog, policy=policy)
        _, chosen = opened.named(backup)
        assert opened.database is not None  # noqa: S101 -- it was opened by its block
        found = verify_backup(opened.database, opened.store, chosen, opened.policy, key=opened.key, contents=contents)
        if not found.ok:
            raise RefusedError(f"backup {chosen.id} is DAMAGED and counts no more: {found.because}")
        out.print(f"backup {chosen.id} is what was written ({found.seconds:.1f} s)")


@backup_app.command("hold")
def backup_hold(
    backup: BackupId,
    reason: Annotated[str, typer.Option(help="Why it has to be kept.")] = "",
    release: Annotated[bool, typer.Option("--release", help="Keep it no longer than others.")] = False,
    backups: Store = "backups", catalog: CatalogName = "main", policy: PolicyName = "default",
) -> None:  # fmt: skip
    """Keep a backup however old it gets, or release it again."""
    with clear_errors():
        if bool(reason.strip()) == release:
            raise InvalidInputError("say why it has to be kept, with --reason, or --release it")
        use_local_prefect()
        from tasks.backups.verifying import hold_backup, release_backup

        opened = open_backups(backups=backups, catalog=catalog, policy=policy)
        catalog_id, chosen = opened.named(backup)
        if reason:
            hold_backup(opened.store, chosen, catalog_id, reason)
        else:
            release_backup(opened.store, chosen, catalog_id)
        out.print(f"backup {chosen.id} is {'on hold' if reason else 'released'}")


@backup_app.command("settings")
def backup_settings(
    backup: BackupId = "latest", store_url: StoreUrl = "", endpoint: Endpoint = "", identity_file: IdentityFile = "",
    backups: Store = "backups", catalog: CatalogName = "main", policy: PolicyName = "default",
    save: Annotated[bool, typer.Option("--save", help="Save the policies that Prefect does not have.")] = False,
) -> None:  # fmt: skip
    """Print the policies and store addresses that a backup holds, as JSON; secrets are never in it."""
    with clear_errors():
        if save or not store_url:
            use_local_prefect()
        from tasks.backups.manifest import SETTINGS
        from tasks.backups.streams import read_file

        opened = open_backups(store_url=store_url, endpoint=endpoint, identity_file=identity_file, backups=backups,
                       catalog=catalog, policy=policy)  # fmt: skip
        catalog_id, chosen = opened.choose(backup)
        if chosen.manifest is None:
            raise NotFoundError(f"backup {chosen.id} has no manifest")
        file = chosen.manifest.file(SETTINGS)
        if file.content_bytes > LARGEST_SETTINGS_BYTES:
            raise DamagedBackupError(
                f"{file.name} of backup {chosen.id} is damaged: {file.content_bytes} bytes are no settings, "
                f"{LARGEST_SETTINGS_BYTES} are the most"
            )
        said = b"".join(read_file(opened.store, catalog_id, chosen.id, file, key=opened.key))
        sys.stdout.write(said.decode() + "\n")
        if save:
            for name in _save_policies(json.loads(said)):
                err.print(f"saved {name}")


def _save_policies(said: dict[str, dict[str, dict[str, object]]]) -> list[str]:
    from blocks.loading import block_names, load_block
    from blocks.policies import POLICIES

    saved = []
    for kind in POLICIES:
        there = block_names(kind)
        for name, fields in said.get(kind.get_block_type_slug(), {}).items():
            block = f"{kind.get_block_type_slug()}/{name}"
            try:
                wanted = kind(**fields)
            except ValueError:  # of another version, which allowed what this one does not; never what it was
                err.print(f"[yellow]{block} is not saved: this version refuses some of its values[/]", highlight=False)
                continue
            if name not in there:
                wanted.save(name)
                saved.append(block)
            elif not _is_same(load_block(kind, name), wanted):
                err.print(f"[yellow]{block} is there, and differs: it is left as it is[/]", highlight=False)
    return saved


def _is_same(one: Block, other: Block) -> bool:
    """Whether they hold the same; under which name a block is saved is no part of it."""
    fields = set(type(one).model_fields)
    return one.model_dump(include=fields) == other.model_dump(include=fields)


@backup_app.command("key")
def backup_key(
    save: Annotated[str, typer.Option(help="Also save the public half as this Backup Key block.")] = "",
) -> None:
    """Make a key for encrypted backups. The secret is printed once, on standard output: keep it apart from here."""
    with clear_errors():
        if save:
            # As Prefect says it, who would print a model's validation.
            if not re.fullmatch(r"[a-z0-9-]{1,200}", save):
                raise InvalidInputError(f"{shown(save)} is no name of a block: lower-case letters, digits and dashes")
            use_local_prefect()
        from blocks.encryption import BackupKey, new_key
        from blocks.loading import block_names

        if save and save in block_names(BackupKey):
            raise InvalidInputError(
                f"a Backup Key block {save} exists already: its backups need it; choose another name"
            )
        made = new_key()
        if save:
            BackupKey.register_type_and_schema()
            BackupKey(recipient=made.recipient).save(save, overwrite=False)
        err.print(f"public key {made.recipient}; the secret key is shown this once:", highlight=False)
        assert made.identity is not None  # noqa: S101 -- it was just made
        sys.stdout.write(made.identity.get_secret_value() + "\n")


def show_health(opened: Opened) -> None:
    """How the backups of the catalog in use are; where there are none yet that is said."""
    from flows.common.backing_up import health_of

    assert opened.database is not None  # noqa: S101 -- opened by its block
    for group in opened.groups()[:1]:
        health = health_of(opened.database, group, opened.policy)
        table = Table(title="backups", title_justify="left", show_header=False)
        for name, figure in health.rows():
            worrying = name == "alarms" and health.alarms
            table.add_row(name, f"[red]{plain(figure)}[/]" if worrying else plain(figure))
        out.print(table)
