"""Hostile values by what a parameter means, and the rule that a refusal of them has to tell."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

LONG = "x" * 1000
SQL = "'; DROP TABLE jobs; --"
TEXT = ("../x", "a\n\0b", "\ud800", LONG, SQL)
"""What no name, id, number or word is; asking a flow costs a tenth of a second."""
MORE_TEXT = (
    *TEXT, " ", ".", "..", "/", "/etc/passwd", "a/b", "a\\b", "%2e%2e%2fx", "%00", "\0", "\r\n", "\x1b[31m", "\x7f",
    "\u202e4pm", "\u2028", "é", "🎬", "🎬" * 300, "٣", "-1", "' OR '1'='1", '"; DELETE FROM api_keys; --', "$$",
    ":name", "%s", "%(a)s", "{0}", "$(id)", "None", "../" * 300, "besieged?x=1", "besieged#", "besieged/x",
)  # fmt: skip
"""More of it, where asking costs little."""
UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"
BEYOND = 5 * 1024**4 + 1
"""One byte more than 5 TiB."""
NUMBERS = (-1, -(2**63) - 1, 2**63, 10**400)


@dataclass(frozen=True)
class Kind:
    """What a parameter means: values that are always refused, by a message with `rule` in it (a regular expression).

    `odd` values may be taken; they must not be anything but a result or a refusal.
    """

    refused: tuple[Any, ...]
    rule: str
    odd: tuple[Any, ...] = ()


def listed(kind: Kind) -> Kind:
    """The same, where a parameter takes a list."""
    return Kind(tuple([one] for one in kind.refused), kind.rule, tuple([one] for one in kind.odd))


API_KEY = Kind((*TEXT, "9" * 30), "no API key ")
JOB_ID = Kind((*TEXT, "1" * 32, UNKNOWN_ID), "is no job id: write it like|no job 0000")
JOB_IDS = listed(JOB_ID)
# A filter: a job that does not exist matches nothing.
JOB_FILTER = listed(Kind(JOB_ID.refused[:-1], JOB_ID.rule, odd=(UNKNOWN_ID,)))
UPLOAD_ID = Kind((*TEXT, UNKNOWN_ID), "is no upload id: write it like|no upload 0000")
REFERENCE = Kind((*TEXT, UNKNOWN_ID), "is no object id, key or job id|neither the catalog nor its log knows")
BLOCK = Kind(("../besieged",), "no block [a-z-]+/.*; there are: ")
BLOCK_LATER = Kind((), "", odd=BLOCK.refused)
"""Names of blocks that a call of the table has no need of."""
LOCATION = Kind(("a\0b", SQL), "no location .*; there are: ")
LOCATIONS = listed(LOCATION)
NEW_LOCATION = Kind(TEXT, "is no name of a location")
KINDS = listed(Kind(TEXT, "is no kind of object; there are: "))
FILENAME = Kind(
    ("", ".", "../x.mp4", "/etc/passwd", "a\\b", "\0", "a\nb", "\ud800", "\u202e4pm", LONG, "é" * 128),
    "is no file name|is a path|holds control characters|is longer than 255 bytes", odd=(SQL, "🎬", "-rf", "CON", "%00"),
)  # fmt: skip
SIZE = Kind((0, -1, -BEYOND, BEYOND, 10**400), "has at least 1 byte|more than the largest allowed", odd=(1, 10**9))
SECONDS = Kind((0, *NUMBERS), "is outside the limits: ")
DAYS = Kind(NUMBERS, "is outside the limits: 0 to 36500", odd=(0,))
HOURS = Kind((0, *NUMBERS), "is outside the limits: 1 to 8760")
SHARE = Kind((0.0, -1.0, 101.0, 1e308, float("inf"), float("nan")), "outside the limits: more than 0", odd=(1e-300,))
PRICE = Kind((-1.0, 1e308, float("inf"), float("nan")), "is no price: 0 to 1000000")
QUOTA = Kind(("", *TEXT, "-1", "1e9", "9" * 20, "nan"), "is no quota; write for example")
SIZE_TEXT = Kind((*TEXT, "-1", "9" * 19 + "TB"), "is not a size; write for example|more than the catalog")
SHA256 = Kind((*TEXT, "g" * 64), "is no SHA-256: 64 hexadecimal digits")
FOLDER = Kind(
    (" ", "../x", "/etc", "a\0b", "\ud800", "~nobody/x", LONG, SQL, "file:///etc"),
    "lies (under no source root|below none of the access policy's download_roots)|is no (path|folder|target)",
)
OUTPUTS = Kind(
    (*FOLDER.refused, "temp/../processed", "temp//x", "temp/\0", "temp/x\n", "temp/🎬", f"temp/{LONG}"),
    f"{FOLDER.rule}|is no prefix|holds no outputs|no folder and no prefix",
)
SOURCES = listed(Kind(
    ("", "../x.mp4", "/etc/passwd", "a\0b", "\ud800", LONG, SQL, "https://[", "https://h\0/a.mp4", "gopher://h/x",
     "s3://videos/processed/x.mp4", "s3://backups/x.mp4", "s3://🎬/x.mp4", "file://%00"),
    "none of 1 sources was taken in; the first: .*("
    "is no path|under no source root|is no URL|was not found|scheme|in no source bucket|"
    "longer than 255|file name|control characters|could not be read|allows no file)",
))  # fmt: skip
HASHES = Kind(
    ({"acme.mp4": "g" * 64}, {"acme.mp4": "a\0b"}, {"../x": "a" * 64}, {"\ud800": "a" * 64}, {LONG: "a" * 64}),
    "is no SHA-256: 64 hexadecimal digits|an expected hash names no source",
)
MANIFEST = Kind(FOLDER.refused, FOLDER.rule)
REASON = Kind((" ", "a\0b", "a\nb", "\ud800", LONG), "a hold needs a reason of 1 to 500 characters", odd=(SQL, "🎬"))
CLASS = Kind(TEXT, "is no storage class")
BACKUP = Kind(("", *TEXT, "20010101T000000Z-00000000"), "is no backup: write latest|no backup 2001")
CATALOG_ID = Kind(TEXT, "is no catalog's id; there are: ", odd=(UNKNOWN_ID,))
DAY = Kind(
    (*TEXT, "2026-02-30", "1999-12-31", "9999-12-31"),
    "is no day; write it like 2026-05-01|lies outside of 2000-01-01 to",
)
TIME = Kind(
    (datetime(2001, 1, 1), datetime.min.replace(tzinfo=UTC)),  # noqa: DTZ001 -- without a zone
    "has no time zone|years away|no backup before",
    odd=(datetime.max.replace(tzinfo=UTC), datetime(2001, 1, 1, tzinfo=UTC)),
)
FREE = Kind((), "", odd=TEXT)
"""Text that is compared with something, and never refused."""
FILE_IN_JOB = Kind(TEXT, "has no .* named .*; it has: ")
