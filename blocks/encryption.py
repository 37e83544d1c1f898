"""Encryption of what leaves the platform, in the age format: any `age` program opens it with the key, without us.

A backup is encrypted to a public key (`age1…`); only who has the secret one (`AGE-SECRET-KEY-1…`) can read it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, SecretStr, model_validator

from blocks.errors import DamagedBackupError, RefusedError

CHUNK_BYTES = 1024**2
CHUNKS_AHEAD = 16


class BackupKey(Block):
    """The key that backups are encrypted to, and, where this machine may read them, the one that opens them.

    Example:
        Load the block:
        ```python
        from blocks.encryption import BackupKey

        key = BackupKey.load("BLOCK_NAME")
        ```
    """

    # A key that is refused must not be told in the refusal.
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)
    _block_type_name = "Backup Key"
    _block_type_slug = "backup-key"
    _logo_url = "https://cdn.sanity.io/images/3ugk85nk/production/fb3f4debabcda1c5a3aeea4f5b3f94c28845e23e-250x250.png"  # type: ignore[assignment]  # as below
    _documentation_url = "https://age-encryption.org"  # type: ignore[assignment]  # pydantic turns it into a URL
    _description = "The age key that backups are encrypted to, and the secret one that opens them."

    recipient: str = Field(
        default="",
        description="Public key, age1…; taken from the secret one where it is empty.",
        json_schema_extra={"position": 0},
    )
    identity: SecretStr | None = Field(
        default=None,
        description="Secret key, AGE-SECRET-KEY-1…; drills and restores need it, backups do not.",
        json_schema_extra={"position": 1},
    )

    @model_validator(mode="after")
    def _is_a_key(self) -> BackupKey:
        import pyrage

        if self.identity is not None and self.identity.get_secret_value():
            try:
                public = str(pyrage.x25519.Identity.from_str(self.identity.get_secret_value().strip()).to_public())
            except pyrage.IdentityError as error:
                raise ValueError("identity is no age key: it begins with AGE-SECRET-KEY-1") from error
            if self.recipient and self.recipient.strip() != public:
                raise ValueError(f"identity and recipient are not one key: the secret one belongs to {public}")
            self.recipient = public
        else:
            self.identity = None
            self.recipient = self.recipient.strip()
            try:
                pyrage.x25519.Recipient.from_str(self.recipient)
            except pyrage.RecipientError as error:
                raise ValueError("recipient is no age key: it begins with age1") from error
        return self

    @property
    def opens(self) -> bool:
        """Whether the secret key is here."""
        return self.identity is not None

    def encrypted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The chunks as an age file, some 64 KiB at a time; an exception of `chunks` comes through."""
        import pyrage

        recipients = [pyrage.x25519.Recipient.from_str(self.recipient)]
        yield from _through(chunks, lambda reader, writer: pyrage.encrypt_io(reader, writer, recipients))

    def decrypted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """What an age file holds; every byte is authenticated before it is handed out.

        Raises:
            RefusedError: the secret key is not here.
            DamagedBackupError: it was not encrypted to this key, or was changed, or cut.
        """
        import pyrage

        if self.identity is None:
            raise RefusedError(
                f"what is encrypted to {self.recipient} needs its secret key: put it into the Backup Key block, or "
                "name a file that holds it"
            )
        identities = [pyrage.x25519.Identity.from_str(self.identity.get_secret_value().strip())]
        try:
            yield from _through(chunks, lambda reader, writer: pyrage.decrypt_io(reader, writer, identities))
        except (pyrage.DecryptError, OSError) as error:
            raise DamagedBackupError(
                f"it cannot be decrypted ({error}): it was encrypted to another key than {self.recipient}, changed, or "
                "cut short"
            ) from error


def new_key() -> BackupKey:
    """A fresh key, with its secret."""
    import pyrage

    return BackupKey(identity=SecretStr(str(pyrage.x25519.Identity.generate())))


class _Reader:
    """An iterator of bytes as a file that a library reads."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, memoryview(b"")
        self.error: BaseException | None = None

    def read(self, size: int = -1) -> bytes:
        while not self._rest:
            try:
                self._rest = memoryview(next(self._chunks))
            except StopIteration:
                return b""
            except BaseException as error:  # carried past the library, which would make another one of it
                self.error = error
                raise
        taken, self._rest = (self._rest, memoryview(b"")) if size < 0 else (self._rest[:size], self._rest[size:])
        return bytes(taken)


class _Stopped(Exception):
    """Nobody takes what is written any more."""


class _Writer:
    """A file that a library writes, whose content comes out in chunks; it waits where nobody takes them."""

    def __init__(self) -> None:
        self.ready: queue.Queue[bytes | None] = queue.Queue(CHUNKS_AHEAD)
        self.stopped = threading.Event()
        self._held: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> int:
        self._held.append(bytes(data))
        self._size += len(data)
        if self._size >= CHUNK_BYTES:
            self.flush_held()
        return len(data)

    def flush(self) -> None:
        """Nothing: chunks are made by size."""

    def flush_held(self) -> None:
        if self._held:
            self._put(b"".join(self._held))
            self._held, self._size = [], 0

    def end(self) -> None:
        self._put(None)

    def _put(self, chunk: bytes | None) -> None:
        while not self.stopped.is_set():
            try:
                return self.ready.put(chunk, timeout=0.2)
            except queue.Full:
                continue
        raise _Stopped


def _through(chunks: Iterator[bytes], work: Callable[[_Reader, _Writer], None]) -> Iterator[bytes]:
    """Run a library that reads one file and writes another as a step of a stream, in a thread of its own."""
    reader, writer, errors = _Reader(chunks), _Writer(), list[BaseException]()

    def run() -> None:
        try:
            work(reader, writer)
            writer.flush_held()
        except BaseException as error:
            errors.append(reader.error or error)
        finally:
            with suppress(_Stopped):
                writer.end()

    thread = threading.Thread(target=run, name="age", daemon=True)
    thread.start()
    try:
        while (chunk := writer.ready.get()) is not None:
            yield chunk
    finally:
        writer.stopped.set()
        thread.join()
    if errors:
        raise errors[0]
