"""What moves where: relocation, compression and tiers."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import ConfigDict, model_validator

from blocks.policies.common import DOCS, LOGO, field, title


class RelocationPolicy(Block):
    """How objects are moved: how many at a time, and how long their old bytes stay.

    Example:
        Load the policy:
        ```python
        from blocks.policies import RelocationPolicy

        policy = RelocationPolicy.load("BLOCK_NAME")
        ```
    """

    model_config = ConfigDict(field_title_generator=title)
    _block_type_name = "Relocation Policy"
    _block_type_slug = "relocation-policy"
    _logo_url = LOGO
    _documentation_url = DOCS
    _description = "How objects are moved: how many at a time, and how long their old bytes stay."

    batch_objects: int = field(0, "Objects that go through the catalog together.", 500, ge=1, le=5000)
    parallel_batches: int = field(1, "Batches in work at the same time.", 2, ge=1, le=32)
    parallel_transfers: int = field(2, "Objects one batch has under way at the same time.", 24, ge=1, le=256)
    memory_mib: int = field(3, "MiB of objects that one batch holds in memory at most.", 192, ge=64, le=16_384)
    old_bytes_minutes: int = field(
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

    model_config = ConfigDict(field_title_generator=title)
    _block_type_name = "Compression Policy"
    _block_type_slug = "compression-policy"
    _logo_url = LOGO
    _documentation_url = DOCS
    _description = "Which jobs' texts and playlists are compressed, and how well."

    after_days: int = field(0, "Days after its completion from which a job is compressed.", 90, ge=1, le=3650)
    idle_days: int = field(1, "Days nobody asked for it before that.", 30, ge=0, le=3650)
    # 19 is the last level whose frames every decoder takes (windows up to 8 MiB).
    level: int = field(2, "zstd's level, from fast to small.", 19, ge=1, le=19)
    smallest_bytes: int = field(3, "Smaller objects are left alone.", 256, ge=0, le=1024**3)
    least_gain_percent: int = field(4, "Objects that would gain less are left alone.", 5, ge=0, le=90)
    sample_objects: int = field(
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

    model_config = ConfigDict(field_title_generator=title)
    _block_type_name = "Tier Policy"
    _block_type_slug = "tier-policy"
    _logo_url = LOGO
    _documentation_url = DOCS
    _description = "When jobs move to cheaper locations, and what those cost."

    warm_location: str = field(0, "Location that jobs move to first; empty where there is none.", "")
    warm_after_days: int = field(1, "Days after its completion from which a job is warm.", 30, ge=1, le=3650)
    warm_idle_days: int = field(2, "Days nobody asked for it before that.", 30, ge=0, le=3650)
    cold_location: str = field(3, "Location that jobs move to in the end; empty where there is none.", "")
    cold_after_days: int = field(4, "Days after its completion from which a job is cold.", 180, ge=1, le=3650)
    cold_idle_days: int = field(5, "Days nobody asked for it before that.", 90, ge=0, le=3650)
    warm_minimum_days: int = field(6, "Days that warm storage is billed for at least.", 30, ge=0, le=3650)
    smallest_billed_kib: int = field(
        7, "KiB that an object is billed as at least in warm and cold storage.", 128, ge=0, le=1024**2
    )
    hot_price: float = field(8, "Price of a GiB in hot storage, a month.", 0.023, ge=0, le=1e6)
    warm_price: float = field(9, "Price of a GiB in warm storage, a month.", 0.0125, ge=0, le=1e6)
    cold_price: float = field(10, "Price of a GiB in cold storage, a month.", 0.004, ge=0, le=1e6)
    warm_price_per_1000_moved: float = field(11, "Price of moving 1000 objects to warm storage.", 0.01, ge=0, le=1e6)
    cold_price_per_1000_moved: float = field(12, "Price of moving 1000 objects to cold storage.", 0.03, ge=0, le=1e6)
    pays_back_months: int = field(13, "Months within which a move has to save more than it costs.", 12, ge=1, le=240)
    server_moves_classes: bool = field(
        14, "Whether the server itself moves objects to the classes of a bucket (transition_days), and not tier-jobs.",
        False,
    )  # fmt: skip

    @model_validator(mode="after")
    def _colder_is_later(self) -> TierPolicy:
        if self.warm_location and self.cold_location:
            if self.warm_location == self.cold_location:
                raise ValueError(f"warm and cold are both the location {self.warm_location}: name one of them")
            if self.cold_after_days < self.warm_after_days or self.cold_idle_days < self.warm_idle_days:
                raise ValueError(
                    f"cold_after_days={self.cold_after_days} and cold_idle_days={self.cold_idle_days} come before "
                    f"warm's {self.warm_after_days} and {self.warm_idle_days}"
                )
        return self
