"""Reading many objects in order: small ones ahead, large ones in ranges, decoded, and followed where they are moved."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

from blocks.catalog import CatalogDatabase
from blocks.catalog.downloads import Found, find_again
from blocks.catalog.locations import restore_first
from blocks.errors import ContentMismatchError, NotFoundError, RefusedError, StorageError
from blocks.object_store import ObjectStore
from blocks.object_store.transfer import read_bytes, read_stream
from tasks.content import decoded
from tasks.parallel import ahead
from tasks.stores import Locations
from tasks.zipping import Member

SMALL_BYTES = 4 * 1024**2
"""Objects up to here are read ahead, whole; larger ones in ranges when it is their turn."""
AHEAD_BYTES = 64 * 1024**2
AHEAD_FILES = 256
READERS = 16


@dataclass(frozen=True, slots=True)
class File:
    """An object, and the name it has in the archive or folder."""

    found: Found
    name: str


def why_unreadable(found: Found, name: str) -> StorageError | None:
    """Why an object cannot be read; None where it can."""
    if found.needs_restore:
        return restore_first(name, found.location)
    if found.state != "live":
        return RefusedError(f"{name} is {found.state}; run explain-object to see what happened to it")
    return None


class Reading:
    """Reads files in order, small ones ahead in some threads, and follows an object that is moved meanwhile.

    The store is asked in those threads only: who writes an archive runs inside the client's own loop, which cannot
    wait for itself.
    """

    def __init__(
        self,
        catalog: CatalogDatabase,
        locations: Locations,
        skipped: list[tuple[str, StorageError]],
        progress: Callable[[int], None],
    ) -> None:
        self.catalog = catalog
        self.locations = locations
        self._skipped = skipped
        self._progress = progress

    def members(self, files: Sequence[File]) -> Generator[tuple[File, Member], None, None]:
        """Each file whose bytes are there, to be read before the next is asked for; the others are skipped."""
        pool = ThreadPoolExecutor(max_workers=READERS, thread_name_prefix="download")
        try:
            for file, early in self._ahead(files, pool):
                try:
                    chunks = _begun(self._content(file, early))
                except NotFoundError as error:
                    self._skipped.append((file.name, error))
                    continue
                found = file.found
                yield file, Member(file.name, found.size_bytes, chunks, found.sha256, found.created_at)
        finally:
            pool.shutdown(cancel_futures=True)

    def _ahead(self, files: Sequence[File], pool: ThreadPoolExecutor) -> Iterator[tuple[File, Future[bytes] | None]]:
        under_way: deque[tuple[File, Future[bytes] | None]] = deque()
        begun = held_bytes = 0
        for _ in files:
            while begun < len(files) and len(under_way) < AHEAD_FILES:
                coming = files[begun]
                is_small = coming.found.stored_bytes <= SMALL_BYTES
                if is_small and held_bytes + coming.found.stored_bytes > AHEAD_BYTES:
                    break
                held_bytes += coming.found.stored_bytes if is_small else 0
                under_way.append((coming, pool.submit(self._read_small, coming.found) if is_small else None))
                begun += 1
            file, early = under_way.popleft()
            yield file, early
            held_bytes -= file.found.stored_bytes if early else 0

    def _read_small(self, found: Found) -> bytes:
        return read_bytes(self._store(found), found.key, at_most=found.stored_bytes)

    def _store(self, found: Found) -> ObjectStore:
        return self.locations.named(found.location).store

    def _content(self, file: File, early: Future[bytes] | None) -> Iterator[bytes]:
        """The decoded bytes; where the object was moved, the rest of them from its new place."""
        given = 0
        try:
            for chunk in self._decoded(file.found, self._stored(file.found, early)):
                given += len(chunk)
                self._progress(len(chunk))
                yield chunk
        except NotFoundError as gone:
            moved = self._moved(file, gone)
        else:
            return
        for chunk in self._decoded(moved, self._stored(moved, None)):
            rest = chunk[given:]
            given -= len(chunk) - len(rest)
            self._progress(len(rest))
            yield rest

    @staticmethod
    def _decoded(found: Found, stored: Iterator[bytes]) -> Iterator[bytes]:
        try:
            yield from decoded(stored, found.codec, at_most=found.size_bytes)
        except ContentMismatchError as error:
            raise ContentMismatchError(f"{found.name}: {error}; run verify-objects") from error

    def _stored(self, found: Found, early: Future[bytes] | None) -> Iterator[bytes]:
        if early is not None:
            yield early.result()
            return

        def asked() -> Iterator[bytes]:
            # In the thread that reads: a location that is opened for it asks its bucket, which the loop that an archive
            # is uploaded from cannot wait for.
            yield from read_stream(self._store(found), found.key)

        yield from ahead(asked())

    def _moved(self, file: File, gone: NotFoundError) -> Found:
        now = self.catalog.transaction(lambda connection: find_again(connection, file.found.id))
        if now is None or now.key == file.found.key:
            raise NotFoundError(
                f"{file.name} is not in the store, though the catalog says so; run reconcile-quota, which heals what "
                f"it can ({gone})"
            ) from gone
        if (error := why_unreadable(now, file.name)) is not None:
            raise NotFoundError(f"it was moved meanwhile: {error}") from gone
        return now


def _begun(content: Iterator[bytes]) -> Callable[[], Iterator[bytes]]:
    """The same content, its first bytes read: a file that is not there is known before an archive begins it.

    Raises:
        NotFoundError: it is not there. Other errors come when it is read, which is where they are dealt with.
    """
    try:
        first = next(content, b"")
    except NotFoundError:
        raise
    except StorageError as error:
        held = error

        def fail() -> Iterator[bytes]:
            raise held

        return fail
    return lambda: chain([first], content)
