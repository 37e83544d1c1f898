"""What removes: the trash and out of it, erasures, cleanup, lifecycle rules."""

from __future__ import annotations

from collections.abc import Sequence

from blocks.object_store.transfer import put_bytes
from blocks.policies import RetentionPolicy
from tasks.removal.deletion import (
    Wanted,
    apply_deletion,
    apply_erasure,
    apply_undelete,
    hold,
    plan_deletion,
    plan_undelete,
    select,
)
from tasks.removal.lifecycle import apply_rules
from tests.chaos.acts.act import Act
from tests.chaos.world import World
from tests.helpers import execute, rows

RULES = RetentionPolicy()


def _two_jobs(world: World) -> None:
    world.job("summer")
    world.job("winter", outputs=False)


def _delete(world: World, names: Sequence[str] = ("summer", "winter"), *, purge_now: bool = False) -> None:
    ids = tuple(str(row.id) for name in names for row in rows(
        world.catalog, "SELECT id FROM jobs WHERE filename = :name", name=f"{name}.mp4"))  # fmt: skip
    sweep = world.sweep("delete")
    found = select(world.catalog, Wanted(ids), trashed=None if purge_now else False) if ids else []
    plan = plan_deletion(found, purge_now=purge_now)
    report = apply_erasure(sweep, plan) if purge_now else apply_deletion(sweep, RULES, plan)
    assert all(one.error for one in report.failed), report.failed


def _erase(world: World) -> None:
    _delete(world, ("summer",), purge_now=True)


def _deleted(world: World) -> None:
    _two_jobs(world)
    _delete(world)


def _undelete(world: World) -> None:
    ids = tuple(str(world.job_named(name)) for name in ("summer", "winter"))
    apply_undelete(world.sweep("undelete"), plan_undelete(select(world.catalog, Wanted(ids), trashed=True)))


def _hold(world: World) -> None:
    hold(world.catalog, job_ids=[str(world.job_named("summer"))], reason="a court asked for it", run="hold")


def _something_of_everything(world: World) -> None:
    """Trash past its date, a failed job, a stuck one, an old form, leftovers of a worker, bytes that were released."""
    for name in ("kept", "trashed", "failed", "stuck"):
        world.job(name, outputs=name == "trashed")
    _delete(world, ("trashed",))
    put_bytes(world.home.store, f"failed/{world.job_named('failed')}/ffmpeg.log", b"it died", {})
    for statement in (
        "UPDATE jobs SET purge_after = now() - interval '1 day' WHERE deleted_at IS NOT NULL",
        "UPDATE jobs SET status = 'failed', error_message = 'ffmpeg died', updated_at = now() - interval '9 days' "
        " WHERE filename = 'failed.mp4'",
        "UPDATE jobs SET status = 'processing', updated_at = now() - interval '2 days' WHERE filename = 'stuck.mp4'",
        "UPDATE jobs SET status = 'completed', completed_at = now() WHERE filename = 'kept.mp4'",
    ):
        execute(world.catalog, statement)


def _clean(world: World) -> None:
    world.cleanup("cleanup")


def _rules(world: World) -> None:
    apply_rules(world.home, RULES)


ACTS = (
    Act("delete-jobs", _two_jobs, _delete),
    Act("undelete-jobs", _deleted, _undelete),
    Act("hold-jobs", _two_jobs, _hold),
    Act("erase-jobs", _two_jobs, _erase),
    Act("cleanup", _something_of_everything, _clean),
    Act("apply-lifecycle", _two_jobs, _rules),
)
