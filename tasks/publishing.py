"""A report in the bucket: its page and files under `reports/`, each with a URL that ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

from blocks.catalog import CatalogDatabase
from blocks.object_store.presigning import presign_get
from blocks.object_store.transfer import put_bytes
from tasks.layout import report_key
from tasks.stores import OpenLocation, require_current

_MEDIA_TYPES = {".html": "text/html; charset=utf-8", ".csv": "text/csv; charset=utf-8",
                ".parquet": "application/vnd.apache.parquet"}  # fmt: skip
"""Of our own files. A customer's page is never served as one: it could act as whoever opens it."""
_SHOWN = (".html",)
"""What a browser shows rather than saves."""


@dataclass(frozen=True)
class Published:
    """One file of a report: where it lies, and a URL for it. Not printed: the URL is a credential."""

    name: str
    key: str
    size_bytes: int
    url: str

    def __repr__(self) -> str:
        return f"Published({self.key!r}, {self.size_bytes} bytes)"


def publish(
    catalog: CatalogDatabase,
    location: OpenLocation,
    files: Sequence[Path],
    *,
    day: date,
    scope: str,
    lasts: timedelta,
) -> list[Published]:
    """Write files under `reports/{day}/{scope}/`, over those of an earlier run of the day; the order stays.

    Raises:
        RefusedError: the location was retired since it was opened.
        ForeignCatalogError: another catalog has taken the bucket over.
        StoreUnavailableError: the store does not answer; a later run writes all of it again.
    """
    require_current(catalog, location)
    done = []
    for path in files:
        key, body = report_key(day, scope, path.name), path.read_bytes()
        put_bytes(
            location.store, key, body, {"Content-Type": _MEDIA_TYPES[path.suffix]},
            checksums=location.capabilities.needs_checksum_headers,
        )  # fmt: skip
        filename = None if path.suffix in _SHOWN else f"{day}-{scope}-{path.name}"
        done.append(Published(path.name, key, len(body), presign_get(location.store, key, lasts, filename=filename)))
    return done


def ends_at(now: datetime, lasts: timedelta) -> str:
    """When URLs of this age end, for a description."""
    return f"{now + lasts:%Y-%m-%d %H:%M} UTC"
