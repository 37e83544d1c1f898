"""A manifest is what was written, to the last byte, or none at all."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from uuid import UUID

import pytest

from blocks.errors import DamagedBackupError, SchemaError
from tasks.backups.manifest import BackupFile, Manifest, SavedMetadata, _checksum, _rendered, parse, render

HASH = "0" * 64


def make(**changes: object) -> Manifest:
    file = BackupFile(name="catalog.dump.zst", holds="catalog.dump", size_bytes=1, sha256=HASH, content_bytes=2)
    fields = {
        "format_version": 1, "id": "20261124T030000Z-5f0c2e1a", "kind": "full", "catalog_id": UUID(int=7), "epoch": 1,
        "database": "sh\u00f6p", "schema_revision": "0004", "postgres_version": 180006, "dump_version": 18,
        "snapshot_at": datetime(2026, 11, 24, 3, tzinfo=UTC), "finished_at": datetime(2026, 11, 24, 3, 1, tzinfo=UTC),
        "seconds": 1.5, "database_bytes": 100, "rows": {"public.jobs": 3}, "parts": {"indexes": 9}, "files": (file,),
        "metadata": SavedMetadata(objects=1, size_bytes=2, unsaved=0),
    } | changes  # fmt: skip
    return Manifest.model_validate(fields)


def test_there_and_back() -> None:
    assert parse(render(make())) == make()


def test_every_flipped_bit_and_every_cut_is_noticed() -> None:
    whole = render(make())
    for position in range(len(whole)):
        bit = 1 << random.Random(position).randrange(8)
        changed = whole[:position] + bytes([whole[position] ^ bit]) + whole[position + 1 :]
        with pytest.raises(DamagedBackupError):
            parse(changed)
        with pytest.raises(DamagedBackupError):
            parse(whole[:position])
    with pytest.raises(DamagedBackupError):
        parse(whole + b" ")


def test_a_newer_format_is_refused_in_clear_words() -> None:
    fields = json.loads(make(format_version=2).model_dump_json()) | {"something": "new"}
    with pytest.raises(SchemaError, match="newer version of this project .format 2, this one reads up to 1."):
        parse(_rendered(fields | {"checksum": _checksum(fields)}))


@pytest.mark.parametrize(
    "stored",
    [b"", b"{}", b"[]", b"null", b'"a"', b"\xff\xfe", b"[" * 100_000, b'{"checksum": 1, "format_version": 1}'],
)
def test_what_is_no_manifest(stored: bytes) -> None:
    with pytest.raises(DamagedBackupError, match="manifest"):
        parse(stored)


def test_a_manifest_with_a_right_checksum_and_wrong_fields() -> None:
    fields = json.loads(make().model_dump_json()) | {"kind": "half"}
    with pytest.raises(DamagedBackupError, match="kind"):
        parse(_rendered(fields | {"checksum": _checksum(fields)}))
