"""The catalog's tables. Alembic's migrations are what creates them; a test compares the two.

Sizes are bytes, times are UTC, hashes are 64 lower-case hexadecimal digits of SHA-256.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import BigInteger, Column, DateTime, Identity, Numeric, Text, func, text
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


UNFINISHED = (JobStatus.UPLOADING, JobStatus.QUEUED, JobStatus.PROCESSING, JobStatus.TRANSCODING)
"""What a job is while somebody is at it, or was."""


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


class UploadStatus(StrEnum):
    """Life of a presigned upload form."""

    OPEN = "open"
    COMPLETED = "completed"
    FAILED = "failed"


# Column types and server defaults that many tables share; each returns a field.
def _text(default: str | None = None, *, optional: bool = False) -> Any:
    if default is not None:
        return Field(default=default, sa_type=Text, sa_column_kwargs={"server_default": default})
    return Field(default=None, sa_type=Text) if optional else Field(sa_type=Text)


def _time(*, now: bool = False, optional: bool = False, primary_key: bool = False) -> Any:
    kind: Any = DateTime(timezone=True)
    if now:
        default = {"server_default": func.clock_timestamp()}
        return Field(default=None, nullable=False, primary_key=primary_key, sa_type=kind, sa_column_kwargs=default)
    return Field(default=None, sa_type=kind) if optional else Field(sa_type=kind)


def _counted() -> Any:
    return Field(default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": text("0")})


def _flag() -> Any:
    return Field(default=False, sa_column_kwargs={"server_default": text("false")})


class CatalogIdentity(SQLModel, table=True):
    """The one row that says which catalog this is; the bucket carries the same (invariant 7)."""

    __tablename__ = "catalog_identity"
    only_row: bool = Field(default=True, primary_key=True)
    catalog_id: UUID = Field(default_factory=uuid4)
    epoch: int = 1
    frozen_since: datetime | None = _time(optional=True)
    confirmed_at: datetime | None = _time(optional=True)
    restored_from: str | None = _text(optional=True)
    claims_pending: bool = _flag()


class ApiKey(SQLModel, table=True):
    """A customer. The secret is shown once and kept as its SHA-256; a null quota is no limit."""

    __tablename__ = "api_keys"
    id: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    label: str = _text()
    key_hash: str = _text()
    storage_quota_bytes: int | None = Field(default=None, sa_type=BigInteger)
    storage_used_bytes: int = _counted()
    storage_reserved_bytes: int = _counted()
    created_at: datetime | None = _time(now=True)
    disabled_at: datetime | None = _time(optional=True)


class Job(SQLModel, table=True):
    """One video and everything made from it."""

    __tablename__ = "jobs"
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    api_key_id: int = Field(sa_type=BigInteger)
    status: str = _text()
    filename: str = _text()
    source_file_hash: str | None = _text(optional=True)
    reprocess: bool = _flag()
    error_message: str | None = _text(optional=True)
    hold: str | None = _text(optional=True)
    created_at: datetime | None = _time(now=True)
    updated_at: datetime | None = _time(now=True)
    completed_at: datetime | None = _time(optional=True)
    last_accessed_at: datetime | None = _time(optional=True)
    deleted_at: datetime | None = _time(optional=True)
    purge_after: datetime | None = _time(optional=True)
    erase_requested_at: datetime | None = _time(optional=True)
    tier: str = _text("hot")
    compressed_at: datetime | None = _time(optional=True)


class Location(SQLModel, table=True):
    """Where objects can live, declared by the operator; `capabilities` is what the last probe saw."""

    __tablename__ = "locations"
    id: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    name: str = _text()
    store: str = _text()
    bucket: str = _text()
    prefix: str = _text("")
    storage_class: str = _text("")
    tier: str = _text("hot")
    price_per_gib_month: Decimal | None = Field(default=None, sa_type=Numeric)
    needs_restore: bool = _flag()
    capabilities: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    probed_at: datetime | None = _time(optional=True)
    serves_urls: bool = Field(default=True, sa_column_kwargs={"server_default": text("true")})
    moved_to: int | None = Field(default=None, sa_type=BigInteger)
    retired_at: datetime | None = _time(optional=True)


class StoredObject(SQLModel, table=True):
    """Bytes under one key. `generation` rises with every change of place, encoding or state (invariant 6).

    It is the next of the sequence `generations`: one that was read before names the same version of the row for ever.
    """

    __tablename__ = "stored_objects"
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    job_id: UUID
    api_key_id: int = Field(sa_type=BigInteger)
    kind: str = _text()
    name: str = _text()
    location_id: int = Field(sa_type=BigInteger)
    key: str = _text()
    size_bytes: int = Field(sa_type=BigInteger)
    stored_bytes: int = Field(sa_type=BigInteger)
    sha256: str = _text()
    codec: str = _text("identity")
    etag: str | None = _text(optional=True)
    state: str = _text("pending")
    trashed_state: str | None = _text(optional=True)
    generation: int = Field(default=1, sa_type=BigInteger, sa_column_kwargs={"server_default": text("1")})
    url_expires_at: datetime | None = _time(optional=True)
    created_at: datetime | None = _time(now=True)
    verified_at: datetime | None = _time(optional=True)
    relocated_at: datetime | None = _time(optional=True)


class Reservation(SQLModel, table=True):
    """Quota taken before the bytes arrive; it lapses at `expires_at` without anybody's help."""

    __tablename__ = "reservations"
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    api_key_id: int = Field(sa_type=BigInteger)
    job_id: UUID | None = None
    bytes: int = Field(sa_type=BigInteger)
    created_at: datetime | None = _time(now=True)
    expires_at: datetime = _time()


class Upload(SQLModel, table=True):
    """A presigned form that was handed out: what may arrive under `temp/`, and what became of it."""

    __tablename__ = "uploads"
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    api_key_id: int = Field(sa_type=BigInteger)
    job_id: UUID | None = None
    location_id: int = Field(sa_type=BigInteger)
    key: str = _text()
    filename: str = _text()
    size_bytes: int = Field(sa_type=BigInteger)
    status: str = _text("open")
    result_job_id: UUID | None = None
    result_object_id: UUID | None = None
    created_at: datetime | None = _time(now=True)
    expires_at: datetime = _time()


class Relocation(SQLModel, table=True):
    """An intent: an object is being written under `key`, and takes its row over once those bytes are verified."""

    __tablename__ = "relocations"
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    object_id: UUID
    generation: int = Field(sa_type=BigInteger)
    operation: str = _text()
    location_id: int = Field(sa_type=BigInteger)
    key: str = _text()
    codec: str = _text("identity")
    state: str = _text("open")
    old_location_id: int | None = Field(default=None, sa_type=BigInteger)
    old_key: str | None = _text(optional=True)
    release_after: datetime | None = _time(optional=True)
    created_at: datetime | None = _time(now=True)
    job_id: UUID
    api_key_id: int | None = Field(default=None, sa_type=BigInteger)
    run: str = _text("")
    rule: str = _text("")
    old_stored_bytes: int | None = Field(default=None, sa_type=BigInteger)


class ApprovalRequest(SQLModel, table=True):
    """A run that asked whether it may go on with a large plan."""

    __tablename__ = "approvals"
    run: UUID = Field(primary_key=True)
    operation: str = _text()
    scope: str = _text()
    objects: int = Field(sa_type=BigInteger)
    size_bytes: int = Field(sa_type=BigInteger)
    state: str = _text("asked")
    asked_at: datetime | None = _time(now=True)
    ends_at: datetime = _time()


class BackupCheck(SQLModel, table=True):
    """What was done with a backup (made, verified, drilled, restored) and how it went."""

    __tablename__ = "backup_checks"
    id: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    at: datetime | None = _time(now=True)
    run: str = _text("")
    backup: str = _text()
    what: str = _text()
    ok: bool
    seconds: float
    bytes: int = _counted()
    because: str = _text("")
    details: dict[str, Any] | None = Field(default=None, sa_type=JSONB)


class FindingRow(SQLModel, table=True):
    """What a run found in a location, by kind; `none` where it found nothing."""

    __tablename__ = "findings"
    id: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    at: datetime | None = _time(now=True)
    run: str = _text()
    operation: str = _text()
    location: str = _text()
    finding: str = _text()
    objects: int = Field(sa_type=BigInteger)
    size_bytes: int = _counted()
    oldest_at: datetime | None = _time(optional=True)


class OperationLog(SQLModel, table=True):
    """One row for each object a run changed; partitioned by month, without foreign keys, so that it outlives all."""

    __tablename__ = "operation_log"
    id: int = Field(sa_column=Column(BigInteger, Identity(always=True), primary_key=True))
    at: datetime = _time(now=True, primary_key=True)
    run: str = _text()
    operation: str = _text()
    rule: str = _text("")
    api_key_id: int | None = Field(default=None, sa_type=BigInteger)
    job_id: UUID | None = None
    object_id: UUID | None = None
    before: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    after: dict[str, Any] | None = Field(default=None, sa_type=JSONB)
    bytes: int = _counted()
