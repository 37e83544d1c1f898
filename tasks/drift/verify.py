"""Reading objects again and hashing them: what is corrupt or missing is marked, and never removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from sqlalchemy import Connection

from blocks.catalog import CatalogDatabase, drift, verifying
from blocks.catalog.content import Content, content_of
from blocks.catalog.drift import Fenced
from blocks.catalog.verifying import Twin
from blocks.errors import InvalidInputError, NotFoundError, StorageError
from blocks.object_store.transfer import fingerprint
from blocks.policies import IntegrityPolicy
from blocks.units import format_bytes
from tasks.checks import check_kind
from tasks.content import hash_content
from tasks.parallel import in_parallel
from tasks.stores import OpenLocation

SMALLEST_BATCH = 500
MOST_BATCHES = 200
"""Prefect runs: one a batch."""
STRANGE = 10
"""Objects, of which not one is there, or its content: their store may be another one than it says, or half up."""
MOST_CORRUPT = 1000
"""How many that are on record as corrupt are read again in a run."""


@dataclass(frozen=True)
class Checked:
    """What reading one object came to: `sound`, `corrupt`, `missing`, `unread` (try again), `changed` meanwhile, or
    `absent` or `garbled` with all others of its batch, which says more of the store than of the object."""

    object_id: UUID
    job_id: UUID
    kind: str
    key: str
    result: str
    detail: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class BatchResult:
    """One batch: sound objects are only counted. `error` is why it came to nothing."""

    sound: int = 0
    sound_bytes: int = 0
    others: tuple[Checked, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class VerifyReport:
    """All batches, the jobs that are hurt, and what could heal them."""

    live: int
    sound: int
    sound_bytes: int
    others: tuple[Checked, ...]
    twins: tuple[Twin, ...]
    unsound: int = 0
    errors: tuple[str, ...] = ()
    """Of batches that came to nothing."""

    @property
    def hurt(self) -> tuple[Checked, ...]:
        """Objects that are corrupt or missing."""
        return tuple(one for one in self.others if one.result in ("corrupt", "missing"))

    @property
    def alarming(self) -> tuple[Checked, ...]:
        """Those, and what is absent or garbled."""
        return self.hurt + tuple(one for one in self.others if one.result in ("absent", "garbled"))

    def cure(self, one: Checked) -> str:
        """What could bring an object's bytes back."""
        twin = next((two for two in self.twins if two.sha256 == one.sha256 and two.key != one.key), None)
        if twin is not None:
            return f"the same content is in job {twin.job_id} of {twin.customer}: {twin.location}/{twin.key}"
        if one.kind == "original":
            return "the customer's own file: taking it in again heals this job"
        if one.kind == "metadata":
            return "the newest backup that has this hash"
        if one.kind == "upload":
            return "the customer's own file, uploaded anew"
        return "register-outputs with the very file; or transcoding the original again, in a new job"

    def summary(self) -> str:
        """One line for a person."""
        shown = ("corrupt", "missing", "absent", "garbled", "unread")
        counts = {what: sum(one.result == what for one in self.others) for what in shown}
        bad = ", ".join(f"{number} {what}" for what, number in counts.items() if number) or "none corrupt or missing"
        jobs = len({one.job_id for one in self.hurt})
        return (
            f"{self.sound + len(self.others)} of {self.live} objects read "
            f"({format_bytes(self.sound_bytes)} sound): {bad}"
            + (f"; {jobs} jobs are hurt" if jobs else "")
            + (f"; {self.unsound} are on record as missing or corrupt" if self.unsound else "")
            + (f"; {len(self.errors)} batches came to nothing: {self.errors[0]}" if self.errors else "")
        )


def choose(
    catalog: CatalogDatabase,
    location: OpenLocation,
    policy: IntegrityPolicy,
    *,
    share_percent: float | None = None,
    kinds: Sequence[str] = (),
) -> tuple[int, list[list[UUID]]]:
    """How many live objects there are, and batches of those to read: the ones that were verified longest ago.

    A share that is not given is a week's: all of them within `verify_within_weeks`.
    """
    wanted = [check_kind(one) for one in kinds]
    if share_percent is not None and not 0 < share_percent <= 100:
        raise InvalidInputError(f"share={share_percent} is outside the limits: more than 0 and up to 100 percent")

    def read(connection: Connection) -> tuple[int, list[UUID]]:
        live = verifying.count_live(connection, location.place.id, kinds=wanted)
        share = share_percent / 100 if share_percent is not None else 1 / policy.verify_within_weeks
        most = min(live, int(live * share) + 1)
        ids = verifying.oldest_verified(connection, location.place.id, kinds=wanted, most=most)
        return live, ids + verifying.oldest_corrupt(connection, location.place.id, kinds=wanted, most=MOST_CORRUPT)

    live, ids = catalog.transaction(read)
    size = max(SMALLEST_BATCH, -(-len(ids) // MOST_BATCHES))
    return live, [ids[start : start + size] for start in range(0, len(ids), size)]


def verify_batch(
    catalog: CatalogDatabase, location: OpenLocation, policy: IntegrityPolicy, ids: Sequence[UUID], *, run: str
) -> BatchResult:
    """Read and hash these objects, and mark what is not what its row says.

    Where not one of them is there nothing is marked: a reconciliation sees more of the store, and asks somebody first.
    Nor is anything where none is what it was: then it is the store that is not. One that was corrupt and is its content
    again, since the store was mended in its place, is live again.
    """
    rows = list(catalog.transaction(lambda connection: content_of(connection, ids)).values())
    live = [row for row in rows if row.state == "live"]
    checked = in_parallel(lambda row: _check(catalog, location, row), live, threads=policy.parallel_transfers)
    _take_back(catalog, location, policy, [row for row in rows if row.state == "corrupt"], run=run)
    sound = [one for one in checked if one.result == "sound"]
    catalog.transaction(lambda connection: verifying.note_verified(connection, [one.object_id for one in sound]))
    others = [one for one in checked if one.result != "sound"]
    if len(checked) >= STRANGE and all(one.result == "missing" for one in checked):
        return BatchResult(
            others=tuple(replace(one, result="absent", detail="nothing of its batch is there") for one in checked),
            error=f"{location.place.name} has not one of the {len(checked)} objects that were asked for, so that none "
            "is marked as missing: look at the store, then run reconcile-quota, which asks somebody before it does",
        )
    if len(checked) >= STRANGE and all(one.result == "corrupt" for one in checked):
        return BatchResult(
            others=tuple(
                replace(one, result="garbled", detail="nothing of its batch is its content") for one in checked
            ),
            error=f"{location.place.name} gave for not one of {len(checked)} objects what its row says, so that none "
            "is marked as corrupt: look at the store, and run it again",
        )
    wrong = {state: {one.object_id for one in others if one.result == state} for state in ("corrupt", "missing")}
    marked: set[UUID] = set()
    for state, found in wrong.items():
        marked |= _mark(catalog, [row for row in live if row.id in found], state, run=run)
    # What was moved or removed between the last look and the mark is nobody's trouble.
    others = [
        replace(one, result="changed", detail="moved or removed meanwhile")
        if one.result in ("corrupt", "missing") and one.object_id not in marked
        else one
        for one in others
    ]
    return BatchResult(len(sound), sum(one.size_bytes for one in sound), tuple(others))


def _take_back(
    catalog: CatalogDatabase, location: OpenLocation, policy: IntegrityPolicy, corrupt: Sequence[Content], *, run: str
) -> None:
    read = in_parallel(lambda row: _check(catalog, location, row), corrupt, threads=policy.parallel_transfers)
    back = {one.object_id for one in read if one.result == "sound"}
    _mark(catalog, [row for row in corrupt if row.id in back], "live", run=run)


def _mark(catalog: CatalogDatabase, rows: Sequence[Content], state: str, *, run: str) -> set[UUID]:
    """A transaction a customer; which of them nobody changed meanwhile."""
    marked: set[UUID] = set()
    for customer_id in sorted({row.customer_id for row in rows}):
        fenced = [Fenced(row.id, row.generation) for row in rows if row.customer_id == customer_id]

        def mark(connection: Connection, owner: int = customer_id, own: Sequence[Fenced] = fenced) -> set[UUID]:
            return drift.mark(connection, owner, own, state=state, run=run, rule="verify")

        marked |= catalog.transaction(mark)
    return marked


def put_together(
    catalog: CatalogDatabase, location: OpenLocation, live: int, batches: Sequence[BatchResult]
) -> VerifyReport:
    """The whole run, with the other places where hurt content still is."""
    others = tuple(one for batch in batches for one in batch.others)
    hashes = [one.sha256 for one in others if one.result in ("corrupt", "missing")]
    twins = catalog.transaction(lambda connection: verifying.find_twins(connection, hashes)) if hashes else []
    unsound = catalog.transaction(lambda connection: verifying.count_unsound(connection, location.place.id))
    return VerifyReport(
        live, sum(one.sound for one in batches), sum(one.sound_bytes for one in batches), others, tuple(twins), unsound,
        tuple(one.error for one in batches if one.error),
    )  # fmt: skip


def join(reports: Sequence[VerifyReport]) -> VerifyReport:
    """What all places came to."""
    return VerifyReport(
        live=sum(one.live for one in reports),
        sound=sum(one.sound for one in reports),
        sound_bytes=sum(one.sound_bytes for one in reports),
        others=tuple(other for one in reports for other in one.others),
        twins=tuple(twin for one in reports for twin in one.twins),
        unsound=sum(one.unsound for one in reports),
        errors=tuple(error for one in reports for error in one.errors),
    )


def _check(catalog: CatalogDatabase, location: OpenLocation, row: Content) -> Checked:
    def seen(result: str, detail: str = "") -> Checked:
        return Checked(row.id, row.job_id, row.kind, row.key, result, detail, row.stored_bytes, row.sha256)

    # Twice: a row that was moved meanwhile is no corrupt one, nor is a body that broke off on its way here.
    for last in (False, True):
        try:
            if hash_content(location.store, row.key, row.codec, at_most=row.size_bytes) == (row.sha256, row.size_bytes):
                return seen("sound")
            result, detail = "corrupt", "its bytes have another SHA-256 than its row"
        except NotFoundError:
            if fingerprint(location.store, row.key) is not None:
                return seen("unread", "it was not there, and is")
            result, detail = "missing", "not in the store"
        except StorageError as error:
            result, detail = "unread", str(error)
        if last:
            break
        now = catalog.transaction(lambda connection: content_of(connection, [row.id])).get(row.id)
        if now is None or now.generation != row.generation:
            return seen("changed", "moved or removed meanwhile")
    return seen(result, detail)
