"""Addresses and keys as somebody types them at three in the morning: what is not understood is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from blocks.encryption import new_key
from blocks.errors import InvalidInputError, RefusedError
from flows.commands.options import _database_at, _key, open_backups


def test_what_a_databases_address_says_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGSSLMODE", raising=False)
    made = _database_at("postgresql://shop@db/catalog?sslmode=require&port=6543")
    assert (made.host, made.port, made.username, made.database, made.sslmode) == (
        "db", 6543, "shop", "catalog", "require",
    )  # fmt: skip
    assert _database_at("postgresql://shop@/catalog?host=/run/postgresql").host == "/run/postgresql"
    monkeypatch.setenv("PGSSLMODE", "disable")
    assert _database_at("postgresql://shop@db/catalog").sslmode == "disable"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("postgresql://db/catalog", "says not as whom"),
        ("postgresql://shop@db/catalog?password=hunter2", "set PGPASSWORD"),
        ("postgresql://shop:hunter2@db/catalog", "set PGPASSWORD"),
        ("postgresql://shop@db/catalog?sslcert=/x", "'sslcert' is no option of a database's address"),
        ("postgresql://shop@db/catalog?port=many", "the address, or PGSSLMODE, is refused"),
        ("postgresql://shop@db/catalog?sslmode=please", "the address, or PGSSLMODE, is refused"),
        ("mysql://shop@db/catalog", "no address of a database"),
    ],
)
def test_what_is_not_understood_is_refused(address: str, why: str) -> None:
    with pytest.raises((InvalidInputError, RefusedError), match=why) as error:
        _database_at(address)
    assert "hunter2" not in str(error.value)


def test_a_file_of_keys(tmp_path: Path) -> None:
    first, second = (new_key().identity for _ in range(2))
    assert first is not None
    assert second is not None
    file = tmp_path / "key.txt"
    file.write_text(f"# created: today\n{first.get_secret_value()}\n")
    made = _key(str(file))
    assert made is not None
    assert made.opens
    file.write_text(f"{first.get_secret_value()}\n{second.get_secret_value()}\n")
    with pytest.raises(InvalidInputError, match="more than one line"):
        _key(str(file))


def test_options_that_would_not_be_looked_at_are_refused() -> None:
    """Somebody would restore from another place than they said."""
    with pytest.raises(InvalidInputError, match="--endpoint is the server of --store-url"):
        open_backups(endpoint="http://127.0.0.1:9")
    with pytest.raises(InvalidInputError, match="leave them out with --store-url"):
        open_backups(store_url="s3://backups", policy="nightly")
