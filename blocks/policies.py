"""What an operator tunes in the UI. Flat blocks: scalars and Literals, whole days, a unit in every name.

Every policy has sensible defaults; `python -m flows up` saves one of each under the name `default`.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, model_validator

_LOGO: Any = "https://cdn.sanity.io/images/3ugk85nk/production/fb3f4debabcda1c5a3aeea4f5b3f94c28845e23e-250x250.png"
_DOCS: Any = "https://docs.prefect.io/v3/concepts/blocks"

GIB = 1024**3
MIB = 1024**2


def _field(position: int, description: str, default: Any, **limits: Any) -> Any:
    # Prefect stores schemas as JSON in PostgreSQL, which forgets the order of keys: forms follow `position`.
    return Field(default=default, description=description, json_schema_extra={"position": position}, **limits)


def _title(name: str, _: object) -> str:
    """A form's label: `largest_source_gib` reads `Largest source GiB`."""
    words = [{"gib": "GiB", "mib": "MiB", "url": "URL"}.get(word, word) for word in name.split("_")]
    return " ".join([words[0][0].upper() + words[0][1:], *words[1:]])


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

    model_config = ConfigDict(field_title_generator=_title)
    _block_type_name = "Ingest Policy"
    _block_type_slug = "ingest-policy"
    _logo_url = _LOGO
    _documentation_url = _DOCS
    _description = "What may be taken in, from where, and how much quota is held meanwhile."

    expected_outputs_ratio: float = _field(
        0, "Room held for what a job will make, as a share of its source: 1.0 holds as much again.", 1.0, ge=0, le=20
    )
    outputs_reservation_hours: int = _field(
        1, "Hours that room is held for a job whose outputs are not registered yet.", 24, ge=0, le=24 * 30
    )
    reservation_minutes: int = _field(
        2, "Minutes a source's own reservation lasts, beside the time its batch takes.", 10, ge=1, le=24 * 60
    )
    slowest_upload_mib_per_second: float = _field(
        3, "A reservation lasts as long as its batch would take at this speed.", 1.0, gt=0, le=10_000
    )
    largest_source_gib: int = _field(4, "Sources above this size are refused.", 5 * 1024, ge=1, le=5 * 1024)
    batch_files: int = _field(5, "Sources that go through the catalog together.", 100, ge=1, le=1000)
    parallel_batches: int = _field(6, "Batches in work at the same time.", 3, ge=1, le=32)
    parallel_transfers: int = _field(7, "Transfers one batch has under way at the same time.", 8, ge=1, le=256)
    source_roots: str = _field(
        8, "Folders that sources on a worker's disk and file:// URLs may come from, separated by commas.", ""
    )
    url_schemes: str = _field(
        9, "Schemes that URL sources may use, separated by commas: https, http, s3, file.", "https,http,s3"
    )
    allow_private_addresses: bool = _field(
        10, "Whether a URL source may lie on a private, loopback or link-local address.", False
    )
    url_timeout_seconds: int = _field(11, "Seconds a URL source may stay silent.", 30, ge=1, le=3600)

    def roots(self) -> tuple[str, ...]:
        """The folders of `source_roots`, links resolved."""
        return _real_folders(self.source_roots)

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

    model_config = ConfigDict(field_title_generator=_title)
    _block_type_name = "Access Policy"
    _block_type_slug = "access-policy"
    _logo_url = _LOGO
    _documentation_url = _DOCS
    _description = "How long presigned URLs and upload forms last."

    download_minutes: int = _field(0, "Minutes a download URL lasts unless asked otherwise.", 60, ge=1, le=7 * 24 * 60)
    shortest_download_seconds: int = _field(1, "The shortest download URL.", 10, ge=1, le=3600)
    # 7 days is where SigV4 ends.
    longest_download_hours: int = _field(
        2, "The longest download URL; no server takes more than 168.", 168, ge=1, le=168
    )
    upload_minutes: int = _field(3, "Minutes an upload form lasts unless asked otherwise.", 30, ge=1, le=24 * 60)
    longest_upload_hours: int = _field(4, "The longest upload form.", 24, ge=1, le=168)
    completion_minutes: int = _field(
        5, "Minutes after an upload form's end in which its reservation still holds.", 60, ge=1, le=24 * 60
    )
    # A presigned form is one PUT: S3 ends it at 5 GiB.
    largest_upload_mib: int = _field(
        6, "Uploads above this size are refused; a form ends at 5120.", 5120, ge=1, le=5120
    )
    export_hours: int = _field(7, "Hours the URL of a bulk download lasts.", 24, ge=1, le=168)
    download_roots: str = _field(
        8, "Folders on a worker's disk that bulk downloads may be written below, separated by commas.", ""
    )

    def roots(self) -> tuple[str, ...]:
        """The folders of `download_roots`, links resolved."""
        return _real_folders(self.download_roots)


class RetentionPolicy(Block):
    """How long what is not wanted any more stays, before cleanup and the bucket's lifecycle rules remove it.

    Example:
        Load the policy:
        ```python
        from blocks.policies import RetentionPolicy

        policy = RetentionPolicy.load("BLOCK_NAME")
        ```
    """

    model_config = ConfigDict(field_title_generator=_title)
    _block_type_name = "Retention Policy"
    _block_type_slug = "retention-policy"
    _logo_url = _LOGO
    _documentation_url = _DOCS
    _description = "How long what is not wanted any more stays."

    temp_days: int = _field(0, "Days an upload that nobody completed stays under temp/.", 1, ge=1, le=365)
    failed_days: int = _field(
        1, "Days a failed job keeps its files, and a worker's leftovers stay under failed/.", 7, ge=1, le=3650
    )
    stuck_hours: int = _field(2, "Hours without progress after which a job counts as failed.", 24, ge=1, le=24 * 30)
    trash_days: int = _field(3, "Days a deleted job can be brought back.", 7, ge=1, le=3650)
    abandoned_hours: int = _field(
        4, "Hours after which a writing that nobody finished is given up; no upload takes longer.", 24, ge=1, le=720
    )
    multipart_days: int = _field(5, "Days an incomplete multipart upload stays.", 3, ge=1, le=365)
    # Beyond the longest URL, so that no playlist goes before its segments' URLs end.
    exports_days: int = _field(6, "Days playlists and bulk downloads stay under exports/.", 8, ge=1, le=365)
    probe_days: int = _field(7, "Days the leftovers of a store's probe stay under probe/.", 1, ge=1, le=365)
    scratch_days: int = _field(8, "Days folders of killed runs stay on a worker's disk.", 1, ge=1, le=365)
    log_days: int = _field(9, "Days the operation log is kept; whole months go.", 400, ge=31, le=3650)
    transition_days: int = _field(
        10, "Days after which the server itself moves outputs to a cheaper class; 0 leaves them.", 0, ge=0, le=3650
    )
    transition_storage_class: str = _field(
        11, "The class that the server moves them to.", "STANDARD_IA", pattern="^[A-Z][A-Z0-9_]{1,40}$"
    )

    @model_validator(mode="after")
    def _aborts_only_what_is_given_up(self) -> RetentionPolicy:
        if self.multipart_days * 24 < self.abandoned_hours:
            raise ValueError(
                f"multipart_days={self.multipart_days} ends uploads that count as under way for abandoned_hours="
                f"{self.abandoned_hours}: raise the one or lower the other"
            )
        return self


class SafetyPolicy(Block):
    """How large a plan may be before a run stops and asks, and how long runs wait: for an answer, and for each other.

    Example:
        Load the policy:
        ```python
        from blocks.policies import SafetyPolicy

        policy = SafetyPolicy.load("BLOCK_NAME")
        ```
    """

    model_config = ConfigDict(field_title_generator=_title)
    _block_type_name = "Safety Policy"
    _block_type_slug = "safety-policy"
    _logo_url = _LOGO
    _documentation_url = _DOCS
    _description = "How large a plan may be before a run stops and asks."

    most_objects: int = _field(0, "A plan of more objects asks first.", 50_000, ge=0)
    most_gib: int = _field(1, "A plan of more GiB asks first.", 1024, ge=0)
    most_percent: int = _field(2, "A plan of a larger share of all objects asks first.", 20, ge=0, le=100)
    percent_from_objects: int = _field(3, "Plans of fewer objects are not judged by their share.", 1000, ge=0)
    approval_hours: int = _field(4, "Hours a run waits for an answer; then nothing happens.", 20, ge=1, le=24 * 14)
    lock_wait_minutes: int = _field(
        5, "Minutes a scheduled run waits for another sweep of its store; a manual one does not.", 120, ge=0, le=1440
    )


class IntegrityPolicy(Block):
    """How the catalog and the store are held against each other.

    Example:
        Load the policy:
        ```python
        from blocks.policies import IntegrityPolicy

        policy = IntegrityPolicy.load("BLOCK_NAME")
        ```
    """

    model_config = ConfigDict(field_title_generator=_title)
    _block_type_name = "Integrity Policy"
    _block_type_slug = "integrity-policy"
    _logo_url = _LOGO
    _documentation_url = _DOCS
    _description = "How the catalog and the store are held against each other."

    orphan_grace_hours: int = _field(
        0, "Hours an object without a row stays; longer than any upload and any restore's check.", 72, ge=1, le=24 * 90
    )
    verify_within_weeks: int = _field(1, "Weeks in which every object is read and hashed once.", 12, ge=1, le=520)
    parallel_listings: int = _field(2, "Parts of the bucket that are listed at the same time.", 3, ge=1, le=64)
    parallel_transfers: int = _field(3, "Objects that are looked at or read at the same time.", 16, ge=1, le=256)


class RelocationPolicy(Block):
    """How objects are moved: how many at a time, and how long their old bytes stay.

    Example:
        Load the policy:
        ```python
        from blocks.policies import RelocationPolicy

        policy = RelocationPolicy.load("BLOCK_NAME")
        ```
    """

    model_config = ConfigDict(field_title_generator=_title)
    _block_type_name = "Relocation Policy"
    _block_type_slug = "relocation-policy"
    _logo_url = _LOGO
    _documentation_url = _DOCS
    _description = "How objects are moved: how many at a time, and how long their old bytes stay."

    batch_objects: int = _field(0, "Objects that go through the catalog together.", 500, ge=1, le=5000)
    parallel_batches: int = _field(1, "Batches in work at the same time.", 2, ge=1, le=32)
    parallel_transfers: int = _field(2, "Objects one batch has under way at the same time.", 24, ge=1, le=256)
    memory_mib: int = _field(3, "MiB of objects that one batch holds in memory at most.", 192, ge=64, le=16_384)
    old_bytes_minutes: int = _field(
        4, "Minutes old bytes stay after the last URL for them has ended: clocks differ.", 15, ge=1, le=24 * 60
    )


class CompressionPolicy(Block):
    """Which jobs' texts and playlists are compressed, and how well.

    Example:
        Load the policy:
        ```python
        from blocks.policies import CompressionPolicy

        policy = CompressionPolicy.load("BLOCK_NAME")
        ```
    """

    model_config = ConfigDict(field_title_generator=_title)
    _block_type_name = "Compression Policy"
    _block_type_slug = "compression-policy"
    _logo_url = _LOGO
    _documentation_url = _DOCS
    _description = "Which jobs' texts and playlists are compressed, and how well."

    after_days: int = _field(0, "Days after its completion from which a job is compressed.", 90, ge=1, le=3650)
    idle_days: int = _field(1, "Days nobody asked for it before that.", 30, ge=0, le=3650)
    # 19 is the last level whose frames every decoder takes (windows up to 8 MiB).
    level: int = _field(2, "zstd's level, from fast to small.", 19, ge=1, le=19)
    smallest_bytes: int = _field(3, "Smaller objects are left alone.", 256, ge=0, le=1024**3)
    least_gain_percent: int = _field(4, "Objects that would gain less are left alone.", 5, ge=0, le=90)
    sample_objects: int = _field(
        5, "Videos, sounds and segments looked into for what compressing them would gain; 0 for none.", 12, ge=0, le=200
    )


class TierPolicy(Block):
    """When jobs move to cheaper locations, and what those cost: prices are in your own currency.

    Example:
        Load the policy:
        ```python
        from blocks.policies import TierPolicy

        policy = TierPolicy.load("BLOCK_NAME")
        ```
    """

    model_config = ConfigDict(field_title_generator=_title)
    _block_type_name = "Tier Policy"
    _block_type_slug = "tier-policy"
    _logo_url = _LOGO
    _documentation_url = _DOCS
    _description = "When jobs move to cheaper locations, and what those cost."

    warm_location: str = _field(0, "Location that jobs move to first; empty where there is none.", "")
    warm_after_days: int = _field(1, "Days after its completion from which a job is warm.", 30, ge=1, le=3650)
    warm_idle_days: int = _field(2, "Days nobody asked for it before that.", 30, ge=0, le=3650)
    cold_location: str = _field(3, "Location that jobs move to in the end; empty where there is none.", "")
    cold_after_days: int = _field(4, "Days after its completion from which a job is cold.", 180, ge=1, le=3650)
    cold_idle_days: int = _field(5, "Days nobody asked for it before that.", 90, ge=0, le=3650)
    warm_minimum_days: int = _field(6, "Days that warm storage is billed for at least.", 30, ge=0, le=3650)
    smallest_billed_kib: int = _field(
        7, "KiB that an object is billed as at least in warm and cold storage.", 128, ge=0, le=1024**2
    )
    hot_price: float = _field(8, "Price of a GiB in hot storage, a month.", 0.023, ge=0, le=1e6)
    warm_price: float = _field(9, "Price of a GiB in warm storage, a month.", 0.0125, ge=0, le=1e6)
    cold_price: float = _field(10, "Price of a GiB in cold storage, a month.", 0.004, ge=0, le=1e6)
    warm_price_per_1000_moved: float = _field(11, "Price of moving 1000 objects to warm storage.", 0.01, ge=0, le=1e6)
    cold_price_per_1000_moved: float = _field(12, "Price of moving 1000 objects to cold storage.", 0.03, ge=0, le=1e6)
    pays_back_months: int = _field(13, "Months within which a move has to save more than it costs.", 12, ge=1, le=240)
    server_moves_classes: bool = _field(
        14, "Whether the server itself moves objects to the classes of a bucket (transition_days), and not tier-jobs.",
        False,
    )  # fmt: skip

    @model_validator(mode="after")
    def _colder_is_later(self) -> TierPolicy:
        if self.warm_location and self.cold_location:
            if self.warm_location == self.cold_location:
                raise ValueError(f"warm and cold are both the location {self.warm_location}: name one of them")
            if (self.cold_after_days, self.cold_idle_days) < (self.warm_after_days, self.warm_idle_days):
                raise ValueError(
                    f"cold_after_days={self.cold_after_days} and cold_idle_days={self.cold_idle_days} come before "
                    f"warm's {self.warm_after_days} and {self.warm_idle_days}"
                )
        return self


POLICIES: tuple[type[Block], ...] = (
    IngestPolicy,
    AccessPolicy,
    RetentionPolicy,
    SafetyPolicy,
    IntegrityPolicy,
    RelocationPolicy,
    CompressionPolicy,
    TierPolicy,
)
