"""What the flows about backups share: the blocks they open, and the settings that travel along."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from prefect import get_run_logger
from prefect.blocks.core import Block

from blocks.catalog import CatalogDatabase
from blocks.catalog.checks import newest_checks
from blocks.catalog.clock import catalog_now
from blocks.catalog.locations import store_name
from blocks.encryption import BackupKey
from blocks.errors import StorageError
from blocks.loading import block_names, load_block
from blocks.object_store import ObjectStore
from blocks.policies import POLICIES, BackupPolicy
from flows.common.opening import markdown_rows
from tasks.backups.health import Health, judge
from tasks.backups.listing import Backups


def open_key(policy: BackupPolicy) -> BackupKey | None:
    """The key that backups are encrypted with; None where the policy wants none."""
    return load_block(BackupKey, policy.encryption_key) if policy.encryption_key else None


def stores_of(database: CatalogDatabase) -> Callable[[int], ObjectStore]:
    """Opens the store of a location's id, each once; a block that is gone is told for each object that needs it."""
    opened: dict[int, ObjectStore | StorageError] = {}
    # Threads ask for it, and which Prefect server is meant is in the context of the one that called us.
    context = copy_context()

    def store(location_id: int) -> ObjectStore:
        if location_id not in opened:
            try:
                name = database.transaction(lambda connection: store_name(connection, location_id))
                opened[location_id] = context.copy().run(load_block, ObjectStore, name)
            except StorageError as error:
                opened[location_id] = error
        found = opened[location_id]
        if isinstance(found, StorageError):
            raise found
        return found

    return store


def settings() -> dict[str, Any]:
    """Every policy and where the stores are: what one has to set up anew on an empty machine. No secrets."""
    found: dict[str, Any] = {}
    kinds: list[type[Block]] = [*POLICIES, ObjectStore]
    for kind in kinds:
        for name in block_names(kind):
            try:
                block: Block = load_block(kind, name)
            except (StorageError, ValueError) as error:  # one that nobody can use keeps no catalog from being saved
                get_run_logger().warning(
                    "the block %s %s is not in the backup: %s", kind.__name__, name, type(error).__name__
                )
                continue
            own = set(kind.model_fields) - {"credentials"}
            found.setdefault(kind.get_block_type_slug(), {})[name] = json.loads(block.model_dump_json(include=own))
    return found


def health_of(database: CatalogDatabase, backups: Backups, policy: BackupPolicy) -> Health:
    """The state of a catalog's backups by PostgreSQL's clock."""
    drills = database.transaction(lambda connection: newest_checks(connection, "drill"))
    return judge(backups, drills, policy, database.transaction(catalog_now))


def health_markdown(health: Health) -> str:
    """The figures as a table."""
    return markdown_rows(health.rows(), head=("figure", "value"))
