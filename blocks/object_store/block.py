"""The block that points at one bucket of one S3 server, and the clients made from it."""

from __future__ import annotations

import re
import threading
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from obstore.store import S3Store
from prefect.blocks.core import Block
from prefect_aws.credentials import AwsCredentials, MinIOCredentials
from pydantic import Field, field_validator

from blocks.errors import RefusedError

if TYPE_CHECKING:
    import boto3
    from botocore.credentials import ReadOnlyCredentials
    from types_boto3_s3.client import S3Client

MIB = 1024**2
GIB = 1024**3


class ObjectStore(Block):
    """One bucket (and prefix) of an S3 server, with the credentials to use it.

    Example:
        Load the block and look at a key:
        ```python
        from blocks.object_store import ObjectStore

        store = ObjectStore.load("BLOCK_NAME")
        store.s3.head_object(Bucket=store.bucket, Key=store.path("metadata.json"))
        ```
    """

    _block_type_name = "Object Store"
    _block_type_slug = "object-store"
    _logo_url = "https://cdn.sanity.io/images/3ugk85nk/production/d74b16fe84ce626345adf235a47008fea2869a60-225x225.png"  # type: ignore[assignment]  # pydantic turns it into a URL
    _documentation_url = "https://docs.aws.amazon.com/AmazonS3/latest/API/Welcome.html"  # type: ignore[assignment]  # as above
    _description = "One bucket of an S3 server (AWS, MinIO, SeaweedFS, Ceph), with the credentials to use it."

    # MinIO's first: a saved document is matched from the left, and AWS's fields are all optional.
    credentials: MinIOCredentials | AwsCredentials = Field(
        default=...,
        description="Credentials block: MinIO Credentials for any S3 server, AWS Credentials for AWS.",
        json_schema_extra={"position": 0},
    )
    bucket: str = Field(
        default="videos",
        min_length=3,
        max_length=63,
        description="Bucket that holds the objects.",
        json_schema_extra={"position": 1},
    )
    prefix: str = Field(
        default="",
        description="Prefix of every key in the bucket; empty for the whole bucket.",
        json_schema_extra={"position": 2},
    )
    endpoint_url: str = Field(
        default="",
        title="Endpoint URL",
        description="Address of the server, for example https://s3.internal:9000; empty for AWS.",
        json_schema_extra={"position": 3},
    )
    public_endpoint_url: str = Field(
        default="",
        title="Public endpoint URL",
        description="Address that customers reach the server by, if it is another one; presigned URLs carry it.",
        json_schema_extra={"position": 4},
    )
    region: str = Field(
        default="us-east-1", min_length=1, description="Region to sign for.", json_schema_extra={"position": 5}
    )
    virtual_hosted: bool = Field(
        default=False,
        description="Whether the bucket is part of the host name, as AWS prefers.",
        json_schema_extra={"position": 6},
    )
    multipart_upload_part_bytes: int = Field(
        default=16 * MIB,
        ge=5 * MIB,
        le=5 * GIB,
        description="Bytes in one part of a large upload; S3 wants 5 MiB.",
        json_schema_extra={"position": 7},
    )
    multipart_copy_threshold_bytes: int = Field(
        default=5 * GIB,
        ge=5 * MIB,
        le=5 * GIB,
        description="Larger objects are copied in parts; AWS ends at 5 GiB.",
        json_schema_extra={"position": 8},
    )
    multipart_copy_part_bytes: int = Field(
        default=512 * MIB,
        ge=5 * MIB,
        le=5 * GIB,
        description="Bytes in one part of such a copy.",
        json_schema_extra={"position": 9},
    )
    timeout_seconds: int = Field(
        default=120,
        ge=1,
        le=3600,
        description="Seconds one request may take. Files on their way are 256 MiB: more, on a line below 2 MiB/s.",
        json_schema_extra={"position": 10},
    )
    retries: int = Field(
        default=4,
        ge=0,
        le=20,
        description="How often a request is tried again after a server error.",
        json_schema_extra={"position": 11},
    )

    @field_validator("endpoint_url", "public_endpoint_url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?", value):
            raise ValueError(f"{value!r} is not an address like https://host:port")
        if value and not 0 < (urlsplit(value).port or 443) < 65536:
            raise ValueError(f"{value!r} has no port from 1 to 65535")
        return value.rstrip("/")

    @field_validator("prefix")
    @classmethod
    def _is_a_prefix(cls, value: str) -> str:
        value = value.strip("/")
        if any(part in ("", ".", "..") for part in value.split("/")) and value:
            raise ValueError(f"{value!r} is not a prefix: no empty, '.' or '..' parts")
        if not value.isprintable():
            raise ValueError(f"{value!r} is not a prefix: it holds control characters")
        if "\\" in value:
            raise ValueError(f"{value!r} is not a prefix: some servers (SeaweedFS) take its backslash for a slash")
        return value

    def path(self, key: str) -> str:
        """The key as the server knows it: boto3 calls need it, obstore adds the prefix by itself."""
        return f"{self.prefix}/{key}" if self.prefix else key

    @property
    def keys(self) -> ReadOnlyCredentials:
        """The access key, secret and token as they are now; a role's change with time.

        Raises:
            RefusedError: the credentials block names none, and the machine has none.
        """
        found = self.session.get_credentials()
        if found is None:
            raise RefusedError(f"no credentials for bucket {self.bucket}: fill in the block's credentials")
        return found.get_frozen_credentials()

    @property
    def session(self) -> boto3.Session:
        """A boto3 session with the block's credentials (one a process for equal ones).

        Raises:
            RefusedError: the secret is the asterisks that a form shows in its place.
        """
        secret = (
            self.credentials.minio_root_password
            if isinstance(self.credentials, MinIOCredentials)
            else self.credentials.aws_secret_access_key
        )
        if secret is not None and set(secret.get_secret_value()) == {"*"}:
            raise RefusedError(
                f"the Object Store block for bucket {self.bucket} was saved with a hidden secret (asterisks): open it "
                "in the UI, select its credentials block again, and save"
            )
        return _session(self.credentials)

    @property
    def s3(self) -> S3Client:
        """A boto3 client for control calls (one a process for equal settings)."""
        return _boto3_client(_Settings(self, of_bucket=False), self.endpoint_url)

    @property
    def public_s3(self) -> S3Client:
        """A boto3 client that signs for the address customers use."""
        return _boto3_client(_Settings(self, of_bucket=False), self.public_endpoint_url or self.endpoint_url)

    @property
    def fast(self) -> S3Store:
        """An obstore client for the hot loops; its keys are relative to the prefix."""
        return _obstore_client(_Settings(self), self.endpoint_url, checksums=False)

    @property
    def checked(self) -> S3Store:
        """As `fast`, and every body and part carries its SHA-256 in a header, for servers that look at it."""
        return _obstore_client(_Settings(self), self.endpoint_url, checksums=True)

    def copier(self, source: ObjectStore) -> S3Store:
        """An obstore client that copies from a bucket of the same server into this one; its keys are whole paths."""
        return _copying_client(_Settings(source), _Settings(self), self.endpoint_url)

    @property
    def public_fast(self) -> S3Store:
        """An obstore client that signs for the address customers use."""
        return _obstore_client(_Settings(self), self.public_endpoint_url or self.endpoint_url, checksums=False)


class _Settings:
    """What a client is made from, hashable: a changed secret makes a new client, an equal block shares one.

    boto3 is told the bucket with each call: one client serves a whole server. Each costs 0.1 s, and so many objects
    that forty of them, one for each prefix, made Python's collector stop everything for a second.
    """

    def __init__(self, store: ObjectStore, *, of_bucket: bool = True) -> None:
        self.store = store
        self._identity = (
            hash(store.credentials), store.region, store.virtual_hosted, store.timeout_seconds, store.retries,
            *((store.bucket, store.prefix) if of_bucket else ()),
        )  # fmt: skip

    def __hash__(self) -> int:
        return hash(self._identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Settings) and self._identity == other._identity


_making_a_client = threading.Lock()
"""A session must not be asked for two clients at once; what it says of credentials may be read by many."""


@lru_cache(maxsize=64)
def _session(credentials: MinIOCredentials | AwsCredentials) -> boto3.Session:
    return credentials.get_boto3_session()


@lru_cache(maxsize=64)
def _boto3_client(settings: _Settings, endpoint_url: str) -> S3Client:
    from botocore.config import Config

    store = settings.store
    options: dict[str, Any] = {
        "region_name": store.region,
        "config": Config(
            # botocore still presigns with SigV2 by default where it can, which SeaweedFS answers with 403.
            signature_version="s3v4",
            # The newer default checksums broke several servers; what protects a body is chosen by the probe.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "virtual" if store.virtual_hosted else "path"},
            retries={"max_attempts": store.retries, "mode": "standard"},
            connect_timeout=10,
            read_timeout=store.timeout_seconds,
            max_pool_connections=64,
        ),
    }
    if endpoint_url:
        options["endpoint_url"] = endpoint_url
    with _making_a_client:
        client: S3Client = store.session.client("s3", **options)
    for operation in _ROOTS:
        client.meta.events.register(f"before-parse.s3.{operation}", _require_answer)
    return client


_ROOTS = {
    "DeleteObjects": b"DeleteResult",
    "ListMultipartUploads": b"ListMultipartUploadsResult",
    "ListObjectsV2": b"ListBucketResult",
}
"""What the answer to an operation is, in XML. botocore takes an empty one, or any other, for one with nothing in it:
each key would count as removed, and each bucket as empty."""


def _require_answer(operation_model: Any, response_dict: dict[str, Any], **_: object) -> None:
    from botocore.parsers import ResponseParserError

    if response_dict["status_code"] == 200 and _ROOTS[operation_model.name] not in response_dict["body"]:
        raise ResponseParserError(f"its answer to {operation_model.name} is none")


@lru_cache(maxsize=64)
def _obstore_client(settings: _Settings, endpoint_url: str, *, checksums: bool) -> S3Store:
    store = settings.store
    options: dict[str, Any] = {"checksum_algorithm": "SHA256"} if checksums else {}
    if endpoint_url:
        options["endpoint"] = endpoint_url
        if store.virtual_hosted:
            parts = urlsplit(endpoint_url)
            options["endpoint"] = f"{parts.scheme}://{store.bucket}.{parts.netloc}"
    return _s3_store(
        store, endpoint_url, prefix=store.prefix or None, virtual_hosted_style_request=store.virtual_hosted, **options
    )


@lru_cache(maxsize=64)
def _copying_client(source: _Settings, target: _Settings, endpoint_url: str) -> S3Store:
    # obstore copies inside "its" bucket only: it is told the source's name, which goes into the header of a copy, and
    # the target's address, where the request goes.
    store = target.store
    parts = urlsplit(endpoint_url or f"https://s3.{store.region}.amazonaws.com")
    address = (
        f"{parts.scheme}://{store.bucket}.{parts.netloc}"
        if store.virtual_hosted
        else f"{parts.scheme}://{parts.netloc}/{store.bucket}"
    )
    return _s3_store(source.store, endpoint_url, virtual_hosted_style_request=True, endpoint=address)


def _s3_store(store: ObjectStore, endpoint_url: str, **options: Any) -> S3Store:
    from obstore.auth.boto3 import Boto3CredentialProvider

    return S3Store(
        store.bucket,
        region=store.region,
        # Asks boto3, so that profiles, roles and sessions that renew themselves work here too.
        credential_provider=Boto3CredentialProvider(store.session),
        client_options={
            "allow_http": endpoint_url.startswith("http://"),
            "timeout": timedelta(seconds=store.timeout_seconds),
            "connect_timeout": timedelta(seconds=10),
        },
        retry_config={
            "max_retries": store.retries,
            "retry_timeout": timedelta(seconds=store.timeout_seconds),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=5),
                "base": 2,
            },
        },
        **options,
    )
