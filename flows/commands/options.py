"""Options that several commands have, and the backups they name: by blocks, or by addresses where Prefect is lost."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit
from uuid import UUID

import typer
from pydantic import SecretStr, ValidationError

from blocks.errors import InvalidInputError, NotFoundError, RefusedError
from blocks.units import shown
from flows.commands.console import err
from flows.commands.server import use_local_prefect

if TYPE_CHECKING:
    from blocks.catalog import CatalogDatabase
    from blocks.encryption import BackupKey
    from blocks.object_store import ObjectStore
    from blocks.policies import BackupPolicy
    from tasks.backups.listing import Backup, Backups

NO_DATABASE = "that is no address of a database: write postgresql://user@host:5432/database"

StoreUrl = Annotated[
    str, typer.Option(help="s3://bucket/prefix of the backups, where no Prefect is left; its keys in AWS_… variables.")
]
Endpoint = Annotated[str, typer.Option(help="With --store-url: address of the S3 server; empty for AWS.")]
DatabaseUrl = Annotated[
    str, typer.Option(help="postgresql://user@host:port/database to restore to; its password in PGPASSWORD.")
]
IdentityFile = Annotated[
    str, typer.Option(help="File with the secret key (AGE-SECRET-KEY-1…), or AGE_IDENTITY; for encrypted backups.")
]
Store = Annotated[str, typer.Option("--backups", help="Name of the Object Store block that holds the backups.")]
CatalogName = Annotated[str, typer.Option("--catalog", help="Name of the Catalog Database block.")]
PolicyName = Annotated[str, typer.Option("--policy", help="Name of the Backup Policy block.")]
BackupId = Annotated[str, typer.Argument(help="A backup's id, or latest.", metavar="BACKUP")]


@dataclass(frozen=True)
class Opened:
    """Where the backups are, and of which catalog; `database` is None where only a store was named."""

    store: ObjectStore
    database: CatalogDatabase | None
    policy: BackupPolicy
    key: BackupKey | None

    def groups(self, catalog_id: str = "") -> list[Backups]:
        """As `tasks.backups.listing.groups_of`."""
        from blocks.catalog.in_use import find_in_use
        from tasks.backups.listing import groups_of

        # To look needs less than to replace it.
        in_use = find_in_use(self.database, even_if_unreadable=True) if self.database is not None else None
        return groups_of(self.store, in_use, catalog_id)

    def choose(self, wanted: str, *, before: datetime | None = None, catalog_id: str = "") -> tuple[UUID, Backup]:
        """As `tasks.backups.listing.choose`."""
        from tasks.backups.listing import choose

        return choose(self.groups(catalog_id), wanted, before=before)

    def named(self, wanted: str) -> tuple[UUID, Backup]:
        """By its id also one that cannot be restored, such as to verify it again; else as `choose`."""
        for group in self.groups():
            for one in group.all:
                if one.id == wanted:
                    return group.catalog_id, one
        return self.choose(wanted)


def open_backups(
    *,
    store_url: str = "",
    endpoint: str = "",
    database_url: str = "",
    identity_file: str = "",
    backups: str = "backups",
    catalog: str = "main",
    policy: str = "default",
) -> Opened:
    """By blocks, or by addresses where no Prefect server is left."""
    if endpoint and not store_url:
        raise InvalidInputError("--endpoint is the server of --store-url; without that, a block says where backups are")
    if store_url and (backups, catalog, policy) != ("backups", "main", "default"):
        raise InvalidInputError("--backups, --catalog and --policy name blocks: leave them out with --store-url")
    if not store_url:
        use_local_prefect()  # before anything imports Prefect, which reads its settings then
    from blocks.policies import BackupPolicy

    key = _key(identity_file)
    if store_url:
        database = _database_at(database_url) if database_url else None
        return Opened(_store_at(store_url, endpoint), database, BackupPolicy(), key)
    from blocks.catalog import CatalogDatabase
    from blocks.encryption import BackupKey
    from blocks.loading import load_block
    from blocks.object_store import ObjectStore

    try:
        rules = load_block(BackupPolicy, policy)
    except NotFoundError:
        if policy != "default":
            raise
        # What was lost with Prefect may be in the very backups that are asked for.
        err.print("[yellow]no Backup Policy default is saved: what it starts with is taken[/]", highlight=False)
        rules = BackupPolicy()
    if key is None and rules.encryption_key:
        key = load_block(BackupKey, rules.encryption_key)
    return Opened(
        load_block(ObjectStore, backups),
        _database_at(database_url) if database_url else load_block(CatalogDatabase, catalog), rules, key,
    )  # fmt: skip


def _store_at(url: str, endpoint: str) -> ObjectStore:
    from prefect_aws.credentials import AwsCredentials, MinIOCredentials

    from blocks.object_store import ObjectStore

    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc:
        raise InvalidInputError(f"{shown(url)} is no address of backups: write s3://bucket or s3://bucket/prefix")
    user, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    credentials: MinIOCredentials | AwsCredentials = AwsCredentials()
    if endpoint:
        if not user or not secret:
            raise RefusedError(f"no keys for {endpoint}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        credentials = MinIOCredentials(minio_root_user=user, minio_root_password=secret)
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    try:
        return ObjectStore(
            credentials=credentials, bucket=parts.netloc, prefix=parts.path, endpoint_url=endpoint, region=region
        )
    except ValueError as error:
        raise InvalidInputError(f"{shown(url)} at {shown(endpoint) if endpoint else 'AWS'}: {_told(error)}") from error


def _told(error: ValueError) -> str:
    from blocks.loading import why_invalid

    return why_invalid(error) if isinstance(error, ValidationError) else str(error)


def _database_at(url: str) -> CatalogDatabase:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    from blocks.catalog import CatalogDatabase

    try:
        parts = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise InvalidInputError(NO_DATABASE) from error
    host = parts.host or str(parts.query.get("host", ""))
    if not parts.drivername.startswith("postgres") or not host or not parts.database:
        raise InvalidInputError(NO_DATABASE)
    if parts.password or "password" in parts.query:
        raise RefusedError("a password on a command line is seen by everybody: set PGPASSWORD, and leave it out here")
    if not parts.username:
        raise InvalidInputError(f"the address says not as whom: {NO_DATABASE}")
    if unknown := sorted(set(parts.query) - {"host", "port", "sslmode"}):
        raise InvalidInputError(
            f"{shown(unknown[0])} is no option of a database's address here: host, port and sslmode are"
        )
    password = os.environ.get("PGPASSWORD")
    try:
        return CatalogDatabase(
            host=host,
            port=parts.port or int(str(parts.query.get("port", 5432))),
            database=parts.database,
            username=parts.username,
            password=SecretStr(password) if password else None,
            sslmode=str(parts.query.get("sslmode") or os.environ.get("PGSSLMODE", "prefer")),
        )
    except ValueError as error:
        raise InvalidInputError(f"the address, or PGSSLMODE, is refused: {_told(error)}") from error


def _key(identity_file: str) -> BackupKey | None:
    from blocks.encryption import BackupKey

    said = os.environ.get("AGE_IDENTITY", "")
    if identity_file:
        try:
            said = Path(os.path.expanduser(identity_file)).read_text()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise InvalidInputError(f"the key file {shown(identity_file)} cannot be read: {why}") from error
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        return None
    if len(lines) > 1:
        raise InvalidInputError("the key file holds more than one line: name a file with the one key of these backups")
    try:
        return BackupKey(identity=SecretStr(lines[0]))
    except ValueError as error:
        raise InvalidInputError("the key file holds no age key: it begins with AGE-SECRET-KEY-1") from error
