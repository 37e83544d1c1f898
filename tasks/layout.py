"""Where things lie in the bucket, and what a file among a transcoder's outputs is. Keys hold no name a user gave."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from blocks.catalog.tables import ObjectKind

TEMP = "temp"
EXPORTS = "exports"
PLAYLISTS_MADE = f"{EXPORTS}/hls/"
PROCESSED = "processed"
UPLOADS = "uploads"
OBJECTS = (PROCESSED, UPLOADS)
"""Folders whose every object has a row; the next part of a key is the job's id."""
REPORTS = "reports"
FOLDERS = (*OBJECTS, TEMP, "failed", EXPORTS, REPORTS, "probe")
"""All that the platform keeps in a location."""


def is_ours(key: str) -> bool:
    """Whether a key lies in one of the platform's folders: another location may lie beside them, in the same bucket."""
    return key.partition("/")[0] in FOLDERS


IDENTITY_KEY = "transcode-flow.catalog"
"""Names the catalog that a bucket belongs to (invariant 7)."""

_CONTENT_TYPES = {
    "mp4": "video/mp4", "mov": "video/quicktime", "mkv": "video/x-matroska", "webm": "video/webm",
    "avi": "video/x-msvideo", "ts": "video/mp2t", "m4s": "video/iso.segment", "mp3": "audio/mpeg", "m4a": "audio/mp4",
    "wav": "audio/wav", "m3u8": "application/vnd.apple.mpegurl", "txt": "text/plain; charset=utf-8",
    "srt": "application/x-subrip", "vtt": "text/vtt", "json": "application/json", "jpg": "image/jpeg",
    "jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp",
}  # fmt: skip

_FIXED = {
    "360p/video_360p.mp4": ObjectKind.VIDEO_360P,
    "720p/video_720p.mp4": ObjectKind.VIDEO_720P,
    "audio/audio.mp3": ObjectKind.AUDIO,
    "transcription/transcript.txt": ObjectKind.TRANSCRIPT_TXT,
    "transcription/transcript.srt": ObjectKind.TRANSCRIPT_SRT,
    "transcription/transcript.vtt": ObjectKind.TRANSCRIPT_VTT,
    "transcription/transcript.json": ObjectKind.TRANSCRIPT_JSON,
    "metadata.json": ObjectKind.METADATA,
}
_SEGMENT = re.compile(r"(360p|720p)/segments/[A-Za-z0-9][A-Za-z0-9._-]{0,200}", flags=re.ASCII)
PLAYLIST = "playlist.m3u8"
LARGEST_PLAYLIST_BYTES = 16 * 1024**2
"""A file above this is no playlist."""


@dataclass(frozen=True)
class Named:
    """What an output is: its kind, and its path within the job."""

    kind: ObjectKind
    name: str


def name_output(relative_path: str) -> Named | None:
    """What the platform calls a file of this path in a job's folder; None if it is no output of the platform."""
    if (kind := _FIXED.get(relative_path)) is not None:
        return Named(kind, relative_path)
    if _SEGMENT.fullmatch(relative_path):
        return Named(ObjectKind.HLS_360P if relative_path.startswith("360p") else ObjectKind.HLS_720P, relative_path)
    return None


def original_name(filename: str) -> str:
    """The name of an original within its job; only a plain extension of the user's file name is kept."""
    return f"raw/video_original.{extension(filename)}"


def object_key(job_id: UUID, name: str) -> str:
    """The key of an object that is written for the first time."""
    return f"{PROCESSED}/{job_id}/{name}"


def rewritten_key(job_id: UUID, kind: str, name: str, writing: UUID) -> str:
    """The key of a later writing of the same object: no key is ever written twice."""
    if kind == ObjectKind.UPLOAD:
        # Its name is a user's, and does not belong into a key.
        return upload_key(job_id, writing)
    stem, dot, ending = name.rpartition(".")
    return object_key(job_id, f"{stem}.{writing}.{ending}" if dot and "/" not in ending else f"{name}.{writing}")


def temp_key(upload_id: UUID) -> str:
    """Where bytes wait that nobody has looked at yet."""
    return f"{TEMP}/{upload_id}/blob"


def upload_key(job_id: UUID, upload_id: UUID) -> str:
    """The key of a customer's own file beside a job's outputs."""
    return f"{UPLOADS}/{job_id}/{upload_id}"


PLAYLISTS = {kind.value: f"{kind[4:]}/segments/{PLAYLIST}" for kind in ObjectKind if kind.is_hls}
"""The name of each HLS kind's playlist within its job."""
TEXT_KINDS = ("transcript_txt", "transcript_srt", "transcript_vtt", "transcript_json", "metadata")
"""Kinds that compress well; so do playlists."""


def playlist_key(job_id: UUID, kind: str, made: UUID) -> str:
    """Where a playlist with presigned segments lies until its rule expires it."""
    return f"{PLAYLISTS_MADE}{job_id}/{kind}/{made}.m3u8"


def report_key(day: date, scope: str, name: str) -> str:
    """Where a file of a day's report lies, of all customers or of one, until reports_days expires it."""
    return f"{REPORTS}/{day}/{scope}/{name}"


def job_of(key: str) -> UUID | None:
    """The job that a key names."""
    parts = key.split("/")
    try:
        return UUID(parts[1]) if len(parts) > 1 else None
    except ValueError:
        return None


def extension(filename: str) -> str:
    """The file name's ending if it is a plain one, else `bin`."""
    ending = filename.rpartition(".")[2].lower() if "." in filename else ""
    return ending if re.fullmatch(r"[a-z0-9]{1,8}", ending, flags=re.ASCII) else "bin"


def content_type(name: str) -> str:
    """The media type of a file by its ending."""
    return _CONTENT_TYPES.get(extension(name), "application/octet-stream")


def friendly_name(job_filename: str, kind: str, name: str) -> str:
    """What a browser saves an object as: the user's own file name for the original, a telling one for the rest."""
    if kind == ObjectKind.ORIGINAL:
        return job_filename
    if kind == ObjectKind.UPLOAD:
        return name.rpartition("/")[2]
    stem = job_filename.rpartition(".")[0] or job_filename
    if kind in (ObjectKind.HLS_360P, ObjectKind.HLS_720P):
        return f"{stem}_{kind[4:]}_{name.rpartition('/')[2]}"
    label = {"video_360p": "360p", "video_720p": "720p"}.get(kind, kind.removesuffix(f"_{extension(name)}"))
    return f"{stem}_{label}.{extension(name)}"
