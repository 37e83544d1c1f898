"""Random lives of jobs beside a model that knows only names and contents; calls go wrong on their way at random.

A step that met a fault is done once more, undisturbed: then it has happened, exactly once, as the model says.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from blocks.errors import StorageError
from blocks.object_store.deletion import delete_keys
from blocks.policies import RetentionPolicy
from tasks.intake.ingest import ingest_videos
from tasks.intake.outputs import register_outputs
from tasks.relocation.rehydrate import rehydrate_job
from tasks.removal.deletion import Wanted, apply_deletion, apply_undelete, plan_deletion, plan_undelete, select
from tests.chaos.acts.looking import verify_all
from tests.chaos.acts.moving import POLICY, compress, migrate
from tests.chaos.faults import Cut, Point, Say, error
from tests.chaos.world import CUSTOMER, World
from tests.helpers import execute, rows, sha256, write_video
from tests.line import Answer, Fault, Line, Moment

CALLS = 60
"""Faults strike at one of so many calls; a step that has fewer goes undisturbed."""
FAULTY_PERCENT = 60
Step = Callable[[World], object]


@dataclass
class Job:
    """What the model knows: the video, the hashes of its files by name, and whether it is in the trash."""

    video: bytes
    files: dict[str, str] = field(default_factory=dict)
    trashed: bool = False


class Simulation:
    """One seed's history."""

    def __init__(self, world: World, through: Callable[[World], World], line: Line, seed: int) -> None:
        self.world, self.through, self.line = world, through, line
        self.chance = random.Random(seed)
        self.jobs: dict[str, Job] = {}
        self.told: list[str] = []
        self.struck = 0
        """How many faults were met on their way; a step may have fewer calls than one waits for."""

    def run(self, steps: int) -> None:
        """So many steps; the world is held against the model after each."""
        self._ingest()
        for _ in range(steps):
            self.chance.choice(
                (self._ingest, self._ingest_again, self._register, self._delete, self._undelete, self._purge,
                 self._compress, self._migrate, self._rehydrate, self._lose_and_heal)
            )()  # fmt: skip
            self.check()
        self.world.nights_pass()
        self.world.assert_settled(once=False)
        self.check()

    def check(self) -> None:
        """Names and contents, live and in the trash."""
        for trashed, state in ((False, "live"), (True, "trashed")):
            found: dict[str, dict[str, str]] = {}
            for row in rows(
                self.world.catalog,
                "SELECT j.filename, o.name, o.sha256 FROM stored_objects o JOIN jobs j ON j.id = o.job_id "
                " WHERE o.state = :state",
                state=state,
            ):
                found.setdefault(row.filename, {})[row.name] = row.sha256
            assert found == {name: job.files for name, job in self.jobs.items() if job.trashed == trashed}, self.told

    # Steps

    def _ingest(self) -> None:
        name = f"{len(self.told)}.mp4"
        job = Job(self.chance.randbytes(300))
        self._do("ingest", lambda world: self._take_in(world, name, job))
        job.files["raw/video_original.mp4"] = sha256(job.video)
        self.jobs[name] = job

    def _ingest_again(self) -> None:
        if name := self._one(trashed=False):
            self._do("ingest again", lambda world: self._take_in(world, name, self.jobs[name]))

    def _register(self) -> None:
        name = self._one(trashed=False)
        if name is None or len(self.jobs[name].files) > 1:
            return
        made = {"metadata.json": b"{}" + self.chance.randbytes(8).hex().encode(),
                "transcription/transcript.txt": b"words " * 200 + self.chance.randbytes(4).hex().encode()}  # fmt: skip
        for path, content in made.items():
            write_video(self.world.folder / "outputs" / name / path, content)
        self._do("register", lambda world: self._take_outputs(world, name))
        self.jobs[name].files |= {path: sha256(content) for path, content in made.items()}

    def _delete(self) -> None:
        if name := self._one(trashed=False):
            wanted = Wanted((str(self._id(name)),))
            self._do("delete", lambda world: apply_deletion(
                world.sweep("delete"), RetentionPolicy(),
                plan_deletion(select(world.catalog, wanted, trashed=False))))  # fmt: skip
            self.jobs[name].trashed = True

    def _undelete(self) -> None:
        if name := self._one(trashed=True):
            wanted = Wanted((str(self._id(name)),))
            self._do("undelete", lambda world: apply_undelete(
                world.sweep("undelete"), plan_undelete(select(world.catalog, wanted, trashed=True))))  # fmt: skip
            self.jobs[name].trashed = False

    def _purge(self) -> None:
        execute(self.world.catalog, "UPDATE jobs SET purge_after = now() - interval '1 s' WHERE deleted_at IS NOT NULL")
        self._do("purge", lambda world: world.cleanup())
        self.jobs = {name: job for name, job in self.jobs.items() if not job.trashed}

    def _compress(self) -> None:
        execute(
            self.world.catalog, "UPDATE jobs SET completed_at = now() - interval '100 days' WHERE status = 'completed'"
        )
        self._do("compress", compress)

    def _migrate(self) -> None:
        there, to = self.chance.sample(["home", "cold"], 2)
        self._do(f"migrate to {to}", lambda world: migrate(world, there, to))

    def _rehydrate(self) -> None:
        if name := self._one(trashed=False):
            self._do("rehydrate", lambda world: rehydrate_job(
                world.catalog, world.locations, POLICY, job_id=self._id(name), run="rehydrate"))  # fmt: skip

    def _lose_and_heal(self) -> None:
        """All bytes of a job disappear, a verification notices, and the video and its outputs are brought again."""
        name = self._one(trashed=False)
        if name is None:
            return
        for row in rows(
            self.world.catalog,
            "SELECT o.key, l.name AS place FROM stored_objects o JOIN locations l ON l.id = o.location_id "
            " WHERE o.job_id = :job", job=self._id(name),
        ):  # fmt: skip
            delete_keys(self.world.store(row.place), [row.key])
        self._do("verify", verify_all)
        self._do("heal", lambda world: self._take_in(world, name, self.jobs[name]))
        if len(self.jobs[name].files) > 1:
            self._do("heal outputs", lambda world: self._take_outputs(world, name))

    # How they are done

    def _do(self, what: str, step: Step) -> None:
        fault = self._fault() if self.chance.randrange(100) < FAULTY_PERCENT else None
        self.told.append(f"{what} ({fault.__class__.__name__} {fault.moment} {fault.number})" if fault else what)
        if fault is not None:
            self.line.watch(fault)
            seen = self.through(self.world)
            try:
                step(seen)
            except StorageError as met:
                self.told[-1] += f" {met}"
            finally:
                self.told[-1] += "" if fault.hit else " missed"
                self.struck += fault.hit is not None
                seen.catalog.disconnect()
                self.line.watch(Fault())
            execute(self.world.catalog, "UPDATE reservations SET expires_at = clock_timestamp()")
        step(self.world)

    def _fault(self) -> Point:
        number = self.chance.randrange(CALLS)
        moment: Moment = self.chance.choice(("before", "after"))
        return self.chance.choice(
            (
                Cut(number, moment),
                Say(number, moment, answer=error(503, "SlowDown"), times=self.chance.choice((1, 8))),
                Say(number, moment, answer=Answer(200, b"<Result>", broken=True)),
            )
        )

    def _take_in(self, world: World, name: str, job: Job) -> None:
        source = write_video(world.folder / "videos" / name, job.video)
        ingest_videos(world.catalog, world.home, world.ingest_policy, api_key=CUSTOMER, sources=[str(source)])

    def _take_outputs(self, world: World, name: str) -> None:
        folder = world.folder / "outputs" / name
        register_outputs(world.catalog, world.home, world.ingest_policy, job_id=self._id(name), outputs=str(folder))

    def _one(self, *, trashed: bool) -> str | None:
        found = sorted(name for name, job in self.jobs.items() if job.trashed == trashed)
        return self.chance.choice(found) if found else None

    def _id(self, name: str) -> UUID:
        (row,) = rows(
            self.world.catalog, "SELECT id FROM jobs WHERE filename = :name AND status NOT IN ('failed', 'cleaned_up')",
            name=name,
        )  # fmt: skip
        return UUID(str(row.id))
