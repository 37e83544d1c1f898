"""Files that stay in their folder, whatever their names and whoever plays with it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocks.errors import ContentMismatchError, InvalidInputError, RefusedError
from tasks.folders import Folder
from tasks.intake.sources import read_manifest
from tasks.zipping import CHECKSUMS
from tests.helpers import sha256
from tests.tasks.test_zipping import member


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    (tmp_path / "root").mkdir()
    made = Folder(str(tmp_path / "root"), ["in", "here"])
    yield made
    made.close()
    assert not list(tmp_path.rglob("*.part"))


def test_files_in_a_folder(folder: Folder) -> None:
    folder.write(member("a/b/c.txt"))
    assert Path(folder.path, "a/b/c.txt").read_bytes() == b"content"
    assert folder.has("a/b/c.txt", 7, sha256(b"content"))
    assert not folder.has("a/b/d.txt", 7, sha256(b"content"))
    for size, content in ((7, b"CONTENT"), (8, b"content+")):
        with pytest.raises(RefusedError, match="a/b/c.txt is there already with other content"):
            folder.has("a/b/c.txt", size, sha256(content))
    with pytest.raises(RefusedError, match="never overwritten"):
        folder.write(member("a/b/c.txt", b"CONTENT"))
    assert Path(folder.path, "a/b/c.txt").read_bytes() == b"content"


def test_a_folder_where_a_file_should_be(folder: Folder, tmp_path: Path) -> None:
    """Refused in words, and nothing of it stays open."""
    Path(folder.path, "a.mp4").mkdir()
    (tmp_path / "m.csv").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(RefusedError, match="a.mp4 is there already"):
            folder.has("a.mp4", 1, "0" * 64)
        with pytest.raises(InvalidInputError, match="manifest m.csv cannot be read: m.csv: it is no regular file"):
            read_manifest(tmp_path / "m.csv")
    assert len(os.listdir("/proc/self/fd")) == before


def test_wrong_content_leaves_nothing(folder: Folder) -> None:
    with pytest.raises(ContentMismatchError):
        folder.write(member("a/b.txt", sha256="0" * 64))
    assert os.listdir(Path(folder.path, "a")) == []


def test_nothing_is_written_through_a_link(folder: Folder, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"kept")
    here = Path(folder.path)
    (here / "job").symlink_to(outside)
    (here / "file").symlink_to(outside / "kept")
    (here / "dangling").symlink_to(outside / "new")
    (here / "plain").write_bytes(b"a file")
    os.mkfifo(here / "pipe")
    for name in ("job/kept", "job/deep/er", "file", "dangling", "plain/x"):
        with pytest.raises(RefusedError, match="nothing is written through it"):
            folder.has(name, 4, sha256(b"kept"))
    for name in ("job/x", "file", "dangling", "plain/x", "pipe"):
        with pytest.raises(RefusedError):
            folder.write(member(name))
    with pytest.raises(RefusedError, match="pipe is there already"):
        folder.has("pipe", 4, sha256(b"kept"))
    assert os.listdir(outside) == ["kept"]
    assert (outside / "kept").read_bytes() == b"kept"


def test_a_folder_that_is_exchanged_meanwhile_leads_nowhere(folder: Folder, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()

    def exchanged() -> Iterator[bytes]:
        (Path(folder.path) / "job").rename(tmp_path / "aside")
        (Path(folder.path) / "job").symlink_to(outside)
        yield b"content"

    folder.write(member("job/x", chunks=exchanged))
    assert os.listdir(outside) == []


def test_checksums_of_several_downloads_stand_beside_each_other(folder: Folder) -> None:
    first, second = {"a": "0" * 64}, {"b": "1" * 64}
    assert [folder.write_checksums(files) for files in (first, second, first)] == [
        CHECKSUMS, f"{CHECKSUMS} (2)", CHECKSUMS,
    ]  # fmt: skip
    assert Path(folder.path, CHECKSUMS).read_text() == f"{'0' * 64}  a\n"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("/")
    for below in ("file", "link"):
        with pytest.raises(InvalidInputError, match="is no folder to write to"):
            Folder(str(tmp_path), [below])
    with pytest.raises(InvalidInputError, match="is no folder"):
        Folder(str(tmp_path / "missing"), [])
