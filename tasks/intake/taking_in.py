"""From hashed bytes to committed jobs: what every way in shares (files, URLs, upload forms).

Duplicates and quota are decided first, rows name the keys, bytes are written and proved, and one transaction makes
them live. Killed anywhere, the reservation lapses and the next arrival of the same video takes over.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from blocks.catalog import CatalogDatabase
from blocks.catalog.admission import Admission, Arrival, KnownJob, admit, reserved_until
from blocks.catalog.customers import Customer
from blocks.catalog.housekeeping import analyse_new
from blocks.catalog.jobs import (
    Output,
    commit_arrivals,
    fail_jobs,
    list_outputs,
    meet_known,
    note_sources,
)
from blocks.catalog.tables import JobStatus
from blocks.errors import CatalogUnavailableError, StorageError, is_transient
from blocks.object_store.deletion import delete_keys
from blocks.policies import IngestPolicy
from tasks.intake.arrivals import Hashed, plan_arrival, plan_commit
from tasks.intake.healing import heal
from tasks.removal.purging import purge_released
from tasks.stores import OpenLocation, require_current
from tasks.writing import Writing, write_objects

WAIT_FOR_OTHERS_SECONDS = 20
"""How long a run waits for another one that is uploading the same video."""

Result = Literal["ingested", "duplicate", "healed", "refused", "failed"]


@dataclass(frozen=True)
class IngestOutcome:
    """What became of one source. `refused`: bad input or no quota; `failed`: try again."""

    source: str
    result: Result
    filename: str = ""
    job_id: UUID | None = None
    original_job_id: UUID | None = None
    job_status: str = ""
    job_created_at: datetime | None = None
    job_completed_at: datetime | None = None
    sha256: str = ""
    size_bytes: int = 0
    sent_bytes: int = 0
    outputs: tuple[Output, ...] = ()
    error: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether the video is in the platform now."""
        return self.result in ("ingested", "duplicate", "healed")


def take_in(
    catalog: CatalogDatabase,
    location: OpenLocation,
    policy: IngestPolicy,
    customer: Customer,
    hashed: Sequence[Hashed],
    *,
    reprocess: bool = False,
    release: UUID | None = None,
    run: str = "",
    operation: str = "ingest",
) -> list[IngestOutcome]:
    """One batch of videos of one customer; the outcomes are in the order of `hashed`.

    Raises:
        RefusedError: the key is disabled.
        CatalogUnavailableError: PostgreSQL did not answer; what was under way lapses by itself.
    """
    # Most of a nightly run is known already, and needs no lock to be told so.
    known = {} if reprocess or release else _meet_known(catalog, customer, hashed)
    fresh = [one for one in hashed if one.sha256 not in known]
    taken = iter(_take_in_fresh(catalog, location, policy, customer, fresh, reprocess, release, run, operation))
    outcomes = [_duplicate(one, *known[one.sha256]) if one.sha256 in known else next(taken) for one in hashed]
    arriving = [one for one, outcome in zip(hashed, outcomes, strict=True) if outcome.job_status == JobStatus.UPLOADING]
    if arriving:
        arrived = _wait_for_others(catalog, customer, arriving)
        outcomes = [
            _duplicate(one, *arrived[one.sha256]) if one.sha256 in arrived else outcome
            for one, outcome in zip(hashed, outcomes, strict=True)
        ]
        outcomes = _tell_when_free(catalog, outcomes)
    _note_sources(catalog, outcomes)
    return outcomes


def _note_sources(catalog: CatalogDatabase, outcomes: Sequence[IngestOutcome]) -> None:
    came = [(one.job_id, _digest(one.source)) for one in outcomes
            if one.result in ("ingested", "duplicate") and one.job_id is not None]  # fmt: skip
    if came:
        # A figure for reports: nobody's videos are refused for want of it.
        with suppress(CatalogUnavailableError):
            catalog.single_statement(lambda connection: note_sources(connection, came))


def _digest(source: str) -> UUID:
    # A URL that is signed anew each night is the same place: what `tasks.checks.told` says of its query is left out.
    source = source.partition("?…")[0]
    return UUID(hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()[:32])


Known = dict[str, tuple[KnownJob, tuple[Output, ...]]]


def _meet_known(catalog: CatalogDatabase, customer: Customer, hashed: Sequence[Hashed | IngestOutcome]) -> Known:
    return catalog.transaction(lambda connection: meet_known(connection, customer.id, hashes_of(hashed)))


def _wait_for_others(catalog: CatalogDatabase, customer: Customer, arriving: Sequence[Hashed]) -> Known:
    """Videos that other runs are uploading at this moment; those that are through before the wait ends."""
    deadline = time.monotonic() + WAIT_FOR_OTHERS_SECONDS
    while True:
        known = _meet_known(catalog, customer, arriving)
        through = {sha256: found for sha256, found in known.items() if found[0].status != JobStatus.UPLOADING}
        if len(through) == len(known) or time.monotonic() > deadline:
            return through
        time.sleep(0.25)


def settle_twins(
    catalog: CatalogDatabase, customer: Customer, outcomes: Sequence[IngestOutcome]
) -> list[IngestOutcome]:
    """At the end of a run: who waited in vain for the same video in another batch of it is its duplicate by now."""
    came = {one.sha256 for one in outcomes if one.result == "ingested"}
    waited = [one for one in outcomes if one.job_status == JobStatus.UPLOADING and one.sha256 in came]
    if not waited:
        return list(outcomes)
    known: Known = {}
    with suppress(CatalogUnavailableError):  # the report of all that was done is not lost for the want of it
        known = _meet_known(catalog, customer, waited)
    settled = {id(one): _duplicate(one, *known[one.sha256]) for one in waited if one.sha256 in known}
    _note_sources(catalog, list(settled.values()))
    return [settled.get(id(one), one) for one in outcomes]


def _tell_when_free(catalog: CatalogDatabase, outcomes: Sequence[IngestOutcome]) -> list[IngestOutcome]:
    """A run that was killed uploads nothing any more, and nobody else can until its reservation lapses."""
    waiting = [one.job_id for one in outcomes if one.job_status == JobStatus.UPLOADING and one.job_id is not None]
    until: dict[UUID, datetime] = {}
    with suppress(CatalogUnavailableError):  # the others' outcomes are not lost for the want of it
        until = catalog.transaction(lambda connection: reserved_until(connection, waiting))
    return [
        replace(one, error=f"{one.error}, or after {until[one.job_id]:%Y-%m-%d %H:%M:%S} UTC: if that run was killed, "
                "this video is free then") if one.job_id in until else one
        for one in outcomes
    ]  # fmt: skip


def hashes_of(hashed: Sequence[Hashed | IngestOutcome]) -> list[str]:
    """Each hash once."""
    return list({one.sha256 for one in hashed})


def _take_in_fresh(
    catalog: CatalogDatabase,
    location: OpenLocation,
    policy: IngestPolicy,
    customer: Customer,
    hashed: Sequence[Hashed],
    reprocess: bool,
    release: UUID | None,
    run: str,
    operation: str,
) -> list[IngestOutcome]:
    if not hashed:
        return []
    try:
        require_current(catalog, location)
    except CatalogUnavailableError:
        raise
    except StorageError as error:
        # What is known already is told all the same.
        why: Result = "failed" if is_transient(error) else "refused"
        return [
            IngestOutcome(one.source, why, one.filename, sha256=one.sha256, size_bytes=one.size_bytes, error=str(error))
            for one in hashed
        ]
    batch_bytes = sum(one.size_bytes for one in hashed)
    arrivals = [plan_arrival(one, location, policy, batch_bytes=batch_bytes) for one in hashed]
    admission = catalog.transaction(
        lambda connection: admit(connection, customer.id, arrivals, reprocess=reprocess, release=release)
    )
    with suppress(CatalogUnavailableError):
        catalog.single_statement(analyse_new)
    entering = [
        (one, arrival)
        for one, arrival in zip(hashed, arrivals, strict=True)
        if arrival.original.job_id in admission.admitted
    ]
    reasons = _write_and_commit(catalog, location, policy, customer, entering, run, operation)
    healed = _heal_missing(catalog, location, admission, hashed, arrivals, run)
    known_ids = [job.job_id for job in admission.known.values()]
    outputs = catalog.transaction(lambda connection: list_outputs(connection, known_ids)) if known_ids else {}
    return [
        _outcome(one, arrival.original.job_id, admission, reasons, healed, outputs)
        for one, arrival in zip(hashed, arrivals, strict=True)
    ]


def _write_and_commit(
    catalog: CatalogDatabase,
    location: OpenLocation,
    policy: IngestPolicy,
    customer: Customer,
    entering: Sequence[tuple[Hashed, Arrival]],
    run: str,
    operation: str,
) -> dict[UUID, str]:
    """Returns why, for each job that did not make it; its bytes and its quota are given back."""
    if not entering:
        return {}
    writings = [Writing(arrival.original, one.bytes_from) for one, arrival in entering]
    written = write_objects(location, writings, parallel=policy.parallel_transfers)
    arrived = plan_commit(written, [arrival for _, arrival in entering], location, policy)
    reasons = {
        arrival.original.job_id: str(written.failed[arrival.original.key])
        for _, arrival in entering
        if arrival.original.key in written.failed
    }
    reasons |= catalog.transaction(
        lambda connection: commit_arrivals(
            connection,
            customer.id,
            arrived,
            keep_for=timedelta(hours=policy.outputs_reservation_hours),
            run=run,
            operation=operation,
        )
    )
    if reasons:
        _give_up(catalog, location, customer, reasons, run)
        # Their rows may be gone by now, purged or erased: surely not committed, these bytes are ours to remove.
        with suppress(StorageError):
            keys = [arrival.original.key for _, arrival in entering if arrival.original.job_id in reasons]
            delete_keys(location.store, keys)
    return reasons


def _give_up(
    catalog: CatalogDatabase, location: OpenLocation, customer: Customer, reasons: dict[UUID, str], run: str
) -> None:
    catalog.transaction(lambda connection: fail_jobs(connection, customer.id, reasons))
    purge_released(catalog, location, list(reasons), run=run)


def _heal_missing(
    catalog: CatalogDatabase,
    location: OpenLocation,
    admission: Admission,
    hashed: Sequence[Hashed],
    arrivals: Sequence[Arrival],
    run: str,
) -> dict[UUID, str]:
    """Known videos whose bytes are missing get them from this source; returns an empty reason where that worked."""
    healed: dict[UUID, str] = {}
    sound: set[UUID] = set()
    for one, arrival in zip(hashed, arrivals, strict=True):
        known = admission.known.get(arrival.original.job_id)
        if known is None or not known.healable or known.object_id is None or known.generation is None:
            continue
        if known.object_id in sound:  # the same video once more: a duplicate by now
            continue
        healed_object = replace(arrival.original, id=known.object_id, job_id=known.job_id)
        try:
            heal(catalog, location, admission.customer.id, healed_object, known.generation, one.bytes_from, run=run)
            healed[arrival.original.job_id] = ""
            sound.add(known.object_id)
        except StorageError as error:
            healed[arrival.original.job_id] = str(error)
    return healed


def _duplicate(one: Hashed | IngestOutcome, known: KnownJob, outputs: tuple[Output, ...]) -> IngestOutcome:
    # A job that is still being uploaded has no bytes yet, and whoever uploads it may be dead.
    arriving = known.status == JobStatus.UPLOADING
    return IngestOutcome(
        source=one.source,
        result="failed" if arriving else "duplicate",
        error="another run is uploading this video; ask again when it is through" if arriving else "",
        filename=one.filename,
        sha256=one.sha256,
        size_bytes=one.size_bytes,
        job_id=known.job_id,
        original_job_id=known.job_id,
        job_status=known.status,
        job_created_at=known.created_at,
        job_completed_at=known.completed_at,
        outputs=outputs,
    )


def _outcome(
    one: Hashed,
    job_id: UUID,
    admission: Admission,
    reasons: dict[UUID, str],
    healed: dict[UUID, str],
    outputs: dict[UUID, tuple[Output, ...]],
) -> IngestOutcome:
    base = IngestOutcome(
        source=one.source, result="failed", filename=one.filename, sha256=one.sha256, size_bytes=one.size_bytes
    )
    known: KnownJob | None = admission.known.get(job_id)
    if job_id in admission.refused:
        return replace(base, result="refused", error=admission.refused[job_id])
    if known is None:
        if job_id in reasons:
            return replace(base, error=reasons[job_id])
        return replace(base, result="ingested", job_id=job_id, job_status="queued", sent_bytes=one.size_bytes)
    if known.job_id in reasons:
        # A duplicate within this batch shares the fate of the one that was sent.
        return replace(base, error=reasons[known.job_id])
    if known.job_id in admission.admitted:
        known = replace(known, status="queued")
    duplicate = _duplicate(one, known, outputs.get(known.job_id, ()))
    if job_id in healed:
        why = healed[job_id]
        healthy = replace(duplicate, result="healed", sent_bytes=one.size_bytes)
        return replace(duplicate, result="failed", error=f"its stored bytes are missing: {why}") if why else healthy
    return duplicate
