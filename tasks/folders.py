"""Files in a folder of this machine, never over one that is there, never outside it. No store, no catalog."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from uuid import uuid4

from blocks.errors import InvalidInputError, RefusedError
from tasks.zipping import CHECKSUMS, EARLIEST, Member, checksum_line, checksums_member, proved


class Folder:
    """A folder that files are put into, never over one that is there, never through a link, never outside it.

    Everything goes by descriptors of folders that were opened without following links, so that a name which is
    exchanged for a link meanwhile leads nowhere.
    """

    def __init__(self, root: str, below: Sequence[str]) -> None:
        """Open `below` in `root`, which must be there; what is missing of it is made.

        Raises:
            InvalidInputError: it is no folder, or cannot be made.
        """
        self.path = os.path.join(root, *below)
        try:
            top = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self._fd = _descend(top, below)
            finally:
                os.close(top)
        except OSError as error:
            raise InvalidInputError(f"{self.path} is no folder to write to: {error.strerror}") from error

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._fd)

    def has(self, name: str, size_bytes: int, sha256: str) -> bool:
        """Whether the file is there with this content.

        Raises:
            RefusedError: something else is there under its name, or on its way.
        """
        with self._beside(name) as (fd, file_name):
            try:
                file_fd = os.open(file_name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=fd)
            except FileNotFoundError:
                return False
            try:
                found = os.fstat(file_fd)
                if stat.S_ISREG(found.st_mode) and found.st_size == size_bytes:
                    with open(file_fd, "rb", buffering=0, closefd=False) as file:
                        if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                            return True
            finally:
                os.close(file_fd)
        raise _occupied(name)

    def write(self, member: Member) -> None:
        """Write a file under a temporary name beside it, which becomes its own when the hash is right.

        Raises:
            ContentMismatchError: it is not what it should be; nothing of it stays.
            RefusedError: something is there under its name, or on its way.
        """
        with self._beside(member.name) as (fd, file_name):
            # A name of this run's own: another run may be writing the same file.
            part = f"{file_name}.{uuid4().hex[:8]}.part"
            try:
                with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=fd), "wb") as file:
                    for chunk in proved(member):
                        file.write(chunk)
                _settle(fd, part, file_name)
            except FileExistsError:
                raise _occupied(member.name) from None
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(part, dir_fd=fd)

    def write_checksums(self, files: Mapping[str, str]) -> str:
        """Write what `sha256sum --check` reads; returns its name, numbered where another download left its own."""
        content = checksums_member(b"".join(checksum_line(name, sha256) for name, sha256 in files.items()), EARLIEST)
        for number in count(1):
            name = CHECKSUMS if number == 1 else f"{CHECKSUMS} ({number})"
            with suppress(RefusedError):
                if not self.has(name, content.size_bytes, content.sha256):
                    self.write(replace(content, name=name))
                return name
        raise AssertionError("unreachable")

    @contextmanager
    def _beside(self, name: str) -> Iterator[tuple[int, str]]:
        *folders, file_name = name.split("/")
        try:
            fd = _descend(self._fd, folders)
            try:
                yield fd, file_name
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise RefusedError(
                    f"{name}: a symbolic link, or a file where a folder should be, is in its place or on its way; "
                    "nothing is written through it: move it away, or name another folder"
                ) from error
            raise


def _descend(start: int, folders: Sequence[str]) -> int:
    """The descriptor of a folder below an open one, made where it is missing."""
    at = os.dup(start)
    for folder in folders:
        try:
            with suppress(FileExistsError):
                os.mkdir(folder, dir_fd=at)
            below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
        finally:
            os.close(at)
        at = below
    return at


def _settle(fd: int, part: str, name: str) -> None:
    # A rename would replace what appeared meanwhile; a link does not. Some file systems know no links.
    try:
        os.link(part, name, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:
        with suppress(FileNotFoundError):
            os.stat(name, dir_fd=fd, follow_symlinks=False)
            raise FileExistsError(errno.EEXIST, "there already", name) from None
        os.rename(part, name, src_dir_fd=fd, dst_dir_fd=fd)


def _occupied(name: str) -> RefusedError:
    return RefusedError(
        f"{name} is there already with other content, which is never overwritten: move it away, or name another folder"
    )
