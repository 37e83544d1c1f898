"""What a backup says of itself. The manifest is written last: files without one are no backup.

It is JSON that a person can read, and holds a checksum of itself: a changed byte anywhere makes it no manifest at all.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from blocks.errors import DamagedBackupError, SchemaError

FORMAT_VERSION = 1
LARGEST_MANIFEST_BYTES = 16 * 1024**2
Kind = Literal["full", "catalog"]

MANIFEST = "manifest.json"
VERIFICATION = "verification.json"
DRILL = "drill.json"
HOLD = "hold.json"
RESTORING = "restoring.json"
STARTED = "started.json"
"""There from the first moment of a backup to its last: without a manifest beside it, it was interrupted."""
DUMP, METADATA_LIST, SETTINGS = "catalog.dump", "metadata.list", "settings.json"
"""What the files hold; their names end in what they went through: `.zst`, and `.age` where they are encrypted."""

_SHA256 = Field(pattern=r"^[0-9a-f]{64}$")
_SIZE = Field(ge=0, le=2**63 - 1)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class BackupFile(_Strict):
    """One file: its bytes as they lie in the store, and how many they decode to (the frame checks its own content)."""

    name: str = Field(pattern=r"^[a-z][a-z0-9.]{0,60}$")
    holds: Literal["catalog.dump", "metadata.list", "settings.json"]
    size_bytes: int = _SIZE
    sha256: str = _SHA256
    content_bytes: int = _SIZE


class SavedMetadata(_Strict):
    """The metadata objects that the snapshot knew: contents, and those that could not be saved with the reason."""

    objects: int = _SIZE
    size_bytes: int = _SIZE
    unsaved: int = _SIZE
    reasons: tuple[str, ...] = ()


class Manifest(_Strict):
    """All that a restore needs to know before it begins, and all that it is held against afterwards."""

    format_version: int
    id: str = Field(pattern=r"^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}$")
    kind: Kind
    catalog_id: UUID
    epoch: int
    database: str
    schema_revision: str
    postgres_version: int
    dump_version: int
    snapshot_at: AwareDatetime
    finished_at: AwareDatetime
    seconds: float = Field(ge=0)
    database_bytes: int = _SIZE
    rows: dict[str, int]
    parts: dict[str, int]
    roles: tuple[str, ...] = ()
    encrypted_to: str = ""
    files: tuple[BackupFile, ...]
    metadata: SavedMetadata | None = None
    run: str = ""

    def file(self, holds: str) -> BackupFile:
        """The file that holds this.

        Raises:
            DamagedBackupError: there is none.
        """
        for one in self.files:
            if one.holds == holds:
                return one
        raise DamagedBackupError(f"backup {self.id} has no {holds}: it is of the kind {self.kind}")

    @property
    def size_bytes(self) -> int:
        """What its own files take in the store; metadata objects are shared by many backups."""
        return sum(one.size_bytes for one in self.files)


def backup_id(snapshot_at: datetime, chosen: UUID) -> str:
    """Sorts by time, and is nobody else's: `20261124T030000Z-5f0c2e1a`."""
    return f"{snapshot_at:%Y%m%dT%H%M%SZ}-{chosen.hex[:8]}"


def is_backup_id(text: str) -> bool:
    """Whether a folder's name is that of a backup."""
    return re.fullmatch(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}", text, flags=re.ASCII) is not None


def folder_of(catalog_id: UUID, backup: str) -> str:
    """Where a backup's files lie: each catalog's apart, so that nobody prunes another one's."""
    return f"{catalog_id}/backups/{backup}"


def metadata_folder(catalog_id: UUID, encrypted_to: str) -> str:
    """Where the contents of metadata objects lie, each once for all backups; what is encrypted to a key apart."""
    return f"{catalog_id}/metadata-{encrypted_to}" if encrypted_to else f"{catalog_id}/metadata"


def render(manifest: Manifest) -> bytes:
    """The manifest's bytes, its checksum as the last field."""
    fields = json.loads(manifest.model_dump_json())
    return _rendered(fields | {"checksum": _checksum(fields)})


def parse(stored: bytes) -> Manifest:
    """The manifest in these bytes.

    Raises:
        DamagedBackupError: they are not what was written: changed, cut, or something else.
        SchemaError: a newer version of this project wrote them.
    """
    try:
        fields = json.loads(stored)
        checksum = fields.pop("checksum")
        version = fields["format_version"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedBackupError("its manifest is damaged: it is no manifest") from error
    # The very bytes: not even a blank may differ.
    if checksum != _checksum(fields) or stored != _rendered(fields | {"checksum": checksum}):
        raise DamagedBackupError("its manifest is damaged: it is not what was written")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise SchemaError(
            f"it was made by a newer version of this project (format {version}, this one reads up to "
            f"{FORMAT_VERSION}): restore it with that version"
        )
    try:
        return Manifest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DamagedBackupError(f"its manifest is no manifest: {where}: {first['msg']}") from error


def _rendered(fields: dict[str, object]) -> bytes:
    return (json.dumps(fields, indent=1, ensure_ascii=False) + "\n").encode()


def _checksum(fields: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
