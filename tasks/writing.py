"""Writing bytes under keys that the catalog has named, and proving what lies there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from blocks.catalog.objects import NewObject, Verified
from blocks.errors import ContentMismatchError, RefusedError, SourceChangedError, StorageError
from blocks.object_store.copying import copy
from blocks.object_store.transfer import Written, part_size, put_bytes, put_file, put_stream, read_stream
from tasks.content import hash_content
from tasks.layout import content_type
from tasks.parallel import ahead, in_parallel
from tasks.stores import OpenLocation


@dataclass(frozen=True)
class LocalFile:
    """Bytes on this machine's disk, or, of a name alone, the few that are in memory: `content`."""

    path: Path
    content: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class StoredBlob:
    """Bytes in the same bucket under a key that others may still write, such as an upload form's.

    `codec` is how they hold the content, and `stored_bytes` how many they are: the content's own size unless given.
    """

    key: str
    codec: str = "identity"
    stored_bytes: int | None = None


@dataclass(frozen=True)
class Writing:
    """One object to write, and where its bytes come from."""

    new: NewObject
    source: LocalFile | StoredBlob


@dataclass(frozen=True)
class WriteResult:
    """Every writing, told apart: proved to be there, or not with the reason."""

    verified: tuple[Verified, ...]
    failed: dict[str, StorageError]
    """By key."""


def write_objects(
    location: OpenLocation,
    writings: Sequence[Writing],
    *,
    parallel: int,
) -> WriteResult:
    """Write and prove each object."""

    def write(writing: Writing) -> Verified | StorageError:
        try:
            written = write_object(location, writing)
        except StorageError as error:
            return error
        except OSError as error:
            return SourceChangedError(f"{Path(str(error.filename or '')).name}: {error.strerror or error}")
        return Verified(writing.new.id, written.etag)

    results = in_parallel(write, writings, threads=parallel)
    return WriteResult(
        verified=tuple(result for result in results if isinstance(result, Verified)),
        failed={
            writing.new.key: result
            for writing, result in zip(writings, results, strict=True)
            if isinstance(result, StorageError)
        },
    )


def attributes_of(location: OpenLocation, name: str, object_id: UUID, sha256: str) -> dict[str, str]:
    """What goes with an object's bytes: the row's id and hash, so that a lost row or object can be matched again."""
    attributes = {"Content-Type": content_type(name), "object-id": str(object_id), "sha256": sha256}
    if location.place.storage_class:
        attributes["Storage-Class"] = location.place.storage_class
    return attributes


def write_object(location: OpenLocation, writing: Writing) -> Written:
    """Write one object and prove it, by the store's own check where the probe saw one, by reading back where not.

    Raises:
        SourceChangedError: the source gave other bytes than were hashed.
        ContentMismatchError: other bytes arrived than were sent.
    """
    new, store = writing.new, location.store
    codec, expected = "identity", writing.new.size_bytes
    attributes = attributes_of(location, new.name, new.id, new.sha256)
    checksums = location.capabilities.needs_checksum_headers
    if isinstance(writing.source, LocalFile):
        if writing.source.content is not None:
            written = put_bytes(store, new.key, writing.source.content, attributes, checksums=checksums)
        else:
            written = put_file(
                store,
                new.key,
                writing.source.path,
                sha256=new.sha256,
                size_bytes=new.size_bytes,
                attributes=attributes,
                checksums=checksums,
            )
        proved = location.capabilities.checks_uploads
    else:
        blob = writing.source
        codec, expected = blob.codec, new.size_bytes if blob.stored_bytes is None else blob.stored_bytes
        try:
            written = copy(store, blob.key, store, new.key, size_bytes=expected, attributes=attributes)
        except RefusedError:  # a server that does not copy objects of this size
            chunks = ahead(read_stream(store, blob.key))
            part_bytes = part_size(store, expected)
            written = put_stream(
                store, new.key, chunks, part_bytes=part_bytes, attributes=attributes, checksums=checksums
            )
        # What was hashed before may have been replaced since: this copy is what counts, and no form can write it.
        proved = False
    if not proved:
        found, size = hash_content(store, new.key, codec, at_most=new.size_bytes)
        if (found, size) != (new.sha256, new.size_bytes):
            if isinstance(writing.source, StoredBlob):
                raise SourceChangedError(f"{writing.source.key} was replaced while it was taken in; nothing was stored")
            raise ContentMismatchError(f"{new.key} holds other bytes than were sent; nothing was stored")
    elif written.size_bytes != expected:
        raise ContentMismatchError(
            f"{new.key} holds {written.size_bytes} bytes where {expected} were sent; nothing was stored"
        )
    return written
