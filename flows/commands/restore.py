"""`python -m flows restore`: by hand, at three in the morning, also where nothing is left but the backups."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Literal
from uuid import uuid4

import typer

from blocks.errors import InvalidInputError, RefusedError
from blocks.units import format_bytes, shown
from flows.commands.console import clear_errors, err, out, plain
from flows.commands.options import (
    BackupId,
    CatalogName,
    DatabaseUrl,
    Endpoint,
    IdentityFile,
    Opened,
    PolicyName,
    Store,
    StoreUrl,
    open_backups,
)
from flows.commands.server import use_local_prefect

SHOWN = 20

if TYPE_CHECKING:
    from blocks.policies import IntegrityPolicy
    from tasks.backups.cutover import CutOver
    from tasks.backups.listing import Backup
    from tasks.plans import Plan


def restore(
    backup: BackupId = "latest",
    before: Annotated[str, typer.Option(help="With latest: before this time, such as 2026-11-24T03:00Z.")] = "",
    cutover: Annotated[bool, typer.Option("--cutover", help="Take the catalog's place.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before the cut-over.")] = False,
    store_url: StoreUrl = "", endpoint: Endpoint = "", database_url: DatabaseUrl = "", identity_file: IdentityFile = "",
    scratch: Annotated[str, typer.Option(help="Folder with room for the whole dump.")] = "",
    metadata_objects: Annotated[str, typer.Option(help="After the cut-over: missing, all or none.")] = "missing",
    even_if_damaged: Annotated[bool, typer.Option(help="Leave out damaged copies of metadata objects.")] = False,
    even_if_unreadable: Annotated[
        bool, typer.Option(help="Take the place of a catalog that cannot be read whole, as after a dropped table.")
    ] = False,
    reopen: Annotated[bool, typer.Option("--reopen", help="Only let a database open that a kill left closed.")] = False,
    catalog_id: Annotated[str, typer.Option(help="Which catalog's backups; the target's own unless given.")] = "",
    backups: Store = "backups", catalog: CatalogName = "main", policy: PolicyName = "default",
) -> None:  # fmt: skip
    """Restore the catalog from a backup: verified, beside, compared; with --cutover in its place.

    With blocks of a Prefect server, or, where nothing is left but the backups and a PostgreSQL, with --store-url and
    --database-url. The old database is kept, and nothing is removed from any store until confirm-restore. Exit code 3:
    the cut-over is done, and a store could not be looked after.
    """
    with clear_errors():
        if not store_url:
            use_local_prefect()
        from blocks.catalog.clock import catalog_now
        from blocks.catalog.in_use import find_in_use
        from blocks.catalog.sweeps import database_lock
        from blocks.loading import load_block
        from blocks.policies import IntegrityPolicy
        from tasks.backups import cutover as cutting
        from tasks.backups.listing import mark_restoring
        from tasks.backups.replacing import plan_replacement
        from tasks.backups.restoring import Restoring, name_beside, restore_beside

        if store_url and not database_url:
            raise InvalidInputError(
                "name the database to restore to with --database-url postgresql://user@host/database"
            )
        opened = open_backups(
            store_url=store_url, endpoint=endpoint, database_url=database_url, identity_file=identity_file,
            backups=backups, catalog=catalog, policy=policy,
        )  # fmt: skip
        database, rules = opened.database, opened.policy
        assert database is not None  # noqa: S101 -- both ways open one
        rules = rules.model_copy(update={"scratch_folder": scratch}) if scratch else rules
        run = uuid4().hex[:8]
        # Needed after the cut-over, when it would be too late to be refused.
        checks = None if store_url else load_block(IntegrityPolicy, "default")
        with database_lock(database, "restore", holder=f"restore {run}"):
            if cutting.reopen(database):
                err.print(f"[yellow]{database.database} had been left closed by a cut-over; it is open again[/]")
            if reopen:
                return
            # Beside nothing is replaced: then it is enough to look.
            in_use = find_in_use(database, even_if_unreadable=even_if_unreadable or not cutover)
            cutting.require_settled(in_use, backup)
            if cutover:
                cutting.require_owner(database)
            _, chosen = opened.choose(backup, before=_time(before), catalog_id=catalog_id)
            if chosen.manifest is None:
                raise RefusedError(f"backup {chosen.id} cannot be restored: {chosen.why_not}")
            work = Restoring(
                opened.store, chosen.manifest, database, rules, opened.key, _metadata(metadata_objects, store_url),
                even_if_damaged, say=lambda step: err.print(f"· {plain(step)}", highlight=False),
            )  # fmt: skip
            _warn(mark_restoring(opened.store, chosen.manifest, run))
            cutting.drop_untouched(database, rules)
            name = name_beside(database.database, "restore", run)
            restored = restore_beside(work, name, note={"run": run})
            steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in restored.seconds.items())
            out.print(f"backup {chosen.id} is restored as database {name} ({steps})", highlight=False)
            _warn(*restored.notes)
            plan = plan_replacement(in_use, chosen.manifest, name)
            _show(plan)
            if not cutover:
                out.print("The catalog in use is untouched. With --cutover it takes that place.")
                return
            if in_use is not None and not yes:
                now = database.transaction(catalog_now)
                typer.confirm(_question(database.database, chosen, plan, now), abort=True)
            cut = cutting.cut_over(
                database, restored.database, chosen.manifest, run=run, wait=timedelta(minutes=10),
                waiting=lambda by: err.print(f"waiting for {plain(by)}", highlight=False),
                even_if_unreadable=even_if_unreadable,
            )  # fmt: skip
            _show_cut(cut, chosen.id)
            _settle(opened, chosen, metadata_objects, checks, take_over=cut.owned)


def _warn(*notes: str) -> None:
    for note in notes:
        if note:
            err.print(f"[yellow]{plain(note)}[/]", highlight=False)


def _show_cut(cut: CutOver, backup: str) -> None:
    kept = f"; the old one is {cut.kept_as}, read-only" if cut.kept_as else ""
    out.print(f"{cut.database} is backup {backup} now{kept}", highlight=False)
    _warn(cut.lacking)


def _show(plan: Plan) -> None:
    out.print(plain(plan.summary()), highlight=False)
    again = [item for item in plan.items if item.action == "erase again"]
    others = [item for item in plan.items[1:] if item.action != "erase again"]
    for item in (*again, *others[:SHOWN], *plan.skipped):
        out.print(plain(f"  {item.action}: {item.subject} {item.customer} ({item.because})"), highlight=False)
    if len(others) > SHOWN:
        out.print(f"  … and {len(others) - SHOWN} more; the flow restore shows 500", highlight=False)


def _question(database: str, chosen: Backup, plan: Plan, now: datetime) -> str:
    manifest = chosen.manifest
    assert manifest is not None  # noqa: S101 -- it was restored
    age = now - manifest.snapshot_at
    forgotten = sum(item.action == "forget" for item in plan.items)
    lost = f"{plan.objects} objects, {format_bytes(plan.size_bytes)}, that came since are forgotten" if forgotten else (
        "nothing came since"
    )  # fmt: skip
    if plan.skipped:
        lost = "what came since cannot be read"
    if again := sum(item.action in ("erase again", "delete again") for item in plan.items):
        lost += f"; {again} jobs that were erased or deleted since live again until that is done again"
    return (
        f"Replace {database} by backup {chosen.id} of {manifest.snapshot_at:%Y-%m-%d %H:%M:%S} UTC, {_span(age)} ago "
        f"({lost}), and keep the old one aside?"
    )


def _span(age: timedelta) -> str:
    minutes = int(age.total_seconds()) // 60
    days, hours = minutes // 1440, minutes // 60
    return f"{days} days" if days > 1 else f"{hours} hours" if hours > 1 else f"{minutes} minutes"


def _settle(opened: Opened, chosen: Backup, metadata: str, checks: IntegrityPolicy | None, *, take_over: bool) -> None:
    from flows.common.restored import settle

    assert opened.database is not None  # noqa: S101 -- opened by its block
    complete = True
    if checks is not None:
        result = settle(
            opened.database, opened.store, chosen.manifest, metadata=_metadata(metadata, ""), rules=opened.policy,
            integrity=checks, run="by hand", take_over=take_over, key=opened.key,
        )  # fmt: skip
        out.print(plain(result.summary()), highlight=False)
        for line in [*(f"lost its bytes: {key}" for key in result.lost[:20]), *result.failed[:20]]:
            out.print(f"  {plain(line)}", highlight=False)
        complete = result.complete
    out.print(
        "Nothing is removed from any store until somebody runs the flow confirm-restore (with "
        "take_over_buckets, where the buckets do not carry this restore's epoch yet)."
    )
    if not complete:
        err.print("[yellow]the catalog is restored, and not all of its stores could be looked after (above)[/]")
        raise typer.Exit(3)


def _metadata(said: str, store_url: str) -> Literal["none", "missing", "all"]:
    if said not in ("none", "missing", "all"):
        raise InvalidInputError(f"--metadata-objects {shown(said)}: it is none, missing or all")
    # Without blocks nothing is known of the stores that they would be brought back to.
    return "none" if store_url else said  # type: ignore[return-value]  # looked at above


def _time(said: str) -> datetime | None:
    if not said:
        return None
    try:
        at = datetime.fromisoformat(said)
    except ValueError as error:
        raise InvalidInputError(f"{shown(said)} is no time: write for example 2026-11-24T03:00Z") from error
    return at
