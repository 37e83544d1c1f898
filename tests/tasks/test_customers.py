"""Keys and quotas."""

from __future__ import annotations

import hashlib

import pytest

from blocks.catalog import CatalogDatabase
from blocks.errors import InvalidInputError, NotFoundError
from tasks.customers import create_key, list_keys, set_disabled, set_quota
from tests.helpers import execute, one


def test_a_secret_is_stored_as_its_hash_only(catalog: CatalogDatabase) -> None:
    created = create_key(catalog, "acme", "10 GiB")
    assert one(catalog, "SELECT key_hash FROM api_keys") == hashlib.sha256(created.secret.encode()).hexdigest()
    assert created.secret not in repr(created)
    assert create_key(catalog, "other").secret != created.secret


def test_labels(catalog: CatalogDatabase) -> None:
    create_key(catalog, "acme")
    with pytest.raises(InvalidInputError, match="exists already"):
        create_key(catalog, "acme")
    for label in ("", "12345", "a b", "a/b", "-x", "x" * 64, "é", "a\n", "\0"):
        with pytest.raises(InvalidInputError, match="is no label"):
            create_key(catalog, label)
    assert [customer.label for customer in list_keys(catalog)] == ["acme"]


def test_a_key_is_found_by_label_and_id(catalog: CatalogDatabase) -> None:
    created = create_key(catalog, "acme").customer
    assert set_quota(catalog, api_key=str(created.id), quota="1 KiB").after.quota_bytes == 1024
    with pytest.raises(NotFoundError, match="there are: acme"):
        set_quota(catalog, api_key="acm", quota="1")


@pytest.mark.parametrize(
    ("quota", "size"),
    [("0", 0), (0, 0), ("10 GiB", 10 * 1024**3), ("1.5 MB", 1_500_000), ("Unlimited", None), (None, None)],
)
def test_quotas(catalog: CatalogDatabase, quota: str | int | None, size: int | None) -> None:
    create_key(catalog, "acme", "5 B")
    change = set_quota(catalog, api_key="acme", quota=quota)
    assert (change.before.quota_bytes, change.after.quota_bytes) == (5, size)


@pytest.mark.parametrize("quota", ["", "-1", "abc", "1e9", "10 GiBB", "9" * 30, -1, 2**63, "٣"])
def test_quotas_that_are_none(catalog: CatalogDatabase, quota: str | int) -> None:
    create_key(catalog, "acme", "5 B")
    with pytest.raises(InvalidInputError, match="quota"):
        set_quota(catalog, api_key="acme", quota=quota)
    assert list_keys(catalog)[0].quota_bytes == 5


def test_a_lowered_quota_keeps_what_is_stored(catalog: CatalogDatabase) -> None:
    create_key(catalog, "acme", "10 GiB")
    execute(catalog, "UPDATE api_keys SET storage_used_bytes = 1000")
    assert "nothing more is taken in" in set_quota(catalog, api_key="acme", quota="1").summary()


def test_disabling_twice_keeps_the_first_time(catalog: CatalogDatabase) -> None:
    create_key(catalog, "acme")
    first = set_disabled(catalog, api_key="acme", disabled=True).disabled_at
    assert first is not None
    assert set_disabled(catalog, api_key="acme", disabled=True).disabled_at == first
    assert set_disabled(catalog, api_key="acme", disabled=False).disabled_at is None
