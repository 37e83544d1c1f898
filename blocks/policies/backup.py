"""How the catalog is backed up, for how long, and when somebody is told that it is not."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import ConfigDict

from blocks.policies.common import DOCS, LOGO, field, title

LEAST_VERIFIED = 2
"""No policy goes below: one backup alone is one accident away from none."""


class BackupPolicy(Block):
    """How the catalog is backed up, for how long, and when somebody is told that it is not.

    Example:
        Load the policy:
        ```python
        from blocks.policies import BackupPolicy

        policy = BackupPolicy.load("BLOCK_NAME")
        ```
    """

    model_config = ConfigDict(field_title_generator=title)
    _block_type_name = "Backup Policy"
    _block_type_slug = "backup-policy"
    _logo_url = LOGO
    _documentation_url = DOCS
    _description = "How the catalog is backed up, for how long, and when somebody is told that it is not."

    keep_days: int = field(0, "Days a backup is kept.", 30, ge=1, le=3650)
    keep_verified: int = field(1, "Verified backups that are kept however old they are.", 7, ge=LEAST_VERIFIED, le=1000)
    encryption_key: str = field(2, "Name of the Backup Key block to encrypt with; empty for no encryption.", "")
    compression_level: int = field(3, "zstd level of the dump: 1 is fastest, 19 smallest.", 1, ge=1, le=19)
    parallel_transfers: int = field(4, "Metadata objects that are copied at the same time.", 16, ge=1, le=128)
    restore_jobs: int = field(5, "Tables that are restored at the same time; 0 for one a core.", 0, ge=0, le=64)
    scratch_folder: str = field(
        6, "Folder with room for the whole dump while it is restored; empty for the system's.", ""
    )
    postgresql_folder: str = field(
        7, "Folder with pg_dump and pg_restore; empty to look for the version that fits the server.", ""
    )
    overdue_hours: int = field(8, "Hours without a good backup from which on it is overdue.", 26, ge=1, le=24 * 30)
    small_percent: int = field(9, "Percent of the usual size below which a backup is suspicious.", 50, ge=1, le=99)
    untouched_days: int = field(10, "Days a restored database that nobody cut over to stays beside.", 7, ge=1, le=365)
