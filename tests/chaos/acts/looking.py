"""What looks at everything, and mends or marks what it finds: reconciliation, verification, analytics, the probe."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from blocks.catalog import drift
from blocks.object_store.copying import copy
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import put_bytes
from blocks.policies import IntegrityPolicy, TierPolicy
from tasks.analytics.snapshot import refresh
from tasks.declaring import probe_store
from tasks.drift import judge, reconcile, verify
from tasks.drift.repairs import apply_repairs
from tasks.publishing import publish
from tests.chaos.acts.act import Act
from tests.chaos.world import World
from tests.helpers import execute, one, rows

POLICY = IntegrityPolicy(parallel_listings=1, parallel_transfers=1)
NO_GRACE = timedelta(seconds=-5)
"""Whatever was written up to now is past it: the server dates objects itself."""


def _key(world: World, name: str) -> str:
    return str(one(world.catalog, "SELECT key FROM stored_objects WHERE job_id = :job", job=world.job_named(name)))


def _drift(world: World) -> None:
    """An object that is gone, one that came back, one that lies under another key, one that is nobody's."""
    for name in ("sound", "gone", "back", "moved"):
        world.job(name, outputs=False)
    execute(world.catalog, "UPDATE jobs SET status = 'completed', completed_at = now()")
    store = world.home.store
    delete_keys(store, [_key(world, "gone")])
    execute(
        world.catalog, "UPDATE stored_objects SET state = 'missing' WHERE job_id = :job", job=world.job_named("back")
    )
    (row,) = rows(
        world.catalog, "SELECT id, key, sha256, size_bytes FROM stored_objects WHERE job_id = :job",
        job=world.job_named("moved"),
    )  # fmt: skip
    known = {"object-id": str(row.id), "sha256": row.sha256}
    other = row.key.replace("video_original", "video_original.other")
    copy(store, row.key, store, other, size_bytes=row.size_bytes, attributes=known)
    delete_keys(store, [row.key])
    put_bytes(store, f"processed/{world.job_named('sound')}/raw/nobody.mp4", b"nobody's", {})
    execute(world.catalog, "UPDATE api_keys SET storage_used_bytes = storage_used_bytes + 7")


def _reconcile(world: World) -> None:
    with world.sweeping("reconcile", wait=20) as sweep:
        looked = []
        for location in sweep.locations:
            parts = reconcile.plan_ranges(world.catalog, location, POLICY)
            seen = [reconcile.look_through(world.catalog, location, POLICY, part, grace=NO_GRACE) for part in parts]
            looked.append((location, seen))
        found = judge.put_together(world.catalog, looked)
        plan = judge.plan_repairs(found, world.catalog.transaction(drift.labels))
        apply_repairs(sweep, POLICY, found, plan, grace=NO_GRACE)


def reconcile_twice(world: World) -> None:
    """Two nights: what heals in the first leaves the orphan it was healed from."""
    _reconcile(world)
    _reconcile(world)


def _damage(world: World) -> None:
    world.job("summer")
    for name in ("rotten", "gone"):
        world.job(name, outputs=False)
    put_bytes(world.home.store, _key(world, "rotten"), b"x" * len(b"the video rotten" * 20), {})
    delete_keys(world.home.store, [_key(world, "gone")])


def verify_all(world: World) -> None:
    """Read everything, and mark what is not there or wrong."""
    for location in (world.home, world.cold):
        live, batches = verify.choose(world.catalog, location, POLICY, share_percent=100, kinds=[])
        results = [verify.verify_batch(world.catalog, location, POLICY, batch, run="verify") for batch in batches]
        verify.put_together(world.catalog, location, live, results)


def _a_job(world: World) -> None:
    world.job("summer")


def _figures(world: World) -> None:
    now = datetime.now(UTC)
    refresh(world.catalog, TierPolicy(), now=now)
    page = world.folder / "report.html"
    page.write_text("the page")
    publish(world.catalog, world.home, [page], day=now.date(), scope="all", lasts=timedelta(hours=1))


def _probe(world: World) -> None:
    probe_store(world.catalog, world.store("third"), "third")


ACTS = (
    Act("reconcile-quota", _drift, reconcile_twice, damaged=True),
    Act("verify-objects", _damage, verify_all, damaged=True),
    Act("refresh-analytics", _a_job, _figures),
    Act("probe-store", _a_job, _probe),
)
