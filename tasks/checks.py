"""Bad input is refused here, before anything is written: one clear error that names the value and the rule."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from blocks.catalog.customers import storable
from blocks.catalog.tables import ObjectKind
from blocks.errors import InvalidInputError, RefusedError
from blocks.units import format_bytes, shown

LONGEST_FILENAME_BYTES = 255
LARGEST_OBJECT_BYTES = 5 * 1024**4
# Right-to-left overrides make `exe.4pm` look like `mp4.exe`.
_BIDI = frozenset("\u061c\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")


def has_controls(text: str) -> bool:
    """Whether a text holds what cannot be stored or shown on one line, or what turns its direction."""
    plain = text.isascii() and text.isprintable()
    return not plain and any(unicodedata.category(char) in ("Cc", "Cs") or char in _BIDI for char in text)


def is_path(text: str) -> bool:
    """Whether a text could be a path of this machine; that of a file need not be there."""
    return bool(text.strip()) and storable(text)


def below_root(path: str, roots: Sequence[str]) -> tuple[str, str] | None:
    """The root that a path lies below, and the path itself, links resolved in both; None where it is below none."""
    # Strings, not Path objects: thousands of sources pass through here before the first byte is read.
    real = os.path.realpath(os.path.expanduser(path))
    root = next((root for root in roots if real == root or real.startswith(root.rstrip("/") + "/")), None)
    return None if root is None else (root, real)


def check_filename(name: str) -> str:
    """The same name, if it is one: no path, no control characters, at most 255 bytes of UTF-8."""
    if not name or not name.strip() or name in (".", ".."):
        raise InvalidInputError(f"{shown(name)} is no file name")
    if "/" in name or "\\" in name:
        raise InvalidInputError(f"{shown(name)} is a path; a file name has no / and no \\")
    if has_controls(name):
        raise InvalidInputError(f"{shown(name)} holds control characters; rename the file")
    if len(name.encode()) > LONGEST_FILENAME_BYTES:
        raise InvalidInputError(f"{shown(name)} is longer than {LONGEST_FILENAME_BYTES} bytes; rename the file")
    return name


def check_reason(reason: str) -> str:
    """Why something is kept, as one line that others read."""
    said = reason.strip()
    if not 0 < len(said) <= 500 or has_controls(said):
        raise InvalidInputError(
            f"a hold needs a reason of 1 to 500 characters on one line, not {shown(reason)}: whoever meets it has to "
            "know why"
        )
    return said


def check_label(label: str) -> str:
    """The same label of an API key, if it can be told from an id and read in a message."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}", label, flags=re.ASCII) or label.isdigit():
        raise InvalidInputError(
            f"{shown(label)} is no label for a key: 1 to 63 letters, digits and . _ @ -, not only digits"
        )
    return label


def check_location(name: str) -> str:
    """The same name of a location, if it can be written in a parameter and read in a message."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name, flags=re.ASCII):
        raise InvalidInputError(f"{shown(name)} is no name of a location: 1 to 63 letters, digits and . _ -")
    return name


def check_class(name: str) -> str:
    """The same storage class, if a server could know it: empty is the server's usual one, which is S3's STANDARD."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{0,63}", name, flags=re.ASCII):
        raise InvalidInputError(
            f"{shown(name)} is no storage class: up to 63 letters, digits, _ and -, like STANDARD_IA"
        )
    return "" if name == "STANDARD" else name


def check_sha256(value: str) -> str:
    """A SHA-256 in lower case."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", value.strip(), flags=re.ASCII):
        raise InvalidInputError(f"{shown(value)} is no SHA-256: 64 hexadecimal digits")
    return value.strip().lower()


def check_job_id(value: str | UUID) -> UUID:
    """A job's id."""
    return check_uuid(value, "job id")


def check_uuid(value: str | UUID, what: str) -> UUID:
    """A UUID in its usual form."""
    if isinstance(value, UUID):
        return value
    if not re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", value.strip(), flags=re.ASCII):
        raise InvalidInputError(f"{shown(value)} is no {what}: write it like 123e4567-e89b-12d3-a456-426614174000")
    return UUID(value.strip())


def check_kind(value: str) -> ObjectKind:
    """A kind of object."""
    try:
        return ObjectKind(value)
    except ValueError:
        raise InvalidInputError(f"{shown(value)} is no kind of object; there are: {', '.join(ObjectKind)}") from None


def check_age_days(older_than_days: int | None) -> None:
    """An age that jobs are chosen by: 0 days to a century, or none."""
    if older_than_days is not None and not 0 <= older_than_days <= 36_500:
        raise InvalidInputError(f"older_than_days={shown(older_than_days)} is outside the limits: 0 to 36500")


def check_size(size_bytes: int, *, at_most: int) -> int:
    """A size that can be stored: above 0, at most `at_most`."""
    if size_bytes <= 0:
        raise InvalidInputError(f"a size of {shown(size_bytes)} bytes is refused: a file has at least 1 byte")
    if size_bytes > at_most:
        size = format_bytes(size_bytes) if size_bytes <= LARGEST_OBJECT_BYTES else f"{shown(size_bytes)} bytes"
        raise RefusedError(f"{size} is more than the largest allowed, {format_bytes(at_most)}")
    return size_bytes


def check_lifetime(seconds: int | None, *, default: timedelta, shortest: timedelta, longest: timedelta) -> timedelta:
    """How long a URL or a form lasts, within the policy's limits."""
    if seconds is None:
        return min(max(default, shortest), longest)
    if not shortest.total_seconds() <= seconds <= longest.total_seconds():
        raise InvalidInputError(
            f"expires_in={shown(seconds)} s is outside the limits: {shortest.total_seconds():.0f} to "
            f"{longest.total_seconds():.0f} s"
        )
    return timedelta(seconds=seconds)
