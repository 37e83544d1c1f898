"""Customers uploading by themselves: a form of exactly one size onto one key, then a copy that no form can write."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import Connection

from blocks.catalog import CatalogDatabase
from blocks.catalog.admission import reserve, reserve_now, settle
from blocks.catalog.customers import Customer, find_customer, lock_customer, require_enabled
from blocks.catalog.jobs import content_hash, find_job, list_outputs, require_readable
from blocks.catalog.log import Change, record
from blocks.catalog.moving import start_over
from blocks.catalog.objects import NewObject, find_named, find_used_names, insert_pending, make_live, release_objects
from blocks.catalog.tables import ObjectKind, UploadStatus
from blocks.catalog.uploads import UploadRow, find_upload, finish_upload, insert_upload
from blocks.errors import (
    InvalidInputError,
    NotFoundError,
    OvertakenError,
    QuotaExceededError,
    RefusedError,
    TerminalError,
)
from blocks.object_store.deletion import delete_keys
from blocks.object_store.presigning import UploadForm, presign_post
from blocks.object_store.transfer import hash_object, head
from blocks.policies import MIB, AccessPolicy, IngestPolicy
from tasks.checks import check_filename, check_job_id, check_lifetime, check_sha256, check_size, check_uuid
from tasks.intake.arrivals import Hashed, outputs_bytes
from tasks.intake.taking_in import IngestOutcome, take_in
from tasks.layout import UPLOADS, temp_key, upload_key
from tasks.removal.purging import give_up
from tasks.stores import Locations, OpenLocation, require_current
from tasks.writing import StoredBlob, Writing, write_objects

TAKES_UPLOADS = ("queued", "processing", "transcoding", "completed")
"""Statuses of a job that a file may come beside."""


@dataclass(frozen=True)
class IssuedUpload:
    """A form to hand to the customer; `form` is a credential and not in `repr`, logs or results."""

    upload_id: UUID
    expires_at: datetime
    size_bytes: int
    form: UploadForm = field(repr=False)


def issue_upload_url(
    catalog: CatalogDatabase,
    location: OpenLocation,
    access: AccessPolicy,
    ingest: IngestPolicy,
    *,
    api_key: str,
    filename: str,
    size_bytes: int,
    job_id: str | UUID | None = None,
    expires_in: int | None = None,
) -> IssuedUpload:
    """Reserve quota and sign a form that takes exactly `size_bytes` bytes into `temp/`.

    Without a job it is a new video, and room for its outputs is held as well; with one it is a file beside that
    job's outputs. `expires_in` is in seconds.

    Raises:
        InvalidInputError: a file name, size, id or lifetime that is none.
        NotFoundError: no such key, or no such job of that key.
        QuotaExceededError: it does not fit; the message says how much is free.
        RefusedError: the key is disabled, the job is not readable, the file is larger than a form may carry, or the
            location's server takes no forms.
    """
    # Before quota is held for a form that nobody can send.
    if because := location.capabilities.why_not("post_form"):
        raise RefusedError(
            f"bucket {location.store.bucket} takes no upload forms: {because}; take the file in with ingest-videos, or "
            "send new files to a location whose server takes forms"
        )
    require_current(catalog, location)
    check_filename(filename)
    check_size(size_bytes, at_most=access.largest_upload_mib * MIB)
    job = check_job_id(job_id) if job_id is not None else None
    lasts = check_lifetime(
        expires_in,
        default=timedelta(minutes=access.upload_minutes),
        shortest=timedelta(seconds=10),
        longest=timedelta(hours=access.longest_upload_hours),
    )
    upload_id = uuid4()
    key = temp_key(upload_id)
    wanted = size_bytes + (outputs_bytes(size_bytes, ingest) if job is None else 0)

    def who(connection: Connection) -> Customer:
        customer = require_enabled(find_customer(connection, api_key))
        if job is not None:
            require_readable(find_job(connection, job, api_key=api_key))
        return customer

    customer = catalog.transaction(who)
    if not reserve_now(catalog, customer.id, upload_id, wanted, lasts + timedelta(minutes=access.completion_minutes)):
        customer = catalog.transaction(lambda connection: require_enabled(lock_customer(connection, customer.id)))
        raise QuotaExceededError(customer.over_quota(wanted, wanted - size_bytes))

    def begin(connection: Connection) -> datetime:
        lock_customer(connection, customer.id)
        if job is not None:
            require_readable(find_job(connection, job, api_key=api_key))  # it may have been erased meanwhile
        return insert_upload(
            connection, upload_id=upload_id, customer_id=customer.id, job_id=job, location_id=location.place.id,
            key=key, filename=filename, size_bytes=size_bytes, lasts=lasts,
        )  # fmt: skip

    # Killed before this, the reservation lapses by itself.
    try:
        expires_at = catalog.transaction(begin)
    except TerminalError:
        catalog.transaction(lambda connection: settle(connection, customer.id, {upload_id: 0}, keep_for=timedelta(0)))
        raise
    form = presign_post(location.store, key, size_bytes=size_bytes, expires_in=lasts)
    return IssuedUpload(upload_id, expires_at, size_bytes, form)


def complete_upload(
    catalog: CatalogDatabase,
    locations: Locations,
    policy: IngestPolicy,
    *,
    api_key: str,
    upload_id: str | UUID,
    expected_sha256: str | None = None,
    run: str = "",
) -> IngestOutcome:
    """Take in what arrived through a form. Asked again it names the same job, as a duplicate, and sends nothing; a form
    posted again changes nothing.

    Raises:
        NotFoundError: no such upload of this key.
        RefusedError: nothing has arrived yet, the form's upload failed before, or the location was retired since.
        ForeignCatalogError: another catalog has taken the bucket over.
        InvalidInputError: what arrived is not what was expected; the upload is over.
    """
    wanted = check_uuid(upload_id, "upload id")
    expected_sha256 = check_sha256(expected_sha256) if expected_sha256 else None
    customer, upload = catalog.transaction(lambda connection: _owned(connection, api_key, wanted))
    if upload.status == UploadStatus.COMPLETED and upload.result_job_id is not None:
        return _as_before(catalog, upload, upload.result_job_id, expected_sha256)
    if upload.status == UploadStatus.FAILED:
        raise RefusedError(f"upload {wanted} failed before; ask for a new form with issue-upload-url")
    location = locations.of(upload.location_id)
    require_current(catalog, location)
    try:
        size = head(location.store, upload.key).size_bytes
        sha256, read_bytes = hash_object(location.store, upload.key)
    except NotFoundError:
        # Asked twice at once, the other call may have taken it in meanwhile.
        _, now = catalog.transaction(lambda connection: _owned(connection, api_key, wanted))
        if now.status == UploadStatus.COMPLETED and now.result_job_id is not None:
            return _as_before(catalog, now, now.result_job_id, expected_sha256)
        raise RefusedError(f"nothing has arrived for upload {wanted} yet; send the file with the form first") from None
    if not size == read_bytes == upload.size_bytes or expected_sha256 not in (None, sha256):
        _close(catalog, location, customer, upload)
        raise InvalidInputError(
            f"upload {wanted} has {read_bytes} bytes with SHA-256 {sha256}, expected were {upload.size_bytes}"
            + (f" with {expected_sha256}" if expected_sha256 else "")
            + "; nothing was stored"
        )
    hashed = Hashed(str(wanted), upload.filename, sha256, read_bytes, StoredBlob(upload.key))
    if upload.job_id is None:
        (outcome,) = take_in(
            catalog, location, policy, customer, [hashed], release=upload.id, run=run, operation="upload"
        )
    else:
        outcome = _add_to_job(catalog, location, customer, upload, upload.job_id, hashed, expected_sha256, run)
    # A job that is still being uploaded, by a call that runs at this moment or was killed, is no success: then the blob
    # stays, and the next call takes it in.
    if outcome.succeeded:
        catalog.transaction(
            lambda connection: finish_upload(
                connection, upload.id, status=UploadStatus.COMPLETED, job_id=outcome.job_id, object_id=None
            )
        )
        delete_keys(location.store, [upload.key])
    return outcome


def _owned(connection: Connection, api_key: str, upload_id: UUID) -> tuple[Customer, UploadRow]:
    customer = require_enabled(find_customer(connection, api_key))
    upload = find_upload(connection, upload_id)
    if upload is None or upload.api_key_id != customer.id:
        raise NotFoundError(f"no upload {upload_id} of key {customer.label}")
    return customer, upload


def _as_before(catalog: CatalogDatabase, upload: UploadRow, job_id: UUID, expected_sha256: str | None) -> IngestOutcome:
    def read(connection: Connection) -> IngestOutcome:
        job = find_job(connection, job_id)
        if job.deleted_at is not None:
            require_readable(job)
        now = find_upload(connection, upload.id) or upload
        taken = content_hash(connection, job_id, now.result_object_id)
        if expected_sha256 not in (None, taken):
            raise InvalidInputError(
                f"upload {upload.id} was taken in before, with SHA-256 {taken}; expected was {expected_sha256}"
            )
        return IngestOutcome(
            source=str(upload.id),
            result="duplicate",
            filename=upload.filename,
            job_id=job_id,
            original_job_id=job_id,
            job_status=job.status,
            sha256=taken,
            size_bytes=upload.size_bytes,
            outputs=list_outputs(connection, [job_id]).get(job_id, ()),
        )

    return catalog.transaction(read)


def _add_to_job(
    catalog: CatalogDatabase,
    location: OpenLocation,
    customer: Customer,
    upload: UploadRow,
    job_id: UUID,
    hashed: Hashed,
    expected_sha256: str | None,
    run: str,
) -> IngestOutcome:
    require_current(catalog, location)
    # The user's file name lives in the row; the key holds only ids.
    name = f"{UPLOADS}/{upload.id}/{upload.filename}"

    def begin(connection: Connection) -> NewObject | None:
        lock_customer(connection, customer.id)
        again = find_upload(connection, upload.id)
        if again is None or again.status != UploadStatus.OPEN:
            return None
        require_readable(find_job(connection, job_id, api_key=customer.label))
        existing = find_named(connection, job_id)
        object_id, key = uuid4(), upload_key(job_id, upload.id)
        if name in existing or find_used_names(connection, job_id, [name]):
            # An earlier call broke off: what it may have written is released, and this one writes elsewhere.
            release_objects(connection, [existing[name].id] if name in existing else [], run=run)
            key = f"{key}.{object_id}"
        fresh = NewObject(
            object_id, job_id, ObjectKind.UPLOAD, name, location.place.id, key, hashed.size_bytes, hashed.sha256
        )
        insert_pending(connection, customer.id, [fresh])
        return fresh

    begun = catalog.transaction(begin)
    if begun is None:
        return _as_before(catalog, upload, job_id, expected_sha256)
    new = begun
    written = write_objects(location, [Writing(new, StoredBlob(upload.key))], parallel=1)

    def commit(connection: Connection) -> bool:
        lock_customer(connection, customer.id)
        again = find_upload(connection, upload.id)
        if again is None or again.status != UploadStatus.OPEN:
            return False  # another call was faster
        # A form's reservation can lapse while the customer takes their time: then the bytes are admitted again.
        held = settle(connection, customer.id, {upload.id: 0}, keep_for=timedelta(0))
        if not held:
            if not reserve(connection, customer.id, [(upload.id, None, new.size_bytes, timedelta(minutes=1))]):
                raise QuotaExceededError(lock_customer(connection, customer.id).over_quota(new.size_bytes))
            settle(connection, customer.id, {upload.id: 0}, keep_for=timedelta(0))
        if not make_live(connection, written.verified, job_statuses=TAKES_UPLOADS):
            job = find_job(connection, job_id)
            raise OvertakenError(
                f"another call for upload {upload.id} took over; ask again for what came of it"
                if job.deleted_at is None and job.status in TAKES_UPLOADS
                else f"job {job_id} was deleted or failed meanwhile; nothing was stored"
            )
        after = {"state": "live", "location": location.place.name, "key": new.key}
        record(connection, [Change(run, "upload", "", customer.id, job_id, new.id, None, after, new.size_bytes)])
        finish_upload(connection, upload.id, status=UploadStatus.COMPLETED, job_id=job_id, object_id=new.id)
        start_over(connection, [job_id], asked=False)
        return True

    if written.failed:
        give_up(catalog, location, [new], run=run)
        raise written.failed[new.key]
    try:
        committed = catalog.transaction(commit)
    except (OvertakenError, QuotaExceededError):  # surely not committed
        give_up(catalog, location, [new], run=run)
        raise
    if not committed:
        give_up(catalog, location, [new], run=run)
        return _as_before(catalog, upload, job_id, expected_sha256)
    return IngestOutcome(
        source=str(upload.id), result="ingested", filename=upload.filename, job_id=job_id, job_status="",
        sha256=new.sha256, size_bytes=new.size_bytes, sent_bytes=new.size_bytes,
    )  # fmt: skip


def _close(catalog: CatalogDatabase, location: OpenLocation, customer: Customer, upload: UploadRow) -> None:
    def close(connection: Connection) -> None:
        lock_customer(connection, customer.id)
        settle(connection, customer.id, {upload.id: 0}, keep_for=timedelta(0))
        finish_upload(connection, upload.id, status=UploadStatus.FAILED, job_id=None, object_id=None)

    catalog.transaction(close)
    delete_keys(location.store, [upload.key])
