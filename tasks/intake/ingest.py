"""Taking in videos: find the sources, hash them, and pass them through intake in batches."""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from blocks.catalog import CatalogDatabase
from blocks.catalog.customers import Customer, find_customer, require_enabled
from blocks.errors import InvalidInputError, RefusedError, StorageError, is_transient
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import hash_file
from blocks.policies import GIB, MIB, IngestPolicy
from blocks.units import format_bytes, shown, told
from tasks.intake.arrivals import Hashed
from tasks.intake.fetching import check_url, fetch
from tasks.intake.sources import RefusedSource, Source, find_sources
from tasks.intake.taking_in import IngestOutcome, Result, settle_twins, take_in
from tasks.parallel import in_parallel, on_cores
from tasks.stores import OpenLocation, require_current
from tasks.writing import LocalFile, StoredBlob

BATCH_BYTES = GIB
"""A batch is committed as one: a crash costs at most about this much of uploading."""
URL_BYTES = 64 * MIB
"""What a URL counts as in a batch: its size is known once it was fetched."""


@dataclass(frozen=True)
class IngestReport:
    """Every source of a run and what became of it."""

    customer: str
    outcomes: tuple[IngestOutcome, ...] = ()
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def sent_bytes(self) -> int:
        """Bytes that went to the store."""
        return sum(outcome.sent_bytes for outcome in self.outcomes)

    @property
    def unsuccessful(self) -> tuple[IngestOutcome, ...]:
        """Sources that are not in the platform now."""
        return tuple(outcome for outcome in self.outcomes if not outcome.succeeded)

    def summary(self) -> str:
        """One line for a person."""
        counts = ", ".join(f"{count} {result}" for result, count in sorted(self.counts.items())) or "nothing"
        return f"{self.customer}: {counts}; {format_bytes(self.sent_bytes)} sent in {self.seconds:.1f} s"


def ingest_videos(
    catalog: CatalogDatabase,
    location: OpenLocation,
    policy: IngestPolicy,
    *,
    api_key: str,
    sources: Sequence[str],
    expected_sha256: Mapping[str, str] | None = None,
    manifest: str = "",
    reprocess: bool = False,
    run: str = "",
) -> IngestReport:
    """Take in files, folders, URLs or a manifest for one customer; the report lists every source.

    Raises:
        NotFoundError, RefusedError: an unknown or disabled key.
        InvalidInputError: nothing was named, or the manifest or an expected hash cannot be read.
    """
    started = time.monotonic()
    customer = find_enabled(catalog, api_key)
    found, refused = find_sources(sources, policy, expected_sha256=expected_sha256 or {}, manifest=manifest)
    batches = plan_batches(found, files=policy.batch_files, size_bytes=BATCH_BYTES)

    def ingest(batch: Sequence[Source]) -> list[IngestOutcome]:
        return ingest_batch(catalog, location, policy, customer, batch, reprocess=reprocess, run=run)

    with ThreadPoolExecutor(max_workers=policy.parallel_batches) as pool:
        outcomes = [outcome for batch in pool.map(ingest, batches) for outcome in batch]
    outcomes = settle_twins(catalog, customer, outcomes)
    return make_report(customer.label, outcomes, refused, seconds=time.monotonic() - started)


def find_enabled(catalog: CatalogDatabase, api_key: str) -> Customer:
    """The customer, if the key may be used."""
    return catalog.transaction(lambda connection: require_enabled(find_customer(connection, api_key)))


def plan_batches(sources: Iterable[Source], *, files: int, size_bytes: int) -> list[list[Source]]:
    """Sources in order, a batch as full as its limits allow."""
    batches: list[list[Source]] = []
    room = 0
    for source in sources:
        size = URL_BYTES if source.size_bytes is None else source.size_bytes
        if not batches or len(batches[-1]) >= files or size > room:
            batches.append([])
            room = size_bytes
        batches[-1].append(source)
        room -= size
    return batches


_NO_SOURCE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EINVAL)
"""What a disk says of a file that is none, or none of ours; anything else may pass."""


def ingest_batch(
    catalog: CatalogDatabase,
    location: OpenLocation,
    policy: IngestPolicy,
    customer: Customer,
    batch: Sequence[Source],
    *,
    reprocess: bool = False,
    run: str = "",
) -> list[IngestOutcome]:
    """Hash a batch's sources and take them in; one outcome for each, in order."""

    def read(source: Source) -> Hashed | IngestOutcome:
        try:
            if source.path is None:
                require_current(catalog, location)  # its bytes lie under temp/ before it is known whether they are new
            return hash_source(location, policy, source)
        except (StorageError, OSError) as error:
            passes = is_transient(error) or (isinstance(error, OSError) and error.errno not in _NO_SOURCE)
            why: Result = "failed" if passes else "refused"
            return IngestOutcome(told(source.where), why, source.filename, error=_reason(error))

    def alone(source: Source) -> list[IngestOutcome]:
        return ingest_batch(catalog, location, policy, customer, [source], reprocess=reprocess, run=run)

    if any(source.path is None for source in batch):
        if len(batch) > 1:
            # Each by itself: one that comes slowly keeps no other waiting, whose bytes would lie under temp/ meanwhile.
            return [one for some in in_parallel(alone, batch, threads=policy.parallel_transfers) for one in some]
        read_ones = [read(source) for source in batch]
    else:
        # Hashing needs processors: a batch of files asks the catalog and sends while the next is hashed.
        read_ones = on_cores(read, batch)
    hashed = [one for one in read_ones if isinstance(one, Hashed)]
    fetched = [one.bytes_from.key for one in hashed if isinstance(one.bytes_from, StoredBlob)]
    try:
        taken = iter(take_in(catalog, location, policy, customer, hashed, reprocess=reprocess, run=run))
    except StorageError as error:
        # The other batches go on, and the report lists these too.
        result: Result = "failed" if is_transient(error) else "refused"
        taken = iter([IngestOutcome(one.source, result, one.filename, error=str(error)) for one in hashed])
    with suppress(StorageError):  # what stays under temp/ is removed after a day
        delete_keys(location.store, fetched)
    return [next(taken) if isinstance(one, Hashed) else one for one in read_ones]


def hash_source(location: OpenLocation, policy: IngestPolicy, source: Source) -> Hashed:
    """Hash a source: a file where it lies, a URL on its way into `temp/`.

    Raises:
        InvalidInputError: it is empty, or not the content that was expected.
        RefusedError: it is larger than the policy allows.
    """
    if source.path is not None:
        _check_size(source.filename, source.path.stat().st_size, policy)
        # Nothing of it is held: most files of a nightly run are known, and the others are read again from the system's
        # cache.
        sha256, size = hash_file(source.path)
        _check_size(source.filename, size, policy)  # it may have grown
        if size == 0:
            raise InvalidInputError(f"{source.filename} is empty")
        _check_expected(source, sha256)
        return Hashed(told(source.where), source.filename, sha256, size, LocalFile(source.path))
    check_url(source.where, policy)
    fetched = fetch(location, policy, source.where)
    try:
        _check_expected(source, fetched.sha256)
    except InvalidInputError:
        delete_keys(location.store, [fetched.key])
        raise
    return Hashed(told(source.where), source.filename, fetched.sha256, fetched.size_bytes, StoredBlob(fetched.key))


def _check_size(filename: str, size: int, policy: IngestPolicy) -> None:
    if size > policy.largest_source_gib * GIB:
        raise RefusedError(
            f"{filename} has {size} bytes, more than the largest allowed, {policy.largest_source_gib} GiB"
        )


def make_report(
    customer: str, outcomes: Sequence[IngestOutcome], refused: Sequence[RefusedSource], *, seconds: float
) -> IngestReport:
    """All outcomes, those refused before reading included, with their counts."""
    every = (*outcomes, *(IngestOutcome(told(one.where), "refused", error=one.error) for one in refused))
    return IngestReport(customer, every, seconds, dict(Counter(outcome.result for outcome in every)))


def _check_expected(source: Source, sha256: str) -> None:
    if source.expected_sha256 is not None and source.expected_sha256 != sha256:
        raise InvalidInputError(
            f"{shown(source.filename)} has SHA-256 {sha256}, expected was {source.expected_sha256}; nothing was stored"
        )


def _reason(error: Exception) -> str:
    return f"{error.filename or ''}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
