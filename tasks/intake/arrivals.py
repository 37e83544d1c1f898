"""What a video needs to come in, and what it leaves: its rows, its quota, how long that is held. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

from blocks.catalog.admission import Arrival
from blocks.catalog.jobs import Arrived
from blocks.catalog.objects import NewObject
from blocks.catalog.tables import ObjectKind
from blocks.policies import MIB, IngestPolicy
from tasks.layout import object_key, original_name
from tasks.stores import OpenLocation
from tasks.writing import LocalFile, StoredBlob, WriteResult


@dataclass(frozen=True)
class Hashed:
    """A source whose bytes were read once."""

    source: str
    filename: str
    sha256: str
    size_bytes: int
    bytes_from: LocalFile | StoredBlob


def plan_arrival(hashed: Hashed, location: OpenLocation, policy: IngestPolicy, *, batch_bytes: int) -> Arrival:
    """The rows a video will have, the quota it needs with its outputs, and how long that is held.

    A batch is committed as one, so that its first video waits for its last.
    """
    job_id = uuid4()
    name = original_name(hashed.filename)
    seconds = batch_bytes / (policy.slowest_upload_mib_per_second * MIB)
    return Arrival(
        filename=hashed.filename,
        original=NewObject(
            id=uuid4(),
            job_id=job_id,
            kind=ObjectKind.ORIGINAL,
            name=name,
            location_id=location.place.id,
            key=object_key(job_id, name),
            size_bytes=hashed.size_bytes,
            sha256=hashed.sha256,
        ),
        reserve_bytes=hashed.size_bytes + outputs_bytes(hashed.size_bytes, policy),
        lifetime=timedelta(minutes=policy.reservation_minutes, seconds=seconds),
    )


def outputs_bytes(size_bytes: int, policy: IngestPolicy) -> int:
    """Room for what will be made of a video of this size."""
    return int(size_bytes * policy.expected_outputs_ratio)


def plan_commit(
    written: WriteResult, arrivals: Sequence[Arrival], location: OpenLocation, policy: IngestPolicy
) -> list[Arrived]:
    """What is to become live, and what each reservation keeps for the outputs to come."""
    by_object = {arrival.original.id: arrival.original for arrival in arrivals}
    hours = policy.outputs_reservation_hours
    return [
        Arrived(
            job_id=original.job_id,
            verified=verified,
            size_bytes=original.size_bytes,
            keep_bytes=outputs_bytes(original.size_bytes, policy) if hours else 0,
            after={"state": "live", "location": location.place.name, "key": original.key},
        )
        for verified in written.verified
        for original in [by_object[verified.object_id]]
    ]
