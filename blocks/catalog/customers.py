"""API keys: who they are, what they may keep, what they keep."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from blocks.errors import InvalidInputError, NotFoundError, RefusedError
from blocks.units import format_bytes, shown

NEARLY_FULL_PERCENT, FULL_PERCENT = 80, 100
"""Of a quota, used and reserved: where somebody should be told."""


@dataclass(frozen=True)
class Customer:
    """An API key as the catalog knows it; sizes in bytes, `quota_bytes` None is unlimited."""

    id: int
    label: str
    quota_bytes: int | None
    used_bytes: int
    reserved_bytes: int
    created_at: datetime
    disabled_at: datetime | None

    @property
    def free_bytes(self) -> int | None:
        """What still fits; None where there is no limit."""
        if self.quota_bytes is None:
            return None
        return max(0, self.quota_bytes - self.used_bytes - self.reserved_bytes)

    def over_quota(self, asked_bytes: int, outputs_bytes: int = 0) -> str:
        """Why `asked_bytes` more do not fit (`outputs_bytes` of them for what will be made), and the way out."""
        over = self.used_bytes + self.reserved_bytes + asked_bytes - (self.quota_bytes or 0)
        asked = f"{format_bytes(asked_bytes)} asked"
        if outputs_bytes:
            asked += f" ({format_bytes(asked_bytes - outputs_bytes)} and {format_bytes(outputs_bytes)} for its outputs)"
        return (
            f"quota exceeded for key {self.label}: {format_bytes(self.used_bytes)} used + "
            f"{format_bytes(self.reserved_bytes)} reserved + {asked} > {format_bytes(self.quota_bytes)}; "
            f"{format_bytes(self.free_bytes)} is free, remove {format_bytes(over)} or raise the quota"
        )


# A reservation that has lapsed holds nothing, although the next admission is what takes it off the counter.
_SELECT = """
SELECT k.id, k.label, k.storage_quota_bytes AS quota_bytes, k.storage_used_bytes AS used_bytes,
       (k.storage_reserved_bytes - coalesce((SELECT sum(r.bytes) FROM reservations r
         WHERE r.api_key_id = k.id AND r.expires_at <= clock_timestamp()), 0))::bigint AS reserved_bytes,
       k.created_at, k.disabled_at
  FROM api_keys k
"""


def storable(value: str) -> bool:
    """Whether PostgreSQL can hold a text at all: no NUL, no lone surrogate."""
    return "\0" not in value and not any(0xD800 <= ord(char) <= 0xDFFF for char in value)


def hash_secret(secret: str) -> str:
    """How a secret is stored. Secrets are 256 random bits, so that a plain hash cannot be guessed back."""
    return hashlib.sha256(secret.encode()).hexdigest()


def find_customer(connection: Connection, reference: str) -> Customer:
    """The key with this label, or with this id.

    Raises:
        NotFoundError: no such key; the message lists some labels that exist.
    """
    if not storable(reference):
        raise NotFoundError(f"no API key {shown(reference)}")
    number = int(reference) if reference.isascii() and reference.isdigit() and len(reference) <= 18 else None
    row = connection.execute(
        text(f"{_SELECT} WHERE k.label = :label OR k.id = :id ORDER BY (k.label = :label) DESC LIMIT 1"),
        {"label": reference, "id": number},
    ).one_or_none()
    if row is None:
        labels = connection.execute(text("SELECT label FROM api_keys ORDER BY label LIMIT 21")).scalars().all()
        known = ", ".join(labels[:20]) + (", …" if len(labels) > 20 else "") if labels else "none yet"
        raise NotFoundError(f"no API key {shown(reference)}; there are: {known}")
    return Customer(**row._mapping)


def require_enabled(customer: Customer) -> Customer:
    """The same customer.

    Raises:
        RefusedError: the key is disabled.
    """
    if customer.disabled_at is not None:
        raise RefusedError(
            f"API key {customer.label} has been disabled since {customer.disabled_at:%Y-%m-%d %H:%M} UTC"
        )
    return customer


def lock_customer(connection: Connection, customer_id: int) -> Customer:
    """The customer, whose row stays locked until the transaction ends; a transaction locks one key, and first."""
    # Two statements: the lock may be waited for, and what is read must be newer than the wait.
    connection.execute(text("SELECT 1 FROM api_keys WHERE id = :id FOR NO KEY UPDATE"), {"id": customer_id})
    return read_customer(connection, customer_id)


def read_customer(connection: Connection, customer_id: int) -> Customer:
    """The customer as of now."""
    row = connection.execute(text(f"{_SELECT} WHERE k.id = :id"), {"id": customer_id}).one()
    return Customer(**row._mapping)


def list_customers(connection: Connection) -> list[Customer]:
    """All keys, by label."""
    return [Customer(**row._mapping) for row in connection.execute(text(f"{_SELECT} ORDER BY k.label"))]


def create_customer(connection: Connection, label: str, secret: str, quota_bytes: int | None) -> Customer:
    """A new key; only the secret's hash is written.

    Raises:
        InvalidInputError: the label is taken.
    """
    try:
        connection.execute(
            text("INSERT INTO api_keys (label, key_hash, storage_quota_bytes) VALUES (:label, :hash, :quota)"),
            {"label": label, "hash": hash_secret(secret), "quota": quota_bytes},
        )
    except IntegrityError as error:
        raise InvalidInputError(f"an API key {label} exists already; choose another label") from error
    return find_customer(connection, label)


def set_quota(connection: Connection, customer_id: int, quota_bytes: int | None) -> Customer:
    """Change the limit; what is stored already stays, even above it."""
    connection.execute(
        text("UPDATE api_keys SET storage_quota_bytes = :quota WHERE id = :id"),
        {"quota": quota_bytes, "id": customer_id},
    )
    return lock_customer(connection, customer_id)


def set_disabled(connection: Connection, customer_id: int, *, disabled: bool) -> Customer:
    """Disable a key, or enable it again; its objects stay."""
    connection.execute(
        text(
            "UPDATE api_keys SET disabled_at = CASE WHEN :disabled THEN coalesce(disabled_at, clock_timestamp()) END "
            "WHERE id = :id"
        ),
        {"disabled": disabled, "id": customer_id},
    )
    return lock_customer(connection, customer_id)
