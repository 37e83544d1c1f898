"""A ZIP64 archive as a stream of bytes, and the names in it. No store, no catalog.

Memory does not grow with sizes; the archive's own directory, which ZIP puts at its end, takes 1 KiB for each member.
"""

from __future__ import annotations

import hashlib
import io
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from zipfile import ZIP64_LIMIT, ZIP_FILECOUNT_LIMIT, ZipFile, ZipInfo

from blocks.errors import ContentMismatchError

CHECKSUMS = "SHA256SUMS"
LONGEST_PART_BYTES = 180
"""Of one part of a path: file systems end at 255, and a temporary name beside it needs room."""
MOST_PARTS = 16
EARLIEST = datetime(1980, 1, 1, tzinfo=UTC)
_LATEST = datetime(2107, 12, 31, 23, 59, 58, tzinfo=UTC)
_RESERVED = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", flags=re.IGNORECASE | re.DOTALL
)
_FORBIDDEN = re.compile(r'[<>:"|?*]')
# Right-to-left overrides make `exe.4pm` look like `mp4.exe`; the joiner of emoji (U+200D) is none of them.
_BIDI = frozenset("\u061c\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff")


@dataclass(frozen=True)
class Member:
    """A file to be: `name` is safe and unique, `chunks` gives its content once, which is `size_bytes` and `sha256`."""

    name: str
    size_bytes: int
    chunks: Callable[[], Iterator[bytes]]
    sha256: str
    modified_at: datetime = EARLIEST


def safe_member_name(name: str) -> str:
    """A path that every file system takes and none leaves its folder by; `/` and `\\` part it.

    No `..`, no drive, no control or direction characters, nothing that Windows reserves, no part above 180 bytes.
    """
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..")]
    return "/".join(_safe_part(part) for part in parts[-MOST_PARTS:]) or "_"


def _safe_part(part: str) -> str:
    plain = part.isascii() and part.isprintable()
    if not plain:
        part = "".join("_" if _is_unseen(char) else char for char in unicodedata.normalize("NFC", part))
    part = _shortened(_FORBIDDEN.sub("_", part).strip(" "))
    part = part.rstrip(". ") or "_"
    return f"_{part}" if _RESERVED.fullmatch(part) else part


def _is_unseen(char: str) -> bool:
    return char in _BIDI or unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")


def _shortened(part: str) -> str:
    if len(part.encode()) <= LONGEST_PART_BYTES:
        return part
    stem, dot, ending = part.rpartition(".")
    # An ending tells what a file is; a long one is none.
    tail = f"{dot}{ending}" if stem and len(ending.encode()) <= 16 else ""
    head = part[: len(part) - len(tail)] if tail else part
    return head.encode()[: LONGEST_PART_BYTES - len(tail.encode())].decode(errors="ignore").rstrip(" ") + tail


class UniqueNames:
    """Hands out each name once, whatever its case, and no file's name as another file's folder."""

    def __init__(self, *reserved: str) -> None:
        self._files = {_folded(name) for name in reserved}
        self._folders: dict[str, str] = {}
        self._numbers: dict[str, int] = {}

    def take(self, name: str) -> str:
        """The safe form of a path, its file or a folder of it numbered where it is taken: `film (2).mp4`."""
        *folders, file = safe_member_name(name).split("/")
        path = ""
        for folder in folders:
            wanted = f"{path}{folder}"
            # What was one folder stays one: a playlist finds its segments beside it.
            if (place := self._folders.get(_folded(wanted))) is None:
                place = self._folders[_folded(wanted)] = self._free(wanted)
                self._folders.setdefault(_folded(place), place)
            path = f"{place}/"
        path = self._free(f"{path}{file}", file=True)
        self._files.add(_folded(path))
        return path

    def _free(self, path: str, *, file: bool = False) -> str:
        folded = _folded(path)
        if not self._is_taken(folded, file=file):
            return path
        folder, slash, name = path.rpartition("/")
        stem, dot, ending = name.rpartition(".")
        if not stem:
            stem, dot, ending = name, "", ""
        while True:
            # Counted on, not from 2 again: ten thousand equal names are no quadratic work.
            number = self._numbers[folded] = self._numbers.get(folded, 1) + 1
            candidate = f"{folder}{slash}{stem} ({number}){dot}{ending}"
            if not self._is_taken(_folded(candidate), file=file):
                return candidate

    def _is_taken(self, folded: str, *, file: bool) -> bool:
        return folded in self._files or (file and folded in self._folders)


def _folded(name: str) -> str:
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name.casefold())


def checksum_line(name: str, sha256: str) -> bytes:
    """A line as `sha256sum --check` reads it; a safe name needs no escape."""
    return f"{sha256}  {name}\n".encode()


def proved(member: Member) -> Iterator[bytes]:
    """The member's content, hashed as it passes.

    Raises:
        ContentMismatchError: it is not the size or SHA-256 that the catalog has; no byte past the size is given.
    """
    digest, size = hashlib.sha256(), 0
    for chunk in member.chunks():
        size += len(chunk)
        if size > member.size_bytes:
            break
        digest.update(chunk)
        yield chunk
    if size != member.size_bytes:
        found = f"more than {member.size_bytes}" if size > member.size_bytes else str(size)
        raise ContentMismatchError(
            f"{member.name} has {found} bytes, the catalog says {member.size_bytes}; run verify-objects"
        )
    if digest.hexdigest() != member.sha256:
        raise ContentMismatchError(
            f"{member.name} has SHA-256 {digest.hexdigest()}, the catalog says {member.sha256}; run verify-objects"
        )


def zip_stream(members: Iterable[Member], *, chunk_bytes: int) -> Iterator[bytes]:
    """The archive in pieces of at least `chunk_bytes`, but for the last; a `SHA256SUMS` of all members ends it.

    Stored, not compressed: videos do not get smaller.

    Raises:
        ContentMismatchError: a member is not what it should be; what came out so far is no archive.
    """
    out = _Pieces()
    archive = ZipFile(out, "w")  # type: ignore[call-overload]  # all it needs of a stream is `write` and `flush`
    for member in _with_checksums(members):
        with archive.open(_info(member), "w", force_zip64=_is_large(member.size_bytes)) as file:
            for chunk in proved(member):
                file.write(chunk)
                if out.size_bytes >= chunk_bytes:
                    yield out.take()
    archive.close()
    yield out.take()


def _with_checksums(members: Iterable[Member]) -> Iterator[Member]:
    sums, newest = io.BytesIO(), EARLIEST
    for member in members:
        sums.write(checksum_line(member.name, member.sha256))
        newest = max(newest, member.modified_at)
        yield member
    yield checksums_member(sums.getvalue(), newest)


def checksums_member(lines: bytes, modified_at: datetime) -> Member:
    """The file that says what all others are."""
    return Member(CHECKSUMS, len(lines), lambda: iter([lines]), hashlib.sha256(lines).hexdigest(), modified_at)


def archive_bytes(files: Iterable[tuple[str, int]]) -> int:
    """The size of the archive of these names and sizes, to the byte: what decides how large an upload's parts are."""
    offset = directory = entries = sums = 0

    def add(name: str, size_bytes: int) -> None:
        nonlocal offset, directory, entries
        name_bytes, large = len(name.encode()), _is_large(size_bytes)
        # APPNOTE.TXT 4.3.7, 4.3.9, 4.3.12 and 4.5.3: local header, data descriptor, directory entry, ZIP64 field.
        numbers = 2 * large + _is_large(offset)
        directory += 46 + name_bytes + (4 + 8 * numbers if numbers else 0)
        offset += 30 + name_bytes + (20 if large else 0) + size_bytes + (24 if large else 16)
        entries += 1

    for name, size_bytes in files:
        add(name, size_bytes)
        sums += len(checksum_line(name, "0" * 64))
    add(CHECKSUMS, sums)
    zip64_end = entries > ZIP_FILECOUNT_LIMIT or _is_large(offset) or _is_large(directory)
    return offset + directory + 22 + (56 + 20 if zip64_end else 0)


def _is_large(number: int) -> bool:
    return number > ZIP64_LIMIT


def _info(member: Member) -> ZipInfo:
    at = min(max(member.modified_at, EARLIEST), _LATEST).astimezone(UTC)
    info = ZipInfo(member.name, (at.year, at.month, at.day, at.hour, at.minute, at.second))
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    if _is_large(member.size_bytes):
        # zipfile itself does so only where it can seek back: a reader must be told to expect ZIP64.
        info.create_version = info.extract_version = 45
    return info


class _Pieces:
    """What zipfile writes to; without `tell` and `seek`, so that it never tries to go back."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def size_bytes(self) -> int:
        return len(self._buffer)

    def write(self, data: bytes) -> int:
        self._buffer += data
        return len(data)

    def flush(self) -> None:
        """Nothing to do: pieces are taken when there is enough of them."""

    def take(self) -> bytes:
        taken, self._buffer = self._buffer, bytearray()
        return bytes(taken)
