"""After a cut-over: buckets are told, metadata objects come back, what is provable is healed. Nothing is removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from blocks.catalog import CatalogDatabase, drift
from blocks.catalog.content import Content, metadata_after
from blocks.catalog.locations import list_places, read_identity
from blocks.catalog.objects import NewObject
from blocks.catalog.relocations import LIVE_OR_LOST
from blocks.catalog.restored import claims_done, set_epoch
from blocks.encryption import BackupKey
from blocks.errors import NotFoundError, RefusedError, StorageError
from blocks.object_store import ObjectStore
from blocks.object_store.transfer import fingerprint
from blocks.policies import IntegrityPolicy
from tasks.backups.manifest import Manifest
from tasks.backups.metadata import find_content
from tasks.backups.restoring import MetadataChoice
from tasks.content import hash_content
from tasks.drift import judge, reconcile
from tasks.drift.judge import Drift, RangeDrift
from tasks.drift.repairs import apply_repairs
from tasks.intake.healing import heal
from tasks.ownership import epoch_in, is_older, read_marker, write_marker
from tasks.parallel import in_parallel
from tasks.stores import OpenLocation
from tasks.sweeping import Sweep
from tasks.writing import LocalFile

BATCH = 500
MOST_TOLD = 10_000
MOST_PASSES = 50
LOST = ("missing", "mismatch", "unbelieved")
"""What a look alone calls lost; `judge.put_together` says which is which."""


@dataclass
class Aftermath:
    """What a restore came to, for a person who has to decide. Lists are cut, counts are of all."""

    claimed: list[str] = field(default_factory=list)
    unclaimed: dict[str, str] = field(default_factory=dict)
    metadata_restored: int = 0
    metadata_failed: dict[str, str] = field(default_factory=dict)
    healed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    lost_rows: int = 0
    newer: list[tuple[str, str, int]] = field(default_factory=list)
    """Place, key and bytes of objects that no row names, or one that was being written when the backup was made."""
    unfinished: int = 0
    """Jobs that were under way then."""
    uncounted: int = 0
    """Disagreements beyond those that one pass looks at."""
    failed: list[str] = field(default_factory=list)
    unlooked: list[str] = field(default_factory=list)
    """Stores that nobody could look into: what is lost or newer there is not among the figures."""
    blind: bool = False
    """Whether nobody could look into any."""

    @property
    def complete(self) -> bool:
        """Whether every store was looked into, every bucket is this catalog's, and nothing failed."""
        return not (self.blind or self.failed or self.unlooked or self.unclaimed or self.metadata_failed)

    def summary(self) -> str:
        """One line for a person."""
        if self.blind:
            return f"NO STORE COULD BE LOOKED INTO: {'; '.join([*self.failed, *self.unclaimed.values()])}"
        others = f"NOT LOOKED INTO: {', '.join(self.unlooked)}; of the others " if self.unlooked else ""
        parts = [
            f"{others}{self.lost_rows} rows have lost their bytes",
            f"{len(self.newer)} objects are newer than the catalog, or nobody's",
            f"{len(self.healed)} rows were healed",
            f"{self.metadata_restored} metadata objects came back",
        ]
        if self.unfinished:
            parts.append(f"{self.unfinished} jobs were under way at the backup")
        if self.uncounted:
            parts.append(f"at least {self.uncounted} more objects that no row names, beyond those listed")
        wrong = len(self.failed) + len(self.metadata_failed)
        if wrong:
            parts.append(f"{wrong} repairs failed: {(self.failed + list(self.metadata_failed.values()))[0]}")
        if self.unclaimed:
            first = next(iter(self.unclaimed.values()))
            parts.append(f"{len(self.unclaimed)} buckets could not be taken over: {first}")
        return "; ".join(parts)


def claim_buckets(catalog: CatalogDatabase, stores: Callable[[str], ObjectStore], result: Aftermath) -> None:
    """Write the restored catalog's epoch into every bucket it knows; one that is another catalog's is left as it is.

    Killed in between, it is called again: a bucket that carries the epoch already is done.
    """
    # Two servers may have buckets of one name.
    places = {(place.store, place.bucket, place.prefix): place for place in catalog.transaction(list_places)}
    markers: dict[str, tuple[ObjectStore, str]] = {}
    for place in places.values():
        try:
            store = stores(place.store)
            markers[place.name] = (store, read_marker(store))
        except StorageError as error:
            result.unclaimed[place.name] = f"{place.name}: {error}"
    identity = catalog.transaction(read_identity)
    # The catalog may have been restored before, from a backup of the same age: every epoch is used once.
    latest = max((epoch_in(marker, identity) or 0 for _, marker in markers.values()), default=0)
    if latest > identity.epoch:
        catalog.transaction(lambda connection: set_epoch(connection, latest + 1))
        identity = catalog.transaction(read_identity)
    for name, (store, marker) in markers.items():
        if marker == identity.as_text():
            result.claimed.append(name)
        elif is_older(marker, identity):
            write_marker(store, identity)
            result.claimed.append(name)
        else:
            result.unclaimed[name] = f"{name}: its bucket belongs to catalog {marker.strip()!r}"
    if not result.unclaimed:
        catalog.transaction(claims_done)


def restore_metadata(
    sweep: Sweep,
    source: ObjectStore,
    manifest: Manifest,
    choice: MetadataChoice,
    result: Aftermath,
    *,
    key: BackupKey | None,
    threads: int,
) -> None:
    """Bring metadata objects back from the backups: those that are gone or wrong, or all of them.

    Each is written under a fresh key and proved, and its row points at it then; the old bytes stay while the catalog is
    frozen. `missing` reads what is there, so that a wrong one counts as missing too.
    """
    if choice == "none" or manifest.metadata is None:
        return
    places = {place: location for location in sweep.locations for place in location.place.shelf}

    def bring(row: Content) -> None:
        location = places[row.location_id]
        try:
            sound = choice == "missing" and not row.unsound and _is_sound(location, row)
            if sound:
                return
            content = find_content(source, manifest, row.sha256, key=key)
            wanted = NewObject(
                row.id, row.job_id, row.kind, row.name, location.place.id, row.key, row.size_bytes, row.sha256
            )
            # In memory: its path is a name alone.
            held = LocalFile(Path(row.name), content)
            heal(
                sweep.catalog, location, row.customer_id, wanted, row.generation, held,
                run=sweep.run, rule="restored", movable=LIVE_OR_LOST,
            )  # fmt: skip
            result.metadata_restored += 1
        except StorageError as error:
            result.metadata_failed[str(row.id)] = f"{row.key}: {error}"

    for batch in _metadata_rows(sweep.catalog, list(places)):
        in_parallel(bring, batch, threads=threads)
        sweep.progress(len(batch))


def _is_sound(location: OpenLocation, row: Content) -> bool:
    try:
        found = hash_content(location.store, row.key, row.codec, at_most=row.size_bytes)
    except NotFoundError:
        return False
    return found == (row.sha256, row.size_bytes)


def _metadata_rows(catalog: CatalogDatabase, places: Sequence[int]) -> Iterator[list[Content]]:
    after = UUID(int=0)
    while batch := catalog.transaction(
        lambda connection, last=after: metadata_after(connection, last, places, limit=BATCH)  # type: ignore[misc]  # bound here
    ):
        yield batch
        after = batch[-1].id


def reconcile_restored(sweep: Sweep, policy: IntegrityPolicy, result: Aftermath, *, look_only: bool = False) -> None:
    """Hold the restored catalog against what is stored: heal what is provable, mark what is lost, list what is newer.

    Orphans are looked at one by one, so that what carries a row's id and hash becomes that row's again. One pass acts
    on so many findings; passes go on as long as they change something and something is left, such as a place that
    nothing is believed of until what was moved out of it since the backup is found elsewhere.
    """
    failed_before = tuple(result.failed)
    result.unfinished = sweep.catalog.transaction(drift.count_unfinished)
    for _ in range(MOST_PASSES):
        result.failed = list(failed_before)
        found = _look(sweep, policy, result)
        if look_only:
            findings = [one for drifted in found for one in drifted.findings]
            healed = {one.object_id for one in findings if one.what == "healing"}
            lost = [one.key for one in findings if one.what in LOST and one.object_id not in healed]
            result.lost, result.lost_rows = lost[:MOST_TOLD], len(lost)
            result.failed += [drifted.refused for drifted in found if drifted.refused]
            return
        report = apply_repairs(
            sweep,
            policy,
            found,
            judge.plan_repairs(found, {}),
            grace=timedelta(hours=policy.orphan_grace_hours),
        )
        result.failed += [f"{one.item.subject}: {one.error}" for one in report.outcomes if one.failed]
        result.healed += [
            one.item.subject for one in report.outcomes if one.result == "done" and one.item.action == "heal row"
        ]
        left = result.uncounted or result.failed
        if not left or not any(one.result == "done" for one in report.outcomes):
            break
    result.lost, result.lost_rows = sweep.catalog.transaction(
        lambda connection: drift.unsound_keys(connection, MOST_TOLD)
    )


def _look(sweep: Sweep, policy: IntegrityPolicy, result: Aftermath) -> list[Drift]:
    looked: list[tuple[OpenLocation, list[RangeDrift]]] = []
    arrived: list[tuple[str, str, int]] = []
    for location in sweep.locations:
        try:
            ranges = [
                reconcile.look_through(
                    sweep.catalog, location, policy, part, grace=timedelta(hours=policy.orphan_grace_hours)
                )
                for part in reconcile.plan_ranges(sweep.catalog, location, policy)
            ]
            arrived += _arrived(sweep, location, policy)
        except StorageError as error:
            result.failed.append(f"{location.place.name}: {error}")
            result.unlooked += [location.place.name] if location.place.name not in result.unlooked else []
            continue
        looked.append((location, ranges))
    found: list[Drift] = []
    try:
        found = judge.put_together(sweep.catalog, looked)
    except RefusedError as error:
        result.failed.append(str(error))
    result.uncounted = sum(drifted.uncounted for drifted in found)
    result.newer = [
        (drifted.place, one.key, one.size_bytes) for drifted in found for one in drifted.findings if one.what == "newer"
    ]
    result.newer += arrived
    return found


def _arrived(sweep: Sweep, location: OpenLocation, policy: IntegrityPolicy) -> list[tuple[str, str, int]]:
    """What was being written when the backup was made, and is there."""
    pending = sweep.catalog.transaction(
        lambda connection: drift.pending_keys(connection, location.place.shelf, MOST_TOLD)
    )
    there = in_parallel(
        lambda one: fingerprint(location.store, one[0]) is not None, pending, threads=policy.parallel_transfers
    )
    return [(location.place.name, key, size) for (key, size), seen in zip(pending, there, strict=True) if seen]
