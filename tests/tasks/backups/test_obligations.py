"""What a restore does not undo: holds, disabled keys, erasures, the time to bring jobs back; and whose buckets are."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, text

from blocks.catalog import CatalogDatabase, block
from blocks.catalog.checks import checks_since, keep_checks, record_check
from blocks.catalog.in_use import InUse, find_in_use
from blocks.catalog.locations import declare_place
from blocks.catalog.restored import Obligations, erased_since, read_freeze, thaw
from blocks.errors import CatalogUnavailableError, RefusedError
from blocks.object_store import ObjectStore
from tasks.backups import cutover
from tasks.backups.aftermath import Aftermath, claim_buckets
from tasks.backups.cutover import cut_over
from tasks.backups.replacing import plan_replacement
from tasks.layout import IDENTITY_KEY
from tasks.stores import OpenLocation, open_location
from tasks.sweeping import Sweep
from tests.helpers import execute, one, rows
from tests.tasks.backups.conftest import NO_WAIT
from tests.tasks.removal.removals import delete

EVIDENCE = "SELECT at, what, backup, ok, seconds, bytes, because, run, details FROM backup_checks ORDER BY at"


def test_a_hold_outlives_a_restore(catalog: CatalogDatabase, job: UUID, take, swap) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest
    execute(catalog, "UPDATE jobs SET hold = 'case 7'")
    swap(made)
    assert rows(catalog, "SELECT id, hold FROM jobs") == [(job, "case 7")]


@pytest.mark.parametrize(
    "changed",
    ["UPDATE alembic_version SET version_num = '0099'", "UPDATE alembic_version SET version_num = '0007'",
     "DROP TABLE catalog_identity"],
    ids=["of a newer version", "of an older one", "nameless"],
)  # fmt: skip
def test_obligations_outlive_the_restore_of_another_versions_catalog(
    catalog: CatalogDatabase, job: UUID, take, swap, changed: str
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """As where a new version went wrong, and the one before it is installed again and restores."""
    made, erased = take().manifest, uuid4()
    execute(catalog, "UPDATE jobs SET hold = 'court order'")
    execute(catalog, "UPDATE api_keys SET disabled_at = now()")
    execute(catalog, "INSERT INTO operation_log (run, operation, job_id) VALUES ('x', 'erase', :job)", job=erased)
    execute(catalog, changed)
    cut = swap(made, even_if_unreadable="DROP" in changed)
    assert (cut.owned, cut.lacking) == (False, "")
    assert rows(catalog, "SELECT id, hold FROM jobs") == [(job, "court order")]
    assert one(catalog, "SELECT disabled_at IS NOT NULL FROM api_keys")
    assert catalog.transaction(lambda connection: erased_since(connection, made.snapshot_at)) == [erased]


def test_what_cannot_be_carried_over_is_named(catalog: CatalogDatabase, job: UUID, take, swap) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest
    execute(catalog, "ALTER TABLE jobs DROP COLUMN hold CASCADE")
    cut = swap(made, even_if_unreadable=True)
    assert cut.lacking == "not carried over, because it could not be read: holds"


def test_an_erasure_that_was_under_way_at_the_backup_is_told_once(
    catalog: CatalogDatabase, job: UUID, take, swap
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """Written down before the backup's moment, and seen after it; and one that the backup knows itself."""
    known, unseen = uuid4(), uuid4()
    log = "INSERT INTO operation_log (run, operation, job_id) VALUES ('x', 'erase', :job)"
    execute(catalog, log, job=known)
    with catalog.engine.connect() as connection, connection.begin():
        connection.execute(text(log), {"job": unseen})
        made = take().manifest
    plan = plan_replacement(find_in_use(catalog, even_if_unreadable=False), made, "beside")
    assert [item for item in plan.items if item.action == "erase again"] == [], "nobody is told what cannot be done"
    swap(made)
    logged = rows(catalog, "SELECT job_id FROM operation_log WHERE operation = 'erase'")
    assert sorted(row.job_id for row in logged) == sorted([known, unseen])


def test_jobs_that_were_deleted_since_are_told(
    catalog: CatalogDatabase, location: OpenLocation, job: UUID, take, new_job
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """They live again, and nobody would know."""
    before = new_job(b"deleted before the backup")
    sweep = Sweep(catalog, (location,), "x")
    delete(sweep, before)
    made = take().manifest
    newer = new_job(b"newer than the backup")
    execute(catalog, "UPDATE jobs SET hold = 'case 3' WHERE id = :id", id=newer)
    delete(sweep, job)
    delete(sweep, new_job(b"made and deleted since"))
    plan = plan_replacement(find_in_use(catalog, even_if_unreadable=False), made, "beside")
    assert [item.subject for item in plan.items if item.action == "delete again"] == [str(job)]
    forgotten = {item.subject: item.because for item in plan.items if item.action == "forget"}
    assert len(forgotten) == 2
    assert forgotten[str(newer)].endswith("on hold: case 3")


def test_nothing_is_bound_once_its_obligations_are_read(
    catalog: CatalogDatabase, job: UUID, take, swap, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """A hold that somebody sets when the cut-over has begun would be told as set, and be gone a second later."""
    monkeypatch.setattr(block, "LONGEST_PAUSE_SECONDS", 0.01)
    made = take().manifest
    set_open, obligations = cutover.set_open, InUse.obligations
    refused = []

    def hold_and_close(connection: Connection, name: str, *, is_open: bool) -> None:
        execute(catalog, "UPDATE jobs SET hold = 'case 8'")
        set_open(connection, name, is_open=is_open)

    def read_alone(self: InUse, since: datetime) -> Obligations:
        with pytest.raises(CatalogUnavailableError) as error:
            execute(catalog, "UPDATE jobs SET hold = 'case 9'")
        refused.append(str(error.value))
        return obligations(self, since)

    monkeypatch.setattr(cutover, "set_open", hold_and_close)
    monkeypatch.setattr(InUse, "obligations", read_alone)
    swap(made)
    assert "not currently accepting connections" in refused[0]
    monkeypatch.undo()
    assert rows(catalog, "SELECT id, hold FROM jobs") == [(job, "case 8")]


def test_obligations_that_cannot_be_read_any_more_change_nothing(
    catalog: CatalogDatabase, job: UUID, take, swap, sql, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest
    ask = InUse.ask

    def lose(self: InUse, question: object, otherwise: object) -> object:
        if self.session is not None:
            sql(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{catalog.database}'")
        return ask(self, question, otherwise)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(InUse, "ask", lose)
    with pytest.raises(CatalogUnavailableError):
        swap(made)
    assert catalog.transaction(read_freeze) is None, "let open again"


def test_an_erasure_is_told_by_every_restore_after_it(catalog: CatalogDatabase, job: UUID, take, swap, beside) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made, erased = take().manifest, uuid4()
    execute(catalog, "INSERT INTO operation_log (run, operation, job_id) VALUES ('x', 'erase', :job)", job=erased)
    swap(made)
    assert catalog.transaction(lambda connection: erased_since(connection, made.snapshot_at)) == [erased]


def test_how_backups_and_drills_went_since_stays_known(catalog: CatalogDatabase, job: UUID, take, swap, beside) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """When there was last a drill, how long it took, and which backups were made, is no matter of the catalog's age."""
    made = take().manifest
    take()
    catalog.transaction(
        lambda connection: record_check(
            connection, what="drill", backup=made.id, ok=True, seconds=7.5, run="x", details={"rows": 3}
        )
    )
    known = rows(catalog, EVIDENCE)
    assert [row.what for row in known] == ["backup", "backup", "drill"]
    swap(made)
    assert rows(catalog, EVIDENCE) == known
    # Of a restore that was killed and begun again, with the same database beside.
    kept = catalog.transaction(lambda connection: checks_since(connection, made.snapshot_at))
    catalog.transaction(lambda connection: keep_checks(connection, kept))
    assert rows(catalog, EVIDENCE) == known


def test_a_key_that_was_disabled_since_stays_so(
    catalog: CatalogDatabase, location: OpenLocation, job: UUID, take, swap
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """It may have leaked. Keys are told by their secrets: another may have its number in the backup."""
    made = take().manifest
    execute(catalog, "UPDATE api_keys SET disabled_at = '2026-01-02T03:04Z'")
    execute(
        catalog,
        "INSERT INTO api_keys (label, key_hash, disabled_at) VALUES ('newer', repeat('0', 64), now()), "
        "       ('enabled', repeat('1', 64), NULL)",
    )
    swap(made)
    since = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    assert rows(catalog, "SELECT label, disabled_at FROM api_keys") == [("acme", since)]


def test_what_is_in_the_trash_again_gets_all_of_its_time(catalog: CatalogDatabase, job: UUID, take, swap) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """It may have been brought back after the backup."""
    execute(catalog, "UPDATE jobs SET deleted_at = now() - interval '8 days', purge_after = now() - interval '1 day'")
    made = take().manifest
    execute(catalog, "UPDATE jobs SET deleted_at = NULL, purge_after = NULL")
    swap(made)
    frozen = catalog.transaction(read_freeze)
    assert frozen is not None
    assert catalog.transaction(lambda connection: thaw(connection, frozen, run="somebody"))
    assert one(catalog, "SELECT purge_after > now() + interval '6 days' FROM jobs")


def test_the_buckets_are_those_of_the_catalog_that_is_replaced(
    catalog: CatalogDatabase, location: OpenLocation, store: ObjectStore, job: UUID, take, swap, beside
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """Not those of a copy that never took them over: the catalog that it is a copy of may be in use."""
    made = take().manifest
    assert swap(made).owned
    assert not cut_over(catalog, beside(made).database, made, run="again", wait=NO_WAIT).owned


def test_a_catalog_saves_itself_only_where_it_is_the_one_in_use(
    catalog: CatalogDatabase, location: OpenLocation, store: ObjectStore, job: UUID, take, swap, listed
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """One that was replaced and runs on elsewhere, or a trial beside, would make backups that look newer."""
    first = take().manifest
    swap(first)
    with pytest.raises(RefusedError, match=f"restored from {first.id}, and its buckets are not its own yet"):
        take()
    claim_buckets(catalog, lambda _: store, Aftermath())
    second = take().manifest
    execute(catalog, "UPDATE catalog_identity SET epoch = :epoch", epoch=first.epoch)
    with pytest.raises(RefusedError, match=f"was replaced by a restore: backup {second.id} in the same folder"):
        take()
    assert [one.id for one in listed().all] == [second.id, first.id]


def test_two_servers_with_buckets_of_one_name(
    catalog: CatalogDatabase, location: OpenLocation, store: ObjectStore, job: UUID, take, swap, endpoints
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    far = store.model_copy(update={"prefix": f"{store.prefix}-far"})
    catalog.transaction(
        lambda connection: declare_place(
            connection, name="far", store="far", bucket=store.bucket, prefix=store.prefix,
            capabilities=location.capabilities.as_json(),
        )
    )  # fmt: skip
    stores = {"main": store, "far": far}
    far.s3.copy_object(
        Bucket=far.bucket, Key=far.path(IDENTITY_KEY), CopySource=f"{store.bucket}/{store.path(IDENTITY_KEY)}"
    )
    swap(take().manifest)
    result = Aftermath()
    claim_buckets(catalog, stores.__getitem__, result)
    assert (set(result.claimed), result.unclaimed) == ({"main", "far"}, {})
    open_location(catalog, store, "main")
