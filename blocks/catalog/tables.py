"""The catalog's tables. Alembic's migrations are what creates them; a test compares the two.

Sizes are bytes, times are UTC, hashes are 64 lower-case hexadecimal digits of SHA-256.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import BigInteger, Column, DateTime, Identity, Interval, Numeric, Table, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel


class JobStatus(StrEnum):
    """Life of a job. `failed` and `cleaned_up` are final and free the place in the deduplication index."""

    UPLOADING = "uploading"
    QUEUED = "queued"
    PROCESSING = "processing"
    TRANSCODING = "transcoding"
    COMPLETED = "completed"
    FAILED = "failed"
    CLEANED_UP = "cleaned_up"


class ObjectKind(StrEnum):
    """What an object is to its job. An HLS kind has many rows: its playlist and each segment."""

    ORIGINAL = "original"
    VIDEO_360P = "video_360p"
    VIDEO_720P = "video_720p"
    AUDIO = "audio"
    TRANSCRIPT_TXT = "transcript_txt"
    TRANSCRIPT_SRT = "transcript_srt"
    TRANSCRIPT_VTT = "transcript_vtt"
    TRANSCRIPT_JSON = "transcript_json"
    HLS_360P = "hls_360p"
    HLS_720P = "hls_720p"
    METADATA = "metadata"
    UPLOAD = "upload"

    @property
    def is_hls(self) -> bool:
        """Whether the kind is a playlist with segments, served together."""
        return self in (ObjectKind.HLS_360P, ObjectKind.HLS_720P)


class ObjectState(StrEnum):
    """`pending` bytes may exist and are not counted; `purging` rows are released: their bytes may be removed."""

    PENDING = "pending"
    LIVE = "live"
    TRASHED = "trashed"
    PURGING = "purging"
    MISSING = "missing"
    CORRUPT = "corrupt"


COUNTED_STATES = (ObjectState.LIVE, ObjectState.MISSING, ObjectState.CORRUPT)
"""States whose `size_bytes` a customer's quota carries (the trigger `count_stored_bytes` knows the same three)."""


class UploadStatus(StrEnum):
    """Life of a presigned upload form."""

    OPEN = "open"
    COMPLETED = "completed"
    FAILED = "failed"


def _text(default: str | None = None) -> dict[str, Any]:
    return {"sa_type": Text} | ({"sa_column_kwargs": {"server_default": default}} if default is not None else {})


def _time(*, now: bool = False) -> dict[str, Any]:
    column: dict[str, Any] = {"sa_type": DateTime(timezone=True)}
    return column | ({"sa_column_kwargs": {"server_default": func.clock_timestamp()}} if now else {})


def _bytes() -> dict[str, Any]:
    return {"sa_type": BigInteger, "sa_column_kwargs": {"server_default": text("0")}}


def _flag() -> dict[str, Any]:
    return {"sa_column_kwargs": {"server_default": text("false")}}


class CatalogIdentity(SQLModel, table=True):
    """The one row that says which catalog this is; the bucket carries the same (invariant 7)."""

    __tablename__ = "catalog_identity"
    only_row: bool = Field(default=True, primary_key=True)
    catalog_id: UUID = Field(default_factory=uuid4)
    epoch: int = 1


class ApiKey(SQLModel, table=True):
    """A customer. The secret is shown once and kept as its SHA-256; a null quota is no limit."""

    __tablename__ = "api_keys"
    id: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    label: str = Field(**_text())
    key_hash: str = Field(**_text())
    storage_quota_bytes: int | None = Field(default=None, sa_type=BigInteger)
    storage_used_bytes: int = Field(default=0, **_bytes())
    storage_reserved_bytes: int = Field(default=0, **_bytes())
    created_at: datetime | None = Field(default=None, nullable=False, **_time(now=True))
    disabled_at: datetime | None = Field(default=None, **_time())


class Job(SQLModel, table=True):
    """One video and everything made from it."""

    __tablename__ = "jobs"
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    api_key_id: int = Field(sa_type=BigInteger)
    status: str = Field(**_text())
    filename: str = Field(**_text())
    source_file_hash: str | None = Field(default=None, **_text())
    reprocess: bool = Field(default=False, **_flag())
    error_message: str | None = Field(default=None, **_text())
    hold: str | None = Field(default=None, **_text())
    created_at: datetime | None = Field(default=None, nullable=False, **_time(now=True))
    updated_at: datetime | None = Field(default=None, nullable=False, **_time(now=True))
    completed_at: datetime | None = Field(default=None, **_time())
    last_accessed_at: datetime | None = Field(default=None, **_time())
    deleted_at: datetime | None = Field(default=None, **_time())
    purge_after: datetime | None = Field(default=None, **_time())


class Location(SQLModel, table=True):
    """Where objects can live, declared by the operator; `capabilities` is what the last probe saw."""

    __tablename__ = "locations"
    id: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    name: str = Field(**_text())
    store: str = Field(**_text())
    bucket: str = Field(**_text())
    prefix: str = Field(default="", **_text(""))
    storage_class: str = Field(default="", **_text(""))
    tier: str = Field(default="hot", **_text("hot"))
    price_per_gib_month: Decimal | None = Field(default=None, sa_type=Numeric)
    needs_restore: bool = Field(default=False, **_flag())
    capabilities: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    probed_at: datetime | None = Field(default=None, **_time())


class StoredObject(SQLModel, table=True):
    """Bytes under one key. `generation` rises with every change of place, encoding or state (invariant 6)."""

    __tablename__ = "stored_objects"
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    job_id: UUID
    api_key_id: int = Field(sa_type=BigInteger)
    kind: str = Field(**_text())
    name: str = Field(**_text())
    location_id: int = Field(sa_type=BigInteger)
    key: str = Field(**_text())
    size_bytes: int = Field(sa_type=BigInteger)
    stored_bytes: int = Field(sa_type=BigInteger)
    sha256: str = Field(**_text())
    codec: str = Field(default="identity", **_text("identity"))
    etag: str | None = Field(default=None, **_text())
    state: str = Field(default="pending", **_text("pending"))
    generation: int = Field(default=1, sa_type=BigInteger, sa_column_kwargs={"server_default": text("1")})
    url_expires_at: datetime | None = Field(default=None, **_time())
    created_at: datetime | None = Field(default=None, nullable=False, **_time(now=True))
    verified_at: datetime | None = Field(default=None, **_time())
    relocated_at: datetime | None = Field(default=None, **_time())


class Reservation(SQLModel, table=True):
    """Quota taken before the bytes arrive; it lapses at `expires_at` without anybody's help."""

    __tablename__ = "reservations"
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    api_key_id: int = Field(sa_type=BigInteger)
    job_id: UUID | None = None
    bytes: int = Field(sa_type=BigInteger)
    created_at: datetime | None = Field(default=None, nullable=False, **_time(now=True))
    expires_at: datetime = Field(**_time())


class Upload(SQLModel, table=True):
    """A presigned form that was handed out: what may arrive under `temp/`, and what became of it."""

    __tablename__ = "uploads"
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    api_key_id: int = Field(sa_type=BigInteger)
    job_id: UUID | None = None
    location_id: int = Field(sa_type=BigInteger)
    key: str = Field(**_text())
    filename: str = Field(**_text())
    size_bytes: int = Field(sa_type=BigInteger)
    status: str = Field(default="open", **_text("open"))
    result_job_id: UUID | None = None
    result_object_id: UUID | None = None
    created_at: datetime | None = Field(default=None, nullable=False, **_time(now=True))
    expires_at: datetime = Field(**_time())


class Relocation(SQLModel, table=True):
    """An intent: an object is being written under `key`, and takes its row over once those bytes are verified."""

    __tablename__ = "relocations"
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    object_id: UUID
    generation: int = Field(sa_type=BigInteger)
    operation: str = Field(**_text())
    location_id: int = Field(sa_type=BigInteger)
    key: str = Field(**_text())
    codec: str = Field(default="identity", **_text("identity"))
    state: str = Field(default="open", **_text("open"))
    old_location_id: int | None = Field(default=None, sa_type=BigInteger)
    old_key: str | None = Field(default=None, **_text())
    release_after: datetime | None = Field(default=None, **_time())
    created_at: datetime | None = Field(default=None, nullable=False, **_time(now=True))


class OperationLog(SQLModel, table=True):
    """One row for each object a run changed; partitioned by month, without foreign keys, so that it outlives all."""

    __tablename__ = "operation_log"
    id: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    at: datetime = Field(primary_key=True, **_time(now=True))
    run: str = Field(**_text())
    operation: str = Field(**_text())
    rule: str = Field(default="", **_text(""))
    api_key_id: int | None = Field(default=None, sa_type=BigInteger)
    job_id: UUID | None = None
    object_id: UUID | None = None
    before: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    after: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    bytes: int = Field(default=0, **_bytes())


def _table(model: type[SQLModel]) -> Table:
    table = SQLModel.metadata.tables[str(model.__tablename__)]
    assert isinstance(table, Table)  # noqa: S101 -- narrows the type; metadata holds nothing else
    return table


api_keys = _table(ApiKey)
jobs = _table(Job)
locations = _table(Location)
stored_objects = _table(StoredObject)
reservations = _table(Reservation)
uploads = _table(Upload)
relocations = _table(Relocation)
operation_log = _table(OperationLog)
catalog_identity = _table(CatalogIdentity)

OPERATION_LOG_KEEP = timedelta(days=400)
"""How long the log answers "where did this object go"."""

__all__ = [
    "COUNTED_STATES",
    "OPERATION_LOG_KEEP",
    "ApiKey",
    "CatalogIdentity",
    "Interval",
    "Job",
    "JobStatus",
    "Location",
    "ObjectKind",
    "ObjectState",
    "OperationLog",
    "Relocation",
    "Reservation",
    "StoredObject",
    "Upload",
    "UploadStatus",
    "api_keys",
    "catalog_identity",
    "jobs",
    "locations",
    "operation_log",
    "relocations",
    "reservations",
    "stored_objects",
    "uploads",
]
