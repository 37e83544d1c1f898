"""What an object's content is, whatever it is stored as: decoding, and encoding that is proved while it is done."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from zstandard import ZstdCompressionParameters, ZstdCompressor, ZstdDecompressor, ZstdError

from blocks.errors import ContentMismatchError
from blocks.object_store import ObjectStore
from blocks.object_store.transfer import read_stream

BLOCK_BYTES = 1024**2
LARGEST_WINDOW_LOG = 23
LARGEST_WINDOW_BYTES = 2**LARGEST_WINDOW_LOG
"""What the platform writes; a frame that asks for more is not one of ours (RFC 8878, 3.1.1.1.2)."""


class _Readable:
    """An iterator of bytes as the reader of a decoder wants it."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._rest = chunk
        taken, self._rest = (self._rest, b"") if size < 0 else (self._rest[:size], self._rest[size:])
        return taken


def decoded(chunks: Iterator[bytes], codec: str, *, at_most: int) -> Iterator[bytes]:
    """The content of what is stored, some MiB at a time; never more than `at_most` bytes, whatever a frame claims.

    A frame that ends too early raises nothing: whoever needs all of it holds it against its hash.

    Raises:
        ContentMismatchError: it cannot be decoded, or is larger.
    """
    seen = 0
    if codec == "identity":
        for block in chunks:
            seen += len(block)
            if seen > at_most:
                raise ContentMismatchError(f"it has more than {at_most} bytes")
            yield block
        return
    source: Any = _Readable(chunks)
    try:
        with ZstdDecompressor(max_window_size=LARGEST_WINDOW_BYTES).stream_reader(source) as reader:
            while block := reader.read(BLOCK_BYTES):
                seen += len(block)
                if seen > at_most:
                    raise ContentMismatchError(f"it decodes to more than {at_most} bytes")
                yield block
    except ZstdError as error:
        raise ContentMismatchError(f"it is stored as {codec} and cannot be decoded ({error})") from error


def decode_whole(stored: bytes, codec: str, *, at_most: int) -> bytes:
    """The content of a small object.

    Raises:
        ContentMismatchError: as `decoded`.
    """
    return stored if codec == "identity" else b"".join(decoded(iter([stored]), codec, at_most=at_most))


def encode_whole(content: bytes, *, level: int) -> bytes:
    """One zstd frame of a small object's content, decoded again to see that it is that.

    Raises:
        ContentMismatchError: it is not; nothing that cannot be read back is ever stored.
    """
    frame = _compressor(level, len(content)).compress(content)
    if decode_whole(frame, "zstd", at_most=len(content)) != content:
        raise ContentMismatchError("its compressed form decodes to something else; it was left as it is")
    return frame


def encoded(chunks: Iterator[bytes], *, level: int, size_bytes: int) -> Iterator[bytes]:
    """One zstd frame of a large object's content, some MiB at a time; decoded on the way, and judged at the end.

    Raises:
        ContentMismatchError: as `encode_whole`; whoever writes the frame must give it up then.
    """
    compressor: Any = _compressor(level, size_bytes).compressobj(size=size_bytes)
    decoder: Any = ZstdDecompressor(max_window_size=LARGEST_WINDOW_BYTES).decompressobj()
    before, after = hashlib.sha256(), hashlib.sha256()

    def proved(frame: bytes) -> bytes:
        after.update(decoder.decompress(frame))
        return frame

    try:
        for chunk in chunks:
            before.update(chunk)
            if frame := compressor.compress(chunk):
                yield proved(frame)
        yield proved(compressor.flush())
    except ZstdError as error:
        raise ContentMismatchError(f"it cannot be compressed ({error})") from error
    if before.digest() != after.digest():
        raise ContentMismatchError("its compressed form decodes to something else; it was left as it is")


def _compressor(level: int, size_bytes: int) -> ZstdCompressor:
    # Levels choose larger windows for larger inputs than browsers and `decoded` take.
    window = ZstdCompressionParameters.from_level(level, source_size=size_bytes).window_log
    parameters = ZstdCompressionParameters.from_level(
        level, source_size=size_bytes, window_log=min(window, LARGEST_WINDOW_LOG), write_content_size=True,
        write_checksum=True,
    )  # fmt: skip
    return ZstdCompressor(compression_params=parameters)


def hash_content(store: ObjectStore, key: str, codec: str, *, at_most: int) -> tuple[str, int]:
    """SHA-256 and size of an object's content; what cannot be decoded has the hash of nothing, and no size.

    Raises:
        NotFoundError: no object under this key.
    """
    digest, size = hashlib.sha256(), 0
    try:
        for block in decoded(read_stream(store, key), codec, at_most=at_most):
            digest.update(block)
            size += len(block)
    except ContentMismatchError:
        return "", -1
    return digest.hexdigest(), size
