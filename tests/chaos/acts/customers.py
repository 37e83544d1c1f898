"""What customers ask for: taking in, handing out, quotas."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from uuid import UUID

import httpx

from blocks.object_store.block import MIB
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import put_bytes
from tasks.access import issue_download_url
from tasks.customers import set_quota
from tasks.downloads import bulk_download
from tasks.intake.ingest import ingest_videos
from tasks.intake.outputs import register_outputs
from tasks.intake.uploads import complete_upload, issue_upload_url
from tests.chaos.acts.act import Act
from tests.chaos.acts.moving import moved_and_compressed
from tests.chaos.world import CUSTOMER, World
from tests.helpers import execute, one, rows, write_outputs

FORM = b"what a form brought" * 10
LARGE = random.Random(1).randbytes(6 * MIB)
"""More than one part."""


def _a_job(world: World) -> None:
    world.job("summer")


def _lose_the_original(world: World) -> None:
    world.job("summer")
    _lose(world, world.job("winter", outputs=False))


def _lose_everything(world: World) -> None:
    _lose(world, world.job("summer"))


def _lose(world: World, job: UUID) -> None:
    keys = rows(world.catalog, "SELECT key FROM stored_objects WHERE job_id = :job", job=job)
    delete_keys(world.home.store, [row.key for row in keys])
    execute(
        world.catalog,
        "UPDATE stored_objects SET state = 'missing', generation = generation + 1 WHERE job_id = :job",
        job=job,
    )


def _ingest(world: World) -> None:
    """A new video, one that is known, and one whose bytes were lost."""
    sources = [world.video(name) for name in ("autumn", "summer", "winter")]
    for outcome in ingest_videos(
        world.catalog, world.home, world.ingest_policy, api_key=CUSTOMER, sources=sources
    ).outcomes:
        assert outcome.succeeded or outcome.error, outcome


def _a_large_file(world: World) -> None:
    world.video("large", LARGE)


def _ingest_large(world: World) -> None:
    """In parts."""
    ingest_videos(
        world.catalog, world.home, world.ingest_policy, api_key=CUSTOMER,
        sources=[str(world.folder / "videos" / "large.mp4")],
    )  # fmt: skip


def _a_page(world: World) -> None:
    world.video("on a page")


def _ingest_from_a_page(world: World) -> None:
    """A URL: its bytes wait under temp/ until they are known."""
    policy = world.ingest_policy.model_copy(update={"allow_private_addresses": True})
    handler = partial(_Quiet, directory=str(world.folder / "videos"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/on%20a%20page.mp4"
            ingest_videos(world.catalog, world.home, policy, api_key=CUSTOMER, sources=[url])
        finally:
            server.shutdown()
            thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *said: object) -> None:
        pass


def _later(do: Callable[[World], None]) -> Callable[[World], None]:
    """The one who was killed keeps its reservation until it lapses: minutes later is when anybody looks."""

    def again(world: World) -> None:
        execute(world.catalog, "UPDATE reservations SET expires_at = clock_timestamp()")
        do(world)

    return again


def _a_job_without_outputs(world: World) -> None:
    world.job("summer", outputs=False)
    write_outputs(world.folder / "outputs" / "summer", segments=1)


def _register(world: World) -> None:
    register_outputs(
        world.catalog,
        world.home,
        world.ingest_policy,
        job_id=world.job_named("summer"),
        outputs=str(world.folder / "outputs" / "summer"),
    )


def _outputs_in_temp(world: World) -> None:
    _a_job_without_outputs(world)
    folder = world.folder / "outputs" / "summer"
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            put_bytes(world.home.store, f"temp/worker/{path.relative_to(folder)}", path.read_bytes(), {})


def _register_from_temp(world: World) -> None:
    register_outputs(
        world.catalog, world.home, world.ingest_policy, job_id=world.job_named("summer"), outputs="temp/worker/"
    )


def _register_from_temp_unless_done(world: World) -> None:
    # What was taken in is gone from temp/ by then: there is nothing to name any more.
    if one(world.catalog, "SELECT status FROM jobs") != "completed":
        _register_from_temp(world)


def _posted(world: World, job: UUID | None) -> None:
    issued = issue_upload_url(
        world.catalog, world.home, world.access_policy, world.ingest_policy,
        api_key=CUSTOMER, filename="form.mp4", size_bytes=len(FORM), job_id=job,
    )  # fmt: skip
    assert httpx.post(issued.form.url, data=issued.form.fields, files={"file": FORM}).status_code < 300


def _a_form_for_a_new_video(world: World) -> None:
    world.job("summer")
    _posted(world, None)


def _a_form_for_a_job(world: World) -> None:
    _posted(world, world.job("summer"))


def _complete(world: World) -> None:
    (upload,) = rows(
        world.catalog, "SELECT u.id FROM uploads u JOIN api_keys k ON k.id = u.api_key_id WHERE k.label = :customer",
        customer=CUSTOMER,
    )  # fmt: skip
    complete_upload(world.catalog, world.locations, world.ingest_policy, api_key=CUSTOMER, upload_id=upload.id)


def _complete_after_the_reservations(world: World) -> None:
    execute(
        world.catalog,
        "UPDATE reservations SET expires_at = clock_timestamp() WHERE job_id IS NOT NULL",
    )
    _complete(world)


def _issue_form(world: World) -> None:
    issue_upload_url(
        world.catalog, world.home, world.access_policy, world.ingest_policy,
        api_key=CUSTOMER, filename="form.mp4", size_bytes=len(FORM),
    )  # fmt: skip


def _hand_out(world: World) -> None:
    job = world.job_named("summer")
    for kind in ("hls_720p", "video_360p"):
        issue_download_url(world.catalog, world.locations, world.access_policy, api_key=CUSTOMER, job_id=job, kind=kind)


def _hand_out_what_was_moved(world: World) -> None:
    """To one who does not decode zstd: it is brought back first."""
    job = world.job_named("summer")
    issue_download_url(
        world.catalog, world.locations, world.access_policy, api_key=CUSTOMER, job_id=job, kind="hls_720p",
        accept_encoding="gzip",
    )  # fmt: skip


def _download_everything(world: World) -> None:
    report = bulk_download(world.catalog, world.locations, world.access_policy, job_ids=[world.job_named("summer")])
    assert all(why for _, why in report.skipped), "what is left out has a reason"


def _into_a_folder(world: World) -> None:
    folder = world.folder / "downloads"
    folder.mkdir(exist_ok=True)
    report = bulk_download(
        world.catalog, world.locations, world.access_policy, job_ids=[world.job_named("summer")], target=str(folder)
    )
    assert all(why for _, why in report.skipped), "what is left out has a reason"


def _without_the_folder(world: World) -> None:
    shutil.rmtree(world.folder / "downloads", ignore_errors=True)


def _lower_the_quota(world: World) -> None:
    set_quota(world.catalog, api_key=CUSTOMER, quota="5 MiB")


ACTS = (
    Act("ingest-videos", _lose_the_original, _ingest, again=_later(_ingest)),
    Act("ingest-videos-in-parts", _a_large_file, _ingest_large, again=_later(_ingest_large)),
    Act("ingest-videos-from-a-url", _a_page, _ingest_from_a_page, again=_later(_ingest_from_a_page)),
    Act("register-outputs", _a_job_without_outputs, _register),
    Act("register-outputs-that-were-lost", _lose_everything, _register),
    Act("register-outputs-from-temp", _outputs_in_temp, _register_from_temp, again=_register_from_temp_unless_done),
    Act("issue-upload-url", _a_job, _issue_form),
    Act("complete-upload-of-a-video", _a_form_for_a_new_video, _complete, again=_complete_after_the_reservations),
    Act("complete-upload-for-a-job", _a_form_for_a_job, _complete, again=_complete_after_the_reservations),
    Act("issue-download-url", _a_job, _hand_out),
    Act("issue-download-url-of-what-was-moved", moved_and_compressed, _hand_out_what_was_moved),
    Act("bulk-download", _a_job, _download_everything),
    Act("bulk-download-to-a-folder", _a_job, _into_a_folder, tidy=_without_the_folder),
    Act("set-quota", _a_job, _lower_the_quota),
)
