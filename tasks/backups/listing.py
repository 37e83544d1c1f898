"""Which backups there are, told by their manifests; and which one somebody means."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from blocks.catalog.in_use import InUse
from blocks.errors import (
    ContentMismatchError,
    DamagedBackupError,
    InvalidInputError,
    NotFoundError,
    SchemaError,
    StorageError,
    StoreUnavailableError,
)
from blocks.object_store import ObjectStore
from blocks.object_store.clock import MOST_APART, store_now
from blocks.object_store.deletion import delete_keys
from blocks.object_store.listing import Listed, list_folders, list_prefix
from blocks.object_store.multipart import abort_multipart_upload, list_multipart_uploads
from blocks.object_store.transfer import exists, put_bytes, read_bytes
from blocks.units import shown
from tasks.backups.manifest import (
    DRILL,
    HOLD,
    LARGEST_MANIFEST_BYTES,
    MANIFEST,
    RESTORING,
    STARTED,
    VERIFICATION,
    Manifest,
    folder_of,
    is_backup_id,
    parse,
)
from tasks.parallel import in_parallel


@dataclass(frozen=True)
class Backup:
    """One backup as its files tell it. `why_not` says why it cannot be used, empty where it can.

    `verified` is whether it was read back whole, the last time somebody looked: None if nobody did.
    """

    id: str
    manifest: Manifest | None
    size_bytes: int
    verified: bool | None = None
    verified_at: datetime | None = None
    drilled_at: datetime | None = None
    drill_seconds: float | None = None
    hold: str = ""
    restoring_at: datetime | None = None
    rotten: tuple[str, ...] = ()
    """Contents of metadata objects that a verification found to be others: the next backup writes them anew."""
    why_not: str = ""

    @property
    def at(self) -> datetime:
        """The moment it is of. Of a broken one the time in its name."""
        if self.manifest is not None:
            return self.manifest.snapshot_at
        try:
            return datetime.strptime(self.id[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        except ValueError:  # a folder that looks like one
            return datetime.min.replace(tzinfo=UTC)

    @property
    def good(self) -> bool:
        """Whether it counts: its date is believed, and it was read back whole."""
        return self.manifest is not None and not self.why_not and self.verified is True

    @property
    def usable(self) -> bool:
        """Whether a restore may try: what nobody has read back yet is verified by the restore itself."""
        return self.manifest is not None and not self.why_not and self.verified is not False


@dataclass(frozen=True)
class Backups:
    """All backups of one catalog, newest first, and folders that never got a manifest."""

    catalog_id: UUID
    all: tuple[Backup, ...] = ()
    unfinished: dict[str, int] = field(default_factory=dict)
    """Bytes by id: interrupted, or still under way."""

    @property
    def newest_good(self) -> Backup | None:
        """The newest that was verified."""
        return next((one for one in self.all if one.good), None)

    def drilled(self) -> Backup | None:
        """The one that was restored in a drill last."""
        drilled = [one for one in self.all if one.drilled_at is not None]
        return max(drilled, key=lambda one: one.drilled_at or one.at, default=None)


def catalogs_in(store: ObjectStore) -> list[UUID]:
    """The catalogs that a store holds backups of."""
    found = []
    for name in list_folders(store):
        with suppress(ValueError):
            found.append(UUID(name))
    return found


def list_backups(store: ObjectStore, catalog_id: UUID) -> Backups:
    """Every backup of a catalog, from its manifest; broken ones are told as such, never left out."""
    root = f"{catalog_id}/backups"
    folders: dict[str, list[Listed]] = {}
    for one in list_prefix(store, root):
        folders.setdefault(one.key[len(root) + 1 :].partition("/")[0], []).append(one)
    names = {name: {one.key.rpartition("/")[2]: one for one in files} for name, files in folders.items()}
    whole = [name for name, files in names.items() if is_backup_id(name) and MANIFEST in files]
    read = in_parallel(lambda name: _read(store, catalog_id, name, names[name]), whole, threads=16)
    # What somebody copies in from elsewhere has no such mark, and is theirs.
    unfinished = {
        name: sum(one.size_bytes for one in files)
        for name, files in folders.items()
        if is_backup_id(name) and name not in set(whole) and STARTED in names[name]
    }
    return Backups(catalog_id, tuple(sorted(read, key=lambda one: (one.at, one.id), reverse=True)), unfinished)


def groups_of(store: ObjectStore, in_use: InUse | None, catalog_id: str) -> list[Backups]:
    """The backups of the catalog in use, of the one that is named, or, without either, of every catalog in the store.
    One that cannot be read so far as to say which it is counts as none.

    Raises:
        InvalidInputError: the id is none, or the store holds backups of other catalogs only.
    """
    known = catalogs_in(store)
    if catalog_id:
        try:
            return [list_backups(store, UUID(catalog_id))]
        except ValueError as error:
            raise InvalidInputError(f"{shown(catalog_id)} is no catalog's id; there are: {_ids(known)}") from error
    identity = in_use.identity() if in_use is not None else None
    if in_use is None or identity is None:
        return [list_backups(store, one) for one in known]
    ours = identity.catalog_id
    if ours not in known and known:
        raise InvalidInputError(
            f"there are no backups of the catalog {ours} in {in_use.database.database}, but of {_ids(known)}: to put "
            "one of those in its place say which (catalog_id)"
        )
    return [list_backups(store, ours)]


def _ids(known: Sequence[UUID]) -> str:
    return ", ".join(str(one) for one in known) or "none"


def mark_restoring(store: ObjectStore, manifest: Manifest, run: str) -> str:
    """Say that a restore is at it: retention leaves the backup for some days, however old it is.

    By the store's clock, as retention counts: a machine whose own is behind would mark it for a time that is over.
    Returns what to tell where it could not be said: a backup that can only be read can be restored all the same.
    """
    try:
        at = store_now(store).isoformat()
        write_note(store, manifest.catalog_id, manifest.id, RESTORING, {"at": at, "run": run})
    except StorageError as error:
        return f"retention may let backup {manifest.id} go meanwhile: {error}"
    return ""


def restoring_since(store: ObjectStore, catalog_id: UUID, backup: str) -> datetime | None:
    """When the last restore of a backup said that it began; None where none did."""
    return _time(_note(store, f"{folder_of(catalog_id, backup)}/{RESTORING}").get("at"))


def choose(backups: Sequence[Backups], wanted: str, *, before: datetime | None = None) -> tuple[UUID, Backup]:
    """The backup somebody means: an id, or `latest`, the newest that can be used (before a time, if one is given).

    Raises:
        InvalidInputError: neither an id nor `latest`, an id and a time, or a time without a zone.
        NotFoundError: there is none such; the message names those there are.
        DamagedBackupError: it is there, and cannot be used.
    """
    if before is not None and before.tzinfo is None:
        raise InvalidInputError(f"the time {before} has no time zone; write for example {before.isoformat()}+00:00")
    if wanted != "latest":
        if not is_backup_id(wanted):
            raise InvalidInputError(
                f"{shown(wanted)} is no backup: write latest, or an id such as 20261124T030000Z-5f0c2e1a"
            )
        if before is not None:
            raise InvalidInputError("a backup's id and a time are two ways to choose one: give one of them")
        for group in backups:
            for one in group.all:
                if one.id == wanted:
                    # Where its metadata objects alone are damaged, the restore says which, and how it goes without.
                    if not (one.usable or one.rotten):
                        why = one.why_not or "it was read back, and its files are not what was written"
                        raise DamagedBackupError(f"backup {wanted} cannot be restored: {why}")
                    return group.catalog_id, one
        raise NotFoundError(f"no backup {wanted}; {_known(backups)}")
    candidates = [
        (group.catalog_id, one)
        for group in backups
        for one in group.all
        if one.usable and (before is None or one.at <= before)
    ]
    if len({catalog_id for catalog_id, _ in candidates}) > 1:
        ids = ", ".join(sorted({str(catalog_id) for catalog_id, _ in candidates}))
        raise InvalidInputError(f"this store holds backups of several catalogs: say which ({ids})")
    if not candidates:
        early = f" before {before:%Y-%m-%d %H:%M:%S} UTC" if before else ""
        raise NotFoundError(f"no backup{early} that can be used; {_known(backups)}")
    return max(candidates, key=lambda one: (one[1].at, one[1].id))


def _known(backups: Iterable[Backups]) -> str:
    shown = [f"{one.id}{f' ({one.why_not})' if one.why_not else ''}" for group in backups for one in group.all]
    return (
        f"there are: {', '.join(shown[:10])}{' and older ones' if len(shown) > 10 else ''}"
        if shown
        else "there is none"
    )


def write_note(store: ObjectStore, catalog_id: UUID, backup: str, name: str, note: dict[str, object]) -> None:
    """Say something of a backup, in a file beside its manifest."""
    body = json.dumps(note, indent=1).encode()
    put_bytes(store, f"{folder_of(catalog_id, backup)}/{name}", body, {"Content-Type": "application/json"})


def remove_folder(store: ObjectStore, catalog_id: UUID, backup: str) -> dict[str, str]:
    """Remove a backup, or what is left of one, its parts too; returns what could not be removed, and why.

    It is marked as unfinished first and until the end, so that the next backup goes on where this one is killed; and
    the manifest goes before the rest, since what is half removed must not look like a backup.
    """
    folder = folder_of(catalog_id, backup)
    write_note(store, catalog_id, backup, STARTED, {"removed_at": datetime.now(UTC).isoformat()})
    mark = f"{folder}/{STARTED}"

    def rest() -> list[str]:
        return [one.key for one in list_prefix(store, folder) if one.key != mark]

    failed = delete_keys(store, [f"{folder}/{MANIFEST}"]) or delete_keys(store, rest())
    for upload in list(list_multipart_uploads(store)):
        if upload.key.startswith(f"{folder}/"):
            abort_multipart_upload(store, upload.key, upload.upload_id)
    return failed or (delete_keys(store, [mark]) if not rest() else {})


def require_full_listing(store: ObjectStore, backups: Backups, recorded: Collection[str]) -> None:
    """See that the listing left out none of the backups that the catalog has on record.

    Raises:
        StoreUnavailableError: one is there all the same; nothing that the listing does not show is known to be gone.
    """
    unlisted = sorted(set(recorded) - {one.id for one in backups.all})
    there = in_parallel(
        lambda name: exists(store, f"{folder_of(backups.catalog_id, name)}/{MANIFEST}"), unlisted, threads=16
    )
    if left_out := [name for name, found in zip(unlisted, there, strict=True) if found]:
        raise StoreUnavailableError(f"the listing of the backups left out {', '.join(left_out[:3])}, which is there")


def _read(store: ObjectStore, catalog_id: UUID, name: str, files: dict[str, Listed]) -> Backup:
    folder = folder_of(catalog_id, name)
    beside = (VERIFICATION, DRILL, HOLD, RESTORING)
    notes = {one: _note(store, f"{folder}/{one}") if one in files else {} for one in beside}
    checked, drill = notes[VERIFICATION], notes[DRILL]
    size = sum(one.size_bytes for one in files.values())
    manifest, why_not = None, ""
    try:
        manifest = parse(read_bytes(store, f"{folder}/{MANIFEST}", at_most=LARGEST_MANIFEST_BYTES))
        why_not = _why_not(manifest, catalog_id, name, files[MANIFEST].last_modified)
    except (DamagedBackupError, SchemaError) as error:
        why_not = str(error)
    except NotFoundError:
        why_not = "it was removed while it was looked at"
    verified = checked.get("ok")
    return Backup(
        id=name,
        manifest=manifest,
        size_bytes=size,
        verified=verified if isinstance(verified, bool) else None,
        verified_at=_time(checked.get("at")),
        drilled_at=_time(drill.get("at")) if drill.get("ok") is True else None,
        drill_seconds=_seconds(drill.get("seconds")) if drill.get("ok") is True else None,
        # That there is one is what counts, whether or not it can be read.
        hold=str(notes[HOLD].get("reason", "its reason cannot be read")) if HOLD in files else "",
        restoring_at=_time(notes[RESTORING].get("at")),
        rotten=_names(checked.get("rotten")),
        why_not=why_not,
    )


def _why_not(manifest: Manifest, catalog_id: UUID, name: str, written_at: datetime) -> str:
    if (manifest.id, manifest.catalog_id) != (name, catalog_id):
        return (
            f"its manifest is that of backup {manifest.id} of catalog {manifest.catalog_id}: it lies in a wrong folder"
        )
    stamp = f"{manifest.snapshot_at:%Y%m%dT%H%M%SZ}"
    if not manifest.id.startswith(stamp) or manifest.finished_at < manifest.snapshot_at:
        return "its dates contradict each other"
    # A copy of a backup is written later than it was made; none is written before it was.
    if manifest.finished_at > written_at + MOST_APART:
        return f"it says that it is from {manifest.finished_at:%Y-%m-%d %H:%M} UTC, and was written before that"
    return ""


def _note(store: ObjectStore, key: str) -> dict[str, object]:
    try:
        said = json.loads(read_bytes(store, key, at_most=1024**2))
    except (ValueError, ContentMismatchError, NotFoundError):
        return {}
    return said if isinstance(said, dict) else {}


def _seconds(said: object) -> float | None:
    return float(said) if isinstance(said, int | float) else None


def _names(said: object) -> tuple[str, ...]:
    return tuple(str(one) for one in said) if isinstance(said, list) else ()


def _time(said: object) -> datetime | None:
    try:
        at = datetime.fromisoformat(str(said))
    except ValueError:
        return None
    return at if at.tzinfo is not None else None
