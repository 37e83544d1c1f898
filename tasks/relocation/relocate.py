"""Relocate: write objects somewhere else or in another encoding, prove what was written, swap their rows.

The one mechanism of compression, tiering, rehydration and migration. Intents are committed before a byte is written;
rows are swapped where their generation is the one that was read; the old bytes go when the last URL for them has ended.
Killed anywhere, `intents` finishes or undoes what is left, and every live row always points at valid bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from typing import Literal
from uuid import UUID, uuid4

from blocks.catalog import CatalogDatabase
from blocks.catalog.content import Content
from blocks.catalog.relocations import LIVE, Intent, Movable, Proved, give_up_intents, open_intents, swap
from blocks.errors import (
    NotSmallerError,
    StorageError,
    is_transient,
)
from blocks.object_store.block import MIB
from blocks.object_store.budget import Budget
from blocks.object_store.copying import same_server
from blocks.object_store.transfer import part_size
from blocks.policies import GIB, RelocationPolicy
from tasks.layout import PLAYLISTS, rewritten_key
from tasks.parallel import in_parallel
from tasks.relocation.intents import remove_given_up
from tasks.relocation.rewriting import WHOLE_BYTES, Target, copied, copied_as_it_is, prove_copies, write_elsewhere
from tasks.stores import Locations, OpenLocation

PARTS_IN_MEMORY = 10
"""Parts of a streamed object that are read, written or under way at the same time."""


@dataclass(frozen=True)
class Why:
    """What the log says of it: which flow, by which rule, in which run."""

    operation: str
    rule: str
    run: str


COPIED_A_SECOND = 8 * MIB
"""What a server copies inside itself, at least. All batches of a run together ask for no more at a time than it can do
before the client's timeout, behind which it goes on unseen; an object that is larger by itself goes alone.
"""
CHUNK_BYTES = 8 * GIB
"""A chunk's rows are swapped together: a kill costs at most about this much of copying."""


@dataclass(frozen=True, slots=True)
class Relocated:
    """What became of one object; bytes as stored before, and after where it was moved.

    `skipped` is left as it is for good, `changed` was somebody else's meanwhile and is looked at again.
    """

    object_id: UUID
    job_id: UUID
    name: str
    result: Literal["moved", "skipped", "changed", "failed"]
    error: str = ""
    before_bytes: int = 0
    after_bytes: int = 0
    transient: bool = False
    """Of what failed: whether asking again may help."""


def relocate(
    catalog: CatalogDatabase,
    locations: Locations,
    policy: RelocationPolicy,
    objects: Sequence[Content],
    target: Target,
    why: Why,
    *,
    movable: Movable = LIVE,
    still_wanted: Callable[[Sequence[Content]], Sequence[Content]] = lambda chunk: chunk,
) -> list[Relocated]:
    """Move these objects, with an outcome for each; `still_wanted` tells of each chunk what is to be moved by then, and
    may raise, which ends it there.

    Raises:
        CatalogUnavailableError: PostgreSQL did not answer; the next run finishes what is left.
    """
    done: list[Relocated] = []
    memory = Budget(policy.memory_mib * MIB)
    in_time = int(target.location.store.timeout_seconds) * COPIED_A_SECOND
    copying = Budget(in_time // policy.parallel_batches)
    for chunk in _chunks(objects, policy.batch_objects):
        wanted = still_wanted(chunk)
        done += _relocate_chunk(catalog, locations, policy, wanted, target, why, movable, memory, copying)
        ids = {row.id for row in wanted}
        done += [
            Relocated(row.id, row.job_id, row.name, "changed", "asked for, or deleted meanwhile")
            for row in chunk
            if row.id not in ids
        ]
    return done


def _chunks(objects: Sequence[Content], most: int) -> Iterator[list[Content]]:
    """In order, each of so many objects at most and of `CHUNK_BYTES`, but for one that is larger by itself."""
    chunk: list[Content] = []
    size = 0
    for row in objects:
        if chunk and (len(chunk) == most or size + row.stored_bytes > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += row.stored_bytes
    if chunk:
        yield chunk


def _relocate_chunk(
    catalog: CatalogDatabase,
    locations: Locations,
    policy: RelocationPolicy,
    objects: Sequence[Content],
    target: Target,
    why: Why,
    movable: Movable,
    memory: Budget,
    copying: Budget,
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
            written = None
            if local[row.location_id]:
                with copying.share(row.stored_bytes, row.stored_bytes):
                    if copied_as_it_is(source, target.location, row, intent):
                        return None
                    written = copied(source, target.location, row, intent, memory=memory)
            if written is None:
                need = _memory_of(row, target.location)
                with memory.share(need, need):
                    written = write_elsewhere(source, target, row, intent)
        except StorageError as error:
            return error
        return Proved(intent.id, written.etag, written.size_bytes)

    results = in_parallel(write, rows, threads=policy.parallel_transfers)
    unproved = [row for row, one in zip(rows, results, strict=True) if one is None]
    written = {row.id: one for row, one in zip(rows, results, strict=True) if one is not None}
    written |= prove_copies(target.location, unproved, intents, threads=policy.parallel_transfers)
    errors = {object_id: one for object_id, one in written.items() if isinstance(one, StorageError)}
    swapped = _swap(catalog, policy, rows, written, movable, errors)
    left = [intents[row.id] for row in rows if intents[row.id].id not in swapped]
    given_up = catalog.transaction(lambda connection: give_up_intents(connection, [one.id for one in left]))
    # Where no answer came, the server may still be writing: what it leaves is for the next run, which finds the intent.
    unknown = {intents[object_id].id for object_id, error in errors.items() if is_transient(error)}
    with suppress(StorageError):  # what cannot be removed now is the next run's
        gone = [one for one in left if one.id in given_up and one.id not in unknown]
        remove_given_up(catalog, target.location, gone, run=why.run)

    def outcome(row: Content) -> Relocated:
        intent, one = intents[row.id], written.get(row.id)
        base = (row.id, row.job_id, row.name)
        # An intent that is not open any more was swapped, though the answer to that was lost.
        if isinstance(one, Proved) and intent.id in opened and intent.id not in given_up:
            return Relocated(*base, "moved", "", row.stored_bytes, one.stored_bytes)
        if isinstance(one, NotSmallerError):
            return Relocated(*base, "skipped", str(one))
        if row.id in errors:
            return Relocated(*base, "failed", str(errors[row.id]), transient=is_transient(errors[row.id]))
        return Relocated(*base, "changed", "changed meanwhile, or its job is on hold")

    return [outcome(row) for row in objects]


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
    errors: dict[UUID, StorageError],
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
            errors |= dict.fromkeys(proved, error)
    return swapped


def _memory_of(row: Content, target: OpenLocation) -> int:
    largest = max(row.size_bytes, row.stored_bytes)
    return 2 * largest if largest <= WHOLE_BYTES else PARTS_IN_MEMORY * part_size(target.store, largest)
