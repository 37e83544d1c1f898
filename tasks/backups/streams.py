"""Bytes on their way into a backup and out of it: compressed, encrypted and hashed, in one pass."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from zstandard import ZstdCompressionParameters, ZstdCompressor

from blocks.encryption import BackupKey
from blocks.errors import ContentMismatchError, DamagedBackupError, NotFoundError, RefusedError
from blocks.object_store import ObjectStore
from blocks.object_store.block import MIB
from blocks.object_store.transfer import put_stream, read_stream
from tasks.backups.manifest import BackupFile, Manifest, folder_of
from tasks.content import LARGEST_WINDOW_LOG, decoded
from tasks.parallel import ahead

PART_BYTES = 16 * MIB
JOINED_BYTES = 4 * MIB


class Size:
    """How many bytes streamed past."""

    def __init__(self) -> None:
        self.size_bytes = 0

    def counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The same chunks."""
        for chunk in chunks:
            self.size_bytes += len(chunk)
            yield chunk


class Tally:
    """Size and SHA-256 of what streamed past."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    @property
    def sha256(self) -> str:
        """Of everything so far."""
        return self._digest.hexdigest()

    def counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The same chunks."""
        for chunk in chunks:
            self._digest.update(chunk)
            self.size_bytes += len(chunk)
            yield chunk


def compressed(chunks: Iterator[bytes], *, level: int) -> Iterator[bytes]:
    """One zstd frame, by as many threads as there are cores; its content carries a checksum."""
    # At least two threads: with one the frame would be made by the calling thread, between two reads. Levels choose
    # larger windows than readers are asked to hold.
    window = min(ZstdCompressionParameters.from_level(level).window_log, LARGEST_WINDOW_LOG)
    parameters = ZstdCompressionParameters.from_level(
        level, window_log=window, threads=max(2, os.cpu_count() or 1), write_checksum=True
    )
    frame: Any = ZstdCompressor(compression_params=parameters).compressobj()
    for chunk in chunks:
        if out := frame.compress(chunk):
            yield out
    yield frame.flush()


def write_file(
    store: ObjectStore,
    catalog_id: UUID,
    backup: str,
    holds: Any,
    content: Iterator[bytes],
    *,
    level: int,
    key: BackupKey | None,
) -> BackupFile:
    """Write one of a backup's files in parts, without a disk; returns what the manifest says of it.

    An exception of `content` gives the upload up before the object exists, and comes through.
    """
    inside, outside = Size(), Tally()
    chunks = compressed(inside.counted(content), level=level)
    name = f"{holds}.zst"
    if key is not None:
        chunks, name = key.encrypted(chunks), f"{name}.age"
    put_stream(
        store,
        f"{folder_of(catalog_id, backup)}/{name}",
        # In a thread of its own: compression goes on while a part is sent.
        ahead(_in_parts(outside.counted(chunks))),
        part_bytes=max(store.multipart_upload_part_bytes, PART_BYTES),
        attributes={"Content-Type": "application/zstd" if key is None else "application/octet-stream"},
        # A store of backups need not be probed: it may be one that looks at nothing else.
        checksums=True,
    )
    return BackupFile(
        name=name, holds=holds, size_bytes=outside.size_bytes, sha256=outside.sha256,
        content_bytes=inside.size_bytes,
    )  # fmt: skip


def read_file(
    store: ObjectStore, catalog_id: UUID, backup: str, file: BackupFile, *, key: BackupKey | None
) -> Iterator[bytes]:
    """The content of one of a backup's files; when it ends without an error, it was what was written.

    Raises:
        DamagedBackupError: they were not; whatever was handed out before is not to be used.
        RefusedError: it is encrypted and the secret key is not here.
    """
    inside, outside = Size(), Tally()
    where = f"{file.name} of backup {backup}"
    stored = outside.counted(ahead(read_stream(store, f"{folder_of(catalog_id, backup)}/{file.name}")))
    if file.name.endswith(".age"):
        if key is None:
            raise RefusedError(f"{where} is encrypted: name the Backup Key block, or a file that holds the secret key")
        stored = key.decrypted(stored)
    try:
        yield from inside.counted(decoded(stored, "zstd", at_most=file.content_bytes))
        for _ in stored:  # what follows the frame is part of the file, and of its hash
            pass
    except (ContentMismatchError, DamagedBackupError, NotFoundError) as error:
        gone = "it is not there" if isinstance(error, NotFoundError) else str(error)
        raise DamagedBackupError(f"{where} is damaged: {gone}") from error
    _check(where, outside, file.size_bytes, file.sha256)
    if inside.size_bytes != file.content_bytes:
        raise DamagedBackupError(
            f"{where} is damaged: it holds {inside.size_bytes} bytes, {file.content_bytes} were written"
        )


def require_key(manifest: Manifest, key: BackupKey | None) -> None:
    """See that what is encrypted can be opened with this key, before anything is read.

    Raises:
        RefusedError: there is none, it is another one, or its secret half is not here.
    """
    if not manifest.encrypted_to:
        return
    if key is None:
        raise RefusedError(
            f"backup {manifest.id} is encrypted to {manifest.encrypted_to}: name the Backup Key block, or a file that "
            "holds the secret key"
        )
    if key.recipient != manifest.encrypted_to:
        raise RefusedError(f"backup {manifest.id} is encrypted to another key, {manifest.encrypted_to}; use that one")
    if not key.opens:
        raise RefusedError(f"backup {manifest.id} needs its secret key; only its public half is here: {key.recipient}")


def check_stored(store: ObjectStore, catalog_id: UUID, backup: str, file: BackupFile) -> None:
    """Read a file back as it lies in the store and hold it against its hash; no key is needed for that.

    Raises:
        DamagedBackupError: it is not what was written.
    """
    outside = Tally()
    where = f"{file.name} of backup {backup}"
    try:
        for _ in outside.counted(ahead(read_stream(store, f"{folder_of(catalog_id, backup)}/{file.name}"))):
            pass
    except NotFoundError as error:
        raise DamagedBackupError(f"{where} is damaged: it is not there") from error
    _check(where, outside, file.size_bytes, file.sha256)


def _check(where: str, seen: Tally, size_bytes: int, sha256: str) -> None:
    if (seen.size_bytes, seen.sha256) != (size_bytes, sha256):
        what = (
            f"it has {seen.size_bytes} bytes where {size_bytes} were written"
            if seen.size_bytes != size_bytes
            else "its bytes are not those that were written"
        )
        raise DamagedBackupError(f"{where} is damaged: {what}")


def _in_parts(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Chunks of a few MiB: the client's calls cost more than joining them."""
    held: list[bytes] = []
    size = 0
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        if size >= JOINED_BYTES:
            yield b"".join(held)
            held, size = [], 0
    if held or not size:
        yield b"".join(held)
