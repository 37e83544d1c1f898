"""Metadata objects in backups: each content is stored once, whatever number of nights it is part of.

They are small and there are many, so that lists are streamed and held against each other in order, never kept whole.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from uuid import UUID

from sqlalchemy import Connection

from blocks.catalog.snapshots import SavedObject, metadata_objects
from blocks.encryption import BackupKey
from blocks.errors import (
    ContentMismatchError,
    DamagedBackupError,
    NotFoundError,
    StorageError,
    UnfitStoreError,
)
from blocks.object_store import ObjectStore
from blocks.object_store.deletion import MOST_KEYS, delete_keys
from blocks.object_store.listing import list_folders, list_prefix
from blocks.object_store.transfer import put_bytes, read_bytes
from tasks.backups.listing import Backups
from tasks.backups.manifest import METADATA_LIST, Manifest, metadata_folder
from tasks.backups.streams import read_file, require_key
from tasks.content import decode_whole
from tasks.parallel import in_parallel

LARGEST_BYTES = 64 * 1024**2
"""A metadata object above this is no metadata; it is named as unsaved."""
REASONS_KEPT = 20
BATCH = 1_000


@dataclass(frozen=True)
class Listed:
    """One line of a backup's list: a content, and whether it could be saved."""

    sha256: str
    size_bytes: int
    saved: bool


@dataclass
class Saving:
    """What became of the metadata objects of one backup."""

    objects: int = 0
    size_bytes: int = 0
    copied: int = 0
    copied_bytes: int = 0
    unsaved: int = 0
    reasons: list[str] = field(default_factory=list)


def save_metadata(
    connection: Connection,
    stores: Callable[[int], ObjectStore],
    target: ObjectStore,
    catalog_id: UUID,
    saving: Saving,
    *,
    key: BackupKey | None,
    threads: int,
    checksums: bool,
    before_batch: Callable[[], None],
    rotten: Collection[str] = (),
) -> Iterator[bytes]:
    """Copy every content of the snapshot that no backup has yet; yields the list's lines, in the order of hashes.

    An object that cannot be read, or is not what its row says, is counted with its reason, and named in the list: one
    rotten file must not keep the whole catalog from being saved.
    """
    folder = metadata_folder(catalog_id, key.recipient if key else "")
    have = _stored(target, folder)
    known = next(have, None)
    wanted = metadata_objects(connection)
    while batch := list(islice(wanted, BATCH)):
        before_batch()
        missing: list[SavedObject] = []
        for one in batch:
            while known is not None and known.name < one.sha256:
                known = next(have, None)
            there = known is not None and known.name == one.sha256 and one.sha256 not in rotten
            # What is encrypted is larger by what no listing tells.
            if not there or (key is None and known is not None and known.size_bytes != one.size_bytes):
                missing.append(one)
        results = in_parallel(
            lambda one: _copy(stores, target, folder, one, key=key, checksums=checksums), missing, threads=threads
        )
        failed = {one.sha256: why for one, why in zip(missing, results, strict=True) if why}
        copied = [one for one in missing if one.sha256 not in failed]
        saving.objects += len(batch) - len(failed)
        saving.size_bytes += sum(one.size_bytes for one in batch if one.sha256 not in failed)
        saving.copied += len(copied)
        saving.copied_bytes += sum(one.size_bytes for one in copied)
        saving.unsaved += len(failed)
        saving.reasons += list(failed.values())[: REASONS_KEPT - len(saving.reasons)]
        yield b"".join(_line(one, saved=one.sha256 not in failed) for one in batch)


def _copy(
    stores: Callable[[int], ObjectStore],
    target: ObjectStore,
    folder: str,
    one: SavedObject,
    *,
    key: BackupKey | None,
    checksums: bool,
) -> str:
    """Returns why it could not be copied, empty where it was."""
    try:
        stored = read_bytes(stores(one.location_id), one.key, at_most=LARGEST_BYTES)
        content = decode_whole(stored, one.codec, at_most=max(one.size_bytes, 1))
        if (hashlib.sha256(content).hexdigest(), len(content)) != (one.sha256, one.size_bytes):
            return f"{one.key}: its bytes are not those that its row names"
        body = content if key is None else b"".join(key.encrypted(iter([content])))
        put_bytes(target, f"{folder}/{one.sha256}", body, {}, checksums=checksums)
    except StorageError as error:
        return f"{one.key}: {error}"
    return ""


def list_of(store: ObjectStore, manifest: Manifest) -> Iterator[Listed]:
    """The contents that a backup is made of, in the order of their hashes; none for a backup of the catalog alone.

    The list itself is never encrypted: whoever prunes needs it, and has no secret key.

    Raises:
        DamagedBackupError: it is not what was written; what was handed out before is not to be used.
    """
    if manifest.metadata is None:
        return
    file = manifest.file(METADATA_LIST)
    rest = b""
    for chunk in read_file(store, manifest.catalog_id, manifest.id, file, key=None):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (_parsed(line) for line in lines)
    if rest:
        raise DamagedBackupError(f"{file.name} of backup {manifest.id} is damaged: its last line is cut")


def missing_contents(store: ObjectStore, manifest: Manifest) -> list[str]:
    """Contents that the backup's list names and the store does not have; both are streamed in order."""
    have = _stored(store, metadata_folder(manifest.catalog_id, manifest.encrypted_to))
    known = next(have, None)
    missing = []
    for one in list_of(store, manifest):
        while known is not None and known.name < one.sha256:
            known = next(have, None)
        if one.saved and (known is None or known.name != one.sha256):
            missing.append(one.sha256)
    return missing


def read_content(store: ObjectStore, manifest: Manifest, sha256: str, *, key: BackupKey | None) -> bytes:
    """A metadata object's content, proved.

    Raises:
        DamagedBackupError: it is not what its name says, or is gone.
        RefusedError: it is encrypted and the secret key is not here.
    """
    where = f"metadata {sha256[:12]}… in the backups"
    require_key(manifest, key)
    try:
        body = read_bytes(
            store, f"{metadata_folder(manifest.catalog_id, manifest.encrypted_to)}/{sha256}", at_most=2 * LARGEST_BYTES
        )
        if manifest.encrypted_to and key is not None:
            body = b"".join(key.decrypted(iter([body])))
    except (DamagedBackupError, ContentMismatchError, NotFoundError) as error:
        raise DamagedBackupError(f"{where} is damaged: {error}") from error
    if hashlib.sha256(body).hexdigest() != sha256:
        raise DamagedBackupError(f"{where} is damaged: its bytes are others")
    return body


def damaged_contents(
    store: ObjectStore,
    manifest: Manifest,
    *,
    key: BackupKey | None,
    threads: int,
    progress: Callable[[int], None] = lambda objects: None,
) -> dict[str, str]:
    """Read every content that the backup's list names; returns what is wrong, by hash."""
    wrong: dict[str, str] = {}
    saved = (one for one in list_of(store, manifest) if one.saved)

    def look(one: Listed) -> str:
        try:
            read_content(store, manifest, one.sha256, key=key)
        except DamagedBackupError as error:
            return str(error)
        return ""

    while batch := list(islice(saved, BATCH)):
        looked = zip(batch, in_parallel(look, batch, threads=threads), strict=True)
        wrong |= {one.sha256: why for one, why in looked if why}
        progress(len(batch))
    return wrong


def find_unused(store: ObjectStore, folder: str, kept: Sequence[Manifest]) -> list[str]:
    """Keys of contents in a folder that none of these backups is made of; lists are streamed in order.

    Raises:
        DamagedBackupError: a list cannot be read, so that nobody knows what it names: nothing is unused.
        UnfitStoreError: the server does not list in order.
    """
    lists: list[Iterable[Listed]] = [list_of(store, manifest) for manifest in kept]
    used = heapq.merge(*lists, key=lambda one: one.sha256)
    at = next(used, None)
    unused = []
    for one in _stored(store, folder):
        while at is not None and at.sha256 < one.name:
            at = next(used, None)
        if at is None or at.sha256 != one.name:
            unused.append(f"{folder}/{one.name}")
    for _ in used:  # to their ends, where each list proves itself
        pass
    return unused


def remove_unused(store: ObjectStore, backups: Backups, *, before_batch: Callable[[], None]) -> int:
    """Remove contents that no backup is made of any more; returns how many."""
    kept = [one.manifest for one in backups.all if one.manifest is not None]
    if len(kept) != len(backups.all):
        return 0  # a backup whose manifest cannot be read may need any of them
    root = f"{backups.catalog_id}/"
    removed = 0
    for folder in list_folders(store, root):
        if not folder.startswith(f"{root}metadata"):
            continue
        whose = [one for one in kept if metadata_folder(backups.catalog_id, one.encrypted_to) == folder]
        unused = find_unused(store, folder, whose)
        for start in range(0, len(unused), MOST_KEYS):
            before_batch()
            batch = unused[start : start + MOST_KEYS]
            removed += len(batch) - len(delete_keys(store, batch))
    return removed


@dataclass(frozen=True, slots=True)
class _Copy:
    name: str
    size_bytes: int


def _stored(store: ObjectStore, folder: str) -> Iterator[_Copy]:
    """The contents that a folder has, in the order of their hashes."""
    before = ""
    for one in list_prefix(store, folder):
        name = one.key.rpartition("/")[2]
        if not re.fullmatch(r"[0-9a-f]{64}", name):
            continue
        if name <= before:
            raise UnfitStoreError(f"the server lists {one.key} behind {before}: it does not list in order")
        before = name
        yield _Copy(name, one.size_bytes)


def _line(one: SavedObject, *, saved: bool) -> bytes:
    return f"{json.dumps([one.sha256, one.size_bytes, saved])}\n".encode()


def _parsed(line: bytes) -> Listed:
    try:
        sha256, size_bytes, saved = json.loads(line)
        return Listed(str(sha256), int(size_bytes), bool(saved))
    except (ValueError, TypeError) as error:
        raise DamagedBackupError("a list of metadata objects is damaged: it holds something else") from error
