"""HLS playlists: which segments one names, and the same playlist with presigned URLs in their place (RFC 8216)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote

from blocks.errors import ContentMismatchError

# Tags that name a file in an attribute; other tags may hold text that only looks like it.
_NAMING_TAG = re.compile(r"#EXT-X-(MAP|KEY|SESSION-KEY|PART|PRELOAD-HINT|MEDIA|I-FRAME-STREAM-INF|RENDITION-REPORT):")
_URI = re.compile(r'(?<=[:,])URI="([^"]*)"')


def segment_names(playlist: str) -> list[str]:
    """The files a playlist names, in order."""
    names: list[str] = []
    for line in _lines(playlist):
        if _NAMING_TAG.match(line):
            names += [unquote(name) for name in _URI.findall(line)]
        elif line and not line.startswith("#"):
            names.append(unquote(line))
    return names


def presigned_playlist(playlist: str, urls: Mapping[str, str]) -> str:
    """The playlist with each file replaced by its URL.

    Raises:
        ContentMismatchError: it names a file that has no URL: playing it would break there.
    """

    def url(name: str) -> str:
        try:
            return urls[unquote(name)]
        except KeyError:
            raise ContentMismatchError(f"the playlist names {name!r}, which is not among the job's segments") from None

    lines = []
    for line in _lines(playlist):
        if _NAMING_TAG.match(line):
            line = _URI.sub(lambda found: f'URI="{url(found.group(1))}"', line)  # noqa: PLW2901 -- as below
        elif line and not line.startswith("#"):
            line = url(line)  # noqa: PLW2901 -- a line becomes another line
        lines.append(line)
    return "\n".join(lines) + "\n"


def _lines(playlist: str) -> list[str]:
    # Lines end in LF or CRLF; Python's splitlines knows many more ends.
    return [line.strip() for line in playlist.removesuffix("\n").split("\n")]
