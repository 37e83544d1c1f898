"""What is asked of every server, and how it says no."""

from __future__ import annotations

from collections.abc import Callable

from blocks.errors import StorageError


def refusal(work: Callable[[], object]) -> str:
    """What an error of the project says, such as a server's limit brings; empty where it worked."""
    try:
        work()
    except StorageError as error:
        return str(error)
    return ""


LEGAL = (
    "ünï/ç 🎬.mp4",
    "日本語/影片.mp4",
    "a b/ c",
    "a+b",
    "a%20b",
    "a%b%",
    "a&b&amp;c",
    "a=b==",
    "a<b>c",
    "a'b\"c`d",
    "(x)!*~$@:;,[]{}|^",
    "a#b?c=d&e",
    "...a/..b/c..",
    ".hidden/-x",
    "dots.everywhere.and.no.end",
    "UPPER/lower",
    # Up to 900 bytes, in segments of 255 at most: longer ones are not to be had on servers that keep files.
    "/".join(["s" * 255] * 3 + ["e" * 132]),
    "é" * 127,
)
"""Keys that S3 takes and people use, though no server's folder would like them all."""
