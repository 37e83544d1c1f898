"""Handing out files: ownership and status are checked in SQL, then a URL is signed. Milliseconds, without Prefect."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from blocks.catalog import CatalogDatabase
from blocks.catalog.access import Handed, HandedFile, hand_out, hand_out_hls
from blocks.errors import ContentMismatchError, InvalidInputError, RefusedError
from blocks.object_store.presigning import presign_get, presign_many
from blocks.object_store.transfer import put_bytes, read_bytes
from blocks.policies import AccessPolicy, RelocationPolicy
from blocks.units import shown
from tasks.checks import check_job_id, check_kind, check_lifetime
from tasks.content import decode_whole
from tasks.layout import (
    LARGEST_PLAYLIST_BYTES,
    PLAYLIST,
    PLAYLISTS,
    content_type,
    friendly_name,
    playlist_key,
)
from tasks.playlists import presigned_playlist
from tasks.relocation.rehydrate import bring_back
from tasks.stores import Locations, require_current


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
    locations: Locations,
    policy: AccessPolicy,
    *,
    api_key: str,
    job_id: str | UUID,
    kind: str,
    expires_in: int | None = None,
    accept_encoding: str = "",
    name: str | None = None,
    relocation: RelocationPolicy | None = None,
) -> DownloadUrl:
    """A URL for one file of a job, or for an HLS kind's playlist with presigned segments.

    A service makes its `tasks.stores.Locations` once and keeps it.
    `expires_in` is in seconds, an hour unless asked; `name` picks one of several files of a kind, such as uploads.
    `accept_encoding="zstd"` says that the caller decodes zstd; `sha256` is of the content, decoded. What its place or
    encoding cannot serve is rehydrated first, which takes as long as copying it does.

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
    if wanted.is_hls and name is not None:
        raise InvalidInputError(f"name={shown(name)} picks one of several files; {kind} is handed out by its playlist")
    for attempt in range(TRIES):
        # Committed before a URL exists: whoever moves the object later knows how long this URL lasts.
        if wanted.is_hls:
            playlist, segments = catalog.transaction(
                lambda connection: hand_out_hls(
                    connection, api_key=api_key, job_id=job, kind=wanted, playlist=PLAYLISTS[wanted], lasts=lasts
                )
            )
            away = [one.id for one in segments if not _serves(locations, one, "")]
            if not away:
                return _playlist_url(locations, job, playlist, segments, lasts)
        else:
            chosen = catalog.transaction(
                lambda connection: hand_out(
                    connection, api_key=api_key, job_id=job, kind=wanted, lasts=lasts, name=name
                )
            )
            if _serves(locations, chosen, accept_encoding):
                return _file_url(locations, chosen, lasts)
            away = [chosen.object_id]
        if attempt + 1 < TRIES:
            bring_back(catalog, locations, relocation or RelocationPolicy(), away, run="download-url")
    raise RefusedError(f"{kind} of job {job} was moved away again while it was brought back; ask again")


TRIES = 3
"""A nightly run may move again what was just brought back, though only once: it is not idle any more."""


def _serves(locations: Locations, one: Handed | HandedFile, accept_encoding: str) -> bool:
    """Whether a URL for this object gives the caller its content."""
    location = locations.of(one.location_id)
    if not location.place.serves_urls or location.place.needs_restore:
        return False
    # A presigned GET negotiates nothing: whoever did not say that it decodes zstd would get bytes it cannot read.
    return one.codec == "identity" or (
        one.codec in _accepted(accept_encoding) and location.capabilities.has("presigned_encoding")
    )


def _accepted(accept_encoding: str) -> set[str]:
    """The encodings of an Accept-Encoding header (RFC 9110); one with a weight of 0 is refused by it."""
    asked = [part.partition(";") for part in accept_encoding.lower().replace(" ", "").split(",")]
    return {name for name, _, weight in asked if not re.fullmatch(r"q=0(\.0*)?", weight)}


def _file_url(locations: Locations, chosen: Handed, lasts: timedelta) -> DownloadUrl:
    filename = friendly_name(chosen.filename, chosen.kind, chosen.name)
    encoding = None if chosen.codec == "identity" else chosen.codec
    store = locations.of(chosen.location_id).store
    url = presign_get(store, chosen.key, lasts, filename=filename, encoding=encoding)
    return DownloadUrl(url, filename, chosen.expires_at, chosen.size_bytes, chosen.sha256)


def _playlist_url(
    locations: Locations, job_id: UUID, playlist: Handed, segments: Sequence[HandedFile], lasts: timedelta
) -> DownloadUrl:
    # A playlist of bare names is useless to a player: its segments would answer 403.
    store = locations.of(playlist.location_id).store
    stored = read_bytes(store, playlist.key, at_most=LARGEST_PLAYLIST_BYTES)
    try:
        body = decode_whole(stored, playlist.codec, at_most=LARGEST_PLAYLIST_BYTES)
        if hashlib.sha256(body).hexdigest() != playlist.sha256:
            raise ContentMismatchError("its bytes are not its content")
    except ContentMismatchError as error:
        raise ContentMismatchError(f"the playlist of job {job_id}: {error}; run verify-objects") from error
    signed = presigned_playlist(body.decode(errors="replace"), _presign_segments(locations, segments, lasts))
    require_current(locations.catalog, locations.home)
    key, home = playlist_key(job_id, playlist.kind, uuid4()), locations.home.store
    put_bytes(home, key, signed.encode(), {"Content-Type": content_type(PLAYLIST)})
    filename = friendly_name(playlist.filename, playlist.kind, playlist.name)
    return DownloadUrl(
        presign_get(home, key, lasts, filename=filename),
        filename,
        playlist.expires_at,
        playlist.size_bytes + sum(one.size_bytes for one in segments),
        playlist.sha256,
        files=1 + len(segments),
    )


def _presign_segments(locations: Locations, segments: Sequence[HandedFile], lasts: timedelta) -> dict[str, str]:
    """A URL for each segment, by the name its playlist uses; while a kind is moved they lie in two places."""
    urls: dict[str, str] = {}
    for place in {one.location_id for one in segments}:
        own = [one for one in segments if one.location_id == place]
        signed = presign_many(locations.of(place).store, [one.key for one in own], lasts)
        urls |= {one.name.rpartition("/")[2]: url for one, url in zip(own, signed, strict=True)}
    return urls
