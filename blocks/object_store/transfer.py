"""Moving bytes up and down. Memory stays bounded whatever an object's size.

Keys are relative to the store's prefix. A SHA-256 is taken while bytes stream past, never in a second pass.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import GenericError

from blocks.errors import ContentMismatchError, NotFoundError, SourceChangedError, UnfitStoreError
from blocks.object_store.block import MIB, ObjectStore
from blocks.object_store.budget import Budget
from blocks.object_store.failures import store_errors

RANGE_BYTES = 16 * MIB
"""Bytes asked for in one request when a whole object is read."""
MOST_PARTS_AT_ONCE = min(8, max(4, 2 * (os.cpu_count() or 1)))
"""Of one upload: for each core one that it hashes and signs, and one on the line. With twice as many, a server on the
same two cores needed a tenth more of their time, for the parts that it held in memory."""
MOST_PARTS = 9_000
"""S3 ends at 10,000 parts; the part size grows before that."""
PARTS_IN_MEMORY_BYTES = 128 * MIB
"""Bound of one upload's parts under way."""
SENT_AT_ONCE = Budget(2 * PARTS_IN_MEMORY_BYTES)
"""For files, of which a run sends many at once. Memory is one reason; each request has to end within the client's
timeout, two minutes, and that many on a slow line would not."""
_buffers = threading.local()


@dataclass(frozen=True)
class Written:
    """What the store says of an object that was just written."""

    etag: str | None
    size_bytes: int


@dataclass(frozen=True)
class Head:
    """An object as the store knows it; names of metadata in lower case."""

    size_bytes: int
    etag: str | None
    last_modified: datetime
    metadata: Mapping[str, str]


def hash_file(path: Path) -> tuple[str, int]:
    """SHA-256 and size of a file, from one pass.

    Raises:
        OSError: the file cannot be read.
    """
    digest, size, buffer = hashlib.sha256(), 0, _own_buffer()
    with open_regular(path) as file:
        while read := file.readinto(buffer):
            digest.update(buffer[:read])
            size += read
    return digest.hexdigest(), size


def _own_buffer() -> memoryview:
    # One a thread, kept: making one for each of thousands of small files costs a tenth of hashing them.
    buffer: memoryview | None = getattr(_buffers, "of_thread", None)
    if buffer is None:
        buffer = _buffers.of_thread = memoryview(bytearray(MIB))
    return buffer


def open_regular(path: Path) -> io.FileIO:
    """A regular file to read, by its real path: a link or a pipe that took its place is not read.

    Raises:
        OSError: it cannot be read, or is something else or elsewhere by now.
    """
    # Without waiting: a pipe that nobody writes to would keep the run for ever.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        # A folder above it may have become a link as well. Linux says where the file lies that was opened.
        with suppress(FileNotFoundError):
            if os.readlink(f"/proc/self/fd/{fd}") != str(path):
                raise OSError(errno.ELOOP, "a folder above it was replaced", str(path))
        return io.FileIO(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def put_bytes(
    store: ObjectStore, key: str, body: bytes, attributes: Mapping[str, str], *, checksums: bool = False
) -> Written:
    """Write a small object in one request; its SHA-256 is part of the signature, and of a header if asked for."""
    with store_errors(store, f"writing {key}"):
        client = store.checked if checksums else store.fast
        result = obstore.put(client, key, body, attributes=dict(attributes), use_multipart=False)
    return Written(etag=_unquoted(result["e_tag"]), size_bytes=len(body))


def put_file(
    store: ObjectStore,
    key: str,
    path: Path,
    *,
    sha256: str,
    size_bytes: int,
    attributes: Mapping[str, str],
    checksums: bool = False,
) -> Written:
    """Write a file that was hashed before, in parallel parts when it is large.

    The bytes sent are hashed again on their way: if they are others, the upload is given up before the object exists.

    Raises:
        SourceChangedError: the file is not what it was when it was hashed.
    """
    if size_bytes <= store.multipart_upload_part_bytes:
        with SENT_AT_ONCE.share(size_bytes, size_bytes):
            with open_regular(path) as file:
                body = file.read(size_bytes + 1)
                while len(body) < size_bytes and (more := file.read(size_bytes + 1 - len(body))):
                    body += more
            if len(body) != size_bytes or hashlib.sha256(body).hexdigest() != sha256:
                raise SourceChangedError(f"{path.name} changed while it was read; nothing of it was stored")
            return put_bytes(store, key, body, attributes, checksums=checksums)

    def unchanged(part_bytes: int) -> Iterator[bytes]:
        digest, sent = hashlib.sha256(), 0
        with open_regular(path) as file:
            while part := _read_fully(file, part_bytes):
                digest.update(part)
                sent += len(part)
                yield part
        if sent != size_bytes or digest.hexdigest() != sha256:
            raise SourceChangedError(f"{path.name} changed while it was read; nothing of it was stored")

    part_bytes = part_size(store, size_bytes)
    with SENT_AT_ONCE.share(part_bytes, MOST_PARTS_AT_ONCE * part_bytes) as share:
        return put_stream(
            store, key, unchanged(part_bytes), part_bytes=part_bytes, attributes=attributes, checksums=checksums,
            parts_at_once=share // part_bytes,
        )  # fmt: skip


def put_stream(
    store: ObjectStore,
    key: str,
    chunks: Iterator[bytes],
    *,
    part_bytes: int,
    attributes: Mapping[str, str],
    checksums: bool = False,
    parts_at_once: int = 0,
) -> Written:
    """Write an object of unknown size in parts; an exception of `chunks` gives the upload up and comes through.

    As many parts are under way as there is memory for, unless `parts_at_once` says how many.
    """
    if not parts_at_once:
        parts_at_once = max(1, min(MOST_PARTS_AT_ONCE, PARTS_IN_MEMORY_BYTES // part_bytes))
    with store_errors(store, f"writing {key}"):
        obstore.put(
            store.checked if checksums else store.fast,
            key,
            chunks,
            attributes=dict(attributes),
            use_multipart=True,
            chunk_size=part_bytes,
            max_concurrency=parts_at_once,
        )
    # Some servers answer a completed multipart upload without an ETag: ask again.
    written = head(store, key)
    return Written(etag=written.etag, size_bytes=written.size_bytes)


def part_size(store: ObjectStore, size_bytes: int) -> int:
    """Bytes a part, so that the object fits into S3's number of parts."""
    needed = -(-size_bytes // MOST_PARTS)
    return max(store.multipart_upload_part_bytes, -(-needed // MIB) * MIB)


def head(store: ObjectStore, key: str) -> Head:
    """Size, ETag, time and metadata of an object.

    Raises:
        NotFoundError: no object under this key.
    """
    with store_errors(store, f"looking at {key}"):
        answer = store.s3.head_object(Bucket=store.bucket, Key=store.path(key))
        return Head(
            size_bytes=answer["ContentLength"],
            etag=_unquoted(answer.get("ETag")),
            last_modified=answer["LastModified"],
            # Names of headers have no case, and servers write them as they like (rclone: Object-Id): S3's are lower.
            metadata={name.lower(): value for name, value in answer["Metadata"].items()},
        )


def fingerprint(store: ObjectStore, key: str) -> tuple[str | None, datetime] | None:
    """ETag and time of an object, as its listing tells them; None where there is none. Fast, without metadata."""
    if key.endswith("/"):
        return _fingerprint_by_boto3(store, key)  # obstore would look at what is called so without the slash
    try:
        with store_errors(store, f"looking at {key}"):
            meta = obstore.head(store.fast, key)
    except NotFoundError:
        return None
    except ValueError:  # a key that is no path to obstore, such as `a//b`
        return _fingerprint_by_boto3(store, key)
    return _unquoted(meta["e_tag"]), meta["last_modified"]


def _fingerprint_by_boto3(store: ObjectStore, key: str) -> tuple[str | None, datetime] | None:
    with suppress(NotFoundError):
        found = head(store, key)
        return found.etag, found.last_modified
    return None


def read_bytes(store: ObjectStore, key: str, *, at_most: int) -> bytes:
    """A small object's content.

    Raises:
        ContentMismatchError: it is larger than `at_most` bytes.
    """
    with store_errors(store, f"reading {key}"):
        response = obstore.get(store.fast, key)
        if response.meta["size"] > at_most:
            raise ContentMismatchError(f"{key} has {response.meta['size']} bytes, at most {at_most} were expected")
        return bytes(response.bytes())


def read_range(store: ObjectStore, key: str, start: int, end: int) -> bytes:
    """An object's bytes as stored, from `start` up to `end`.

    Raises:
        UnfitStoreError: the server gives whole objects only.
    """
    with store_errors(store, f"reading {key}"):
        try:
            return bytes(obstore.get_range(store.fast, key, start=start, end=end))
        except GenericError as error:
            if "non-partial" not in str(error):
                raise
        # rclone says 200 where S3 says 206, which obstore does not take; what it sends is the range, and it tells so.
        answer = store.s3.get_object(Bucket=store.bucket, Key=store.path(key), Range=f"bytes={start}-{end - 1}")
        with answer["Body"] as body:
            if not answer.get("ContentRange", "").startswith(f"bytes {start}-"):
                raise UnfitStoreError(
                    f"the server of bucket {store.bucket} gives whole objects only, where {start} to {end} of {key} "
                    "was asked for: large objects cannot be read from it; use another server"
                )
            return body.read()


def read_stream(store: ObjectStore, key: str) -> Iterator[bytes]:
    """An object's bytes as stored, some MiB at a time.

    In ranges, because the client's timeout is for a whole response, however large it is.
    """
    size = head(store, key).size_bytes
    for start in range(0, size, RANGE_BYTES):
        yield read_range(store, key, start, min(start + RANGE_BYTES, size))


def hash_object(store: ObjectStore, key: str) -> tuple[str, int]:
    """SHA-256 and size of what the store gives back for a key."""
    digest, size = hashlib.sha256(), 0
    for chunk in read_stream(store, key):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def exists(store: ObjectStore, key: str) -> bool:
    """Whether there is an object under a key."""
    try:
        head(store, key)
    except NotFoundError:
        return False
    return True


def _read_fully(file: Any, size: int) -> bytes:
    # An unbuffered read may return less than asked; a part must be whole.
    block = file.read(size)
    if not block or len(block) == size:
        return bytes(block)
    blocks = [block]
    have = len(block)
    while have < size and (more := file.read(size - have)):
        blocks.append(more)
        have += len(more)
    return b"".join(blocks)


def _unquoted(etag: str | None) -> str | None:
    return etag.strip('"') if etag else None
