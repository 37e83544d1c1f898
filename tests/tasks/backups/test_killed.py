"""SIGKILL in the middle of a backup, a restore and a cut-over, in a process of its own; then the next run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from blocks.catalog import CatalogDatabase
from blocks.catalog.databases import database_names, maintenance
from blocks.catalog.restored import read_freeze
from blocks.object_store import ObjectStore
from blocks.object_store.multipart import list_multipart_uploads
from tasks.backups.cutover import drop_leftovers, reopen
from tasks.stores import OpenLocation
from tests.helpers import one, run_elsewhere

pytestmark = pytest.mark.chaos

OPENING = """
import signal
from datetime import timedelta
from uuid import UUID
from blocks.policies import BackupPolicy
from tasks.backups import cutover, restoring, retention, streams, taking
from tasks.backups.listing import list_backups
from tasks.backups.restoring import Restoring, restore_beside
from tasks.backups.taking import Making, take_backup
vault = store.model_copy(update={{"prefix": {prefix!r}}})
policy = BackupPolicy(compression_level=1, restore_jobs=1)
seen = 0

def dies(module, name):
    # Before and after each call of it: `at` is the point that the process dies at.
    real = getattr(module, name)
    def run(*arguments, **options):
        global seen
        for after in (False, True):
            seen += 1
            if seen == {at}:
                os.kill(os.getpid(), signal.SIGKILL)
            if not after:
                result = real(*arguments, **options)
        return result
    setattr(module, name, run)
"""
BACKUP = """
for module, name in ((taking, "write_file"), (taking, "_read_back"), (taking, "put_bytes"), (taking, "write_note"),
                     (taking, "record_check")):
    dies(module, name)
take_backup(Making(catalog, vault, policy, lambda _: store))
print("through", seen)
"""
RESTORE = """
for name in ("create_database", "run", "_compare", "upgrade", "write_note"):
    dies(restoring, name)
made = list_backups(vault, UUID({catalog_id!r})).newest_good.manifest
restore_beside(Restoring(vault, made, catalog, policy), {name!r}, note={{}})
print("through", seen)
"""
CUT_OVER = """
for name in ("freeze", "write_note", "set_open", "end_sessions", "swap_names", "make_read_only"):
    dies(cutover, name)
made = list_backups(vault, UUID({catalog_id!r})).newest_good.manifest
cutover.cut_over(catalog, catalog.named({name!r}), made, run="killed", wait=timedelta(0))
print("through", seen)
"""


@pytest.fixture
def die(catalog: CatalogDatabase, location: OpenLocation, vault: ObjectStore, catalog_id: UUID) -> Callable[..., bool]:
    """Runs a script that dies at a point; whether it did."""

    def run(script: str, at: int, name: str = "") -> bool:
        given: dict[str, Any] = {"prefix": vault.prefix, "at": at, "catalog_id": str(catalog_id), "name": name}
        ended = run_elsewhere(catalog, location, (OPENING + script).format(**given))
        assert ended.returncode in (0, -9), ended.stderr[-2000:]
        return ended.returncode == -9

    return run


@pytest.mark.slow
def test_a_backup(catalog: CatalogDatabase, job: UUID, die, listed, vault: ObjectStore, take) -> None:  # type: ignore[no-untyped-def]  # fixtures
    whole = 0
    for at in (4, 10, 12, 14):
        assert die(BACKUP, at)
        found = listed()
        # The manifest is what makes it one: from then on it can be restored, whatever else was not written any more.
        assert all(backup.usable for backup in found.all)
        assert len(found.all) in (whole, whole + 1)
        whole = len(found.all)
    assert 0 < whole < 4
    take()
    assert listed().unfinished == {}
    assert list(list_multipart_uploads(vault)) == []
    assert len(listed().all) == whole + 1


@pytest.mark.slow
def test_a_restore(catalog: CatalogDatabase, job: UUID, die, take) -> None:  # type: ignore[no-untyped-def]  # fixtures
    take()
    for at in (2, 5, 9):
        assert die(RESTORE, at, f"{catalog.database[:30]}_restore_{at:08}")
        assert one(catalog, "SELECT count(*) FROM jobs") == 1
    left = drop_leftovers(catalog, "restore", keep=lambda note: note.get("ready") is True)
    assert len(left) == 3, "each says of itself that it is not ready"
    with maintenance(catalog) as connection:
        assert database_names(connection, f"{catalog.database}_restore") == []


@pytest.mark.slow
def test_a_cut_over(catalog: CatalogDatabase, job: UUID, die, take, beside) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest
    restored = beside(made).database.database
    beside_it = catalog.named(restored)
    before = one(catalog, "SELECT epoch FROM catalog_identity")
    for at in (2, 5, 7, 11):
        catalog.engine.dispose()
        assert die(CUT_OVER, at, restored)
        # Whoever restores next begins with this.
        reopen(catalog)
        assert one(catalog, "SELECT epoch FROM catalog_identity") == before, f"nothing has happened at {at}"
        assert catalog.transaction(read_freeze) is None
        assert one(beside_it, "SELECT count(*) FROM jobs") == 1
        beside_it.engine.dispose()
    catalog.engine.dispose()
    assert die(CUT_OVER, 12, restored), "right after the swap"
    reopen(catalog)
    frozen = catalog.transaction(read_freeze)
    assert frozen is not None
    assert frozen.restored_from == made.id
    assert len(drop_leftovers(catalog, "before", keep=lambda note: "replaced" not in note)) == 1
