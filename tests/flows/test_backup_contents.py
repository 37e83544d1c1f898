"""What travels in a backup beside the catalog, as the flow saves it: metadata objects of every store, and settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import BlockDocumentUpdate

from blocks.catalog import CatalogDatabase
from blocks.catalog.locations import declare_place
from blocks.errors import InvalidInputError
from blocks.loading import block_names, load_block
from blocks.object_store import ObjectStore
from blocks.object_store.deletion import delete_keys
from blocks.object_store.listing import list_prefix
from blocks.policies import AccessPolicy, BackupPolicy, IngestPolicy, RetentionPolicy
from tasks.backups.listing import list_backups
from tasks.backups.restoring import Restoring, name_beside
from tasks.intake.outputs import register_outputs
from tasks.stores import OpenLocation
from tests.flows.commands.test_app import run
from tests.flows.conftest import delete_policy, save_policy
from tests.flows.test_flows import latest_artifact
from tests.helpers import execute, one, write_outputs

pytestmark = [pytest.mark.prefect, pytest.mark.slow]


@pytest.fixture
def completed(
    catalog: CatalogDatabase, location: OpenLocation, new_jobs: Callable[[int], list[UUID]], tmp_path: Path
) -> list[UUID]:
    """Two jobs with all outputs, `metadata.json` among them, each its own."""
    jobs = new_jobs(2)
    for job in jobs:
        folder = write_outputs(tmp_path / f"made/{job}", segments=1)
        (folder / "metadata.json").write_text(f'{{"job": "{job}"}}')
        register_outputs(catalog, location, IngestPolicy(source_roots=str(tmp_path)), job_id=job, outputs=str(folder))
    return jobs


def test_metadata_objects_of_stores_that_can_be_opened(
    catalog: CatalogDatabase, location: OpenLocation, store: ObjectStore, vault: ObjectStore, completed: list[UUID]
) -> None:
    from flows.backup import backup

    whole = backup(return_state=True)
    assert whole.name == "Completed", whole.message
    assert "2 metadata objects, 2 of them new" in str(whole.message)
    # A store whose block is gone keeps the others' from nothing, and the run says so.
    catalog.transaction(
        lambda connection: declare_place(
            connection, name="lost", store="no-block", bucket=store.bucket, prefix=store.prefix,
            capabilities=location.capabilities.as_json(),
        )
    )  # fmt: skip
    lost = "UPDATE stored_objects SET location_id = (SELECT id FROM locations WHERE name = :place), sha256 = :sha256 "
    row = one(catalog, "SELECT id FROM stored_objects WHERE kind = 'metadata' LIMIT 1")
    before = one(catalog, "SELECT sha256 FROM stored_objects WHERE id = :id", id=row)
    execute(catalog, f"{lost} WHERE id = :id", place="lost", sha256="0" * 64, id=row)
    partial = backup(return_state=True)
    execute(catalog, f"{lost} WHERE id = :id", place="main", sha256=before, id=row)
    assert partial.name == "Partial", partial.message
    assert "1 metadata objects, 0 of them new, 1 could NOT be saved" in str(partial.message)
    assert "no-block" in str(partial.message)


def test_what_a_restore_leaves_out_is_told_before_and_after_it_is_approved(
    catalog: CatalogDatabase, vault: ObjectStore, completed: list[UUID]
) -> None:
    """The run that goes on hours later finds the database that it restored, and what was said of it."""
    from flows.backup import backup
    from flows.restore import _beside, restore

    assert backup(return_state=True).name == "Completed"
    delete_keys(vault, [next(one.key for one in list_prefix(vault, "") if "/metadata/" in one.key)])
    told = "1 copies of metadata objects are damaged and stay out, such as"
    assert told in str(restore(even_if_damaged=True, return_state=True).message)
    (made,) = list_backups(vault, one(catalog, "SELECT catalog_id FROM catalog_identity")).all

    @flow
    def restored_and_found_again() -> list[str]:
        assert made.manifest is not None
        work = Restoring(vault, made.manifest, catalog, load_block(BackupPolicy, "default"), even_if_damaged=True)
        name = name_beside(catalog.database, "restore", "again")
        return [note for _ in range(2) for note in _beside(work, name).notes]

    first, second = restored_and_found_again()
    assert told in first
    assert second == first


def test_policies_come_back_from_a_backup(vault: ObjectStore, saved: str) -> None:
    from flows.backup import backup

    IngestPolicy(batch_files=7).save("nightly", overwrite=True)
    assert backup(kind="catalog", return_state=True).name == "Completed"
    IngestPolicy.delete("nightly")
    told = run("backup", "settings", "--save")
    assert "saved ingest-policy/nightly" in told.stderr
    assert load_block(IngestPolicy, "nightly").batch_files == 7
    # What is there is not touched: somebody may have changed it since.
    IngestPolicy(batch_files=8).save("nightly", overwrite=True)
    # Nothing is left but the backups, and a Prefect server in which nobody has saved a policy yet.
    delete_policy(BackupPolicy)
    told = run("backup", "settings", "--save").stderr
    assert "no Backup Policy default is saved: what it starts with is taken" in told
    assert "ingest-policy/nightly is there, and differs: it is left as it is" in told
    assert "saved ingest-policy" not in told
    assert "ingest-policy/default" not in told, "that one is the same"
    assert "saved backup-policy/default" in told
    assert load_block(IngestPolicy, "nightly").batch_files == 8
    IngestPolicy.delete("nightly")
    assert "nightly" not in block_names(IngestPolicy)


def test_a_block_that_is_refused_is_named_and_keeps_nothing_else_from_its_work(
    catalog: CatalogDatabase, vault: ObjectStore, saved: str
) -> None:
    """Prefect's server saves from its pages what the block itself would refuse."""
    from flows.backup import backup

    with save_unchecked(RetentionPolicy(), "strange", abandoned_hours=96, multipart_days=3):
        with pytest.raises(InvalidInputError, match="the block retention-policy/strange is refused: .*multipart_days"):
            load_block(RetentionPolicy, "strange")
        assert backup(kind="catalog", return_state=True).name == "Completed"
    with save_unchecked(vault, "crooked", endpoint_url="minio.internal:9000"):
        assert backup(kind="catalog", return_state=True).name == "Completed", "nothing uses that store"
        failed = backup(kind="catalog", backups="crooked", return_state=True)
        assert "the block object-store/crooked is refused: endpoint_url" in str(failed.message)


@contextmanager
def save_unchecked(block: Block, name: str, **fields: object) -> Iterator[None]:
    """A block as somebody types it in Prefect's pages."""
    block.save(name, overwrite=True)
    with get_client(sync_client=True) as client:
        kind = type(block).get_block_type_slug()
        document = client.read_block_document_by_name(name, kind, include_secrets=True)
        client.update_block_document(document.id, BlockDocumentUpdate(data={**document.data, **fields}))
    yield
    type(block).delete(name)


def test_a_policy_that_this_version_refuses_keeps_no_other_from_coming_back(vault: ObjectStore, saved: str) -> None:
    """A backup of another version, which allowed more."""
    from flows.commands import backup

    told = {"ingest-policy": {"strange": {"batch_files": -5}, "sound": {"batch_files": 9}}}
    assert backup._save_policies(told) == ["ingest-policy/sound"]
    assert load_block(IngestPolicy, "sound").batch_files == 9
    IngestPolicy.delete("sound")


def test_a_key_is_not_replaced(vault: ObjectStore) -> None:
    """Backups that were encrypted to it could be opened by nobody's new secret."""
    run("backup", "key", "--save", "once")
    assert "a Backup Key block once exists already" in run("backup", "key", "--save", "once", code=1).stderr
    assert "is no name of a block" in run("backup", "key", "--save", "Not A Name", code=1).stderr


def test_a_download_without_files_that_were_lost(
    catalog: CatalogDatabase, saved: str, new_jobs: Callable[[int], list[UUID]], tmp_path: Path
) -> None:
    from flows.bulk_download import bulk_download

    save_policy(AccessPolicy(download_roots=str(tmp_path)))
    jobs = new_jobs(2)
    wanted = [str(job) for job in jobs]
    execute(catalog, "UPDATE stored_objects SET state = 'missing' WHERE job_id = :job", job=jobs[0])
    state = bulk_download(job_ids=wanted, target=str(tmp_path / "one"), return_state=True)
    assert state.name == "Partial", state.message
    assert "1 files" in str(state.message)
    assert "1 left out" in str(state.message)
    assert "missing" in latest_artifact(saved, "bulk-download-left-out")["data"]
    execute(catalog, "UPDATE stored_objects SET state = 'missing'")
    state = bulk_download(job_ids=wanted, target=str(tmp_path / "none"), return_state=True)
    assert state.is_failed()
    assert "is missing; run explain-object" in str(state.message)
    execute(catalog, "UPDATE stored_objects SET state = 'live'")
