"""Writing one object elsewhere or in another encoding, and proving that what was written is its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from blocks.catalog.content import Content
from blocks.catalog.relocations import Intent, Proved
from blocks.errors import ContentMismatchError, NotFoundError, NotSmallerError, RefusedError, StorageError
from blocks.object_store.block import MIB
from blocks.object_store.budget import Budget
from blocks.object_store.copying import copy, copy_as_it_is
from blocks.object_store.listing import find_etags
from blocks.object_store.transfer import Written, part_size, put_bytes, put_stream, read_bytes, read_stream
from tasks.content import decode_whole, decoded, encode_whole, encoded, hash_content
from tasks.parallel import ahead, in_parallel
from tasks.stores import OpenLocation
from tasks.writing import attributes_of

WHOLE_BYTES = 16 * MIB
"""Objects up to here pass through memory whole, read once and written in one request."""
COPY_FROM_BYTES = MIB
"""From here on a server copies by itself. Below, reading and writing takes no more requests than copying and looking,
and proves the content's SHA-256 on the way."""

READ_BACK_BYTES = 32 * MIB
"""Of memory, while an object is read back."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where objects go, and how they are stored there: None leaves their codec as it is.

    Compression is done at `level`, and only where it gains at least so many percent.
    """

    location: OpenLocation
    codec: str | None = None
    level: int = 19
    least_gain_percent: int = 5


def copied_as_it_is(source: OpenLocation, target: OpenLocation, row: Content, intent: Intent) -> bool:
    """Copy an object inside a server, if a plain copy makes it what it shall be; `prove_copies` has to look at it.

    Raises:
        StoreUnavailableError: the server did not answer.
    """
    plain = (
        intent.codec == row.codec
        # A plain copy keeps the class on some servers (SeaweedFS).
        and not (target.place.storage_class or source.place.storage_class)
        and not target.place.needs_restore
        and row.stored_bytes <= target.store.multipart_copy_threshold_bytes
        and _is_of_bytes(row.etag)
    )
    if plain:
        with suppress(RefusedError, NotFoundError):  # a server that does not copy so is asked in another way
            copy_as_it_is(source.store, row.key, target.store, intent.key)
            return True
    return False


def _is_of_bytes(etag: str | None) -> bool:
    # That of a single part is made of the bytes; that of several depends on how they were cut.
    return etag is not None and "-" not in etag


def prove_copies(
    target: OpenLocation, rows: Sequence[Content], intents: Mapping[UUID, Intent], *, threads: int
) -> dict[UUID, Proved | StorageError]:
    """A copy with the ETag and size of what was proved before is the same bytes; any other is read."""
    if not rows:
        return {}
    try:
        there = find_etags(target.store, [intents[row.id].key for row in rows])
    except StorageError as error:
        return dict.fromkeys([row.id for row in rows], error)

    def prove(row: Content) -> Proved | StorageError:
        intent = intents[row.id]
        etag, size = there.get(intent.key, (None, -1))
        try:
            if (etag, size) != (row.etag, row.stored_bytes):
                _read_back(target, row, intent)
        except StorageError as error:
            return error
        return Proved(intent.id, etag, row.stored_bytes)

    return dict(zip([row.id for row in rows], in_parallel(prove, rows, threads=threads), strict=True))


def copied(
    source: OpenLocation, target: OpenLocation, row: Content, intent: Intent, *, memory: Budget
) -> Written | None:
    """Have the server copy an object under its intent's key, and prove it; None where it has to be written from here.

    Raises:
        ContentMismatchError: the copy is not the row's content.
        StoreUnavailableError: the server did not answer; it may copy all the same.
    """
    # Into an archive everything is sent from here, and proved on its way: a copy there can be read back by nobody.
    if intent.codec != row.codec or row.stored_bytes < COPY_FROM_BYTES or target.place.needs_restore:
        return None
    attributes = attributes_of(target, row.name, row.id, row.sha256)
    try:
        written = copy(
            source.store, row.key, target.store, intent.key, size_bytes=row.stored_bytes, attributes=attributes
        )
    except RefusedError:
        return None  # a server that does not copy is read from
    if not (_is_of_bytes(written.etag) and written.etag == row.etag) or written.size_bytes != row.stored_bytes:
        with memory.share(READ_BACK_BYTES, READ_BACK_BYTES):
            _read_back(target, row, intent)
    return written


def write_elsewhere(source: OpenLocation, target: Target, row: Content, intent: Intent) -> Written:
    """Send one object from here under its intent's key, and prove it.

    Raises:
        ContentMismatchError: the source's bytes are not its content, or other bytes arrived than were sent.
        NotSmallerError: compressed it is not smaller.
        RefusedError: nothing could prove it where it goes.
    """
    place = target.location
    if place.place.needs_restore and not place.capabilities.checks_uploads:
        raise RefusedError(
            f"location {place.place.name} must restore what is read, and its server checks no upload: nothing could "
            "prove what is written there"
        )
    attributes = attributes_of(place, row.name, row.id, row.sha256)
    checksums = place.capabilities.needs_checksum_headers
    if max(row.size_bytes, row.stored_bytes) <= WHOLE_BYTES:
        body = _transcoded(read_bytes(source.store, row.key, at_most=row.stored_bytes), row, intent.codec, target)
        written = put_bytes(place.store, intent.key, body, attributes, checksums=checksums)
    else:
        written = put_stream(
            place.store,
            intent.key,
            _stream(source, row, intent.codec, target),
            part_bytes=part_size(place.store, max(row.size_bytes, row.stored_bytes)),
            attributes=attributes,
            checksums=checksums,
        )
        if intent.codec == "zstd" != row.codec:
            _require_smaller(written.size_bytes, row, target)
    if not place.capabilities.checks_uploads:
        _read_back(place, row, intent)
    return written


def _transcoded(stored: bytes, row: Content, codec: str, target: Target) -> bytes:
    content = decode_whole(stored, row.codec, at_most=row.size_bytes)
    if (hashlib.sha256(content).hexdigest(), len(content)) != (row.sha256, row.size_bytes):
        raise _wrong_source(row)
    if codec == row.codec:
        return stored
    if codec == "identity":
        return content
    body = encode_whole(content, level=target.level)
    _require_smaller(len(body), row, target)
    return body


def _stream(source: OpenLocation, row: Content, codec: str, target: Target) -> Iterator[bytes]:
    """What is to be stored, some MiB at a time; it raises at its end where the content was not the row's."""
    stored = ahead(read_stream(source.store, row.key))
    if codec == row.codec == "zstd":
        return _decoded_beside(stored, row)
    content = _hashed(decoded(stored, row.codec, at_most=row.size_bytes), row)
    if codec in (row.codec, "identity"):
        return content
    return encoded(content, level=target.level, size_bytes=row.size_bytes)


def _hashed(content: Iterator[bytes], row: Content) -> Iterator[bytes]:
    digest, size = hashlib.sha256(), 0
    for block in content:
        digest.update(block)
        size += len(block)
        yield block
    if (digest.hexdigest(), size) != (row.sha256, row.size_bytes):
        raise _wrong_source(row)


def _decoded_beside(stored: Iterator[bytes], row: Content) -> Iterator[bytes]:
    """The stored bytes as they are, decoded beside only to see that they are the row's content."""
    kept: list[bytes] = []

    def passing() -> Iterator[bytes]:
        for block in stored:
            kept.append(block)
            yield block

    for _ in _hashed(decoded(passing(), row.codec, at_most=row.size_bytes), row):
        while kept:
            yield kept.pop(0)
    yield from kept


def _read_back(target: OpenLocation, row: Content, intent: Intent) -> None:
    found = hash_content(target.store, intent.key, intent.codec, at_most=row.size_bytes)
    if found != (row.sha256, row.size_bytes):
        raise ContentMismatchError(f"{row.name}: what was written is not its content; run verify-objects")


def _require_smaller(compressed_bytes: int, row: Content, target: Target) -> None:
    if compressed_bytes * 100 > row.stored_bytes * (100 - target.least_gain_percent):
        raise NotSmallerError(f"{row.name} would not get {target.least_gain_percent} % smaller")


def _wrong_source(row: Content) -> ContentMismatchError:
    return ContentMismatchError(f"{row.name}: its bytes are not its content; run verify-objects, which marks it")
