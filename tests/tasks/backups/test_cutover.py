"""The cut-over ends the sessions of the old database and swaps names, or changes nothing."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import psycopg2
import pytest

from blocks.catalog import CatalogDatabase, block, drift
from blocks.catalog.databases import is_open, maintenance, read_note, set_open, write_note
from blocks.catalog.drift import Fenced
from blocks.catalog.in_use import find_in_use
from blocks.catalog.locations import read_identity
from blocks.catalog.migrating import upgrade
from blocks.catalog.restored import read_freeze
from blocks.catalog.sweeps import sweep_lock
from blocks.errors import CatalogUnavailableError, RefusedError, SweepBusyError
from blocks.object_store import ObjectStore
from blocks.policies import IngestPolicy
from tasks.backups import cutover
from tasks.backups.cutover import cut_over, drop_leftovers, reopen, require_owner
from tasks.backups.replacing import plan_replacement
from tasks.backups.restoring import Restoring, name_beside, restore_beside
from tasks.backups.taking import Making, take_backup
from tasks.intake.ingest import ingest_videos
from tasks.stores import OpenLocation
from tests.helpers import execute, one, rows, write_video
from tests.tasks.backups.conftest import FAST, NO_WAIT


def is_gone(catalog: CatalogDatabase, name: str) -> bool:
    with maintenance(catalog) as connection:
        return is_open(connection, name) is None


def test_with_open_sessions_and_the_old_one_kept(catalog: CatalogDatabase, job: UUID, take, swap) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest
    execute(catalog, "UPDATE api_keys SET label = 'renamed since'")
    session = psycopg2.connect(host=catalog.host, user="postgres", dbname=catalog.database)
    with session.cursor() as cursor:
        cursor.execute("BEGIN; SELECT 1 FROM jobs FOR UPDATE")
    cut = swap(made)
    with pytest.raises(psycopg2.OperationalError), session.cursor() as cursor:
        cursor.execute("SELECT 1")
    session.close()
    assert one(catalog, "SELECT label FROM api_keys") == "acme", "the pool of a process that goes on finds the new one"
    old = catalog.named(cut.kept_as)
    assert one(old, "SELECT label FROM api_keys") == "renamed since"
    with pytest.raises(Exception, match="read-only transaction"):
        execute(old, "UPDATE api_keys SET label = 'again'")
    old.disconnect()
    frozen = catalog.transaction(read_freeze)
    assert frozen is not None
    assert frozen.restored_from == made.id
    assert catalog.transaction(read_identity).epoch == cut.epoch == made.epoch + 1


def test_restores_within_one_second_keep_all_old_databases(
    catalog: CatalogDatabase, job: UUID, take, swap, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    second = datetime.now(UTC)

    class Standing(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # noqa: ARG003  # the signature of what it replaces
            return second

    monkeypatch.setattr(cutover, "datetime", Standing)
    made = take().manifest
    old = [swap(made).kept_as for _ in range(3)]
    assert len(set(old)) == 3
    assert not any(is_gone(catalog, name) for name in old)


def test_what_was_read_of_a_changed_row_changes_nothing_after_a_restore(catalog, job, take, swap) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """Not even where the row has been changed as often since, in any restore of the same backup."""
    made = take().manifest
    (row,) = rows(catalog, "SELECT id, api_key_id, generation FROM stored_objects WHERE kind = 'original'")

    def mark(generation: int, state: str) -> bool:
        objects = [Fenced(row.id, generation)]
        return bool(
            catalog.transaction(lambda found: drift.mark(found, row.api_key_id, objects, state=state, run="", rule=""))
        )

    read_before = []
    for _ in range(3):
        assert mark(row.generation, "missing"), "a row that nobody has changed is still what was read"
        assert not any(mark(generation, "live") for generation in read_before)
        read_before.append(one(catalog, "SELECT generation FROM stored_objects WHERE kind = 'original'"))
        swap(made)
        time.sleep(1)  # the database that was replaced is named by the second
    assert len(set(read_before)) == 3


def test_as_a_role_that_may_do_no_more_than_it_needs(catalog: CatalogDatabase, vault: ObjectStore, sql) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """Backup, restore and cut-over by the owner of the catalog, who may create databases, and nothing else."""
    sql("DROP ROLE IF EXISTS shopkeeper")
    sql("CREATE ROLE shopkeeper LOGIN CREATEDB")
    name = f"{catalog.database}_owned"
    sql(f"CREATE DATABASE {name} OWNER shopkeeper")
    owned = catalog.model_copy(update={"username": "shopkeeper", "database": name})
    upgrade(owned)
    made = take_backup(Making(owned, vault, FAST, lambda _: vault)).manifest
    beside_it = name_beside(name, "restore", "0badcafe")
    restored = restore_beside(Restoring(vault, made, owned, FAST), beside_it, note={})
    cut = cut_over(owned, restored.database, made, run="by the owner", wait=NO_WAIT)
    assert one(owned, "SELECT restored_from FROM catalog_identity") == made.id
    owned.disconnect()
    for database in (name, cut.kept_as):
        sql(f"DROP DATABASE {database} WITH (FORCE)")
    sql("ALTER ROLE shopkeeper NOCREATEDB")
    sql(f"CREATE DATABASE {name} OWNER shopkeeper")
    with pytest.raises(RefusedError, match="permission denied to create database; let it with ALTER ROLE"):
        restore_beside(Restoring(vault, made, owned, FAST), beside_it, note={})
    require_owner(owned)
    with pytest.raises(RefusedError, match=f"the database {name} is shopkeeper's, and this is postgres: everything"):
        require_owner(catalog.named(name))
    sql(f"DROP DATABASE {name} WITH (FORCE)")
    sql("DROP ROLE shopkeeper")


def test_readers_and_writers_ride_over_it(catalog: CatalogDatabase, job: UUID, take, swap) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest
    stop, errors, counts = threading.Event(), list[BaseException](), list[int]()

    def work() -> None:
        while not stop.is_set():
            try:
                counts.append(
                    catalog.transaction(
                        lambda connection: connection.exec_driver_sql("SELECT count(*) FROM jobs").scalar_one()
                    )
                )
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    swap(made)
    time.sleep(0.3)
    stop.set()
    for thread in threads:
        thread.join()
    # A COMMIT whose answer was lost is told to the caller, who alone can say whether to do it again; nothing else is.
    assert all(isinstance(error, CatalogUnavailableError) for error in errors)
    assert len(errors) <= len(threads)
    assert set(counts) == {1}


@pytest.mark.parametrize("step", ["end_sessions", "swap_names"])
def test_a_step_that_fails_changes_nothing(
    catalog: CatalogDatabase, job: UUID, take, swap, monkeypatch, step: str
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest

    def refuse(*_: object, **__: object) -> None:
        raise RefusedError("sessions do not end")

    monkeypatch.setattr(cutover, step, refuse)
    with pytest.raises(RefusedError):
        swap(made)
    assert one(catalog, "SELECT label FROM api_keys") == "acme"
    assert catalog.transaction(read_freeze) is None
    assert not reopen(catalog)


def test_it_waits_for_sweeps_and_keeps_them_out(
    catalog: CatalogDatabase, location: OpenLocation, job: UUID, take, swap
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest
    with (
        sweep_lock(catalog, [location.place.id], holder="cleanup night", wait=NO_WAIT),
        pytest.raises(SweepBusyError, match="cleanup night"),
    ):
        swap(made)
    assert catalog.transaction(read_freeze) is None


def test_the_session_of_the_cut_over_dies_in_the_middle(
    catalog: CatalogDatabase, job: UUID, take, swap, monkeypatch
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest

    def cut(connection, name: str, **_: int) -> None:  # type: ignore[no-untyped-def]  # a session
        connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    monkeypatch.setattr(cutover, "end_sessions", cut)
    with pytest.raises(CatalogUnavailableError):
        swap(made)
    assert one(catalog, "SELECT label FROM api_keys") == "acme", "let open again, on another session"


def test_who_slept_past_the_lock_swaps_nothing(
    catalog: CatalogDatabase, job: UUID, take, swap, sql, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """Another restore may have taken the catalog's place meanwhile."""
    made = take().manifest
    freeze = cutover.freeze

    def sleep(*arguments: object, **options: object) -> None:
        freeze(*arguments, **options)  # type: ignore[arg-type]
        sql(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks JOIN pg_stat_activity USING (pid) "
            " WHERE locktype = 'advisory' AND application_name = 'restore a restore'"
        )

    monkeypatch.setattr(cutover, "freeze", sleep)
    with pytest.raises(CatalogUnavailableError):
        swap(made)
    assert catalog.transaction(read_freeze) is None
    with maintenance(catalog) as connection:
        assert read_note(connection, catalog.database) == {}, "not even touched"


def test_an_empty_database_says_nothing_of_epochs(catalog: CatalogDatabase, job: UUID, take, beside, sql) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest
    empty = catalog.named(f"{catalog.database}_empty")
    sql(f"CREATE DATABASE {empty.database}")
    cut = cut_over(empty, beside(made).database, made, run="a restore", wait=NO_WAIT)
    assert cut.epoch > 1_000_000, "nobody knows which were used"
    empty.disconnect()
    drop_leftovers(empty, "before", keep=lambda note: False)
    sql(f"DROP DATABASE {empty.database} WITH (FORCE)")


def test_databases_of_others_are_no_leftovers(catalog: CatalogDatabase, sql, monkeypatch) -> None:  # type: ignore[no-untyped-def]  # a fixture
    monkeypatch.setattr(block, "LONGEST_PAUSE_SECONDS", 0.01)
    sql(f"CREATE DATABASE {catalog.database}_restore_analysis")
    assert drop_leftovers(catalog, "restore", keep=lambda note: False) == []
    sql(f"DROP DATABASE {catalog.database}_restore_analysis")
    # A date could be one of ours by its name.
    dated = catalog.named(f"{catalog.database}_restore_20261124")
    sql(f"CREATE DATABASE {dated.database}")
    execute(dated, "CREATE TABLE somebodys (id int)")
    dated.disconnect()
    assert drop_leftovers(catalog, "restore", keep=lambda note: False) == []
    with maintenance(catalog) as connection:
        set_open(connection, dated.database, is_open=False)
        assert drop_leftovers(catalog, "restore", keep=lambda note: False) == [], "nor what nobody can look into"
        set_open(connection, dated.database, is_open=True)
    execute(dated, "DROP TABLE somebodys")
    dated.disconnect()
    assert drop_leftovers(catalog, "restore", keep=lambda note: False) == [dated.database], "killed before its note"


def test_left_closed_by_a_kill_it_is_let_open(catalog: CatalogDatabase, job: UUID) -> None:
    with maintenance(catalog) as connection:
        write_note(connection, catalog.database, {"cutover": "killed"})
        set_open(connection, catalog.database, is_open=False)
    catalog.disconnect()
    assert reopen(catalog)
    assert one(catalog, "SELECT count(*) FROM jobs") == 1
    assert not reopen(catalog)


@pytest.mark.parametrize(("ending", "note"), [("before_upgrade", {"cutover": "x"}), ("before_20260101030000", {})])
def test_somebodys_own_database_beside_stays_closed(
    catalog: CatalogDatabase, sql, ending: str, note: dict[str, str]
) -> None:  # type: ignore[no-untyped-def]  # a fixture
    name = f"{catalog.database}_{ending}"
    sql(f"CREATE DATABASE {name}")
    with maintenance(catalog) as connection:
        write_note(connection, name, note)
        set_open(connection, name, is_open=False)
        assert not reopen(catalog)
        assert not is_open(connection, name)
        assert read_note(connection, name) == note
    sql(f"DROP DATABASE {name}")


def test_what_an_operator_closed_stays_closed(catalog: CatalogDatabase) -> None:
    with maintenance(catalog) as connection:
        set_open(connection, catalog.database, is_open=False)
        assert not reopen(catalog)
        set_open(connection, catalog.database, is_open=True)


def test_what_a_restore_would_forget_is_told_before(
    catalog: CatalogDatabase, location: OpenLocation, policy: IngestPolicy, job: UUID, take, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest
    in_use = find_in_use(catalog, even_if_unreadable=False)
    assert plan_replacement(in_use, made, "beside").objects == 0
    video = write_video(tmp_path / "new.mp4", b"a newer video")
    ingest_videos(catalog, location, policy, api_key="acme", sources=[str(video)])
    execute(catalog, "INSERT INTO operation_log (run, operation, job_id) VALUES ('x', 'erase', gen_random_uuid())")
    plan = plan_replacement(in_use, made, "beside")
    assert (plan.objects, plan.size_bytes) == (1, 13)
    assert [item.rule for item in plan.items] == ["restore", "erased since", "newer than the backup"]
    assert plan_replacement(None, made, "beside").objects == 0
