"""Folders for work under way: private, removed at the end, and found by their age if a run was killed."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from blocks.errors import RefusedError
from tasks import scratch

NOW = datetime(2026, 5, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of this test's own: the real one may hold somebody's work."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def make(path: Path, age: timedelta, content: bytes | None = None) -> Path:
    """A file, or a folder where there is no content, as of some time ago."""
    if content is None:
        path.mkdir(parents=True, exist_ok=True)
    else:
        path.write_bytes(content)
    at = (NOW - age).timestamp()
    os.utime(path, (at, at))
    return path


def found(older_than: timedelta = DAY) -> dict[str, int]:
    return {one.path.name: one.size_bytes for one in scratch.find_leftovers(older_than, now=NOW)}


def test_a_folder_is_private_and_goes_at_the_end(temporary: Path) -> None:
    with scratch.scratch_folder("export") as folder:
        assert folder.parent == scratch.scratch_root()
        assert folder.name.startswith("export-")
        assert stat.S_IMODE(folder.parent.stat().st_mode) == stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "file").write_bytes(b"x")
        with scratch.scratch_folder("export") as other:
            assert other != folder
    assert list(scratch.scratch_root().iterdir()) == []
    with pytest.raises(ValueError, match="broken"), scratch.scratch_folder("export"):
        raise ValueError("broken")
    assert list(scratch.scratch_root().iterdir()) == []


@pytest.mark.parametrize("what", ["a link", "a link to nothing", "a file"])
def test_what_somebody_put_in_the_way_is_not_used(temporary: Path, what: str) -> None:
    root, elsewhere = temporary / f"transcode-flow-{os.getuid()}", temporary / "elsewhere"
    if what == "a file":
        root.write_bytes(b"")
    else:
        if what == "a link":
            elsewhere.mkdir()
        root.symlink_to(elsewhere)
    with pytest.raises(RefusedError, match="belongs to somebody else; remove it, or set TMPDIR"):
        scratch.scratch_root()


def test_what_is_old_is_found_with_its_size() -> None:
    root = scratch.scratch_root()
    old = make(root / "old", DAY)
    make(make(old / "inner", DAY) / "file", DAY, b"12345")
    make(old / "file", DAY, b"123")
    make(root / "young", timedelta(hours=23))
    make(root / "file", 2 * DAY, b"1234567")
    for folder in (old / "inner", old):
        make(folder, DAY)
    assert found() == {"old": 8, "file": 7}
    assert found(timedelta(hours=1)) == {"old": 8, "young": 0, "file": 7}
    assert found(3 * DAY) == {}


def test_a_folder_is_as_young_as_what_changed_in_it() -> None:
    root = scratch.scratch_root()
    for name, inside in (("file", "file"), ("deep", "inner/file")):
        path = root / name / inside
        path.parent.mkdir(parents=True)
        make(path, timedelta(minutes=1), b"x")
        for folder in (path.parent, root / name):
            make(folder, 9 * DAY)
    make(make(root / "empty", 9 * DAY) / "inner", timedelta(minutes=1))
    make(root / "empty", 9 * DAY)
    assert found() == {}
    assert set(found(timedelta(minutes=1))) == {"file", "deep", "empty"}


def test_links_are_neither_followed_nor_their_targets_removed(temporary: Path) -> None:
    root = scratch.scratch_root()
    kept = make(temporary / "kept", timedelta(0))
    make(kept / "file", timedelta(0), b"12345")
    (root / "link").symlink_to(kept)
    old = make(root / "old", DAY)
    (old / "link").symlink_to(kept)
    os.utime(root / "link", (0, 0), follow_symlinks=False)
    make(old, DAY)
    assert set(found()) == {"link", "old"}
    for path in (root / "link", old):
        scratch.remove_leftover(path)
    assert list(root.iterdir()) == []
    assert (kept / "file").read_bytes() == b"12345"


def test_only_what_lies_in_the_root_is_removed(temporary: Path) -> None:
    root = scratch.scratch_root()
    other = make(temporary / "other", DAY)
    deep = make(root / "one" / "deep", DAY)
    for path in (other, deep, root):
        with pytest.raises(RefusedError, match="is no scratch folder"):
            scratch.remove_leftover(path)
    assert deep.exists()
    scratch.remove_leftover(make(root / "file", DAY, b"x"))
    scratch.remove_leftover(root / "gone already")
    assert [path.name for path in root.iterdir()] == ["one"]


@pytest.mark.parametrize("when", ["before it is looked at", "while it is looked at"])
def test_a_run_that_ends_meanwhile(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """Its folder is there when the root is listed, and gone a moment later: nothing is left over of it."""
    root = scratch.scratch_root()
    make(make(root / "ending", 2 * DAY) / "file", 2 * DAY, b"x")
    make(root / "ending", 2 * DAY)
    make(root / "left", 2 * DAY)
    walk, listed = os.walk, list(root.iterdir())

    def vanishing(path: Path) -> Iterator[Any]:
        for seen in walk(path):
            if path.name == "ending":
                shutil.rmtree(path)
            yield seen

    if when == "before it is looked at":
        shutil.rmtree(root / "ending")
        monkeypatch.setattr(Path, "iterdir", lambda path: iter(listed))
    else:
        monkeypatch.setattr(os, "walk", vanishing)
    assert set(found()) == {"left"}


def test_what_a_killed_run_left_in_a_folder_of_ones_own_goes_with_the_next(temporary: Path) -> None:
    roomy = temporary / "roomy"
    roomy.mkdir()
    root = scratch.scratch_root(roomy)
    (root / "restore-killed").mkdir()
    (root / "restore-killed" / "catalog.dump").write_bytes(b"everything")
    for path in (root / "restore-killed" / "catalog.dump", root / "restore-killed"):
        os.utime(path, (0, 0))
    (root / "restore-at-work").mkdir()
    with scratch.scratch_folder("restore", below=roomy) as folder:
        assert folder.parent == root
        assert sorted(path.name for path in root.iterdir()) == sorted(["restore-at-work", folder.name])
