"""A restore verifies before it touches anything, and brings back every row; what fails leaves no database behind."""

from __future__ import annotations

import random
import resource
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from blocks.catalog import CatalogDatabase
from blocks.catalog.migrating import upgrade
from blocks.embedded import Endpoints
from blocks.encryption import BackupKey, new_key
from blocks.errors import CatalogUnavailableError, DamagedBackupError, InvalidInputError, RefusedError, SchemaError
from blocks.object_store import ObjectStore
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import put_bytes, read_bytes
from blocks.policies import BackupPolicy
from tasks.backups import restoring
from tasks.backups.listing import choose
from tasks.backups.manifest import MANIFEST, Manifest, folder_of, render
from tasks.backups.restoring import name_beside, prefix_beside
from tasks.backups.taking import Taken
from tests.helpers import execute, one, rows


def hashes(catalog: CatalogDatabase) -> dict[str, str]:
    """One hash a table, over all of its rows in any order."""
    tables = rows(catalog, "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace")
    return {
        table: one(
            catalog,
            f"SELECT coalesce(sum(hashtextextended(to_jsonb(t)::text, 0)::numeric), 0)::text "
            f"       || ' ' || count(*) FROM {table} t",
        )
        for (table,) in tables
    }


def databases(catalog: CatalogDatabase) -> set[str]:
    return {name for (name,) in rows(catalog, "SELECT datname FROM pg_database")}


@pytest.fixture
def untouched(catalog: CatalogDatabase):  # type: ignore[no-untyped-def]
    """Whatever happens, the server has the databases it had, and the catalog its rows."""
    before, content = databases(catalog), hashes(catalog)
    yield
    assert databases(catalog) == before
    # The line about the backup itself apart.
    assert hashes(catalog) | {"backup_checks": ""} == content | {"backup_checks": ""}


def test_every_table_hashes_the_same(catalog: CatalogDatabase, job: UUID, take: Callable[..., Taken], beside) -> None:  # type: ignore[no-untyped-def]  # a fixture
    before = hashes(catalog)
    made = take().manifest
    restored = beside(made)
    assert hashes(restored.database) == before | {"backup_checks": "0 0"}, "the backup's own line came after it"
    assert one(restored.database, "SELECT count(*) FROM pg_trigger WHERE tgname = 'count_updated'") == 1
    assert set(restored.seconds) == {"verify", "restore", "compare", "migrate"}
    # What keeps the catalog exact works there as it did.
    execute(restored.database, "UPDATE stored_objects SET size_bytes = size_bytes + 1 WHERE kind = 'audio'")
    used = "SELECT storage_used_bytes - (SELECT sum(size_bytes) FROM stored_objects) FROM api_keys"
    assert one(restored.database, used) == 0


def test_into_an_empty_server(catalog: CatalogDatabase, job: UUID, take, beside, tmp_path_factory) -> None:  # type: ignore[no-untyped-def]  # fixtures
    """Another PostgreSQL, with nothing in it: the same rows."""
    import shutil
    import tempfile
    from pathlib import Path

    from blocks.embedded import postgres

    before, made = hashes(catalog), take().manifest
    folder = Path(tempfile.mkdtemp(prefix="tf-empty-"))
    folder.chmod(0o755)
    try:
        postgres.start(folder / "pg")
        empty = CatalogDatabase(host=str(folder / "pg"), username="postgres", database="shop")
        restored = beside(made, target=empty).database
        assert hashes(restored) == before | {"backup_checks": "0 0"}
        restored.disconnect()
    finally:
        postgres.stop(folder / "pg")
        shutil.rmtree(folder)


@pytest.mark.parametrize("each", [20, pytest.param(200, marks=pytest.mark.chaos)])
def test_flipped_bits_and_cuts(
    each: int, job: UUID, take, vault: ObjectStore, catalog_id: UUID, untouched, listed, beside
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made: Manifest = take().manifest
    chance = random.Random(each)
    files = [*(file.name for file in made.files), MANIFEST]
    for number in range(2 * each):
        key = f"{folder_of(catalog_id, made.id)}/{files[number % len(files)]}"
        whole = read_bytes(vault, key, at_most=10**8)
        at = chance.randrange(len(whole))
        flipped = whole[:at] + bytes([whole[at] ^ (1 << chance.randrange(8))]) + whole[at + 1 :]
        put_bytes(vault, key, flipped if number < each else whole[:at], {})
        try:
            if key.endswith(MANIFEST):
                (found,) = listed().all
                assert not found.usable, f"{key} at {at}"
                assert found.why_not
            else:
                with pytest.raises(DamagedBackupError, match=files[number % len(files)]):
                    beside(made)
        finally:
            put_bytes(vault, key, whole, {})
    beside(made).database.disconnect()


def test_damaged_copies_of_metadata_are_named(job, take, vault, catalog_id, untouched, beside, sql, catalog) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest
    sha256 = one(catalog, "SELECT sha256 FROM stored_objects WHERE kind = 'metadata'")
    for body in (b"{]", b"", b"{}}"):
        put_bytes(vault, f"{catalog_id}/metadata/{sha256}-{made.id}", body, {})
        with pytest.raises(DamagedBackupError, match=f"1 of 1 metadata objects.*{sha256[:12]}.*even_if_damaged"):
            beside(made)
    delete_keys(vault, [f"{catalog_id}/metadata/{sha256}-{made.id}"])
    restored = beside(made, even_if_damaged=True)
    (note,) = restored.notes
    assert note.startswith(f"1 copies of metadata objects are damaged and stay out, such as metadata {sha256[:12]}")
    beside(made, metadata="none")
    for number in range(3, 5):
        sql(f"DROP DATABASE {catalog.database}_beside_{number} WITH (FORCE)")


def test_encrypted_without_its_key(job: UUID, take, secret: BackupKey, untouched, beside) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take(key=secret).manifest
    with pytest.raises(RefusedError, match="is encrypted to age1.*name the Backup Key block"):
        beside(made)
    with pytest.raises(RefusedError, match="needs its secret key"):
        beside(made, key=BackupKey(recipient=secret.recipient))
    with pytest.raises(RefusedError, match="another key"):
        beside(made, key=new_key())


def test_made_by_the_schema_before(
    endpoints: Endpoints, sql: Callable[[str], None], vault: ObjectStore, take, beside
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    from alembic import command

    from blocks.catalog import migrating

    sql("CREATE DATABASE catalog_before")
    old = CatalogDatabase(host=str(endpoints.postgres_folder), username="postgres", database="catalog_before")
    with old.engine.connect() as connection:
        config = migrating._config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        connection.exec_driver_sql(f"INSERT INTO api_keys (label, key_hash) VALUES ('acme', '{'0' * 64}')")
        connection.commit()
    made = take(catalog=old).manifest
    assert made.schema_revision == "0003"
    restored = beside(made, target=old).database
    assert one(restored, "SELECT version_num FROM alembic_version") == migrating.head_revision()
    assert one(restored, "SELECT label FROM api_keys") == "acme"
    for database in (old, restored):
        database.disconnect()
    assert upgrade(old) == migrating.head_revision()
    old.disconnect()
    sql("DROP DATABASE catalog_before WITH (FORCE)")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"schema_revision": "9999"}, SchemaError, "a newer version made it"),
        ({"postgres_version": 990001}, RefusedError, "restore it to 99 or newer"),
        ({"kind": "half"}, DamagedBackupError, "kind"),
    ],
)
def test_what_does_not_fit_this_server(job, take, untouched, beside, vault, changes, error, words, listed) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest
    changed = made.model_copy(update=changes)
    if "kind" in changes:
        put_bytes(vault, f"{folder_of(made.catalog_id, made.id)}/{MANIFEST}", render(changed), {})
        (found,) = listed().all
        assert words in found.why_not
        return
    with pytest.raises(error, match=words):
        beside(changed)


@pytest.mark.parametrize(
    ("forge", "words"),
    [
        (lambda made: {"finished_at": made.finished_at + 400 * timedelta(days=1)}, "was written before that"),
        (lambda made: {"finished_at": made.snapshot_at - timedelta(days=1)}, "its dates contradict each other"),
        (lambda made: {"snapshot_at": made.snapshot_at - timedelta(days=1)}, "its dates contradict each other"),
        (lambda made: {"catalog_id": uuid4()}, "it lies in a wrong folder"),
        (lambda made: {"id": f"{made.id[:-8]}0badcafe"}, "it lies in a wrong folder"),
    ],
)  # fmt: skip
def test_a_forged_date_is_seen_and_never_the_latest(job, take, vault, listed, forge, words: str) -> None:  # type: ignore[no-untyped-def]  # fixtures
    honest, made = take().manifest, take().manifest
    put_bytes(
        vault, f"{folder_of(made.catalog_id, made.id)}/{MANIFEST}", render(made.model_copy(update=forge(made))), {}
    )
    (forged,) = (one for one in listed().all if one.id == made.id)
    assert words in forged.why_not
    assert not forged.usable
    assert not forged.good
    assert choose([listed()], "latest")[1].id == honest.id
    with pytest.raises(DamagedBackupError, match=words):
        choose([listed()], made.id)


def test_what_was_restored_is_held_against_the_manifest(job: UUID, take, untouched, beside) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest
    for changes, words in (
        ({"rows": made.rows | {"public.jobs": 2}}, "public.jobs has 1 rows, 2 were backed up"),
        ({"rows": made.rows | {"public.more": 2}}, "public.more has no rows"),
        ({"parts": made.parts | {"indexes": 1}}, "indexes where 1 were backed up"),
    ):
        with pytest.raises(DamagedBackupError, match=words):
            beside(made.model_copy(update=changes))


def test_no_room_and_a_disk_that_fills_up(job: UUID, take, untouched, beside, tmp_path) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest
    dump = made.files[0].model_copy(update={"content_bytes": 2**60})
    with pytest.raises(RefusedError, match="free, and the dump .* takes 1024 PiB: name a folder with more room"):
        beside(made.model_copy(update={"files": (dump, *made.files[1:])}))
    for nowhere in (str(tmp_path / "nowhere"), "~nobody-at-all/x", "x" * 1000, "a\0b"):
        with pytest.raises(InvalidInputError, match="is no folder on this machine"):
            beside(made, policy=BackupPolicy(scratch_folder=nowhere))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # As a full disk does it, a write fails in the middle.
    resource.setrlimit(resource.RLIMIT_FSIZE, (made.files[0].content_bytes // 2, hard))
    try:
        with pytest.raises(RefusedError, match="took no more of the dump"):
            beside(made)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_server_goes_away_in_the_middle(
    catalog: CatalogDatabase, job: UUID, take, untouched, beside, monkeypatch
) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest
    real = restoring.run

    def cut(program, arguments, database, **options):  # type: ignore[no-untyped-def]  # passed on
        real(program, [*arguments, "--section=pre-data"], database, **options)
        raise CatalogUnavailableError("Connection refused")

    monkeypatch.setattr(restoring, "run", cut)
    with pytest.raises(CatalogUnavailableError):
        beside(made)


def test_a_server_that_is_not_there(catalog: CatalogDatabase, job: UUID, take, beside) -> None:  # type: ignore[no-untyped-def]  # fixtures
    made = take().manifest
    nowhere = catalog.model_copy(update={"host": "127.0.0.1", "port": 1})
    with pytest.raises(CatalogUnavailableError, match="Connection refused"):
        beside(made, target=nowhere)


def test_grants_to_roles_that_the_server_lacks_are_told(catalog: CatalogDatabase, job: UUID, take, beside, sql) -> None:  # type: ignore[no-untyped-def]  # fixtures
    sql("DROP ROLE IF EXISTS analyst_of_a_test")
    sql("CREATE ROLE analyst_of_a_test")
    execute(catalog, "GRANT SELECT ON jobs TO analyst_of_a_test")
    made = take().manifest
    assert made.roles == ("analyst_of_a_test",)
    assert beside(made).notes == ()
    execute(catalog, "REVOKE ALL ON jobs FROM analyst_of_a_test")
    sql(f"DROP DATABASE {catalog.database}_beside_0 WITH (FORCE)")
    sql("DROP ROLE analyst_of_a_test")
    assert "no role analyst_of_a_test" in beside(made).notes[0]


@pytest.mark.parametrize("name", ["shop", "s" * 63, "ü" * 31])
def test_names_beside_are_whole_though_postgresql_counts_bytes(name: str) -> None:
    beside = name_beside(name, "before", "20260101030000")
    assert len(beside.encode()) <= 63
    assert beside.endswith("_before_20260101030000")
    assert beside.startswith(prefix_beside(name, "before"))
