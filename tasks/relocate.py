"""Relocate: write objects somewhere else or in another encoding, prove what was written, swap their rows.

The one mechanism of compression, tiering, rehydration and migration. Intents are committed before a byte is written;
rows are swapped where their generation is the one that was read; the old bytes go when the last URL for them has ended.
Killed anywhere, `tasks.intents` finishes or undoes what is left, and every live row always points at valid bytes.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from typing import Literal
from uuid import UUID, uuid4

from blocks.catalog import CatalogDatabase
from blocks.catalog.content import Content
from blocks.catalog.relocations import LIVE, Intent, Movable, Proved, give_up_intents, open_intents, swap
from blocks.errors import (
    ContentMismatchError,
    NotFoundError,
    NotSmallerError,
    RefusedError,
    StorageError,
    is_transient,
)
from blocks.object_store.block import MIB
from blocks.object_store.copying import copy, copy_as_it_is, same_server
from blocks.object_store.listing import find_etags
from blocks.object_store.transfer import Written, part_size, put_bytes, put_stream, read_bytes, read_stream
from blocks.policies import RelocationPolicy
from tasks.content import decode_whole, decoded, encode_whole, encoded, hash_content
from tasks.intents import remove_given_up
from tasks.layout import PLAYLISTS, rewritten_key
from tasks.parallel import ahead, in_parallel
from tasks.stores import Locations, OpenLocation
from tasks.writing import attributes_of

WHOLE_BYTES = 16 * MIB
"""Objects up to here pass through memory whole, read once and written in one request."""
COPY_FROM_BYTES = MIB
"""From here on a server copies by itself. Below, reading and writing takes no more requests than copying and looking,
and proves the content's SHA-256 on the way."""
PARTS_IN_MEMORY = 10
"""Parts of a streamed object that are read, written or under way at the same time."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where objects go, and how they are stored there: None leaves their codec as it is.

    Compression is done at `level`, and only where it gains at least so many percent.
    """

    location: OpenLocation
    codec: str | None = None
    level: int = 19
    least_gain_percent: int = 5


@dataclass(frozen=True)
class Why:
    """What the log says of it: which flow, by which rule, in which run."""

    operation: str
    rule: str
    run: str


@dataclass(frozen=True, slots=True)
class Relocated:
    """What became of one object; bytes as stored before, and after where it was moved."""

    object_id: UUID
    job_id: UUID
    name: str
    result: Literal["moved", "skipped", "failed"]
    error: str = ""
    before_bytes: int = 0
    after_bytes: int = 0


def relocate(
    catalog: CatalogDatabase,
    locations: Locations,
    policy: RelocationPolicy,
    objects: Sequence[Content],
    target: Target,
    why: Why,
    *,
    movable: Movable = LIVE,
    before_chunk: Callable[[], None] = lambda: None,
) -> list[Relocated]:
    """Move these objects, with an outcome for each; `before_chunk` may raise, and ends it between two chunks.

    Raises:
        CatalogUnavailableError: PostgreSQL did not answer; the next run finishes what is left.
    """
    done: list[Relocated] = []
    budget = _Budget(policy.memory_mib * MIB)
    for start in range(0, len(objects), policy.batch_objects):
        before_chunk()
        chunk = objects[start : start + policy.batch_objects]
        done += _relocate_chunk(catalog, locations, policy, chunk, target, why, movable, budget)
    return done


def _relocate_chunk(
    catalog: CatalogDatabase,
    locations: Locations,
    policy: RelocationPolicy,
    objects: Sequence[Content],
    target: Target,
    why: Why,
    movable: Movable,
    budget: _Budget,
) -> list[Relocated]:
    intents = {row.id: _intent(row, target) for row in objects}
    opened = catalog.transaction(
        lambda connection: open_intents(
            connection, list(intents.values()), movable=movable, operation=why.operation, rule=why.rule, run=why.run
        )
    )
    rows = [row for row in objects if intents[row.id].id in opened]
    sources = {place: locations.of(place) for place in {row.location_id for row in rows}}
    local = {place: same_server(source.store, target.location.store) for place, source in sources.items()}

    def write(row: Content) -> Proved | StorageError | None:
        intent, source = intents[row.id], sources[row.location_id]
        try:
            if local[row.location_id] and _copies_as_it_is(row, intent, target.location):
                with suppress(RefusedError, NotFoundError):  # a server that does not copy so is asked in another way
                    copy_as_it_is(source.store, row.key, target.location.store, intent.key)
                    return None
            with budget.hold(_memory_of(row, target.location)):
                written = _write(source, target, row, intent, local[row.location_id])
        except StorageError as error:
            return error
        return Proved(intent.id, written.etag, written.size_bytes)

    results = in_parallel(write, rows, threads=policy.parallel_transfers)
    copied = [row for row, one in zip(rows, results, strict=True) if one is None]
    written = {row.id: one for row, one in zip(rows, results, strict=True) if one is not None}
    written |= _prove_copies(target.location, copied, intents, threads=policy.parallel_transfers)
    errors = {object_id: str(one) for object_id, one in written.items() if isinstance(one, StorageError)}
    swapped = _swap(catalog, policy, rows, written, movable, errors)
    left = [intents[row.id] for row in rows if intents[row.id].id not in swapped]
    given_up = catalog.transaction(lambda connection: give_up_intents(connection, [one.id for one in left]))
    with suppress(StorageError):  # what cannot be removed now is the next run's
        remove_given_up(catalog, target.location, [one for one in left if one.id in given_up], run=why.run)

    def outcome(row: Content) -> Relocated:
        intent, one = intents[row.id], written.get(row.id)
        base = (row.id, row.job_id, row.name)
        # An intent that is not open any more was swapped, though the answer to that was lost.
        if isinstance(one, Proved) and intent.id in opened and intent.id not in given_up:
            return Relocated(*base, "moved", "", row.stored_bytes, one.stored_bytes)
        if isinstance(one, NotSmallerError):
            return Relocated(*base, "skipped", str(one))
        if row.id in errors:
            return Relocated(*base, "failed", errors[row.id])
        return Relocated(*base, "skipped", "changed meanwhile, or its job is on hold")

    return [outcome(row) for row in objects]


def _copies_as_it_is(row: Content, intent: Intent, target: OpenLocation) -> bool:
    """Whether a plain copy makes it what it shall be, and its ETag will prove that."""
    return (
        intent.codec == row.codec
        and not target.place.storage_class
        and row.stored_bytes <= target.store.multipart_copy_threshold_bytes
        and _is_of_bytes(row.etag)
    )


def _is_of_bytes(etag: str | None) -> bool:
    # That of a single part is made of the bytes; that of several depends on how they were cut.
    return etag is not None and "-" not in etag


def _prove_copies(
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


def _intent(row: Content, target: Target) -> Intent:
    intent_id = uuid4()
    key = rewritten_key(row.job_id, row.kind, row.name, intent_id)
    return Intent(intent_id, row.id, row.generation, target.location.place.id, key, target.codec or row.codec)


def _swap(
    catalog: CatalogDatabase,
    policy: RelocationPolicy,
    rows: Sequence[Content],
    written: dict[UUID, Proved | StorageError],
    movable: Movable,
    errors: dict[UUID, str],
) -> set[UUID]:
    """One transaction a customer; an error of one keeps the others from nothing."""
    swapped: set[UUID] = set()
    keep = timedelta(minutes=policy.old_bytes_minutes)
    for customer_id, group in groupby(sorted(rows, key=lambda row: row.customer_id), key=lambda row: row.customer_id):
        own = list(group)
        proved = {row.id: one for row in own if isinstance(one := written[row.id], Proved)}
        streams = {(row.job_id, row.kind, PLAYLISTS[row.kind]) for row in own if row.kind in PLAYLISTS}
        try:
            swapped |= catalog.transaction(
                lambda connection, customer_id=customer_id, proved=proved, streams=streams: swap(  # type: ignore[misc]  # bound here
                    connection, customer_id, list(proved.values()), movable=movable, keep=keep, playlists=streams
                )
            )
        except StorageError as error:
            if not is_transient(error):
                raise
            # Its COMMIT may have happened: whether an intent can still be given up tells.
            errors |= dict.fromkeys(proved, str(error))
    return swapped


def _write(source: OpenLocation, target: Target, row: Content, intent: Intent, local: bool) -> Written:
    """Write one object under its intent's key and prove it.

    Raises:
        ContentMismatchError: the source's bytes are not its content, or other bytes arrived than were sent.
        NotSmallerError: compressed it is not smaller.
    """
    place = target.location
    if local and intent.codec == row.codec and row.stored_bytes >= COPY_FROM_BYTES:
        with suppress(RefusedError):  # a server that does not copy is read from
            return _copied(source, place, row, intent)
    attributes = attributes_of(place, row.name, row.id, row.sha256)
    checksums = place.capabilities.reads_checksum_headers
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


def _copied(source: OpenLocation, target: OpenLocation, row: Content, intent: Intent) -> Written:
    attributes = attributes_of(target, row.name, row.id, row.sha256)
    written = copy(source.store, row.key, target.store, intent.key, size_bytes=row.stored_bytes, attributes=attributes)
    if not (_is_of_bytes(written.etag) and written.etag == row.etag) or written.size_bytes != row.stored_bytes:
        _read_back(target, row, intent)
    return written


def _read_back(target: OpenLocation, row: Content, intent: Intent) -> None:
    found = hash_content(target.store, intent.key, intent.codec, at_most=row.size_bytes)
    if found != (row.sha256, row.size_bytes):
        raise ContentMismatchError(f"{row.name}: what was written is not its content; run verify-objects")


def _require_smaller(compressed_bytes: int, row: Content, target: Target) -> None:
    if compressed_bytes * 100 > row.stored_bytes * (100 - target.least_gain_percent):
        raise NotSmallerError(f"{row.name} would not get {target.least_gain_percent} % smaller")


def _wrong_source(row: Content) -> ContentMismatchError:
    return ContentMismatchError(f"{row.name}: its bytes are not its content; run verify-objects, which marks it")


def _memory_of(row: Content, target: OpenLocation) -> int:
    largest = max(row.size_bytes, row.stored_bytes)
    return 2 * largest if largest <= WHOLE_BYTES else PARTS_IN_MEMORY * part_size(target.store, largest)


class _Budget:
    """Memory that the objects under way may take together; one that wants more than all of it goes alone."""

    def __init__(self, size_bytes: int) -> None:
        self._size = self._free = size_bytes
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, size_bytes: int) -> Iterator[None]:
        taken = min(size_bytes, self._size)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= taken)
            self._free -= taken
        try:
            yield
        finally:
            with self._changed:
                self._free += taken
                self._changed.notify_all()
