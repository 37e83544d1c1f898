"""Many files into a folder of this machine: never outside it, never over what is there."""

from __future__ import annotations

import os
from uuid import uuid4

import pytest

from blocks.catalog.tables import ObjectKind
from blocks.errors import InvalidInputError, NotFoundError, RefusedError
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import put_bytes
from blocks.policies import AccessPolicy
from tasks.downloads import bulk_download
from tasks.stores import Locations
from tests.helpers import execute, rows, sha256, write_video
from tests.tasks.test_downloads import FILES_OF_A_JOB, key_of, opened


def test_a_folder_gets_the_files(download, catalog, root, job) -> None:  # type: ignore[no-untyped-def]
    target = root / "new" / "folder"
    report = download(target=str(target), run="r")
    assert (report.files, report.already_there, report.skipped) == (FILES_OF_A_JOB, 0, ())
    assert (report.folder, report.url, report.key, report.expires_at) == (str(target), "", "", None)
    folder = target / f"summer_ the film-{str(job)[:8]}"
    assert (folder / "summer_ the film.mp4").read_bytes() == b"the original"
    assert (folder / "720p/segments/segment_0002.ts").read_bytes() == b"720p segment_0002.ts"
    for line in (target / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ", 1)
        assert sha256((target / name).read_bytes()) == digest
    assert rows(catalog, "SELECT after FROM operation_log WHERE operation = 'bulk-download'") == [
        ({"folder": True, "files": FILES_OF_A_JOB},)
    ]
    heard: list[int] = []
    again = download(target=str(target), progress=heard.append)
    assert (again.files, again.already_there, again.skipped, heard) == (0, FILES_OF_A_JOB, (), [])
    assert sorted(path.name for path in target.iterdir()) == sorted(["SHA256SUMS", folder.name])


def test_a_folder_keeps_what_it_has(download, catalog, location, root, job, tmp_path) -> None:  # type: ignore[no-untyped-def]
    folder = root / f"summer_ the film-{str(job)[:8]}"
    outside = tmp_path / "outside"
    outside.mkdir()
    write_video(folder / "metadata.json", b"my own notes")
    write_video(folder / "audio/audio.mp3", b"sound")
    (folder / "360p").symlink_to(outside)
    put_bytes(location.store, key_of(catalog, ObjectKind.TRANSCRIPT_SRT), b"words as SRT", {})
    delete_keys(location.store, [key_of(catalog, ObjectKind.TRANSCRIPT_VTT)])
    report = download(target=str(root))
    reasons = {name.removeprefix(f"{folder.name}/"): reason for name, reason in report.skipped}
    assert "already with other content" in reasons.pop("metadata.json")
    assert "verify-objects" in reasons.pop("transcription/transcript.srt")
    assert "reconcile-quota" in reasons.pop("transcription/transcript.vtt")
    assert len(reasons) == 5
    assert all("symbolic link" in reason for reason in reasons.values())
    assert (report.files, report.already_there) == (FILES_OF_A_JOB - 9, 1)
    assert (folder / "metadata.json").read_bytes() == b"my own notes"
    assert os.listdir(outside) == []
    assert not list(root.rglob("*.part"))
    assert not (folder / "transcription/transcript.srt").exists()
    listed = (root / "SHA256SUMS").read_text()
    assert listed.count("\n") == report.files + report.already_there
    assert "metadata.json" not in listed


def test_hostile_names_stay_in_the_folder(download, catalog, root, job, tmp_path) -> None:  # type: ignore[no-untyped-def]
    execute(catalog, "UPDATE jobs SET filename = E'../../..\\\\\\\\CON\\n\\u202e.mp4'")
    for kind, name in (
        ("audio", "../../../escaped.mp3"), ("metadata", "/etc/passwd"), ("transcript_txt", "C:\\x\\y.txt"),
        ("transcript_srt", "720P/VIDEO_720P.mp4"), ("transcript_vtt", "a/" + "x" * 1000), ("transcript_json", "..."),
        ("video_360p", "720p/video_720p.mp4/under.a.file"),
    ):  # fmt: skip
        execute(catalog, "UPDATE stored_objects SET name = :name WHERE kind = :kind", kind=kind, name=name)
    report = download(target=str(root / "here"))
    assert (report.files, report.skipped) == (FILES_OF_A_JOB, ())
    written = [path for path in tmp_path.rglob("*") if path.is_file() and (root / "here") in path.parents]
    assert len(written) == FILES_OF_A_JOB + 1
    assert os.listdir(root) == ["here"]
    assert not list(tmp_path.rglob("escaped.mp3"))[1:]
    names = opened(download()).namelist()
    assert len(names) == FILES_OF_A_JOB + 1
    assert not [name for name in names if name.startswith("/") or "\\" in name or ".." in name.split("/")]


def test_a_folder_only_below_the_roots(download, root, tmp_path, catalog, location) -> None:  # type: ignore[no-untyped-def]
    (root / "link").symlink_to(tmp_path)
    (root / "file").write_bytes(b"")
    for target in ("/", "/etc", str(tmp_path), f"{root}/../x", f"{root}-beside", str(root / "link"), "exports/x"):
        with pytest.raises(RefusedError, match="below none of the access policy's download_roots"):
            download(target=target)
    with pytest.raises(RefusedError, match="none is configured"):
        bulk_download(catalog, Locations(catalog, location), AccessPolicy(), job_ids=[uuid4()], target=str(root))
    with pytest.raises(NotFoundError):
        download(job_ids=[uuid4()], target=str(root / "new"))
    assert not (root / "new").exists(), "what is refused leaves no folder"
    assert rows(catalog, "SELECT 1 FROM stored_objects WHERE url_expires_at IS NOT NULL") == []
    with pytest.raises(InvalidInputError, match="is no folder to write to"):
        download(target=str(root / "file"))
