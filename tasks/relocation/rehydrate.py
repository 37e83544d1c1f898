"""Back to hot and decompressed: asked for, or because a URL is wanted that a place or encoding cannot serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from blocks.catalog import CatalogDatabase
from blocks.catalog.content import Content, content_of
from blocks.catalog.jobs import JobRow, find_job, require_readable
from blocks.catalog.locations import RANK, list_places, restore_first
from blocks.catalog.moving import Wanted, objects_of, start_over
from blocks.errors import NotFoundError, RefusedError, StoreUnavailableError
from blocks.policies import RelocationPolicy
from blocks.units import format_bytes
from tasks.checks import check_job_id, check_kind
from tasks.parallel import Turns
from tasks.relocation.relocate import Relocated, Why, relocate
from tasks.relocation.rewriting import Target
from tasks.stores import Locations, OpenLocation, require_current

OPERATION = "rehydrate-job"


@dataclass(frozen=True)
class RehydrateReport:
    """Every object of a job: brought back, there already, or not with the reason."""

    job_id: UUID
    place: str
    objects: tuple[Relocated, ...]
    there: int

    @property
    def moved(self) -> tuple[Relocated, ...]:
        """What was brought back."""
        return tuple(one for one in self.objects if one.result == "moved")

    @property
    def others(self) -> tuple[Relocated, ...]:
        """What was not, with the reasons."""
        return tuple(one for one in self.objects if one.result != "moved")

    def summary(self) -> str:
        """One line for a person."""
        parts = [f"{len(self.moved)} objects ({format_bytes(sum(one.after_bytes for one in self.moved))}) brought back"]
        if self.there:
            parts.append(f"{self.there} were there")
        if self.others:
            parts.append(f"{len(self.others)} were not: {self.others[0].name}: {self.others[0].error}")
        return f"job {self.job_id} to {self.place}: " + ", ".join(parts)


def rehydrate_job(
    catalog: CatalogDatabase,
    locations: Locations,
    policy: RelocationPolicy,
    *,
    job_id: str | UUID,
    tier: str = "hot",
    kinds: Sequence[str] = (),
    restored: bool = False,
    run: str = "",
) -> RehydrateReport:
    """Bring a job's objects to a tier's location and decompress them; it takes no lock, generations protect it.

    `restored` says that the server was told to restore them, where their place needs that, and has done so.

    Raises:
        NotFoundError: no such job, nothing of these kinds, or no location of this tier.
        RefusedError: the job is not readable or on hold, or a place has to restore its objects first.
    """
    wanted = check_job_id(job_id)
    asked = tuple(check_kind(kind).value for kind in kinds)

    def read(connection: Connection) -> tuple[JobRow, list[Content], list[Content]]:
        job = require_readable(find_job(connection, wanted))
        places = tuple(place.id for place in list_places(connection))
        rows = objects_of(connection, [wanted], Wanted(places, asked or None))
        return job, rows, objects_of(connection, [wanted], Wanted(places, asked or None, states=("missing", "corrupt")))

    job, rows, lost = catalog.transaction(read)
    if not rows and not lost:
        raise NotFoundError(f"job {wanted} has no {', '.join(asked) or 'objects'} that could be brought back")
    _require_free(job)
    place = locations.of_tier(tier)
    away = _away(locations, rows, place)
    results = _bring(catalog, locations, policy, wanted, away, place, restored=restored, run=run)
    unsound = [
        Relocated(row.id, wanted, row.name, "failed", f"it is {row.state}; explain-object says what could heal it")
        for row in lost
    ]
    return RehydrateReport(wanted, place.place.name, (*unsound, *results), len(rows) - len(away))


def bring_back(
    catalog: CatalogDatabase, locations: Locations, policy: RelocationPolicy, object_ids: Sequence[UUID], *, run: str
) -> None:
    """Make these objects of one job servable: hot and decompressed.

    Raises:
        RefusedError: the job is on hold, a place has to restore its objects first, or one of them is refused.
        StoreUnavailableError: a store did not answer as it should.
    """
    home = locations.of_tier("hot")
    # Ten viewers of one video ask within the minute that it takes: the first brings it, the others find it there.
    with _TURNS.of(frozenset(object_ids)) as waited:
        rows = list(catalog.transaction(lambda connection: content_of(connection, object_ids)).values())
        away = _away(locations, rows, home)
        if not away:
            return
        if waited:
            # Not all of them once more, one after the other.
            raise StoreUnavailableError(f"{away[0].name} was being brought back, and that failed; ask again")
        job_id = away[0].job_id
        _require_free(catalog.transaction(lambda connection: find_job(connection, job_id)))
        results = _bring(catalog, locations, policy, job_id, away, home, restored=False, run=run)
    if failed := [one for one in results if one.result == "failed"]:
        why = f"{failed[0].name} could not be brought back: {failed[0].error}"
        raise StoreUnavailableError(why) if failed[0].transient else RefusedError(why)


_TURNS = Turns()


def _away(locations: Locations, rows: Sequence[Content], home: OpenLocation) -> list[Content]:
    """Those that are compressed, or not in their home's tier."""
    return [
        row
        for row in rows
        if row.codec != "identity" or _target(locations.of(row.location_id), home).place.id != row.location_id
    ]


def _require_free(job: JobRow) -> None:
    if job.hold is not None:
        raise RefusedError(
            f"job {job.id} is on hold ({job.hold}), so that nothing of it is moved: ask with accept_encoding=zstd for "
            "what is compressed, or release it with hold-jobs"
        )


def _bring(
    catalog: CatalogDatabase,
    locations: Locations,
    policy: RelocationPolicy,
    job_id: UUID,
    rows: Sequence[Content],
    home: OpenLocation,
    *,
    restored: bool,
    run: str,
) -> list[Relocated]:
    if not restored:
        for place in {row.location_id for row in rows}:
            if (location := locations.of(place)).place.needs_restore:
                raise restore_first(f"job {job_id}", location.place.name)
    # First: killed in the middle, the nightly flows look at the job anew, whatever had come back by then. And where all
    # of it is there, they leave it there.
    catalog.transaction(lambda connection: start_over(connection, [job_id], asked=True))
    results: list[Relocated] = []
    targets = {row.id: _target(locations.of(row.location_id), home) for row in rows}
    for target in {one.place.id: one for one in targets.values()}.values():
        require_current(catalog, target)
        own = [row for row in rows if targets[row.id].place.id == target.place.id]
        why = Why(OPERATION, "asked for", run)
        results += relocate(catalog, locations, policy, own, Target(target, "identity"), why)
    return results


def _target(location: OpenLocation, home: OpenLocation) -> OpenLocation:
    if location.place.id == home.place.id:
        return home
    # What is in that tier already, or in a hotter one, is only decompressed, where it is.
    hot_enough = RANK[location.place.tier] <= RANK[home.place.tier] and location.place.serves_urls
    return location if hot_enough and location.place.moved_to is None else home
