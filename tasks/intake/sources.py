"""What an operator may name as a source: files, folders, URLs, a manifest of them."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from blocks.errors import InvalidInputError, RefusedError, StorageError
from blocks.object_store.transfer import open_regular
from blocks.policies import IngestPolicy
from blocks.units import shown, told
from tasks.checks import below_root, check_filename, check_sha256, is_path
from tasks.intake.endings import VIDEO_ENDINGS

LARGEST_MANIFEST_BYTES = 64 * 1024**2
FIELDS = ("source", "filename", "sha256")
"""Of a manifest's entry."""


@dataclass(frozen=True)
class Source:
    """One video to take in. `path` is None for a URL that has to be fetched first."""

    where: str
    filename: str
    path: Path | None
    expected_sha256: str | None = None
    size_bytes: int | None = None


@dataclass(frozen=True)
class RefusedSource:
    """A source that is refused before a byte is read."""

    where: str
    error: str


def find_sources(
    wanted: Sequence[str], policy: IngestPolicy, *, expected_sha256: Mapping[str, str], manifest: str = ""
) -> tuple[list[Source], list[RefusedSource]]:
    """Every file and URL behind what was asked for, and what is refused of it.

    Raises:
        InvalidInputError: nothing was asked for, or the manifest or an expected hash cannot be read.
    """
    entries = [Entry(where) for where in wanted]
    if manifest:
        entries += read_manifest(allowed_path(manifest, policy))
    if not entries:
        raise InvalidInputError("nothing to take in: name at least one file, folder, URL or a manifest")
    hashes = {where: check_sha256(value) for where, value in expected_sha256.items()}
    sources: list[Source] = []
    refused: list[RefusedSource] = []
    for entry in entries:
        try:
            expected = check_sha256(entry.sha256) if entry.sha256 else hashes.get(entry.where)
            for source in _expand(entry, policy, expected):
                if isinstance(source, RefusedSource):
                    refused.append(source)
                else:
                    sources.append(source)
        except (StorageError, OSError) as error:
            refused.append(RefusedSource(entry.where, _reason(error)))
        except ValueError as error:  # what Python's parser says of a URL that is none
            refused.append(RefusedSource(entry.where, no_url(entry.where, error)))
    unused = hashes.keys() - {entry.where for entry in entries} - {source.where for source in sources}
    by_name = {source.filename: hashes[source.filename] for source in sources if source.filename in hashes}
    unused -= by_name.keys()
    # A source that is refused anyway, and lists why, needs no second error.
    unused -= {one for source in refused for one in (source.where, source.where.rpartition("/")[2])}
    if unused:
        raise InvalidInputError(
            f"an expected hash names no source: {', '.join(shown(told(one)) for one in sorted(unused)[:5])}"
        )
    sources = [
        Source(s.where, s.filename, s.path, s.expected_sha256 or hashes.get(s.where) or by_name.get(s.filename),
               s.size_bytes)
        for s in sources
    ]  # fmt: skip
    return sources, refused


@dataclass(frozen=True)
class Entry:
    """One line of a manifest, or one source given by hand."""

    where: str
    filename: str = ""
    sha256: str = ""


def read_manifest(path: Path) -> list[Entry]:
    """Entries of a CSV (columns source, filename, sha256), a JSON list, or JSON lines.

    Raises:
        InvalidInputError: it is none of these, too large, or an entry has no source.
    """
    try:
        if path.stat().st_size > LARGEST_MANIFEST_BYTES:
            raise InvalidInputError(f"the manifest {path.name} is larger than {LARGEST_MANIFEST_BYTES} bytes")
        with io.TextIOWrapper(io.BufferedReader(open_regular(path)), encoding="utf-8-sig") as file:
            text = file.read()
        rows = _manifest_rows(path, text)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise InvalidInputError(f"the manifest {path.name} cannot be read: {_reason(error)}") from error
    entries = []
    for number, row in enumerate(rows, 1):
        if isinstance(row, str):
            row = {"source": row}  # noqa: PLW2901 -- a bare string is a source
        if isinstance(row, dict):
            try:
                row = _fields(row)  # noqa: PLW2901 -- as people write them
            except ValueError as error:
                raise InvalidInputError(f"entry {number} of the manifest {path.name} has {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get("source"), str) or not row["source"].strip():
            raise InvalidInputError(f"entry {number} of the manifest {path.name} names no source")
        entries.append(Entry(row["source"].strip(), str(row.get("filename") or ""), str(row.get("sha256") or "")))
    return entries


_HASH = re.compile(r"(^|[ _-])((file|content)?hash|sha[ _-]?\d*|md5|digest|checksum|etag)($|[ _-])", re.IGNORECASE)


def _fields(row: dict[object, object]) -> dict[str, object]:
    """An entry by the names of its fields, however they are written; other fields are for other readers.

    Raises:
        ValueError: one is meant for a hash and would not be compared, or comes twice.
    """
    found: dict[str, object] = {}
    for written, value in row.items():
        name = re.sub("[ _-]", "", str(written or "")).lower()
        if value and name not in FIELDS and _HASH.search(str(written)):
            raise ValueError(
                f"a field {shown(str(written))}, which nobody compares: the fields are {', '.join(FIELDS)}"
            )
        if name in FIELDS and name in found:
            raise ValueError(f"the field {name} more than once")
        found[name] = value
    return found


def _manifest_rows(path: Path, text: str) -> Iterable[object]:
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text), skipinitialspace=True))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    if path.suffix == ".json":
        rows = json.loads(text)
        if not isinstance(rows, list):
            raise ValueError("the top is not a list")
        return rows
    raise ValueError("its name must end in .csv, .json or .jsonl")


def no_url(url: str, error: ValueError) -> str:
    """What Python's parser says of a URL that is none; it repeats what may be a password."""
    return f"{shown(told(url))} is no URL" + (f": {error}" if told(url) == url else "")


def is_url(where: str) -> bool:
    """Whether a source is a URL rather than a path."""
    return "://" in where


def allowed_path(where: str, policy: IngestPolicy) -> Path:
    """The real path of a local source, if it lies under a configured root.

    Raises:
        RefusedError: it does not, or no root is configured.
    """
    if not is_path(where):
        raise InvalidInputError(f"{shown(where)} is no path")
    roots = policy.roots()
    if (found := below_root(where, roots)) is None:
        known = ", ".join(roots) or "none is configured"
        raise RefusedError(f"{shown(where)} lies under no source root ({known}); add one to the ingest policy")
    return Path(found[1])


def _expand(entry: Entry, policy: IngestPolicy, expected: str | None) -> Iterable[Source | RefusedSource]:
    if is_url(entry.where) and urlsplit(entry.where).scheme.lower() != "file":
        yield Source(entry.where, check_filename(entry.filename or _url_name(entry.where)), None, expected)
        return
    where = entry.where
    if is_url(where):
        if "file" not in policy.schemes():
            raise RefusedError(f"{shown(where)}: the ingest policy allows no file:// sources")
        where = unquote(urlsplit(where).path)
    path = allowed_path(where, policy)
    try:
        found = path.stat()
    except FileNotFoundError:
        raise InvalidInputError(f"{shown(entry.where)}: no such file") from None
    if stat.S_ISDIR(found.st_mode):
        if expected or entry.filename:
            raise InvalidInputError(f"{shown(entry.where)} is a folder; a hash or a file name belongs to a file")
        yield from _expand_folder(path)
        return
    if not stat.S_ISREG(found.st_mode):
        raise InvalidInputError(f"{shown(entry.where)} is neither a file nor a folder")
    yield Source(entry.where, check_filename(entry.filename or Path(where).name), path, expected, found.st_size)


def _expand_folder(folder: Path) -> Iterable[Source | RefusedSource]:
    found = False
    for entry in walk(str(folder)):
        if isinstance(entry, OSError):
            found = True  # perhaps
            yield RefusedSource(str(entry.filename), _reason(entry))
            continue
        if entry.name.startswith(".") or entry.name.rpartition(".")[2].lower() not in VIDEO_ENDINGS:
            continue
        found = True
        try:
            if entry.is_symlink():
                # A link in an uploaded folder may point at anything the worker can read.
                raise RefusedError(f"{shown(entry.name)} is a symbolic link; name its target instead")
            if not entry.is_file(follow_symlinks=False):
                raise RefusedError(f"{shown(entry.name)} is neither a file nor a folder")
            # No link was followed on the way here, so that this is as much below its root as the folder is.
            size = entry.stat(follow_symlinks=False).st_size
            yield Source(entry.path, check_filename(entry.name), Path(entry.path), None, size)
        except (StorageError, OSError) as error:
            yield RefusedSource(entry.path, _reason(error))
    if not found:
        raise InvalidInputError(f"the folder {folder.name} holds no videos ({', '.join(sorted(VIDEO_ENDINGS))})")


def walk(folder: str, *, hidden: bool = False) -> Iterator[os.DirEntry[str] | OSError]:
    """Everything below a folder that is no folder, in order; links are not followed, and hidden folders only if asked.

    What cannot be looked into is told in its place, and the others are walked all the same.
    """
    # A list, no recursion: folders can be deeper than Python's stack.
    waiting: list[os.DirEntry[str] | OSError] = _sorted_entries(folder)
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, OSError) or not entry.is_dir(follow_symlinks=False):
            yield entry
        elif hidden or not entry.name.startswith("."):
            waiting += _sorted_entries(entry.path)


def _sorted_entries(folder: str) -> list[os.DirEntry[str] | OSError]:
    """The last one first."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name, reverse=True)
    except OSError as error:
        return [error]
    return [*found]


def _url_name(url: str) -> str:
    if urlsplit(url).scheme.lower() == "s3":
        return split_s3(url)[1].rpartition("/")[2]
    return unquote(urlsplit(url).path).rpartition("/")[2]


def split_s3(url: str) -> tuple[str, str]:
    """Bucket and key; a key may hold what ends a path elsewhere, such as `#` and `?`, and nothing in it is escaped."""
    bucket, _, key = url.partition("://")[2].partition("/")
    return bucket, key


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{Path(str(error.filename or '')).name}: {error.strerror or error}"
    return str(error)
