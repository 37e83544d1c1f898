"""Taking in what the transcoder made of a video. No admission: what was transcoded is kept, an overrun is reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID, uuid4

from sqlalchemy import Connection

from blocks.catalog import CatalogDatabase
from blocks.catalog.customers import Customer, lock_customer, storable
from blocks.catalog.jobs import JobRow, complete_job, find_job, note_progress
from blocks.catalog.log import Change, record
from blocks.catalog.objects import (
    ExistingOutput,
    NewObject,
    find_named,
    find_used_names,
    insert_pending,
    make_live,
    release_objects,
)
from blocks.catalog.relocations import UNSOUND
from blocks.catalog.tables import ObjectState
from blocks.errors import InvalidInputError, OvertakenError, RefusedError, StorageError
from blocks.object_store.deletion import delete_keys
from blocks.object_store.listing import list_prefix
from blocks.object_store.transfer import hash_file, hash_object, read_bytes
from blocks.policies import IngestPolicy
from blocks.units import format_bytes, shown
from tasks.checks import check_job_id
from tasks.intake.healing import heal
from tasks.intake.sources import allowed_path, walk
from tasks.layout import LARGEST_PLAYLIST_BYTES, PLAYLIST, TEMP, Named, name_output, object_key, rewritten_key
from tasks.parallel import in_parallel
from tasks.playlists import segment_names
from tasks.removal.purging import give_up, purge_released
from tasks.stores import OpenLocation, require_current
from tasks.writing import LocalFile, StoredBlob, Writing, write_objects

REGISTERABLE = ("queued", "processing", "transcoding", "completed")


@dataclass(frozen=True)
class FoundOutput:
    """A file that the transcoder left, read once."""

    named: Named
    sha256: str
    size_bytes: int
    bytes_from: LocalFile | StoredBlob


@dataclass(frozen=True)
class RegisterReport:
    """What was taken in of a folder; `over_quota` is the sentence to show where the customer is past the limit now."""

    job_id: UUID
    registered: tuple[str, ...]
    already_there: tuple[str, ...]
    skipped: tuple[str, ...]
    added_bytes: int
    over_quota: str = ""
    healed: tuple[str, ...] = ()
    """Outputs whose bytes were lost, and that got them back."""

    def summary(self) -> str:
        """One line for a person."""
        parts = [f"{len(self.registered)} outputs registered ({format_bytes(self.added_bytes)})"]
        if self.healed:
            parts.append(f"{len(self.healed)} lost ones healed")
        if self.already_there:
            parts.append(f"{len(self.already_there)} were there already")
        if self.skipped:
            parts.append(f"{len(self.skipped)} files are no outputs of the platform")
        return f"job {self.job_id}: " + ", ".join(parts) + (f"; {self.over_quota}" if self.over_quota else "")


@dataclass(frozen=True)
class OutputPlan:
    """What to write, what is there already, and stale writings to give up."""

    writings: tuple[Writing, ...]
    already_there: tuple[str, ...]
    stale: tuple[UUID, ...]


def register_outputs(
    catalog: CatalogDatabase,
    location: OpenLocation,
    policy: IngestPolicy,
    *,
    job_id: str | UUID,
    outputs: str,
    run: str = "",
) -> RegisterReport:
    """Take in a folder on this machine, or a prefix under `temp/`, and mark the job `completed`.

    Outputs that lost their bytes get them back first, from files that are their content.

    Raises:
        NotFoundError, RefusedError: no such job, or one whose status takes no outputs.
        InvalidInputError: no outputs there, a playlist without its segments, or other content under a known name.
        OvertakenError: the job was failed or deleted meanwhile; nothing of it stays.
        StorageError: an output could not be written or proved; nothing of it stays.
    """
    job_id = check_job_id(job_id)
    require_current(catalog, location)
    job = catalog.transaction(lambda connection: _registerable(connection, job_id))
    found, skipped = read_outputs(location, policy, outputs)
    there = catalog.transaction(lambda connection: find_named(connection, job.id))
    lost = find_lost(found, there)
    # What will be refused is refused before anything is healed.
    whole = there | {one.named.name: replace(there[one.named.name], state=ObjectState.LIVE) for one in lost}
    _check_playlists(location, found, {name for name, one in there.items() if one.state != ObjectState.PENDING})
    plan_outputs(job.id, location.place.id, found, whole, frozenset())
    _heal(catalog, location, policy, job, lost, there, run)
    healed = frozenset(one.named.name for one in lost)

    def begin(connection: Connection) -> OutputPlan:
        # Planned under the key's lock: of two runs at once the later one sees what the earlier one began.
        lock_customer(connection, job.api_key_id)
        _registerable(connection, job.id)
        used = find_used_names(connection, job.id, [one.named.name for one in found])
        plan = plan_outputs(job.id, location.place.id, found, find_named(connection, job.id), used)
        if not plan.writings and not plan.already_there:
            raise InvalidInputError(f"{shown(outputs)} holds no outputs of the platform")
        note_progress(connection, job.id)
        release_objects(connection, plan.stale, run=run)
        insert_pending(connection, job.api_key_id, [writing.new for writing in plan.writings])
        return plan

    plan = catalog.transaction(begin)
    written = write_objects(location, plan.writings, parallel=policy.parallel_transfers)
    by_id = {writing.new.id: writing.new for writing in plan.writings}

    def commit(connection: Connection) -> str:
        customer = lock_customer(connection, job.api_key_id)
        live = make_live(connection, written.verified, job_statuses=REGISTERABLE)
        if len(live) != len(by_id):
            raise OvertakenError(f"job {job_id} was failed, deleted or registered by another run meanwhile")
        complete_job(connection, job)
        record(connection, [_change(run, customer.id, location, by_id[object_id]) for object_id in live])
        customer = lock_customer(connection, customer.id)
        return overrun(customer)

    if written.failed:
        give_up(catalog, location, list(by_id.values()), run=run)
        raise next(iter(written.failed.values()))
    try:
        over_quota = catalog.transaction(commit)
    except OvertakenError:  # surely not committed
        give_up(catalog, location, list(by_id.values()), run=run)
        raise
    # What an earlier run had begun, and this one gave up.
    purge_released(catalog, location, [job.id], run=run)
    # Copied and proved: what the worker left under temp/ is not wanted for another day.
    with suppress(StorageError):
        delete_keys(location.store, [one.bytes_from.key for one in found if isinstance(one.bytes_from, StoredBlob)])
    return RegisterReport(
        job_id=job_id,
        registered=tuple(writing.new.name for writing in plan.writings),
        already_there=tuple(name for name in plan.already_there if name not in healed),
        skipped=tuple(skipped),
        added_bytes=sum(writing.new.size_bytes for writing in plan.writings),
        over_quota=over_quota,
        healed=tuple(sorted(healed)),
    )


def find_lost(found: Sequence[FoundOutput], there: Mapping[str, ExistingOutput]) -> list[FoundOutput]:
    """Files that are the very content of outputs which lost their bytes. Pure."""
    return [
        one for one in found
        if (before := there.get(one.named.name)) is not None
        and before.state in UNSOUND.states and before.sha256 == one.sha256
    ]  # fmt: skip


def _heal(
    catalog: CatalogDatabase,
    location: OpenLocation,
    policy: IngestPolicy,
    job: JobRow,
    lost: Sequence[FoundOutput],
    there: Mapping[str, ExistingOutput],
    run: str,
) -> None:
    def heal_one(one: FoundOutput) -> None:
        before, name, kind = there[one.named.name], one.named.name, one.named.kind
        wanted = NewObject(before.id, job.id, kind, name, location.place.id, "", one.size_bytes, one.sha256)
        heal(catalog, location, job.api_key_id, wanted, before.generation, one.bytes_from, run=run, rule="output_lost")

    in_parallel(heal_one, lost, threads=policy.parallel_transfers)


def overrun(customer: Customer) -> str:
    """The sentence to show where a customer stores more than the quota; empty where not."""
    if customer.quota_bytes is None or customer.used_bytes <= customer.quota_bytes:
        return ""
    return (
        f"key {customer.label} is {format_bytes(customer.used_bytes - customer.quota_bytes)} over its quota of "
        f"{format_bytes(customer.quota_bytes)} now; nothing more is taken in until some is freed or the quota raised"
    )


def plan_outputs(
    job_id: UUID,
    location_id: int,
    found: Sequence[FoundOutput],
    existing: dict[str, ExistingOutput],
    used_names: frozenset[str],
) -> OutputPlan:
    """Which files are new, which are there with the same content, and which writings an earlier run left half done.

    Raises:
        InvalidInputError: a name is there already with other content; outputs are never overwritten.
    """
    writings: list[Writing] = []
    already_there: list[str] = []
    stale: list[UUID] = []
    for one in found:
        before = existing.get(one.named.name)
        object_id, key = uuid4(), object_key(job_id, one.named.name)
        if before is not None and before.state != ObjectState.PENDING:
            if before.sha256 != one.sha256:
                seen = "there already" if before.state == ObjectState.LIVE else before.state
                raise InvalidInputError(
                    f"{one.named.name} of job {job_id} is {seen} with other content; "
                    "ingest the video again with reprocess to get a new job"
                )
            if before.state != ObjectState.LIVE:
                raise RefusedError(f"{one.named.name} of job {job_id} is {before.state} by now; try again")
            already_there.append(one.named.name)
            continue
        if before is not None:
            stale.append(before.id)
        if before is not None or one.named.name in used_names:
            key = rewritten_key(job_id, one.named.kind, one.named.name, object_id)
        new = NewObject(object_id, job_id, one.named.kind, one.named.name, location_id, key, one.size_bytes, one.sha256)
        writings.append(Writing(new, one.bytes_from))
    return OutputPlan(tuple(writings), tuple(already_there), tuple(stale))


def read_outputs(location: OpenLocation, policy: IngestPolicy, outputs: str) -> tuple[list[FoundOutput], list[str]]:
    """Hash every output in a folder or under a prefix; the second list holds files that are none.

    Raises:
        InvalidInputError: there is no such folder or prefix, or it cannot be read.
    """
    if not storable(outputs):
        raise InvalidInputError(f"{shown(outputs)} is no folder and no prefix")
    try:
        if outputs.startswith(f"{TEMP}/"):
            found, skipped = _read_prefix(location, outputs.rstrip("/"))
        else:
            found, skipped = _read_folder(allowed_path(outputs, policy))
    except OSError as error:
        where = f"{shown(outputs)}: {shown(str(error.filename))}" if error.filename else shown(outputs)
        raise InvalidInputError(f"{where} cannot be read: {error.strerror or error}") from error
    return found, skipped


def _read_folder(folder: Path) -> tuple[list[FoundOutput], list[str]]:
    if not folder.is_dir():
        raise InvalidInputError(f"{shown(str(folder))} is no folder")
    found, skipped = [], []
    for entry in walk(str(folder), hidden=True):
        if isinstance(entry, OSError):
            raise entry  # all outputs, or none
        relative = Path(entry.path).relative_to(folder).as_posix()
        if not entry.is_file(follow_symlinks=False) or (named := name_output(relative)) is None:
            skipped.append(relative)
            continue
        sha256, size = hash_file(Path(entry.path))
        found.append(FoundOutput(named, sha256, size, LocalFile(Path(entry.path))))
    return found, skipped


def _read_prefix(location: OpenLocation, prefix: str) -> tuple[list[FoundOutput], list[str]]:
    if any(part in ("", ".", "..") for part in prefix.split("/")) or not prefix.isprintable():
        raise InvalidInputError(f"{shown(prefix)} is no prefix")
    found, skipped = [], []
    for listed in list_prefix(location.store, prefix):
        relative = listed.key.removeprefix(f"{prefix}/")
        if (named := name_output(relative)) is None:
            skipped.append(relative)
            continue
        sha256, size = hash_object(location.store, listed.key)
        found.append(FoundOutput(named, sha256, size, StoredBlob(listed.key)))
    return found, skipped


def _check_playlists(location: OpenLocation, found: Sequence[FoundOutput], there: Set[str]) -> None:
    """See that each stream that is new comes whole; of one that is `there`, files may come alone to be healed."""
    names = there | {one.named.name for one in found}
    for kind in {one.named.kind for one in found if one.named.kind.is_hls and one.named.name not in there}:
        folder = f"{kind[4:]}/segments"
        playlist = next((one for one in found if one.named.name == f"{folder}/{PLAYLIST}"), None)
        if playlist is None:
            raise InvalidInputError(f"{folder} holds segments and no {PLAYLIST}")
        missing = [name for name in segment_names(_text(location, playlist)) if f"{folder}/{name}" not in names]
        if missing:
            raise InvalidInputError(f"{playlist.named.name} names {shown(missing[0])}, which is not there")


def _text(location: OpenLocation, one: FoundOutput) -> str:
    if one.size_bytes > LARGEST_PLAYLIST_BYTES:
        raise InvalidInputError(f"{one.named.name} has {one.size_bytes} bytes: that is no playlist")
    if isinstance(one.bytes_from, LocalFile):
        return one.bytes_from.path.read_text(encoding="utf-8", errors="replace")
    return read_bytes(location.store, one.bytes_from.key, at_most=LARGEST_PLAYLIST_BYTES).decode(errors="replace")


def _registerable(connection: Connection, job_id: UUID) -> JobRow:
    job = find_job(connection, job_id)
    if job.deleted_at is not None or job.status not in REGISTERABLE:
        state = "deleted" if job.deleted_at is not None else job.status
        why = f": {job.error_message}" if job.error_message else ""
        raise RefusedError(f"job {job_id} is {state}{why}; outputs are taken for {', '.join(REGISTERABLE)}")
    return job


def _change(run: str, customer_id: int, location: OpenLocation, new: NewObject) -> Change:
    after = {"state": "live", "location": location.place.name, "key": new.key}
    return Change(run, "register", "", customer_id, new.job_id, new.id, None, after, new.size_bytes)
