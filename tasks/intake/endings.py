"""Names of files that are videos. Nothing is imported here: the demo looks at a folder before it knows its servers."""

from __future__ import annotations

VIDEO_ENDINGS = frozenset({"mp4", "mov", "mkv", "webm", "avi", "m4v", "mpg", "mpeg", "ts", "mts", "wmv", "flv", "3gp"})
