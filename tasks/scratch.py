"""Folders on a worker's disk for work under way; what a killed run leaves there is found by its age."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from blocks.errors import RefusedError

LEFT_BELOW = timedelta(days=1)
"""After that nobody works any more in a scratch folder below a folder of an operator's choice."""


@dataclass(frozen=True)
class Leftover:
    """A folder that no run works in any more."""

    path: Path
    changed_at: datetime
    size_bytes: int


def scratch_root(below: Path | None = None) -> Path:
    """The folder that all scratch folders of this user lie in; private, since it may hold customers' files.

    Raises:
        RefusedError: somebody else made it.
    """
    # Its real path: files are read by theirs.
    root = Path(os.path.realpath(below or tempfile.gettempdir())) / f"transcode-flow-{os.getuid()}"
    with suppress(FileExistsError):
        root.mkdir(mode=0o700)
    if root.is_symlink() or not root.is_dir() or root.lstat().st_uid != os.getuid():
        raise RefusedError(f"{root} belongs to somebody else; remove it, or set TMPDIR to a folder of this user's")
    return root


@contextmanager
def scratch_folder(name: str, *, below: Path | None = None) -> Iterator[Path]:
    """A fresh folder, private and removed at the end: with the others, or where somebody knows that there is room."""
    root = scratch_root(below)
    if below is not None:
        # Cleanup looks at the usual place alone; here whoever comes next does.
        for one in find_leftovers(LEFT_BELOW, now=datetime.now(UTC), below=below):
            remove_leftover(one.path, below=below)
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=root, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def find_leftovers(older_than: timedelta, *, now: datetime, below: Path | None = None) -> list[Leftover]:
    """Scratch folders in which nothing changed for a while."""
    found = []
    for path in sorted(scratch_root(below).iterdir()):
        try:
            changed_at, size = _newest_and_size(path)
        except FileNotFoundError:
            continue  # its run ended meanwhile, and took it along
        if changed_at + older_than <= now:
            found.append(Leftover(path, changed_at, size))
    return found


def remove_leftover(path: Path, *, below: Path | None = None) -> None:
    """Remove one; links in it are removed, never followed."""
    if path.parent != scratch_root(below):
        raise RefusedError(f"{path} is no scratch folder")
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _newest_and_size(path: Path) -> tuple[datetime, int]:
    newest, size = path.lstat().st_mtime, path.lstat().st_size if not path.is_dir() else 0
    if path.is_dir() and not path.is_symlink():
        for folder, _, files in os.walk(path):
            newest = max(newest, os.lstat(folder).st_mtime)
            for name in files:
                seen = os.lstat(os.path.join(folder, name))
                newest, size = max(newest, seen.st_mtime), size + seen.st_size
    return datetime.fromtimestamp(newest, UTC), size
