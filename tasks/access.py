"""Handing out files: ownership and status are checked in SQL, then a URL is signed. Milliseconds, without Prefect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from zstandard import ZstdDecompressor, ZstdError

from blocks.catalog import CatalogDatabase
from blocks.catalog.access import Handed, HandedFile, hand_out, hand_out_hls
from blocks.errors import ContentMismatchError, RefusedError
from blocks.object_store import ObjectStore
from blocks.object_store.presigning import presign_get, presign_many
from blocks.object_store.transfer import put_bytes, read_bytes
from blocks.policies import AccessPolicy
from tasks.checks import check_job_id, check_kind, check_lifetime
from tasks.layout import PLAYLIST, content_type, friendly_name, playlist_key, playlist_name
from tasks.playlists import presigned_playlist
from tasks.stores import OpenLocation

LARGEST_PLAYLIST_BYTES = 16 * 1024**2


@dataclass(frozen=True)
class DownloadUrl:
    """A presigned URL; whoever has it can read the file until it ends, so it is not in `repr`, logs or results."""

    url: str = field(repr=False)
    filename: str
    expires_at: datetime
    size_bytes: int
    sha256: str
    files: int = 1


def issue_download_url(
    catalog: CatalogDatabase,
    location: OpenLocation,
    policy: AccessPolicy,
    *,
    api_key: str,
    job_id: str | UUID,
    kind: str,
    expires_in: int | None = None,
    accept_encoding: str = "",
    name: str | None = None,
) -> DownloadUrl:
    """A URL for one file of a job, or for an HLS kind's playlist with presigned segments.

    A service opens the location once (`tasks.stores.open_location`) and keeps it.
    `expires_in` is in seconds, an hour unless asked; `name` picks one of several files of a kind, such as uploads.
    `accept_encoding="zstd"` says that the caller decodes zstd; `sha256` is of the content, decoded.

    Raises:
        InvalidInputError: a kind, id or lifetime that is none.
        NotFoundError: no such key, no such job of that key, no such file of that job.
        RefusedError: the key is disabled, or the job or the file cannot be handed out now; the message says why.
    """
    wanted = check_kind(kind)
    job = check_job_id(job_id)
    lasts = check_lifetime(
        expires_in,
        default=timedelta(minutes=policy.download_minutes),
        shortest=timedelta(seconds=policy.shortest_download_seconds),
        longest=timedelta(hours=policy.longest_download_hours),
    )
    # Committed before a URL exists: whoever moves the object later knows how long this URL lasts.
    if wanted.is_hls:
        playlist, segments = catalog.transaction(
            lambda connection: hand_out_hls(
                connection, api_key=api_key, job_id=job, kind=wanted, playlist=playlist_name(wanted), lasts=lasts
            )
        )
        _check_place(playlist, location)
        return _playlist_url(location.store, job, playlist, segments, lasts)
    handed = catalog.transaction(
        lambda connection: hand_out(connection, api_key=api_key, job_id=job, kind=wanted, lasts=lasts, name=name)
    )
    chosen = handed[-1]
    _check_place(chosen, location)
    encoding = _encoding(chosen, accept_encoding)
    filename = friendly_name(chosen.filename, chosen.kind, chosen.name)
    url = presign_get(location.store, chosen.key, lasts, filename=filename, encoding=encoding)
    return DownloadUrl(url, filename, chosen.expires_at, chosen.size_bytes, chosen.sha256)


def _check_place(handed: Handed, location: OpenLocation) -> None:
    if handed.location != location.place.name:
        raise RefusedError(
            f"{handed.name} lies in store {handed.location}, not in {location.place.name}; name that store"
        )


def presign_segments(store: ObjectStore, segments: Sequence[HandedFile], lasts: timedelta) -> dict[str, str]:
    """A URL for each segment, by the name its playlist uses."""
    urls = presign_many(store, [one.key for one in segments], lasts)
    return {one.name.rpartition("/")[2]: url for one, url in zip(segments, urls, strict=True)}


def _playlist_url(
    store: ObjectStore, job_id: UUID, playlist: Handed, segments: Sequence[HandedFile], lasts: timedelta
) -> DownloadUrl:
    # A playlist of bare names is useless to a player: its segments would answer 403.
    body = _decoded(read_bytes(store, playlist.key, at_most=LARGEST_PLAYLIST_BYTES), playlist.codec)
    text = body.decode(errors="replace")
    signed = presigned_playlist(text, presign_segments(store, segments, lasts))
    key = playlist_key(job_id, playlist.kind, uuid4())
    put_bytes(store, key, signed.encode(), {"Content-Type": content_type(PLAYLIST)})
    filename = friendly_name(playlist.filename, playlist.kind, playlist.name)
    return DownloadUrl(
        presign_get(store, key, lasts, filename=filename),
        filename,
        playlist.expires_at,
        playlist.size_bytes + sum(one.size_bytes for one in segments),
        playlist.sha256,
        files=1 + len(segments),
    )


def _decoded(body: bytes, codec: str) -> bytes:
    if codec == "identity":
        return body
    try:
        with ZstdDecompressor().stream_reader(body) as reader:
            # Bounded, whatever the frame says of itself.
            return reader.read(LARGEST_PLAYLIST_BYTES)
    except ZstdError as error:
        raise ContentMismatchError(
            f"a playlist is stored as {codec} and cannot be decoded; run verify-objects"
        ) from error


def _encoding(handed: Handed, accept_encoding: str) -> str | None:
    if handed.codec == "identity":
        return None
    # A presigned GET negotiates nothing: whoever did not say that it decodes zstd would get bytes it cannot read.
    if handed.codec in {part.split(";")[0].strip() for part in accept_encoding.lower().split(",")}:
        return handed.codec
    raise RefusedError(
        f"{handed.name} is stored compressed ({handed.codec}); ask with accept_encoding={handed.codec}, "
        "or run rehydrate-job first"
    )
