"""Bytes as people read and write them, and foreign values as a message may carry them."""

from __future__ import annotations

import hashlib
import re

from blocks.errors import InvalidInputError

_UNITS = {"": 1, "B": 1, "KIB": 1024, "MIB": 1024**2, "GIB": 1024**3, "TIB": 1024**4, "PIB": 1024**5,
          "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}  # fmt: skip
MOST_BYTES = 2**63 - 1


def shown(value: object) -> str:
    """A value as an error message may carry it: quoted, escaped, cut."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no numbers of more than some thousand digits
        return "a number too long to be written"
    if len(text) <= 90:
        return text
    return f"{text[:80]}…' ({len(value)} characters)" if isinstance(value, str) else f"{text[:80]}…"


def told(source: str) -> str:
    """A source as logs and reports may name it. What a URL carries beside its path can open it: a signature, a token, a
    password. A few digits of its hash tell two such URLs apart.
    """
    # A password with a / or a ? in it, which ought to be written otherwise, is one all the same.
    found = re.fullmatch(r"([^:/?#]*://)(.*:.*@|[^/?#]*@)?([^?#]*)([?#].*)?", source, flags=re.DOTALL)
    if found is None or not (found.group(2) or found.group(4)):
        return source
    digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{found.group(1)}{'…@' if found.group(2) else ''}{found.group(3)}?…{digest}"


def format_bytes(size: int | None) -> str:
    """`10 GiB`, `9.7 GiB`, `0 B`; None is `unlimited`."""
    if size is None:
        return "unlimited"
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        # 1023.96 would be printed as 1024.0: it belongs to the next unit.
        if abs(value) < 1023.95 or unit == "PiB":
            text = f"{value:.1f}".removesuffix(".0")
            return f"{text} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def parse_bytes(text: str) -> int:
    """Bytes from `1048576`, `10 GiB`, `1.5TB`.

    Raises:
        InvalidInputError: not a size, negative, or beyond what the catalog holds.
    """
    found = re.fullmatch(r"\s*(\d{1,19}(?:\.\d{1,6})?)\s*([A-Za-z]{0,3})\s*", text, flags=re.ASCII)
    unit = found.group(2).upper() if found else ""
    if not found or unit not in _UNITS:
        raise InvalidInputError(f"{shown(text)} is not a size; write for example 500 MiB, 10 GiB or 0")
    number = found.group(1)
    size = int(number) * _UNITS[unit] if "." not in number else round(float(number) * _UNITS[unit])
    if size > MOST_BYTES:
        raise InvalidInputError(f"{shown(text)} is more than the catalog can count ({MOST_BYTES} bytes)")
    return size
