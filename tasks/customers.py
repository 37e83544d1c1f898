"""API keys and their quotas."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from sqlalchemy import Connection

from blocks.catalog import CatalogDatabase
from blocks.catalog import customers as rows
from blocks.catalog.customers import Customer
from blocks.catalog.migrating import require_current_schema
from blocks.errors import InvalidInputError
from blocks.units import MOST_BYTES, format_bytes, parse_bytes, shown
from tasks.checks import check_label


@dataclass(frozen=True)
class CreatedKey:
    """A new key; its secret exists here and nowhere else, and not in `repr`."""

    customer: Customer
    secret: str = field(repr=False)


@dataclass(frozen=True)
class QuotaChange:
    """A quota before and after."""

    before: Customer
    after: Customer

    def summary(self) -> str:
        """One line for a person."""
        line = (
            f"quota of {self.after.label}: {format_bytes(self.before.quota_bytes)} → "
            f"{format_bytes(self.after.quota_bytes)}; {format_bytes(self.after.used_bytes)} used"
        )
        if self.after.quota_bytes is not None and self.after.used_bytes > self.after.quota_bytes:
            line += "; what is stored stays, nothing more is taken in"
        return line


def create_key(catalog: CatalogDatabase, label: str, quota: str | int | None = "unlimited") -> CreatedKey:
    """A new API key. The secret is returned once; the catalog keeps its hash.

    Raises:
        InvalidInputError: not a label or a quota, or the label is taken.
    """
    require_current_schema(catalog)
    check_label(label)
    quota_bytes = parse_quota(quota)
    secret = f"tf_{secrets.token_urlsafe(32)}"
    customer = catalog.transaction(lambda connection: rows.create_customer(connection, label, secret, quota_bytes))
    return CreatedKey(customer, secret)


def list_keys(catalog: CatalogDatabase) -> list[Customer]:
    """All keys, by label."""
    require_current_schema(catalog)
    return catalog.transaction(rows.list_customers)


def set_quota(catalog: CatalogDatabase, *, api_key: str, quota: str | int | None) -> QuotaChange:
    """Raise, lower or lift a key's limit: bytes, a size like `10 GiB`, or `unlimited`; 0 takes nothing in.

    Raises:
        NotFoundError: no such key.
        InvalidInputError: not a quota.
    """
    require_current_schema(catalog)
    quota_bytes = parse_quota(quota)

    def change(connection: Connection) -> QuotaChange:
        found = rows.find_customer(connection, api_key)
        before = rows.lock_customer(connection, found.id)
        return QuotaChange(before, rows.set_quota(connection, found.id, quota_bytes))

    return catalog.transaction(change)


def set_disabled(catalog: CatalogDatabase, *, api_key: str, disabled: bool) -> Customer:
    """Disable a key, or enable it again; what it stored stays, and nothing is handed out or taken in meanwhile."""
    require_current_schema(catalog)

    def change(connection: Connection) -> Customer:
        found = rows.find_customer(connection, api_key)
        return rows.set_disabled(connection, found.id, disabled=disabled)

    return catalog.transaction(change)


def parse_quota(quota: str | int | None) -> int | None:
    """Bytes; None is unlimited."""
    if quota is None:
        return None
    if isinstance(quota, int):
        if not 0 <= quota <= MOST_BYTES:
            raise InvalidInputError(f"that quota is refused: 0 to {MOST_BYTES} bytes, or unlimited")
        return quota
    if quota.strip().lower() in ("unlimited", "none", "null"):
        return None
    try:
        return parse_bytes(quota)
    except InvalidInputError:
        raise InvalidInputError(
            f"{shown(quota)} is no quota; write for example 500 MiB, 10 GiB, 0 or unlimited"
        ) from None
