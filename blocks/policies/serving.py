"""What comes in and goes out: where videos may be taken from, and how long URLs last."""

from __future__ import annotations

import os
from functools import lru_cache

from prefect.blocks.core import Block
from pydantic import ConfigDict

from blocks.policies.common import DOCS, LOGO, field, title


@lru_cache(maxsize=64)
def _real_folders(folders: str) -> tuple[str, ...]:
    return tuple(os.path.realpath(os.path.expanduser(one.strip())) for one in folders.split(",") if one.strip())


class IngestPolicy(Block):
    """What may be taken in, from where, and how much quota is held meanwhile.

    Example:
        Load the policy:
        ```python
        from blocks.policies import IngestPolicy

        policy = IngestPolicy.load("BLOCK_NAME")
        ```
    """

    model_config = ConfigDict(field_title_generator=title)
    _block_type_name = "Ingest Policy"
    _block_type_slug = "ingest-policy"
    _logo_url = LOGO
    _documentation_url = DOCS
    _description = "What may be taken in, from where, and how much quota is held meanwhile."

    expected_outputs_ratio: float = field(
        0, "Room held for what a job will make, as a share of its source: 1.0 holds as much again.", 1.0, ge=0, le=20
    )
    outputs_reservation_hours: int = field(
        1, "Hours that room is held for a job whose outputs are not registered yet.", 24, ge=0, le=24 * 30
    )
    reservation_minutes: int = field(
        2, "Minutes a source's own reservation lasts, beside the time its batch takes.", 10, ge=1, le=24 * 60
    )
    slowest_upload_mib_per_second: float = field(
        3, "A reservation lasts as long as its batch would take at this speed.", 1.0, gt=0, le=10_000
    )
    largest_source_gib: int = field(4, "Sources above this size are refused.", 5 * 1024, ge=1, le=5 * 1024)
    batch_files: int = field(
        5, "Sources that go through the catalog together, up to 1 GiB of them.", 500, ge=1, le=1000
    )
    parallel_batches: int = field(6, "Batches in work at the same time.", 3, ge=1, le=32)
    parallel_transfers: int = field(7, "Transfers one batch has under way at the same time.", 8, ge=1, le=256)
    source_roots: str = field(
        8, "Folders that sources on a worker's disk and file:// URLs may come from, separated by commas.", ""
    )
    url_schemes: str = field(
        9, "Schemes that URL sources may use, separated by commas: https, http, s3, file.", "https,http,s3"
    )
    source_buckets: str = field(
        10,
        "Buckets of the store's server that s3:// sources may come from, separated by commas. They are read with the "
        "store's credentials: never name one that the platform or its backups use.",
        "",
    )
    allow_private_addresses: bool = field(
        11, "Whether a URL source may lie on a private, loopback or link-local address.", False
    )
    url_timeout_seconds: int = field(12, "Seconds a URL source may stay silent.", 30, ge=1, le=3600)
    slowest_url_kib_per_second: float = field(
        13, "A URL source that is slower than this, on the whole, is given up.", 16.0, ge=0, le=1_000_000
    )

    def roots(self) -> tuple[str, ...]:
        """The folders of `source_roots`, links resolved."""
        return _real_folders(self.source_roots)

    def buckets(self) -> frozenset[str]:
        """The names of `source_buckets`."""
        return frozenset(name.strip() for name in self.source_buckets.split(",") if name.strip())

    def schemes(self) -> frozenset[str]:
        """The schemes of `url_schemes`, in lower case."""
        return frozenset(scheme.strip().lower() for scheme in self.url_schemes.split(",") if scheme.strip())


class AccessPolicy(Block):
    """How long presigned URLs and upload forms last.

    Example:
        Load the policy:
        ```python
        from blocks.policies import AccessPolicy

        policy = AccessPolicy.load("BLOCK_NAME")
        ```
    """

    model_config = ConfigDict(field_title_generator=title)
    _block_type_name = "Access Policy"
    _block_type_slug = "access-policy"
    _logo_url = LOGO
    _documentation_url = DOCS
    _description = "How long presigned URLs and upload forms last."

    download_minutes: int = field(0, "Minutes a download URL lasts unless asked otherwise.", 60, ge=1, le=7 * 24 * 60)
    shortest_download_seconds: int = field(1, "The shortest download URL.", 10, ge=1, le=3600)
    # 7 days is where SigV4 ends.
    longest_download_hours: int = field(
        2, "The longest download URL; no server takes more than 168.", 168, ge=1, le=168
    )
    upload_minutes: int = field(3, "Minutes an upload form lasts unless asked otherwise.", 30, ge=1, le=24 * 60)
    longest_upload_hours: int = field(4, "The longest upload form.", 24, ge=1, le=168)
    completion_minutes: int = field(
        5, "Minutes after an upload form's end in which its reservation still holds.", 60, ge=1, le=24 * 60
    )
    # A presigned form is one PUT: S3 ends it at 5 GiB.
    largest_upload_mib: int = field(6, "Uploads above this size are refused; a form ends at 5120.", 5120, ge=1, le=5120)
    export_hours: int = field(7, "Hours the URLs of bulk downloads and reports last.", 24, ge=1, le=168)
    download_roots: str = field(
        8, "Folders on a worker's disk that bulk downloads may be written below, separated by commas.", ""
    )

    def roots(self) -> tuple[str, ...]:
        """The folders of `download_roots`, links resolved."""
        return _real_folders(self.download_roots)
