"""What looks at the crowd itself: customers' calls, and what flows ask of a place that nearly everything lies in.

The acts of `tests.chaos.acts` run in a small world beside the crowd. Their sweeps look at that world's places, so that
what they ask of a place is asked of the large one here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from blocks.catalog import CatalogDatabase, checks, counters, drift, due, moving, objects, relocations, verifying
from blocks.catalog.admission import find_known, reserve_now
from blocks.catalog.content import metadata_after
from blocks.catalog.customers import list_customers
from blocks.catalog.lifecycle import find_old_objects
from blocks.catalog.locations import find_place, read_identity, retire, stored_in
from blocks.catalog.restored import deleted_since, erased_since, newer_jobs
from blocks.errors import StorageError
from blocks.object_store import ObjectStore
from blocks.object_store.probing import Capabilities
from blocks.object_store.transfer import put_bytes
from blocks.policies import AccessPolicy, IngestPolicy, IntegrityPolicy, RetentionPolicy
from tasks.access import issue_download_url
from tasks.customers import set_quota
from tasks.drift import reconcile, verify
from tasks.history import explain
from tasks.intake.uploads import issue_upload_url
from tasks.layout import IDENTITY_KEY
from tasks.relocation.migration import Migration, find_jobs
from tasks.removal.deletion import Wanted, hold, select
from tasks.stores import Locations, OpenLocation
from tests.growth.crowd import BIG_PLACE, COLD_PLACE, OTHERS
from tests.helpers import rows

MINUTE = timedelta(minutes=1)
OLDEST_DAYS = 702
"""The age of the first job: of those that are older there is hardly one, however many there are."""


@dataclass(frozen=True)
class Crowd:
    """The catalog, its two places with a store that holds nothing of them, and somebody in it."""

    catalog: CatalogDatabase
    big: OpenLocation
    cold: OpenLocation
    job: UUID
    """A completed job of the largest customer."""
    key: str
    """Its video."""
    gone: UUID
    """A job of theirs in the trash."""
    hashes: tuple[str, ...]
    few: str
    """The customer with the fewest jobs."""
    customer: int = OTHERS
    label: str = "crowd-0"

    @property
    def locations(self) -> Locations:
        """Both places."""
        return Locations(self.catalog, self.big, [self.cold])

    @property
    def now(self) -> datetime:
        """By PostgreSQL's clock, near enough."""
        return datetime.now(UTC)


def look_into(catalog: CatalogDatabase, store: ObjectStore, capabilities: Capabilities) -> Crowd:
    """Somebody to ask for, in a place of this catalog's own."""
    store = store.model_copy(update={"prefix": f"{store.prefix}/{catalog.database}"})
    big, cold = (
        OpenLocation(
            catalog.transaction(lambda connection, name=name: find_place(connection, name)), store, capabilities
        )  # type: ignore[misc]  # bound here
        for name in (BIG_PLACE, COLD_PLACE)
    )
    (job,) = rows(
        catalog,
        "SELECT o.job_id, o.key FROM jobs j JOIN stored_objects o ON o.job_id = j.id WHERE j.api_key_id = :customer "
        "   AND j.deleted_at IS NULL AND j.status = 'completed' AND o.kind = 'video_720p' AND o.state = 'live' LIMIT 1",
        customer=OTHERS,
    )
    (gone,) = rows(
        catalog, "SELECT id FROM jobs WHERE api_key_id = :customer AND deleted_at IS NOT NULL LIMIT 1", customer=OTHERS
    )
    hashes = rows(catalog, "SELECT source_file_hash FROM jobs WHERE api_key_id = :customer LIMIT 20", customer=OTHERS)
    (few,) = rows(catalog, "SELECT label FROM api_keys WHERE id >= :others ORDER BY id DESC LIMIT 1", others=OTHERS)
    shown = tuple(row.source_file_hash for row in hashes)
    crowd = Crowd(catalog, big, cold, job.job_id, job.key, gone.id, shown, few.label)
    claim(crowd)
    return crowd


def claim(crowd: Crowd) -> None:
    """Its bucket is its catalog's, whatever that is called by now."""
    identity = crowd.catalog.transaction(read_identity)
    put_bytes(crowd.big.store, IDENTITY_KEY, identity.as_text().encode(), {})


def _url(crowd: Crowd, kind: str = "video_720p", job: UUID | None = None) -> None:
    with suppress(StorageError):
        issue_download_url(
            crowd.catalog, crowd.locations, AccessPolicy(), api_key=crowd.label, job_id=job or crowd.job, kind=kind
        )


def _form(crowd: Crowd) -> None:
    issue_upload_url(
        crowd.catalog, crowd.big, AccessPolicy(), IngestPolicy(), api_key=crowd.label, filename="more.mp4", size_bytes=9
    )


def _retire(crowd: Crowd) -> None:
    with suppress(StorageError):
        crowd.catalog.transaction(lambda connection: retire(connection, crowd.big.place))


def _select(crowd: Crowd, wanted: Wanted, *, trashed: bool | None = None) -> None:
    select(crowd.catalog, wanted, trashed=trashed)


def _hold(crowd: Crowd) -> None:
    hold(crowd.catalog, job_ids=[str(crowd.job)], reason="a court asked for it", run="hold")
    hold(crowd.catalog, job_ids=[str(crowd.job)], reason="", release=True, run="hold")


def _migrate(crowd: Crowd, **chosen: object) -> None:
    find_jobs(crowd.catalog, Migration(crowd.big, crowd.cold, **chosen))  # type: ignore[arg-type]  # of its own


BY_CUSTOMERS: dict[str, Callable[[Crowd], object]] = {
    "url": _url,
    "url of a kind that is not there": lambda crowd: _url(crowd, "upload"),
    "url of a deleted job": lambda crowd: _url(crowd, job=crowd.gone),
    "upload form": _form,
    "quota": lambda crowd: reserve_now(crowd.catalog, crowd.customer, uuid4(), 1, MINUTE),
    "quota changed": lambda crowd: set_quota(crowd.catalog, api_key=crowd.label, quota="unlimited"),
    "duplicates": lambda crowd: crowd.catalog.transaction(
        lambda connection: find_known(connection, crowd.customer, crowd.hashes)
    ),
    "explain a job": lambda crowd: explain(crowd.catalog, RetentionPolicy(), str(crowd.job)),
    "explain a key": lambda crowd: explain(crowd.catalog, RetentionPolicy(), crowd.key),
}
"""What answers in milliseconds, however many others there are."""

BY_FLOWS: dict[str, Callable[[Crowd], object]] = {
    "hold": _hold,
    "select ids": lambda crowd: _select(crowd, Wanted((str(crowd.job),))),
    "select a customer's": lambda crowd: _select(crowd, Wanted(api_key=crowd.few)),
    "select a customer's failed": lambda crowd: _select(
        crowd, Wanted(status="failed", api_key=crowd.few), trashed=False
    ),
    "select a customer's trash": lambda crowd: _select(crowd, Wanted(api_key=crowd.few), trashed=True),
    "select all trash": lambda crowd: _select(crowd, Wanted(older_than_days=OLDEST_DAYS), trashed=True),
    "select old": lambda crowd: _select(crowd, Wanted(older_than_days=OLDEST_DAYS), trashed=False),
    "select large": lambda crowd: _select(crowd, Wanted(larger_than="1 TiB"), trashed=False),
    "customers": lambda crowd: crowd.catalog.transaction(list_customers),
    "released": lambda crowd: crowd.catalog.transaction(
        lambda connection: objects.find_released(connection, crowd.big.place.id, after=UUID(int=0), limit=10)
    ),
    "released extent": lambda crowd: crowd.catalog.transaction(
        lambda connection: due.released_extent(connection, crowd.big.place.shelf)
    ),
    "ranges": lambda crowd: reconcile.plan_ranges(crowd.catalog, crowd.big, IntegrityPolicy()),
    "one range": lambda crowd: crowd.catalog.transaction(
        lambda connection: drift.expected_in_range(
            connection, crowd.big.place.shelf, crowd.job, UUID(int=crowd.job.int + (1 << 113))
        )
    ),
    "unnamed keys": lambda crowd: crowd.catalog.transaction(
        lambda connection: drift.named_keys(connection, [f"processed/{uuid4()}/raw/x.mp4" for _ in range(50)])
    ),
    "under way after a restore": lambda crowd: crowd.catalog.transaction(
        lambda connection: (
            drift.pending_keys(connection, crowd.big.place.shelf, 100),
            drift.count_unfinished(connection),
        )
    ),
    "unfinished intents of cleanup": lambda crowd: crowd.catalog.transaction(
        lambda connection: relocations.find_unfinished(
            connection, now=crowd.now, abandoned_before=crowd.now, location_ids=crowd.big.place.shelf
        )
    ),
    "look anew": lambda crowd: crowd.catalog.transaction(
        lambda connection: moving.forget_marks(connection, "tier", after=UUID(int=2**128 - 1))
    ),
    "open forms": lambda crowd: crowd.catalog.transaction(
        lambda connection: due.open_form_keys(connection, crowd.big.place.shelf, [f"temp/{uuid4()}/blob"])
    ),
    "counters": lambda crowd: crowd.catalog.transaction(counters.counter_drift),
    "verify": lambda crowd: verify.choose(crowd.catalog, crowd.big, IntegrityPolicy(), share_percent=0.001),
    "verify a kind": lambda crowd: verify.choose(
        crowd.catalog, crowd.big, IntegrityPolicy(), share_percent=0.001, kinds=["metadata"]
    ),
    "verify together": lambda crowd: verify.put_together(crowd.catalog, crowd.big, 0, []),
    "twins": lambda crowd: crowd.catalog.transaction(lambda connection: verifying.find_twins(connection, crowd.hashes)),
    "recover": lambda crowd: crowd.catalog.transaction(
        lambda connection: relocations.find_unfinished(
            connection, now=crowd.now, abandoned_before=None, location_ids=crowd.big.place.shelf, of_sweeps=True
        )
    ),
    "migrate": _migrate,
    "migrate a customer's": lambda crowd: _migrate(crowd, api_key=crowd.few),
    "migrate a job": lambda crowd: _migrate(crowd, job_ids=(str(crowd.job),)),
    "migrate old ones": lambda crowd: _migrate(crowd, older_than_days=OLDEST_DAYS),
    "lifecycle": lambda crowd: crowd.catalog.transaction(
        lambda connection: find_old_objects(
            connection,
            crowd.big.place.id,
            "processed/",
            written_until=crowd.now - timedelta(days=OLDEST_DAYS),
            overdue_until=crowd.now - timedelta(days=OLDEST_DAYS),
            smallest=0,
            most_examples=10,
        )
    ),
    "locations": lambda crowd: crowd.catalog.transaction(stored_in),
    "retire": _retire,
    "newer than a backup": lambda crowd: crowd.catalog.transaction(
        lambda connection: newer_jobs(connection, crowd.now - timedelta(minutes=1), 500)
    ),
    "deleted since a backup": lambda crowd: crowd.catalog.transaction(
        lambda connection: deleted_since(connection, crowd.now - timedelta(minutes=1))
    ),
    "erased since a backup": lambda crowd: crowd.catalog.transaction(
        lambda connection: erased_since(connection, crowd.now - timedelta(minutes=1))
    ),
    "metadata of a restored catalog": lambda crowd: crowd.catalog.transaction(
        lambda connection: metadata_after(connection, UUID(int=1 << 126), crowd.big.place.shelf, limit=20)
    ),
    "lost rows": lambda crowd: crowd.catalog.transaction(lambda connection: drift.unsound_keys(connection, 10)),
    "jobs that lost something": lambda crowd: crowd.catalog.transaction(
        lambda connection: drift.unsound_jobs(connection, [crowd.job, *(uuid4() for _ in range(50))])
    ),
    "moved before": lambda crowd: crowd.catalog.transaction(
        lambda connection: moving.moved_before(
            connection,
            [crowd.job],
            moving.Wanted(tuple(crowd.big.place.shelf)),
            run="x",
            since=crowd.now - timedelta(days=1),
        )
    ),
    "share": lambda crowd: crowd.catalog.transaction(lambda connection: due.count_up_to(connection, 100)),
    "checks": lambda crowd: crowd.catalog.transaction(lambda connection: checks.newest_checks(connection, "backup")),
}
