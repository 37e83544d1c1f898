"""The blocks that the flows' defaults name, on the real Prefect server."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect_aws.credentials import MinIOCredentials

from blocks.embedded import Endpoints
from blocks.policies import POLICIES, IngestPolicy
from tasks.customers import create_key
from tests.helpers import assert_sound, write_video


@pytest.fixture
def saved(prefect_api, endpoints: Endpoints, catalog, store, location, tmp_path):  # type: ignore[no-untyped-def]
    """The blocks that the flows' defaults name."""
    credentials = MinIOCredentials(
        minio_root_user=endpoints.access_key, minio_root_password=endpoints.secret_key.get_secret_value()
    )
    credentials.save("main", overwrite=True)
    catalog.save("main", overwrite=True)
    store.model_copy(update={"credentials": MinIOCredentials.load("main")}).save("main", overwrite=True, _sync=True)
    IngestPolicy(source_roots=str(tmp_path), batch_files=3).save("default", overwrite=True)
    for policy in POLICIES:
        if policy is not IngestPolicy:
            policy().save("default", overwrite=True)
    create_key(catalog, "acme", "10 MiB")
    yield prefect_api
    assert_sound(catalog, location)


@pytest.fixture
def new_jobs(saved: str, tmp_path: Path) -> Callable[[int], list[UUID]]:
    """Makes jobs of the customer acme, each with a video of its own."""
    numbers = itertools.count()

    def make(count: int) -> list[UUID]:
        from flows.ingest_videos import ingest_videos

        videos = [write_video(tmp_path / f"{n}.mp4", f"video {n}".encode()) for n in itertools.islice(numbers, count)]
        report: Any = ingest_videos(api_key="acme", sources=[str(video) for video in videos])
        return [outcome.job_id for outcome in report.outcomes]

    return make
