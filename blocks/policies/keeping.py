"""What stays and what goes: retention, how large a plan may be, and how catalog and store are compared."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import ConfigDict, model_validator

from blocks.policies.common import DOCS, LOGO, field, title


class RetentionPolicy(Block):
    """How long what is not wanted any more stays, before cleanup and the bucket's lifecycle rules remove it.

    Example:
        Load the policy:
        ```python
        from blocks.policies import RetentionPolicy

        policy = RetentionPolicy.load("BLOCK_NAME")
        ```
    """

    model_config = ConfigDict(field_title_generator=title)
    _block_type_name = "Retention Policy"
    _block_type_slug = "retention-policy"
    _logo_url = LOGO
    _documentation_url = DOCS
    _description = "How long what is not wanted any more stays."

    temp_days: int = field(0, "Days an upload that nobody completed stays under temp/.", 1, ge=1, le=365)
    failed_days: int = field(
        1, "Days a failed job keeps its files, and a worker's leftovers stay under failed/.", 7, ge=1, le=3650
    )
    stuck_hours: int = field(2, "Hours without progress after which a job counts as failed.", 24, ge=1, le=24 * 30)
    trash_days: int = field(3, "Days a deleted job can be brought back.", 7, ge=1, le=3650)
    abandoned_hours: int = field(
        4, "Hours after which a writing that nobody finished is given up; no upload takes longer.", 24, ge=1, le=720
    )
    multipart_days: int = field(5, "Days an incomplete multipart upload stays.", 3, ge=1, le=365)
    # Beyond the longest URL, so that no playlist goes before its segments' URLs end.
    exports_days: int = field(
        6, "Days playlists and bulk downloads stay under exports/; longer URLs end with them.", 8, ge=1, le=365
    )
    probe_days: int = field(7, "Days the leftovers of a store's probe stay under probe/.", 1, ge=1, le=365)
    scratch_days: int = field(8, "Days folders of killed runs stay on a worker's disk.", 1, ge=1, le=365)
    log_days: int = field(9, "Days the operation log is kept; whole months go.", 400, ge=31, le=3650)
    transition_days: int = field(
        10, "Days after which the server itself moves outputs to a cheaper class; 0 leaves them.", 0, ge=0, le=3650
    )
    transition_storage_class: str = field(
        11, "The class that the server moves them to.", "STANDARD_IA", pattern="^[A-Z][A-Z0-9_]{1,40}$"
    )
    reports_days: int = field(
        12, "Days reports stay under reports/; their figures stay in PostgreSQL.", 400, ge=1, le=3650
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

    model_config = ConfigDict(field_title_generator=title)
    _block_type_name = "Safety Policy"
    _block_type_slug = "safety-policy"
    _logo_url = LOGO
    _documentation_url = DOCS
    _description = "How large a plan may be before a run stops and asks."

    most_objects: int = field(0, "A plan of more objects asks first.", 50_000, ge=0)
    most_gib: int = field(1, "A plan of more GiB asks first.", 1024, ge=0)
    most_percent: int = field(2, "A plan of a larger share of all objects asks first.", 20, ge=0, le=100)
    percent_from_objects: int = field(3, "Plans of fewer objects are not judged by their share.", 1000, ge=0)
    approval_hours: int = field(4, "Hours a run waits for an answer; then nothing happens.", 20, ge=1, le=24 * 14)
    lock_wait_minutes: int = field(
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

    model_config = ConfigDict(field_title_generator=title)
    _block_type_name = "Integrity Policy"
    _block_type_slug = "integrity-policy"
    _logo_url = LOGO
    _documentation_url = DOCS
    _description = "How the catalog and the store are held against each other."

    orphan_grace_hours: int = field(
        0, "Hours an object without a row stays; longer than any upload and any restore's check.", 72, ge=1, le=24 * 90
    )
    verify_within_weeks: int = field(1, "Weeks in which every object is read and hashed once.", 12, ge=1, le=520)
    parallel_listings: int = field(2, "Parts of the bucket that are listed at the same time.", 3, ge=1, le=64)
    parallel_transfers: int = field(3, "Objects that are looked at or read at the same time.", 16, ge=1, le=256)
