"""Metadata objects in backups: each content is stored once, whatever number of nights it is part of.

A backup takes over what the one before it is made of, and writes the rest under names of its own. So nothing that a
retention has found unused is ever used again: however late its removal comes, it removes nothing that somebody needs.

They are small and there are many, so that lists are streamed and held against each other in order, never kept whole.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice

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
from blocks.object_store.listing import list_folders, list_names, list_prefix
from blocks.object_store.transfer import put_bytes, read_bytes
from tasks.backups.listing import Backups
from tasks.backups.manifest import METADATA_LIST, Manifest, is_backup_id, metadata_folder
from tasks.backups.streams import read_file, require_key
from tasks.content import decode_whole
from tasks.parallel import in_parallel

LARGEST_BYTES = 64 * 1024**2
"""A metadata object above this is no metadata; it is named as unsaved."""
REASONS_KEPT = 20
BATCH = 1_000


@dataclass(frozen=True)
class Listed:
    """One line of a backup's list: a content, whether it could be saved, and the backup that wrote it."""

    sha256: str
    size_bytes: int
    saved: bool
    by: str = ""
    """Empty in lists of older versions, which knew a content by its hash alone."""

    @property
    def name(self) -> str:
        """What the content is called in its folder."""
        return f"{self.sha256}-{self.by}" if self.by else self.sha256


@dataclass
class Saving:
    """What became of the metadata objects of one backup."""

    objects: int = 0
    size_bytes: int = 0
    copied: int = 0
    unsaved: int = 0
    reasons: list[str] = field(default_factory=list)


def save_metadata(
    connection: Connection,
    stores: Callable[[int], ObjectStore],
    target: ObjectStore,
    backups: Backups,
    saving: Saving,
    *,
    backup: str,
    key: BackupKey | None,
    threads: int,
    before_batch: Callable[[], None],
) -> Iterator[bytes]:
    """Copy every content of the snapshot that the backup before has not; yields the list's lines, in order of hashes.

    An object that cannot be read, or is not what its row says, is counted with its reason, and named in the list: one
    rotten file must not keep the whole catalog from being saved.
    """
    recipient = key.recipient if key else ""
    folder = metadata_folder(backups.catalog_id, recipient)
    rotten = {name for one in backups.all for name in one.rotten}
    have, before = _stored(target, folder), _list_before(target, backups, recipient)
    known, last = next(have, None), next(before, None)
    wanted = metadata_objects(connection)
    while batch := list(islice(wanted, BATCH)):
        before_batch()
        names: dict[str, Listed] = {}
        missing: list[SavedObject] = []
        for one in batch:
            while last is not None and last.sha256 < one.sha256:
                last = next(before, None)
            taken_over = last is not None and last.sha256 == one.sha256 and last.saved
            by = last.by if last is not None and taken_over else backup
            names[one.sha256] = Listed(one.sha256, one.size_bytes, saved=True, by=by)
            name = names[one.sha256].name
            while known is not None and known.name < name:
                known = next(have, None)
            there = taken_over and known is not None and known.name == name and name not in rotten
            # What is encrypted is larger by what no listing tells.
            if not there or (key is None and known is not None and known.size_bytes != one.size_bytes):
                missing.append(one)

        def copy(one: SavedObject, names: dict[str, Listed] = names) -> str:
            return _copy(stores, target, f"{folder}/{names[one.sha256].name}", one, key=key)

        results = in_parallel(copy, missing, threads=threads)
        failed = {one.sha256: why for one, why in zip(missing, results, strict=True) if why}
        copied = [one for one in missing if one.sha256 not in failed]
        saving.objects += len(batch) - len(failed)
        saving.size_bytes += sum(one.size_bytes for one in batch if one.sha256 not in failed)
        saving.copied += len(copied)
        saving.unsaved += len(failed)
        saving.reasons += list(failed.values())[: REASONS_KEPT - len(saving.reasons)]
        yield b"".join(_line(replace(names[one.sha256], saved=one.sha256 not in failed)) for one in batch)


def _list_before(store: ObjectStore, backups: Backups, recipient: str) -> Iterator[Listed]:
    """What the newest backup is made of whose list can be read, in the order of hashes; nothing where there is none."""
    for one in backups.all:
        made = one.manifest
        if made is None or one.why_not or made.metadata is None or made.encrypted_to != recipient:
            continue
        with suppress(DamagedBackupError, NotFoundError):
            for _ in list_of(store, made):  # to its end, where it proves itself
                pass
            return list_of(store, made)
    return iter(())


def _copy(
    stores: Callable[[int], ObjectStore],
    target: ObjectStore,
    to: str,
    one: SavedObject,
    *,
    key: BackupKey | None,
) -> str:
    """Returns why it could not be copied, empty where it was."""
    try:
        stored = read_bytes(stores(one.location_id), one.key, at_most=LARGEST_BYTES)
        content = decode_whole(stored, one.codec, at_most=max(one.size_bytes, 1))
        if (hashlib.sha256(content).hexdigest(), len(content)) != (one.sha256, one.size_bytes):
            return f"{one.key}: its bytes are not those that its row names"
        body = content if key is None else b"".join(key.encrypted(iter([content])))
        put_bytes(target, to, body, {}, checksums=True)
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
        while known is not None and known.name < one.name:
            known = next(have, None)
        if one.saved and (known is None or known.name != one.name):
            missing.append(one.name)
    return missing


def find_content(store: ObjectStore, manifest: Manifest, sha256: str, *, key: BackupKey | None) -> bytes:
    """A metadata object's content by its hash alone, proved: any copy that some backup is made of is as good.

    Raises:
        DamagedBackupError: none of them is what its name says, or there is none.
        RefusedError: it is encrypted and the secret key is not here.
    """
    require_key(manifest, key)
    why = f"metadata {sha256[:12]}… in the backups is damaged: it is not there"
    for name in list_names(store, f"{metadata_folder(manifest.catalog_id, manifest.encrypted_to)}/{sha256}"):
        try:
            return read_content(store, manifest, sha256, name.rpartition("/")[2], key=key)
        except DamagedBackupError as error:
            why = str(error)
    raise DamagedBackupError(why)


def read_content(store: ObjectStore, manifest: Manifest, sha256: str, name: str, *, key: BackupKey | None) -> bytes:
    """A metadata object's content, proved.

    Raises:
        DamagedBackupError: it is not what its name says, or is gone.
        RefusedError: it is encrypted and the secret key is not here.
    """
    where = f"metadata {sha256[:12]}… in the backups"
    require_key(manifest, key)
    try:
        body = read_bytes(
            store, f"{metadata_folder(manifest.catalog_id, manifest.encrypted_to)}/{name}", at_most=2 * LARGEST_BYTES
        )
        if manifest.encrypted_to and key is not None:
            body = b"".join(key.decrypted(iter([body])))
    except (DamagedBackupError, ContentMismatchError, NotFoundError) as error:
        raise DamagedBackupError(f"{where} is damaged: {error}") from error
    if hashlib.sha256(body).hexdigest() != sha256:
        raise DamagedBackupError(f"{where} is damaged: its bytes are others")
    return body


def damaged_contents(store: ObjectStore, manifest: Manifest, *, key: BackupKey | None, threads: int) -> dict[str, str]:
    """Read every content that the backup's list names; returns what is wrong, by name."""
    wrong: dict[str, str] = {}
    saved = (one for one in list_of(store, manifest) if one.saved)

    def look(one: Listed) -> str:
        try:
            read_content(store, manifest, one.sha256, one.name, key=key)
        except DamagedBackupError as error:
            return str(error)
        return ""

    while batch := list(islice(saved, BATCH)):
        looked = zip(batch, in_parallel(look, batch, threads=threads), strict=True)
        wrong |= {one.name: why for one, why in looked if why}
    return wrong


def find_unused(store: ObjectStore, folder: str, kept: Sequence[Manifest]) -> list[str]:
    """Keys of contents in a folder that none of these backups is made of; lists are streamed in order.

    Raises:
        DamagedBackupError: a list cannot be read, so that nobody knows what it names: nothing is unused.
        UnfitStoreError: the server does not list in order.
    """
    lists: list[Iterable[Listed]] = [list_of(store, manifest) for manifest in kept]
    used = heapq.merge(*lists, key=lambda one: one.name)
    at = next(used, None)
    unused = []
    for one in _stored(store, folder):
        while at is not None and at.name < one.name:
            at = next(used, None)
        if at is None or at.name != one.name:
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
    """The contents that a folder has, in the order of their names."""
    before = ""
    for one in list_prefix(store, folder):
        name = one.key.rpartition("/")[2]
        sha256, _, by = name.partition("-")
        if not re.fullmatch(r"[0-9a-f]{64}", sha256) or (by and not is_backup_id(by)):
            continue
        if name <= before:
            raise UnfitStoreError(f"the server lists {one.key} behind {before}: it does not list in order")
        before = name
        yield _Copy(name, one.size_bytes)


def _line(one: Listed) -> bytes:
    return f"{json.dumps([one.sha256, one.size_bytes, one.saved, one.by])}\n".encode()


def _parsed(line: bytes) -> Listed:
    try:
        sha256, size_bytes, saved, *by = json.loads(line)
        return Listed(str(sha256), int(size_bytes), bool(saved), *(str(one) for one in by))
    except (ValueError, TypeError) as error:
        raise DamagedBackupError("a list of metadata objects is damaged: it holds something else") from error
