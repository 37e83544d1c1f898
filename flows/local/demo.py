"""The demo itself: what is done, in order, and what must be true after each step."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import httpx
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from blocks.embedded import Stack
from blocks.errors import InvalidInputError, StorageError
from flows.local.night import Night
from flows.local.recovery import Recovery
from flows.local.setup import bring_up, deploy_all, local_stack, wait_for_deployed_run
from flows.local.steps import Steps, check
from flows.local.transcoding import CLIPS, LARGE_CLIP, make_clip, play, transcode
from tasks.intake.endings import VIDEO_ENDINGS

SMALL_QUOTA = "3 MiB"


def run_demo(out: Console, *, videos: Path | None, keep_running: bool) -> bool:
    """Run every step; returns whether all of them were seen to be true."""
    started = time.monotonic()
    if videos is not None and not _own_videos(videos):
        raise InvalidInputError(f"{videos} holds no videos")
    stack = local_stack()
    was_running = stack.status()["prefect"] is not None
    try:
        with tempfile.TemporaryDirectory(prefix="clips-", dir=_work_folder(stack)) as folder:
            Demo(out, stack, Path(folder), videos).run()
    except StorageError as error:
        out.print(f"\n[bold red]the demo failed:[/] {escape(str(error))}")
        return False
    finally:
        if keep_running:
            stack.keep()
        elif not was_running:
            with stack.alone():  # whoever starts it now has begun after this, or is waited for
                if not stack.kept:
                    out.print("stopping what the demo started …")
                    _stop(stack)
    out.print(f"\n[bold green]All of it happened, in {time.monotonic() - started:.0f} s.[/]")
    out.print(_NEXT)
    return True


class Demo(Steps):
    """The steps share what they made: clips, customers, jobs."""

    def __init__(self, out: Console, stack: Stack, folder: Path, videos: Path | None) -> None:
        super().__init__(out)
        self.stack, self.folder, self.videos = stack, folder, videos
        self.jobs: dict[Path, str] = {}
        self.facts: list[tuple[str, str]] = []

    def run(self) -> None:
        """All steps in order."""
        with ThreadPoolExecutor(max_workers=1) as background:
            self.start_servers()
            # Deploying takes some seconds of waiting: it happens while ffmpeg works.
            deployed = background.submit(deploy_all, self.stack)
            self.make_clips()
            self.make_customers()
            self.ingest()
            self.ingest_again()
            self.ingest_too_large()
            self.transcode_and_register()
            self.download_and_compare()
            self.play_hls()
            self.upload_with_a_form()
            Night(self.out, self.catalog, self.folder, self.studio).run()
            Recovery(self.out, self.catalog).run()
            self.take_figures()
            self.run_a_deployment(deployed)
        self.show_usage()

    def start_servers(self) -> None:
        """PostgreSQL, S3 and Prefect, the catalog, the blocks."""
        roots = str(self.folder) if self.videos is None else f"{self.folder}, {self.videos.resolve()}"
        with self.step("start PostgreSQL, an S3 server and Prefect") as say:
            endpoints = bring_up(self.stack, source_roots=roots, keep=False, worker=False, deploy=False, say=say)
            from blocks.catalog import CatalogDatabase
            from blocks.loading import load_block

            self.catalog = load_block(CatalogDatabase, "main")
            say(f"Prefect UI at {endpoints.prefect_url}")

    def make_clips(self) -> None:
        """Real clips, or the user's own videos."""
        with self.step("make the clips" if self.videos is None else "look at your videos") as say:
            if self.videos is None:
                self.clips = [self.folder / name for name in CLIPS]
                for clip, picture in zip(self.clips, CLIPS.values(), strict=True):
                    say(clip.name)
                    make_clip(clip, picture)
            else:
                self.clips = _own_videos(self.videos)
            self.large = self.folder / LARGE_CLIP[0]
            make_clip(self.large, LARGE_CLIP[1])
            total = sum(clip.stat().st_size for clip in self.clips)
            say(f"{len(self.clips)} videos, {_size(total)}; and one of {_size(self.large.stat().st_size)}")

    def make_customers(self) -> None:
        """Two customers of this run, one with a small quota."""
        from tasks.customers import create_key, list_keys

        with self.step("make two customers") as say:
            number = 1 + sum(customer.label.startswith("studio-") for customer in list_keys(self.catalog))
            self.studio, self.hobby = f"studio-{number}", f"hobby-{number}"
            for label, quota in ((self.studio, "unlimited"), (self.hobby, SMALL_QUOTA)):
                create_key(self.catalog, label, quota)
            say(f"{self.studio} without a limit, {self.hobby} with {SMALL_QUOTA}")

    def ingest(self) -> None:
        """The flow ingest-videos takes the clips in."""
        with self.step("ingest the videos") as say:
            report = self._ingest(self.studio, self.clips)
            check(len(report.outcomes) == len(self.clips), "the report does not list every video")
            jobs = {str(outcome.job_id) for outcome in report.outcomes if outcome.succeeded}
            by_content = {_sha256(clip) for clip in self.clips}
            refused = "".join(f"; {Path(one.source).name}: {one.error}" for one in report.unsuccessful)
            check(len(jobs) == len(by_content), report.summary() + refused)
            self.jobs = {Path(outcome.source): str(outcome.job_id) for outcome in report.outcomes}
            say(report.summary())

    def ingest_again(self) -> None:
        """The same video again: nothing is sent."""
        with self.step("ingest one of them again") as say:
            (outcome,) = self._ingest(self.studio, self.clips[:1]).outcomes
            check(outcome.result == "duplicate" and outcome.sent_bytes == 0, f"it was {outcome.result}")
            check(str(outcome.original_job_id) == self.jobs[self.clips[0]], "another job came back")
            say(f"nothing sent, job {outcome.original_job_id} came back")

    def ingest_too_large(self) -> None:
        """A video beyond the quota is refused, and leaves nothing behind."""
        from tasks.customers import list_keys

        with self.step("ingest more than the quota allows") as say:
            refusal = ""
            try:
                self._ingest(self.hobby, [self.large])
            except StorageError as error:
                refusal = str(error)
            check("quota exceeded" in refusal and "free" in refusal, f"it was not refused as it should be: {refusal}")
            (hobby,) = (customer for customer in list_keys(self.catalog) if customer.label == self.hobby)
            check((hobby.used_bytes, hobby.reserved_bytes) == (0, 0), "the refused video holds quota")
            say("refused: " + refusal.partition("the first: ")[2])

    def transcode_and_register(self) -> None:
        """ffmpeg makes the outputs; the flow register-outputs takes them in."""
        from flows.register_outputs import register_outputs
        from tasks.intake.outputs import RegisterReport

        with self.step("transcode, and register the outputs") as say:
            outputs = 0
            for number, (clip, job) in enumerate(self.jobs.items(), 1):
                say(f"{number} of {len(self.jobs)}: {clip.name}")
                made = self.folder / job
                transcode(clip, made)
                # Called in this process a flow gives its data, not its state.
                report = cast(RegisterReport, register_outputs(job_id=job, outputs=str(made)))
                check(not report.skipped, f"{report.skipped} were not taken in")
                outputs += len(report.registered)
                shutil.rmtree(made)
            (again,) = self._ingest(self.studio, self.clips[:1]).outcomes
            kinds = {output.kind for output in again.outputs}
            check(
                {"original", "video_720p", "hls_360p", "audio", "metadata"} <= kinds, f"a duplicate shows only {kinds}"
            )
            check(again.job_status == "completed", f"the job is {again.job_status}")
            say(f"{outputs} files; a duplicate now comes back with all {len(kinds)} kinds")

    def download_and_compare(self) -> None:
        """A presigned URL gives back exactly what was taken in."""
        with self.step("download through a presigned URL") as say:
            clip = self.clips[-1]
            issued = self._url(self.jobs[clip], "original")
            answer = httpx.get(issued.url, timeout=60)
            check(answer.status_code == 200, f"the URL answered {answer.status_code}")
            check(hashlib.sha256(answer.content).hexdigest() == _sha256(clip), "the download is not the source")
            say(f"{_size(len(answer.content))}, SHA-256 equal")

    def play_hls(self) -> None:
        """A player plays the presigned playlist to its end."""
        with self.step("play HLS through a presigned playlist") as say:
            clip = self.clips[0]
            whole = play(self._url(self.jobs[clip], "video_720p").url)
            issued = self._url(self.jobs[clip], "hls_720p")
            played = play(issued.url)
            check(
                played.frames > 0 and abs(played.frames - whole.frames) <= 1,
                f"{played.frames} frames of {whole.frames} were played",
            )
            say(f"{issued.files - 1} segments, {played.frames} frames, {played.seconds:.1f} s")

    def upload_with_a_form(self) -> None:
        """A customer uploads by themselves; the form cannot be used to change it afterwards."""
        with self.step("upload with a presigned form") as say:
            from blocks.loading import load_block
            from blocks.policies import AccessPolicy, IngestPolicy
            from tasks.intake.uploads import complete_upload, issue_upload_url
            from tasks.stores import Locations, open_named

            location, rules = open_named(self.catalog, "main"), load_block(IngestPolicy, "default")
            job, body = self.jobs[self.clips[0]], b"\xff\xd8\xff a thumbnail \xff\xd9"
            issued = issue_upload_url(
                self.catalog, location, load_block(AccessPolicy, "default"), rules,
                api_key=self.studio, filename="thumbnail.jpg", size_bytes=len(body), job_id=job,
            )  # fmt: skip
            sent = httpx.post(issued.form.url, data=issued.form.fields, files={"file": body}, timeout=30)
            check(sent.status_code < 300, f"the form answered {sent.status_code}")
            complete_upload(
                self.catalog, Locations(self.catalog, location), rules, api_key=self.studio, upload_id=issued.upload_id
            )
            httpx.post(issued.form.url, data=issued.form.fields, files={"file": body[::-1]}, timeout=30)
            stored = httpx.get(self._url(job, "upload").url, timeout=30).content
            check(stored == body, "posting the form again changed what was stored")
            say("taken in; posting the form again changed nothing")

    def run_a_deployment(self, deployed: Future[None]) -> None:
        """The same flow through Prefect's worker, as the UI and the schedules run it."""
        with self.step("run a deployed flow through the worker") as say:
            say("deploying")
            deployed.result()
            self.stack.start_worker(cwd=self.stack.folder)
            say("waiting for the worker")
            state = wait_for_deployed_run(
                "issue-download-url/issue-download-url",
                {"api_key": self.studio, "job_id": self.jobs[self.clips[0]], "kind": "audio"},
                seconds=90,
            )
            check(state == "Completed", f"the run ended as {state}")
            say("issue-download-url: Completed")

    def take_figures(self) -> None:
        """The flow refresh-analytics, and its report; what it says a customer uses is what the quota counts."""
        from flows.refresh_analytics import refresh_analytics
        from reports.exporting import export
        from reports.figures import read_figures
        from tasks.customers import list_keys

        with self.step("take the day's figures") as say:
            refresh_analytics(keys=[self.studio])
            self.figures = read_figures(self.catalog, customer=self.studio)
            counted = {customer.label: customer.used_bytes for customer in list_keys(self.catalog)}[self.studio]
            used = int(self.figures.tables["usage"]["size_bytes"].sum())
            check(used == counted, f"the figures say {used} bytes, the quota's counter {counted}")
            folder = self.stack.folder / "report"
            folder.mkdir(exist_ok=True)
            page, *_ = export(read_figures(self.catalog), folder, links=True)
            say(f"the report opens offline: {page}")

    def show_usage(self) -> None:
        """What the customer stores now, by kind."""
        usage = self.figures.tables["usage"].groupby("kind", as_index=False)[["objects", "size_bytes"]].sum()
        table = Table(title=f"\nwhat {self.studio} stores", title_justify="left")
        for column, justify in (("kind", "left"), ("files", "right"), ("size", "right")):
            table.add_column(column, justify=justify)  # type: ignore[arg-type]  # two of rich's literals
        for kind, objects, size in usage.itertuples(index=False, name=None):
            table.add_row(str(kind), str(objects), _size(int(size)))
        table.add_row("all", str(usage["objects"].sum()), _size(int(usage["size_bytes"].sum())), style="bold")
        self.out.print(table)

    def _ingest(self, customer: str, clips: list[Path]) -> Any:
        from flows.ingest_videos import ingest_videos

        return ingest_videos(api_key=customer, sources=[str(clip) for clip in clips])

    def _url(self, job: str, kind: str) -> Any:
        from blocks.loading import load_block
        from blocks.policies import AccessPolicy
        from flows.common.opening import open_locations
        from tasks.access import issue_download_url

        return issue_download_url(
            self.catalog,
            open_locations(self.catalog, "main"),
            load_block(AccessPolicy, "default"),
            api_key=self.studio,
            job_id=job,
            kind=kind,
        )


def _stop(stack: Stack) -> None:
    try:
        stack.stop()
    except KeyboardInterrupt:
        # Ctrl-C twice: what was begun is finished all the same, or processes would stay.
        stack.stop()
        raise


def _own_videos(folder: Path) -> list[Path]:
    return sorted(one for one in folder.rglob("*") if one.is_file() and one.suffix.lower()[1:] in VIDEO_ENDINGS)


def _work_folder(stack: Stack) -> Path:
    folder = stack.folder / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("clips-*"):
        # A demo that was killed could not tidy up.
        shutil.rmtree(leftover, ignore_errors=True)
    return folder


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(size_bytes: int) -> str:
    from blocks.units import format_bytes

    return format_bytes(size_bytes)


_NEXT = """
Try next:
  make up                     keep the servers running, and see the runs in the Prefect UI
  make status                 what runs, and what the customers store
  make demo VIDEOS=~/Videos   the same with your own videos
  make example                a year of history, and the report of it
  make down                   stop everything"""
