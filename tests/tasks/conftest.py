"""A customer's finished job, as the transcoder leaves it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from blocks.catalog import CatalogDatabase
from blocks.policies import IngestPolicy
from tasks.ingest import ingest_videos
from tasks.stores import OpenLocation
from tests.helpers import write_video


def write_outputs(folder: Path, *, segments: int = 3) -> Path:
    """A job's folder with every kind of output; contents tell the files apart."""
    for size in ("360p", "720p"):
        write_video(folder / size / f"video_{size}.mp4", f"mp4 {size}".encode() * 10)
        names = [f"segment_{number:04d}.ts" for number in range(segments)]
        for name in names:
            write_video(folder / size / "segments" / name, f"{size} {name}".encode())
        listed = "".join(f"#EXTINF:2.0,\n{name}\n" for name in names)
        (folder / size / "segments" / "playlist.m3u8").write_text(
            f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n{listed}#EXT-X-ENDLIST\n"
        )
    write_video(folder / "audio" / "audio.mp3", b"sound")
    for ending in ("txt", "srt", "vtt", "json"):
        write_video(folder / "transcription" / f"transcript.{ending}", f"words as {ending}".encode())
    write_video(folder / "metadata.json", b"{}")
    return folder


@pytest.fixture
def new_job(
    catalog: CatalogDatabase, location: OpenLocation, policy: IngestPolicy, acme: str, tmp_path: Path
) -> Callable[[bytes], UUID]:
    def make(content: bytes = b"the original") -> UUID:
        video = write_video(tmp_path / "summer: the film.mp4", content)
        (outcome,) = ingest_videos(catalog, location, policy, api_key=acme, sources=[str(video)]).outcomes
        assert outcome.job_id is not None, outcome.error
        return outcome.job_id

    return make
