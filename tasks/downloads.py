"""Many files of many jobs at once: as one archive that streams through, or as files in a folder of this machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from blocks.catalog import CatalogDatabase
from blocks.catalog.clock import catalog_now
from blocks.catalog.downloads import Found, TakenAway, find_owners, record_downloads, still_there, take_jobs
from blocks.catalog.jobs import JobRow
from blocks.catalog.locations import require_in_use
from blocks.catalog.tables import ObjectKind
from blocks.errors import (
    ContentMismatchError,
    InvalidInputError,
    NotFoundError,
    OvertakenError,
    RefusedError,
    StorageError,
)
from blocks.object_store.deletion import delete_keys
from blocks.object_store.presigning import presign_get
from blocks.object_store.transfer import part_size, put_stream
from blocks.policies import AccessPolicy
from blocks.units import format_bytes, shown
from tasks.checks import LARGEST_OBJECT_BYTES, below_root, check_job_id, check_kind, is_path
from tasks.folders import Folder
from tasks.layout import EXPORTS, PLAYLISTS, friendly_name
from tasks.reading import File, Reading, why_unreadable
from tasks.stores import Locations, require_current
from tasks.zipping import CHECKSUMS, Member, UniqueNames, archive_bytes, safe_member_name, zip_stream

DOWNLOAD_LASTS = timedelta(hours=24)
"""How long whoever moves an object keeps the bytes that a download under way may still read."""
PIECE_BYTES = 4 * 1024**2


@dataclass(frozen=True)
class DownloadReport:
    """What was handed out; whoever has the URL can read all of it, so it is not in `repr`, logs or results.

    `size_bytes` is of the files' content. `skipped` names each job or file that is not in it, with the reason.
    `url`, `key` and `expires_at` belong to an archive; `folder` and `already_there`, files not counted in `files`, to
    a folder.
    """

    files: int
    size_bytes: int
    skipped: tuple[tuple[str, str], ...] = ()
    url: str = field(default="", repr=False)
    key: str = ""
    expires_at: datetime | None = None
    folder: str = ""
    already_there: int = 0


@dataclass(frozen=True)
class _Plan:
    """What will be read, in order, and what will not, each with the error it would be alone."""

    jobs: dict[UUID, JobRow]
    files: list[File] = field(default_factory=list)
    skipped: list[tuple[str, StorageError]] = field(default_factory=list)


def export_key(made: UUID) -> str:
    """Where an archive lies until its rule expires it."""
    return f"{EXPORTS}/bulk/{made}.zip"


def bulk_download(
    catalog: CatalogDatabase,
    locations: Locations,
    policy: AccessPolicy,
    *,
    job_ids: Sequence[str | UUID],
    kinds: Sequence[str] = (),
    api_key: str | None = None,
    target: str = EXPORTS,
    run: str = "",
    progress: Callable[[int], None] = lambda size_bytes: None,
) -> DownloadReport:
    """Files of these kinds (all, unless named) of these jobs, as a ZIP in the home location or in a folder here.

    With `api_key` only that customer's jobs exist; without, it is the operator who asks. `target` is `exports`, or a
    folder below the access policy's `download_roots`. What cannot be handed out is skipped and reported; in a folder
    that holds for a file whose bytes are wrong too, where an archive is given up before anything of it can be seen.
    `progress` hears the bytes of each piece; it must not ask the store, in whose client's loop it is called.

    Raises:
        InvalidInputError: an id, a kind or a target that is none; nothing was asked for.
        NotFoundError, RefusedError: no such key, a disabled one, a folder that is not allowed, or nothing is left to
            hand out: then it is the first reason.
        ContentMismatchError: an object is not what the catalog says; there is no archive then.
    """
    if not job_ids:
        raise InvalidInputError("nothing to download: name at least one job id")
    ids = list(dict.fromkeys(check_job_id(job_id) for job_id in job_ids))
    wanted = list(dict.fromkeys(check_kind(kind) for kind in kinds))
    if target != EXPORTS:
        allowed_folder(target, policy)
    plan = _plan(catalog, ids, wanted, api_key)
    if not plan.files:
        raise plan.skipped[0][1]
    reading = Reading(catalog, locations, plan.skipped, progress)
    if target == EXPORTS:
        return _export(reading, plan, policy, run)
    with closing(open_folder(target, policy)) as folder:
        return _fill(reading, plan, folder, run)


def open_folder(target: str, policy: AccessPolicy) -> Folder:
    """The folder of a target, made if it is missing.

    Raises:
        InvalidInputError, RefusedError: as `allowed_folder`; also where it is no folder.
    """
    root, below = allowed_folder(target, policy)
    return Folder(root, below)


def allowed_folder(target: str, policy: AccessPolicy) -> tuple[str, list[str]]:
    """The root that a target lies below, and its path there; nothing is made.

    Raises:
        InvalidInputError: it is no path.
        RefusedError: links resolved, it does not lie below the policy's `download_roots`.
    """
    if not is_path(target):
        raise InvalidInputError(f"{shown(target)} is no target: write {EXPORTS}, or the path of a folder")
    roots = policy.roots()
    if (found := below_root(target, roots)) is None:
        known = ", ".join(roots) or "none is configured"
        raise RefusedError(
            f"{shown(target)} lies below none of the access policy's download_roots ({known}): add one there, or write "
            f"{EXPORTS} for an archive in the bucket"
        )
    root, real = found
    return root, [part for part in real[len(root) :].split("/") if part]


def _plan(
    catalog: CatalogDatabase,
    ids: Sequence[UUID],
    kinds: Sequence[ObjectKind],
    api_key: str | None,
) -> _Plan:
    owners = catalog.transaction(lambda connection: find_owners(connection, ids, api_key=api_key))
    plan = _Plan({})
    refused: dict[UUID, StorageError] = {}
    objects: dict[UUID, list[Found]] = {}
    for customer_id, own in owners.items():
        taken = catalog.transaction(
            lambda connection, customer_id=customer_id, own=own: take_jobs(  # type: ignore[misc]  # bound in the loop
                connection, customer_id, own, kinds or list(ObjectKind), playlists=PLAYLISTS, lasts=DOWNLOAD_LASTS
            )
        )
        plan.jobs.update(taken.jobs)
        refused.update(taken.refused)
        for found in taken.objects:
            objects.setdefault(found.job_id, []).append(found)
    names, folders = UniqueNames(CHECKSUMS), set[str]()
    for job_id in ids:
        job = plan.jobs.get(job_id)
        if job is None:
            plan.skipped.append((str(job_id), refused.get(job_id) or NotFoundError(f"no job {job_id}")))
            continue
        if job_id not in objects:
            nothing = f"no {', '.join(kinds)}; name other kinds, or none for all" if kinds else "no files yet"
            plan.skipped.append((str(job_id), NotFoundError(f"job {job_id} has {nothing}")))
        folder = _job_folder(job, folders)
        for found in objects.get(job_id, ()):
            name = names.take(f"{folder}/{_name_in_job(job, found)}")
            if (error := why_unreadable(found, name)) is not None:
                plan.skipped.append((name, error))
            else:
                plan.files.append(File(found, name))
    return plan


def _job_folder(job: JobRow, taken: set[str]) -> str:
    # Short, because some systems end a whole path at 260 characters; the id tells jobs of one name apart.
    stem = safe_member_name(re.sub(r"[/\\]", "_", job.filename.rpartition(".")[0] or job.filename))
    short = stem.encode()[:80].decode(errors="ignore").rstrip(". ")
    folder = f"{short}-{str(job.id)[:8]}"
    if folder in taken:
        folder = f"{short}-{job.id}"
    taken.add(folder)
    return folder


def _name_in_job(job: JobRow, found: Found) -> str:
    if found.kind == ObjectKind.ORIGINAL:
        return re.sub(r"[/\\]", "_", friendly_name(job.filename, found.kind, found.name))
    return found.name


def _export(reading: Reading, plan: _Plan, policy: AccessPolicy, run: str) -> DownloadReport:
    home = reading.locations.home
    store = home.store
    require_current(reading.catalog, home)
    size = archive_bytes((file.name, file.found.size_bytes) for file in plan.files)
    if size > LARGEST_OBJECT_BYTES:
        raise RefusedError(
            f"an archive of {format_bytes(size)} is more than a store takes as one object, "
            f"{format_bytes(LARGEST_OBJECT_BYTES)}; name fewer jobs or kinds"
        )
    key = export_key(uuid4())
    # Noted before a byte is written: whoever erases one of these jobs finds every archive that holds it.
    at = _note(reading.catalog, plan, plan.files, run, {"export": key, "location": home.place.name})
    done: list[File] = []
    sent = 0

    def members() -> Generator[Member, None, None]:
        for file, member in reading.members(plan.files):
            done.append(file)
            yield member
        if not done:
            raise plan.skipped[0][1]

    def pieces(found: Iterator[Member]) -> Iterator[bytes]:
        nonlocal sent
        for piece in zip_stream(found, chunk_bytes=PIECE_BYTES):
            sent += len(piece)
            yield piece

    with closing(members()) as found:
        # What raises in here gives the upload up: no half archive is ever seen.
        written = put_stream(
            store,
            key,
            pieces(found),
            part_bytes=part_size(store, size),
            attributes={"Content-Type": "application/zip"},
            checksums=home.capabilities.needs_checksum_headers,
        )
    if written.size_bytes != sent:
        delete_keys(store, [key])
        raise ContentMismatchError(f"{key} has {written.size_bytes} bytes, {sent} were sent; try again")
    if gone := _deleted_meanwhile(reading.catalog, plan):
        delete_keys(store, [key])
        raise OvertakenError(f"job {gone} was deleted while the archive was made; ask again without it")
    try:
        reading.catalog.transaction(lambda connection: require_in_use(connection, home.place.id))
    except RefusedError:
        # No age rule and no erasure looks there any more.
        delete_keys(store, [key])
        raise
    lasts = timedelta(hours=policy.export_hours)
    signed_at = reading.catalog.transaction(catalog_now)  # hours after it was begun, perhaps
    return DownloadReport(
        files=len(done),
        size_bytes=sum(file.found.size_bytes for file in done),
        skipped=_reasons(plan),
        url=presign_get(store, key, lasts, filename=f"transcode-flow-{at:%Y-%m-%d}.zip"),
        key=key,
        expires_at=signed_at + lasts,
    )


def _deleted_meanwhile(catalog: CatalogDatabase, plan: _Plan) -> UUID | None:
    wanted = {file.found.job_id for file in plan.files}
    still = catalog.transaction(lambda connection: still_there(connection, list(wanted)))
    return next(iter(wanted - still), None)


def _fill(reading: Reading, plan: _Plan, folder: Folder, run: str) -> DownloadReport:
    there: list[File] = []
    missing: list[File] = []
    # Looked at first: what is there already is not read from the store.
    for file in plan.files:
        try:
            is_there = folder.has(file.name, file.found.size_bytes, file.found.sha256)
            (there if is_there else missing).append(file)
        except (StorageError, OSError) as error:
            plan.skipped.append((file.name, _told(file.name, error)))
    done: list[File] = []
    with closing(reading.members(missing)) as members:
        for file, member in members:
            try:
                folder.write(member)
                done.append(file)
            except (StorageError, OSError) as error:
                plan.skipped.append((file.name, _told(file.name, error)))
    try:
        if there or done:
            folder.write_checksums({file.name: file.found.sha256 for file in there + done})
    except (StorageError, OSError) as error:
        plan.skipped.append((CHECKSUMS, _told(CHECKSUMS, error)))
    _note(reading.catalog, plan, done, run, {"folder": True})
    return DownloadReport(
        files=len(done),
        size_bytes=sum(file.found.size_bytes for file in done),
        skipped=_reasons(plan),
        folder=folder.path,
        already_there=len(there),
    )


def _note(
    catalog: CatalogDatabase, plan: _Plan, done: Sequence[File], run: str, where: dict[str, str | bool]
) -> datetime:
    sizes: dict[UUID, list[int]] = {}
    for file in done:
        sizes.setdefault(file.found.job_id, []).append(file.found.size_bytes)
    taken = [TakenAway(plan.jobs[job_id], len(each), sum(each)) for job_id, each in sizes.items()]
    return catalog.transaction(lambda connection: record_downloads(connection, taken, run=run, where=where))


def _reasons(plan: _Plan) -> tuple[tuple[str, str], ...]:
    return tuple((name, str(error)) for name, error in plan.skipped)


def _told(name: str, error: StorageError | OSError) -> StorageError:
    if isinstance(error, StorageError):
        return error
    return RefusedError(f"{name} cannot be written: {error.strerror or error}")
