"""A drill leaves evidence and nothing else."""

from __future__ import annotations

import pytest

from blocks.catalog.databases import database_names, maintenance
from blocks.catalog.sweeps import database_lock
from blocks.errors import DamagedBackupError, SweepBusyError
from blocks.object_store.transfer import put_bytes
from blocks.policies import BackupPolicy
from tasks.backups import drill
from tasks.backups.drill import newest_for_drill, run_drill
from tasks.backups.health import judge
from tasks.backups.listing import remove_folder
from tasks.backups.manifest import folder_of
from tasks.backups.restoring import Restoring
from tasks.backups.verifying import verify_backup
from tests.helpers import execute, one, rows
from tests.tasks.backups.conftest import FAST, contents


def scratches(catalog) -> list[str]:  # type: ignore[no-untyped-def]  # a fixture
    with maintenance(catalog) as connection:
        return database_names(connection, f"{catalog.database}_drill")


def test_passed(catalog, job, take, vault, listed) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest
    drilled = run_drill(catalog, Restoring(vault, made, catalog, FAST), run="sunday")
    assert drilled.ok
    assert drilled.rows == sum(made.rows.values())
    assert set(drilled.steps) == {"verify", "restore", "compare", "migrate"}
    assert made.id in drilled.summary()
    assert scratches(catalog) == []
    (evidence,) = rows(catalog, "SELECT ok, seconds, details FROM backup_checks WHERE what = 'drill'")
    assert evidence.ok
    assert evidence.details["steps"]["restore"] > 0
    (backup,) = listed().all
    assert backup.drilled_at is not None
    assert backup.drill_seconds == pytest.approx(drilled.recovery_seconds)
    from blocks.catalog.checks import newest_checks
    from blocks.catalog.clock import catalog_now

    now = catalog.transaction(catalog_now)
    health = judge(listed(), catalog.transaction(lambda c: newest_checks(c, "drill")), BackupPolicy(), now)
    assert health.alarms == ()
    assert health.recovery_seconds == pytest.approx(drilled.recovery_seconds)


def test_failed(catalog, job, take, vault, catalog_id, listed, monkeypatch) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest
    execute(catalog, "UPDATE api_keys SET storage_used_bytes = storage_used_bytes + 1")
    wrong = take().manifest
    drilled = run_drill(catalog, Restoring(vault, wrong, catalog, FAST))
    assert "the counters of 1 customers are not the sums" in drilled.because
    put_bytes(vault, f"{folder_of(catalog_id, made.id)}/{made.files[0].name}", b"rotten", {})
    drilled = run_drill(catalog, Restoring(vault, made, catalog, FAST))
    assert not drilled.ok
    assert "FAILED" in drilled.summary()
    assert "is damaged" in drilled.because

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(drill, "_check_sums", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_drill(catalog, Restoring(vault, wrong, catalog, FAST))
    assert scratches(catalog) == [], "dropped however it ends"
    assert one(catalog, "SELECT count(*) FROM backup_checks WHERE what = 'drill' AND NOT ok") == 2
    assert all(backup.drilled_at is None for backup in listed().all)


def test_what_a_drill_finds_rotten_is_written_anew(catalog, job, take, vault, catalog_id, listed) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """The way out that its alarm names: a backup, and another drill."""
    made = take().manifest
    (name,) = contents(vault, catalog_id)
    put_bytes(vault, f"{catalog_id}/metadata/{name}", b"[]", {})
    assert not run_drill(catalog, Restoring(vault, made, catalog, FAST)).ok
    assert not listed().all[0].good, "and counts no more"
    again = take()
    assert again.copied == 1
    assert run_drill(catalog, Restoring(vault, again.manifest, catalog, FAST)).ok


def test_damage_of_a_file_hides_nothing_that_was_rotten_before(  # type: ignore[no-untyped-def]  # fixtures
    catalog, job, take, vault, catalog_id, listed
) -> None:
    made = take().manifest
    (name,) = contents(vault, catalog_id)
    put_bytes(vault, f"{catalog_id}/metadata/{name}", b"[]", {})
    assert not verify_backup(catalog, vault, listed().all[0], FAST, contents=True).ok
    put_bytes(vault, f"{folder_of(catalog_id, made.id)}/{made.files[0].name}", b"rotten", {})
    assert not run_drill(catalog, Restoring(vault, made, catalog, FAST)).ok
    (backup,) = listed().all
    assert backup.rotten == (name,)
    told = verify_backup(catalog, vault, backup, FAST).because
    assert f"catalog.dump.zst of backup {made.id} is damaged" in told
    assert "1 metadata objects are damaged" in told
    assert take().copied == 1, "the next one is not made of it"


def test_a_drill_that_is_killed_before_it_is_written_down_has_damage_count_already(  # type: ignore[no-untyped-def]  # fixtures
    catalog, job, take, vault, catalog_id, listed, monkeypatch
) -> None:
    made = take().manifest
    put_bytes(vault, f"{folder_of(catalog_id, made.id)}/{made.files[0].name}", b"rotten", {})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(drill, "_record", killed)
    with pytest.raises(KeyboardInterrupt):
        run_drill(catalog, Restoring(vault, made, catalog, FAST))
    assert not listed().all[0].good


def test_a_backup_that_is_let_go_while_it_is_drilled(catalog, job, take, vault, catalog_id, listed) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest
    remove_folder(vault, catalog_id, made.id)
    drilled = run_drill(catalog, Restoring(vault, made, catalog, FAST))
    assert "it is not there" in drilled.because
    assert listed().all == ()


def test_what_was_drilled_once_stays_though_a_later_drill_cannot_begin(  # type: ignore[no-untyped-def]  # fixtures
    catalog, job, take, secret, vault, listed
) -> None:
    made = take(key=secret).manifest
    assert run_drill(catalog, Restoring(vault, made, catalog, FAST, secret)).ok
    drilled = run_drill(catalog, Restoring(vault, made, catalog, FAST))
    assert "is encrypted" in drilled.because
    (backup,) = listed().all
    assert backup.good
    assert backup.drilled_at is not None


def test_what_a_killed_one_left_is_dropped_by_the_next(catalog, job, take, vault, sql) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest
    sql(f"CREATE DATABASE {catalog.database}_drill_0badcafe")
    with (
        database_lock(catalog, "drill", holder="restore-drill one"),
        pytest.raises(SweepBusyError, match="restore-drill one"),
    ):
        run_drill(catalog, Restoring(vault, made, catalog, FAST))
    assert run_drill(catalog, Restoring(vault, made, catalog, FAST)).ok
    assert scratches(catalog) == []


def test_without_a_good_backup(listed) -> None:  # type: ignore[no-untyped-def]  # a fixture
    with pytest.raises(DamagedBackupError, match="there is no verified backup"):
        newest_for_drill(listed().newest_good)
