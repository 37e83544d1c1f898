"""HLS playlists: which segments one names, and the same playlist with presigned URLs in their place (RFC 8216)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote

from blocks.errors import ContentMismatchError

# EXT-X-MAP and EXT-X-KEY name files in an attribute.
_URI = re.compile(r'URI="([^"]*)"')


def segment_names(playlist: str) -> list[str]:
    """The files a playlist names, in order."""
    names: list[str] = []
    for raw in playlist.splitlines():
        line = raw.strip()
        if line.startswith("#"):
            names += [unquote(name) for name in _URI.findall(line)]
        elif line:
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
    for raw in playlist.splitlines():
        line = raw.strip()
        if line.startswith("#"):
            line = _URI.sub(lambda found: f'URI="{url(found.group(1))}"', line)
        elif line:
            line = url(line)
        lines.append(line)
    return "\n".join(lines) + "\n"
