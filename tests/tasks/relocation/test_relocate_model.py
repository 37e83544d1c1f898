"""Random lives of jobs, real ones, beside a model that knows only content and counters: both must always agree."""

from __future__ import annotations

import random
from typing import Any
from uuid import UUID

import pytest

from blocks.catalog import CatalogDatabase
from blocks.policies import CompressionPolicy, RelocationPolicy, RetentionPolicy
from tasks.intake.ingest import ingest_videos
from tasks.intake.outputs import register_outputs
from tasks.relocation.compression import find_compressible, plan_compression
from tasks.relocation.intents import recover
from tasks.relocation.migration import Migration, find_jobs, plan_migration
from tasks.relocation.moving import mark_through, move_batch, split, sum_up
from tasks.relocation.rehydrate import rehydrate_job
from tasks.removal.cleanup import apply_cleanup, find_due
from tasks.removal.cleanup_plan import plan_cleanup
from tasks.removal.deletion import Wanted as Chosen
from tasks.removal.deletion import apply_deletion, apply_undelete, plan_deletion, plan_undelete, select
from tasks.stores import Locations, OpenLocation
from tasks.sweeping import Sweep
from tests.helpers import assert_sound, execute, one, rows, sha256, write_outputs, write_video

POLICY = RelocationPolicy()
RULES = CompressionPolicy(after_days=1, idle_days=0, smallest_bytes=0, least_gain_percent=0, sample_objects=0)


class Lives:
    """Jobs by what they hold: name → hash. What is in the trash counts for nobody."""

    def __init__(self, catalog: CatalogDatabase, locations: Locations, policy: Any, folder: Any, seed: int) -> None:
        self.catalog, self.locations, self.policy, self.folder = catalog, locations, policy, folder
        self.chance = random.Random(seed)
        self.live: dict[UUID, dict[str, str]] = {}
        self.trash: dict[UUID, dict[str, str]] = {}
        self.places = [locations.home, *locations.others]
        self.sweep = Sweep(catalog, tuple(self.places), run="model")

    def ingest(self) -> None:
        video = write_video(self.folder / f"{self.chance.random()}.mp4", self.chance.randbytes(500))
        (outcome,) = ingest_videos(
            self.catalog, self.locations.home, self.policy, api_key="acme", sources=[str(video)]
        ).outcomes
        assert outcome.job_id is not None, outcome.error
        made = write_outputs(self.folder / str(outcome.job_id))
        register_outputs(self.catalog, self.locations.home, self.policy, job_id=outcome.job_id, outputs=str(made))
        files = {
            path.relative_to(made).as_posix(): sha256(path.read_bytes()) for path in made.rglob("*") if path.is_file()
        }
        self.live[outcome.job_id] = files | {"raw/video_original.mp4": outcome.sha256}

    def compress(self) -> None:
        execute(self.catalog, "UPDATE jobs SET completed_at = now() - interval '100 days'")
        planned = plan_compression(find_compressible(self.sweep, self.locations, RULES), RULES)
        results = [
            move_batch(self.catalog, self.locations, POLICY, batch)
            for batch in split(planned.moves, POLICY, run="model")
        ]
        mark_through(self.catalog, planned.moves, sum_up(results), {planned.mark: planned.settled})

    def migrate(self) -> None:
        migration = Migration(*self.chance.sample(self.places, 2))
        _, moves = plan_migration(find_jobs(self.catalog, migration), migration)
        for batch in split(moves, POLICY, run="model"):
            move_batch(self.catalog, self.locations, POLICY, batch)

    def rehydrate(self) -> None:
        if self.live:
            rehydrate_job(self.catalog, self.locations, POLICY, job_id=self.chance.choice(list(self.live)))

    def delete(self) -> None:
        if self.live:
            job = self.chance.choice(list(self.live))
            apply_deletion(self.sweep, RetentionPolicy(), plan_deletion(select(self.catalog, Chosen((str(job),)))))
            self.trash[job] = self.live.pop(job)

    def undelete(self) -> None:
        if self.trash:
            job = self.chance.choice(list(self.trash))
            apply_undelete(self.sweep, plan_undelete(select(self.catalog, Chosen((str(job),)), trashed=True)))
            self.live[job] = self.trash.pop(job)

    def purge(self) -> None:
        execute(self.catalog, "UPDATE jobs SET purge_after = now() - interval '1 s' WHERE deleted_at IS NOT NULL")
        facts = find_due(self.sweep, RetentionPolicy())
        apply_cleanup(self.sweep, RetentionPolicy(), facts, plan_cleanup(facts))
        self.trash.clear()

    def let_urls_end(self) -> None:
        execute(self.catalog, "UPDATE relocations SET release_after = now() - interval '1 s' WHERE state = 'swapped'")
        recover(self.sweep)

    def check(self) -> None:
        assert_sound(self.catalog, *self.places)
        for jobs, state in ((self.live, "live"), (self.trash, "trashed")):
            found: dict[UUID, dict[str, str]] = {}
            for row in rows(
                self.catalog, "SELECT job_id, name, sha256 FROM stored_objects WHERE state = :state", state=state
            ):
                found.setdefault(row.job_id, {})[row.name] = row.sha256
            assert found == jobs


ACTIONS = ("ingest", "compress", "migrate", "migrate", "rehydrate", "delete", "undelete", "purge", "let_urls_end")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_lives_of_jobs(  # type: ignore[no-untyped-def]
    catalog, location: OpenLocation, declare, policy, acme, tmp_path, monkeypatch, seed: int
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    execute(catalog, "UPDATE api_keys SET storage_quota_bytes = NULL")
    locations = Locations(catalog, location, [declare("cold", tier="cold"), declare("second", tier="warm")])
    lives = Lives(catalog, locations, policy, tmp_path, seed)
    lives.ingest()
    done = []
    for _ in range(14):
        done.append(lives.chance.choice(ACTIONS))
        getattr(lives, done[-1])()
        lives.check()
    lives.let_urls_end()
    lives.check()
    assert one(catalog, "SELECT count(*) FROM relocations WHERE state <> 'done'") == 0, done
