"""Bytes that are not what they seem: a gibibyte in a few KiB, wherever the platform decompresses, and folders of links.

Tried elsewhere: a bomb in a bulk download and under `verify-objects` (test_downloads.py, test_verify.py); that
climb out of an archive or a folder (test_zipping.py, test_downloads_folder.py, test_folders.py); links in a source
folder and in outputs (test_sources.py, test_outputs.py); segments that a playlist names (test_playlists.py).
"""

from __future__ import annotations

import json
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from zstandard import ZstdCompressor

from blocks.catalog import CatalogDatabase
from blocks.errors import ContentMismatchError, DamagedBackupError, InvalidInputError, RefusedError
from blocks.object_store import ObjectStore
from blocks.object_store.transfer import put_bytes
from blocks.policies import AccessPolicy, IngestPolicy, RelocationPolicy
from tasks.access import issue_download_url
from tasks.backups.manifest import LARGEST_MANIFEST_BYTES, BackupFile, folder_of, parse
from tasks.backups.streams import read_file
from tasks.intake.outputs import register_outputs
from tasks.intake.sources import read_manifest
from tasks.relocation.rehydrate import rehydrate_job
from tasks.stores import Locations, OpenLocation
from tests.helpers import execute, rows, sha256, stored_keys, write_outputs, write_video

GIB = 1024**3
MIB = 1024**2


def bomb() -> bytes:
    """A GiB of nothing in 32 KiB, made without holding it."""
    frame = ZstdCompressor().compressobj()
    return b"".join(frame.compress(bytes(MIB)) for _ in range(GIB // MIB)) + frame.flush()


BOMB = bomb()
PEAK, FORGET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    """No test of this module may take more memory than a fraction of what a bomb decodes to."""
    if not FORGET_PEAK.exists():
        yield
        return
    FORGET_PEAK.write_text("5")
    before = peak_kib()
    yield
    taken = peak_kib() - before
    assert taken < GIB // 4 // 1024, f"{taken // 1024} MiB more than before"


def peak_kib() -> int:
    """The most memory that this process had since it was told to forget."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", PEAK.read_text()).group(1))


@pytest.fixture
def armed(
    catalog: CatalogDatabase, location: OpenLocation, policy: IngestPolicy, new_job: Callable[..., UUID], tmp_path: Path
) -> Callable[[str, str], UUID]:
    """A job one of whose texts is stored as a bomb, whatever its row says of the content."""

    def arm(name: str, content: str) -> UUID:
        job = new_job()
        folder = write_outputs(tmp_path / "out", segments=1)
        register_outputs(catalog, location, policy, job_id=job, outputs=str(folder))
        key = f"processed/{job}/armed.{uuid4()}"
        put_bytes(location.store, key, BOMB, {})
        execute(
            catalog,
            "UPDATE stored_objects SET key = :key, codec = 'zstd', stored_bytes = :stored, size_bytes = :size, "
            "       sha256 = :sha256 WHERE name = :name",
            key=key, stored=len(BOMB), size=len(content), sha256=sha256(content.encode()), name=name,
        )  # fmt: skip
        return job

    return arm


def test_a_bomb_is_not_rehydrated(
    catalog: CatalogDatabase, location: OpenLocation, armed: Callable[[str, str], UUID]
) -> None:
    job = armed("transcription/transcript.txt", "words as txt")
    before = stored_keys(location)
    report = rehydrate_job(catalog, Locations(catalog, location), RelocationPolicy(), job_id=job)
    (other,) = report.others
    assert "decodes to more than 12 bytes" in other.error
    assert stored_keys(location) == before, "nothing of it was written"
    (row,) = rows(catalog, "SELECT codec, stored_bytes FROM stored_objects WHERE kind = 'transcript_txt'")
    assert (row.codec, row.stored_bytes) == ("zstd", len(BOMB))


def test_no_url_for_a_bomb(
    catalog: CatalogDatabase, location: OpenLocation, access: AccessPolicy, armed: Callable[[str, str], UUID]
) -> None:
    job = armed("360p/segments/playlist.m3u8", "#EXTM3U")
    locations = Locations(catalog, location)
    with pytest.raises(ContentMismatchError, match="the playlist of job .* decodes to more than .*verify-objects"):
        issue_download_url(catalog, locations, access, api_key="acme", job_id=job, kind="hls_360p")
    assert stored_keys(location, "exports") == []


def in_a_backup(store: ObjectStore, stored: bytes, *, says: int) -> Iterator[bytes]:
    """The content of a backup's file, whose manifest says that it decodes to so many bytes."""
    catalog_id, backup = uuid4(), "20261124T030000Z-5f0c2e1a"
    file = BackupFile(
        name="catalog.dump.zst", holds="catalog.dump", size_bytes=len(stored), sha256=sha256(stored), content_bytes=says
    )
    put_bytes(store, f"{folder_of(catalog_id, backup)}/{file.name}", stored, {})
    return read_file(store, catalog_id, backup, file, key=None)


def test_a_backup_decodes_to_what_its_manifest_says_and_no_further(store: ObjectStore) -> None:
    with pytest.raises(DamagedBackupError, match="catalog.dump.zst of backup .* decodes to more than 3000000 bytes"):
        deque(in_a_backup(store, BOMB, says=3_000_000), maxlen=0)
    # Frames within frames end where their outer one does.
    with pytest.raises(DamagedBackupError, match="is damaged"):
        b"".join(in_a_backup(store, ZstdCompressor().compress(BOMB) + BOMB, says=len(BOMB) + 1))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"null", b"[]", b"{}", b"{" * 100_000, b'{"a":' * 100_000, b"\xff\xfe",
        b'{"format": ' + b"9" * 5000 + b"}",
        json.dumps({"format": 1, "id": "../../x", "catalog_id": "../.."}).encode(), b'"' + b"x" * 1000 + b'"',
    ],
    ids=lambda content: repr(content[:20]),
)  # fmt: skip
def test_a_forged_manifest_is_a_damaged_one(content: bytes) -> None:
    with pytest.raises(DamagedBackupError) as caught:
        parse(content)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
    assert len(content) < LARGEST_MANIFEST_BYTES


def test_links_to_folders_among_the_outputs_are_not_followed(
    catalog: CatalogDatabase, location: OpenLocation, policy: IngestPolicy, new_job: Callable[..., UUID], tmp_path: Path
) -> None:
    job, folder = new_job(), tmp_path / "out"
    outside = write_outputs(tmp_path / "outside")
    write_video(folder / "metadata.json", b"{}")
    for name in ("360p", "720p", "audio"):
        (folder / name).symlink_to(outside / name)
    (folder / "round").symlink_to(folder)
    report = register_outputs(catalog, location, policy, job_id=job, outputs=str(folder))
    assert report.registered == ("metadata.json",)
    assert set(report.skipped) == {"360p", "720p", "audio", "round"}


def test_a_link_out_of_the_roots_is_no_folder(
    catalog: CatalogDatabase, location: OpenLocation, policy: IngestPolicy, new_job: Callable[..., UUID],
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    job, outside = new_job(), tmp_path_factory.mktemp("outside")
    write_outputs(outside)
    (tmp_path / "out").symlink_to(outside)
    with pytest.raises(RefusedError, match="lies under no source root"):
        register_outputs(catalog, location, policy, job_id=job, outputs=str(tmp_path / "out"))


def test_a_manifest_of_brackets(tmp_path: Path) -> None:
    for name, content in (("a.json", b"[" * 200_000), ("a.jsonl", b'{"a":' * 100_000), ("a.csv", zlib.compress(BOMB))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidInputError, match=f"the manifest {name} cannot be read") as caught:
            read_manifest(tmp_path / name)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 600
