"""What an operator tunes in the UI. Flat blocks: scalars and Literals, whole days, a unit in every name.

Every policy has sensible defaults; `python -m flows up` saves one of each under the name `default`.
"""

from prefect.blocks.core import Block

from blocks.policies.backup import BackupPolicy
from blocks.policies.common import GIB, MIB
from blocks.policies.keeping import IntegrityPolicy, RetentionPolicy, SafetyPolicy
from blocks.policies.moving import CompressionPolicy, RelocationPolicy, TierPolicy
from blocks.policies.serving import AccessPolicy, IngestPolicy

POLICIES: tuple[type[Block], ...] = (
    IngestPolicy,
    AccessPolicy,
    RetentionPolicy,
    SafetyPolicy,
    IntegrityPolicy,
    RelocationPolicy,
    CompressionPolicy,
    TierPolicy,
    BackupPolicy,
)

__all__ = [
    "GIB",
    "MIB",
    "POLICIES",
    "AccessPolicy",
    "BackupPolicy",
    "CompressionPolicy",
    "IngestPolicy",
    "IntegrityPolicy",
    "RelocationPolicy",
    "RetentionPolicy",
    "SafetyPolicy",
    "TierPolicy",
]
