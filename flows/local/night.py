"""A night in the life of the platform: what has grown old or broken is found, explained, and given back or mended."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import httpx
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from blocks.units import format_bytes
from flows.local.steps import Steps, check

if TYPE_CHECKING:
    # Prefect reads its settings when it is imported: the demo starts its server first.
    from blocks.catalog import CatalogDatabase

SEGMENTS = 20
OLD_JOBS = {"failed last week": 12, "deleted last week": 12, "stuck since yesterday": 8, "in use": 18}


class Night(Steps):
    """Seeds old jobs of a customer of its own, runs the sweeps, and looks at what they did."""

    def __init__(self, out: Console, catalog: CatalogDatabase, folder: Path, studio: str) -> None:
        super().__init__(out)
        self.catalog, self.folder = catalog, folder
        self.label = studio.replace("studio", "archive")
        self.jobs: dict[str, list[UUID]] = {}

    def run(self) -> None:
        """All steps in order."""
        self.seed()
        self.look_first()
        self.clean_up()
        self.break_things()
        self.verify()
        self.reconcile()
        self.delete_and_undo()
        self.download_all()
        self.grow_cold()
        self.set_rules()

    def seed(self) -> None:
        """Real jobs with real objects; only their dates are made up."""
        from blocks.loading import load_block
        from blocks.object_store.transfer import put_bytes
        from blocks.policies import IngestPolicy
        from tasks.customers import create_key
        from tasks.intake.ingest import ingest_videos
        from tasks.intake.outputs import register_outputs
        from tasks.stores import open_named

        with self.step("seed a customer with old jobs") as say:
            create_key(self.catalog, self.label, "unlimited")
            self.location, rules = open_named(self.catalog, "main"), load_block(IngestPolicy, "default")
            count = sum(OLD_JOBS.values())
            videos = [self._file(f"old/{number}.mp4", 40_000) for number in range(count)]
            report = ingest_videos(
                self.catalog, self.location, rules, api_key=self.label, sources=[str(video) for video in videos]
            )
            jobs = [outcome.job_id for outcome in report.outcomes if outcome.job_id is not None]
            check(len(jobs) == count, report.summary())
            for number, job in enumerate(jobs, 1):
                say(f"{number} of {count} jobs")
                made = self._outputs(f"made/{job}")
                register_outputs(self.catalog, self.location, rules, job_id=job, outputs=str(made))
            rest = iter(jobs)
            self.jobs = {what: [next(rest) for _ in range(number)] for what, number in OLD_JOBS.items()}
            self._grow_old()
            for number in range(5):
                put_bytes(self.location.store, f"failed/{jobs[0]}/worker-{number}.log", b"log" * 1000, {})
            say(f"{count} jobs with {self._count('live')} live objects, {self._stored()}")

    def look_first(self) -> None:
        """The dry run shows the plan and changes nothing."""
        from flows.cleanup import cleanup

        with self.step("cleanup, as a dry run") as say:
            before = self._count("live"), self._count("trashed")
            state = cleanup(dry_run=True, return_state=True)
            check((self._count("live"), self._count("trashed")) == before, "a dry run changed something")
            say(str(state.message))

    def clean_up(self) -> None:
        """The nightly cleanup, and a table of what each rule gave back."""
        from flows.cleanup import cleanup
        from tasks.plans import Report

        with self.step("cleanup") as say:
            due = self.jobs["failed last week"] + self.jobs["deleted last week"]
            report = cast(Report, cleanup())
            check(not report.failed, report.summary())
            check(report.objects >= len(due) * (SEGMENTS + 5), f"only {report.objects} objects were removed")
            check(self._keys_of(due) == 0, "objects of purged jobs are still in the store")
            check(self._status(self.jobs["stuck since yesterday"]) == {"failed"}, "stuck jobs are not failed")
            check(self._status(self.jobs["in use"]) == {"completed"}, "a job in use was touched")
            say(f"{report.objects} objects and {format_bytes(report.size_bytes)} came back")
        table = Table(title="what each rule did", title_justify="left")
        for column in ("rule", "items", "objects", "size"):
            table.add_column(column, justify="left" if column == "rule" else "right")
        for one in report.by_rule():
            table.add_row(one.rule, str(one.items), str(one.objects), format_bytes(one.size_bytes))
        self.out.print(table)

    def break_things(self) -> None:
        """What must never happen: an object lost, one overwritten, a counter bent, bytes that nobody knows."""
        from blocks.object_store.deletion import delete_keys
        from blocks.object_store.transfer import put_bytes

        with self.step("break things behind the catalog's back") as say:
            lost, rotten, known = self.jobs["in use"][:3]
            store = self.location.store
            delete_keys(store, [self._key(lost, "original")])
            put_bytes(store, self._key(rotten, "metadata"), b"[]", {})
            put_bytes(store, f"processed/{known}/nobody-knows-me", b"x" * 5000, {})
            self._sql("UPDATE api_keys SET storage_used_bytes = storage_used_bytes + 12345 WHERE label = :label")
            say("one object lost, one replaced, one nobody knows, a counter 12,345 bytes off")

    def verify(self) -> None:
        """Bytes that are not their content are found by reading them."""
        from flows.verify_objects import verify_objects
        from tasks.drift.verify import VerifyReport

        with self.step("read a share of all objects again") as say:
            report = cast(VerifyReport, verify_objects(share=100, kinds=["metadata"]))
            rotten = self.jobs["in use"][1]
            check([one.job_id for one in report.hurt] == [rotten], f"hurt are {report.hurt}")
            check(self._state(rotten, "metadata") == "corrupt", "the replaced object is not marked")
            say(f"{report.summary()}; what could heal it: {report.cure(report.hurt[0])}")

    def reconcile(self) -> None:
        """The catalog tells the truth again."""
        from flows.reconcile_quota import reconcile_quota
        from tasks.plans import Report

        with self.step("reconcile catalog and store") as say:
            report = cast(Report, reconcile_quota())
            check(not report.failed, report.summary())
            check(self._state(self.jobs["in use"][0], "original") == "missing", "the lost object is not marked")
            check(self._used_is_the_sum(), "the counter is still bent")
            check(self._keys_of([self.jobs["in use"][2]]) == SEGMENTS + 6, "a young orphan was removed")
            say(report.summary())

    def delete_and_undo(self) -> None:
        """The trash gives quota back at once, and everything back when asked."""
        from flows.delete_jobs import delete_jobs
        from flows.explain_object import explain_object
        from flows.undelete_jobs import undelete_jobs

        with self.step("delete a job, explain it, and bring it back") as say:
            job = self.jobs["in use"][3]
            used = self._used()
            delete_jobs(job_ids=[str(job)], dry_run=False)
            check(self._used() < used, "deleting released no quota")
            told = explain_object(reference=self._key(job, "original"), return_state=True)
            undelete_jobs(job_ids=[str(job)])
            check(self._used() == used, "undelete did not bring everything back")
            say(str(told.message).partition("next: ")[2])

    def download_all(self) -> None:
        """Several jobs as one archive."""
        from blocks.loading import load_block
        from blocks.policies import AccessPolicy
        from tasks.downloads import bulk_download
        from tasks.stores import Locations

        with self.step("download several jobs as one ZIP") as say:
            jobs = self.jobs["in use"][3:8]
            locations, rules = Locations(self.catalog, self.location), load_block(AccessPolicy, "default")
            report = bulk_download(self.catalog, locations, rules, job_ids=jobs)
            archive = httpx.get(report.url, timeout=60)
            check(archive.content[:2] == b"PK", f"the archive's URL answered {archive.status_code}")
            check(report.files == len(jobs) * (SEGMENTS + 5), f"{report.files} files are in it")
            say(f"{report.files} files, {format_bytes(len(archive.content))}, with SHA256SUMS inside")

    def grow_cold(self) -> None:
        """Old jobs are compressed and move to a cold bucket; a URL from before works to its end."""
        from prefect_aws.credentials import MinIOCredentials

        from blocks.loading import load_block
        from blocks.policies import AccessPolicy, TierPolicy
        from flows.common.opening import open_locations
        from flows.compress_jobs import compress_jobs
        from flows.probe_store import probe_store
        from flows.rehydrate_job import rehydrate_job
        from flows.tier_jobs import tier_jobs
        from tasks.access import issue_download_url

        with self.step("compress old jobs, move them to a cold bucket, and bring one back") as say:
            archive = self.location.store.model_copy(
                update={"bucket": "archive", "credentials": MinIOCredentials.load("main")}
            )
            with suppress(archive.s3.exceptions.BucketAlreadyOwnedByYou):
                archive.s3.create_bucket(Bucket=archive.bucket)
            archive.save("archive", overwrite=True)
            probe_store(store="archive", tier="cold")
            # Prices of a real price list; smallest_billed_kib would leave these tiny files hot.
            TierPolicy(cold_location="archive", smallest_billed_kib=0, cold_price_per_1000_moved=0).save(
                "demo", overwrite=True
            )
            old = self.jobs["in use"][8:]
            self._sql(
                "UPDATE jobs SET completed_at = now() - interval '400 days', last_accessed_at = NULL "
                "WHERE id = ANY (CAST(:jobs AS uuid[]))",
                old,
            )
            reach, access = open_locations(self.catalog, "main"), load_block(AccessPolicy, "default")
            compressed = str(compress_jobs(return_state=True).message)
            # A URL from before the move; that it was asked for is forgotten, or the job would not be idle.
            wanted: Any = {"api_key": self.label, "job_id": old[0], "kind": "video_720p"}
            before = issue_download_url(self.catalog, reach, access, **wanted)
            self._sql("UPDATE jobs SET last_accessed_at = NULL WHERE id = ANY (CAST(:jobs AS uuid[]))", old)
            moved = str(tier_jobs(policy="demo", return_state=True).message)
            check(self._lies_in(old[0]) == {"archive"}, "the old jobs are not in the cold bucket")
            after = issue_download_url(self.catalog, reach, access, **wanted)
            answers = {httpx.get(one.url, timeout=60).content for one in (before, after)}
            check(len(answers) == 1 and before.url != after.url, "the old and the new URL differ")
            rehydrate_job(job_id=str(old[0]))
            check(self._lies_in(old[0]) == {"main"}, "the job did not come back")
            say(f"{compressed}. {moved}")

    def _lies_in(self, job: UUID) -> set[str]:
        statement = (
            "SELECT DISTINCT l.name FROM stored_objects o JOIN locations l ON l.id = o.location_id "
            " WHERE o.job_id = ANY (CAST(:jobs AS uuid[])) AND o.state = 'live'"
        )
        return {row.name for row in self._sql(statement, [job])}

    def set_rules(self) -> None:
        """The bucket's own rules are the net below the cleanup."""
        from flows.apply_lifecycle import apply_lifecycle

        with self.step("set the bucket's lifecycle rules") as say:
            first = str(apply_lifecycle(return_state=True).message)
            again = str(apply_lifecycle(return_state=True).message)
            check("nothing to do" in again, f"a second run changed something: {again}")
            say(f"{first}; a second run changed nothing")

    def _grow_old(self) -> None:
        for what, change in (
            ("failed last week", "status = 'failed', error_message = 'ffmpeg exited with 1'"),
            ("deleted last week", "status = 'completed'"),
            ("stuck since yesterday", "status = 'transcoding'"),
        ):
            self._sql(
                f"UPDATE jobs SET {change}, updated_at = now() - interval '8 days' "  # noqa: S608 -- constants of this loop
                "WHERE id = ANY (CAST(:jobs AS uuid[]))",
                self.jobs[what],
            )
        from blocks.policies import RetentionPolicy
        from tasks.removal.deletion import Wanted, apply_deletion, plan_deletion, select
        from tasks.sweeping import Sweep

        deleted = tuple(str(job) for job in self.jobs["deleted last week"])
        plan = plan_deletion(select(self.catalog, Wanted(deleted)))
        apply_deletion(Sweep(self.catalog, (self.location,)), RetentionPolicy(), plan)
        self._sql(
            "UPDATE jobs SET purge_after = now() - interval '1 hour' WHERE id = ANY (CAST(:jobs AS uuid[]))",
            self.jobs["deleted last week"],
        )

    def _file(self, name: str, size: int) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
        return path

    def _outputs(self, name: str) -> Path:
        made = self.folder / name
        names = [f"segment_{number:04d}.ts" for number in range(SEGMENTS)]
        for segment in names:
            self._file(f"{name}/720p/segments/{segment}", 20_000)
        listed = "".join(f"#EXTINF:2.0,\n{one}\n" for one in names)
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n{listed}#EXT-X-ENDLIST\n"
        (made / "720p/segments/playlist.m3u8").write_text(playlist)
        self._file(f"{name}/720p/video_720p.mp4", 100_000)
        self._file(f"{name}/audio/audio.mp3", 10_000)
        (made / "metadata.json").write_text("{}")
        return made

    def _sql(self, statement: str, jobs: list[UUID] | None = None) -> Any:
        parameters = {"label": self.label, "jobs": [str(job) for job in jobs or ()]}
        return self._one_transaction(lambda connection: connection.execute(text(statement), parameters))

    def _value(self, statement: str, **parameters: Any) -> Any:
        given = {"label": self.label} | parameters
        return self._one_transaction(lambda connection: connection.execute(text(statement), given).scalar())

    def _one_transaction(self, work: Callable[[Any], Any]) -> Any:
        return self.catalog.transaction(work)

    def _count(self, state: str) -> int:
        return int(
            self._value(
                "SELECT count(*) FROM stored_objects o JOIN api_keys k ON k.id = o.api_key_id "
                " WHERE k.label = :label AND o.state = :state",
                state=state,
            )
        )

    def _used(self) -> int:
        return int(self._value("SELECT storage_used_bytes FROM api_keys WHERE label = :label"))

    def _stored(self) -> str:
        return format_bytes(self._used())

    def _used_is_the_sum(self) -> bool:
        summed = self._value(
            "SELECT coalesce(sum(size_bytes), 0) FROM stored_objects o JOIN api_keys k ON k.id = o.api_key_id "
            " WHERE k.label = :label AND o.state IN ('live', 'missing', 'corrupt')"
        )
        return int(summed) == self._used()

    def _key(self, job: UUID, kind: str) -> str:
        return str(
            self._value("SELECT key FROM stored_objects WHERE job_id = :job AND kind = :kind", job=job, kind=kind)
        )

    def _state(self, job: UUID, kind: str) -> str:
        statement = "SELECT state FROM stored_objects WHERE job_id = :job AND kind = :kind"
        return str(self._value(statement, job=job, kind=kind))

    def _status(self, jobs: list[UUID]) -> set[str]:
        rows = self._sql("SELECT DISTINCT status FROM jobs WHERE id = ANY (CAST(:jobs AS uuid[]))", jobs)
        return {row.status for row in rows}

    def _keys_of(self, jobs: list[UUID]) -> int:
        from blocks.object_store.listing import list_prefix

        return sum(1 for job in jobs for _ in list_prefix(self.location.store, f"processed/{job}"))
