"""compress-jobs, tier-jobs, rehydrate-job and migrate-storage as flows, the last one to a second S3 server."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect_aws.credentials import MinIOCredentials

from blocks.catalog import CatalogDatabase
from blocks.embedded import processes
from blocks.embedded.seaweedfs import PORTS, start_seaweedfs
from blocks.errors import InvalidInputError, NotFoundError, RefusedError
from blocks.object_store import ObjectStore
from blocks.object_store.listing import list_prefix
from blocks.object_store.transfer import put_bytes
from blocks.policies import AccessPolicy, CompressionPolicy, IngestPolicy, RelocationPolicy, TierPolicy
from tasks.access import issue_download_url
from tasks.declaring import probe_store, retire_location
from tasks.intake.outputs import register_outputs
from tasks.relocation.intents import recover
from tasks.stores import Locations, OpenLocation, open_for_new_files, open_named
from tasks.sweeping import Sweep
from tests.flows.conftest import save_policy
from tests.flows.test_flows import latest_artifact
from tests.flows.test_sweeps import artifact
from tests.helpers import assert_sound, execute, one, rows, stored_keys, write_outputs

pytestmark = pytest.mark.prefect


@pytest.fixture(scope="module")
def far_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A second SeaweedFS, for this module."""
    folder = tmp_path_factory.mktemp("far")
    ports: dict[str, int] = {}
    for name in PORTS:
        ports[name] = processes.free_port(None, taken=frozenset(ports.values()))
    running = start_seaweedfs(folder / "s3", ports, access_key="far", secret_key="far-secret", log=folder / "s3.log")
    yield f"http://127.0.0.1:{ports['s3']}"
    processes.stop(running, patience_seconds=1)  # it waits for our connections


@pytest.fixture
def outputs(saved: str, catalog, location, new_jobs, tmp_path) -> Callable[[int], list[UUID]]:  # type: ignore[no-untyped-def]
    """Makes completed jobs with all outputs, idle for 400 days; texts are long enough to be worth it."""

    def make(count: int) -> list[UUID]:
        jobs = new_jobs(count)
        for job in jobs:
            folder = write_outputs(tmp_path / f"made/{job}", segments=6)
            for ending in ("txt", "srt"):
                (folder / f"transcription/transcript.{ending}").write_text("and so on, and so forth; " * 400)
            register_outputs(
                catalog, location, IngestPolicy(source_roots=str(tmp_path)), job_id=job, outputs=str(folder)
            )
        execute(catalog, "UPDATE jobs SET completed_at = now() - interval '400 days', last_accessed_at = NULL")
        return jobs

    return make


@pytest.fixture
def another(catalog: CatalogDatabase, location: OpenLocation):  # type: ignore[no-untyped-def]
    """Declares a location through its block, in a bucket of its own of the same server."""

    def make(name: str, tier: str, *, store: ObjectStore | None = None, **options: Any) -> OpenLocation:
        from flows.probe_store import probe_store as probe

        if store is None:
            bucket = f"{name}-{uuid4()}"
            store = location.store.model_copy(update={"bucket": bucket, "prefix": ""})
            store.s3.create_bucket(Bucket=bucket)
        credentials = store.credentials
        credentials.save(name, overwrite=True)
        loaded = MinIOCredentials.load(name)
        store.model_copy(update={"credentials": loaded}).save(name, overwrite=True, _sync=True)
        assert probe(store=name, tier=tier, return_state=True, **options).is_completed()
        return open_named(catalog, options.get("location") or name)

    return make


def places(catalog: CatalogDatabase) -> dict[str, int]:
    found = rows(
        catalog, "SELECT l.name, count(*) FROM stored_objects o JOIN locations l ON l.id = o.location_id GROUP BY 1"
    )
    return {row[0]: row[1] for row in found}


def end_urls(catalog: CatalogDatabase, *locations: OpenLocation) -> None:
    execute(catalog, "UPDATE relocations SET release_after = now() - interval '1 s' WHERE state = 'swapped'")
    recover(Sweep(catalog, locations))


def test_compress(saved: str, catalog, location, outputs) -> None:  # type: ignore[no-untyped-def]
    from flows.compress_jobs import compress_jobs

    save_policy(CompressionPolicy(sample_objects=3))
    jobs = outputs(3)
    used = one(catalog, "SELECT storage_used_bytes FROM api_keys")
    dry = compress_jobs(dry_run=True, return_state=True)
    assert dry.name == "DryRun"
    assert "6 objects, 58.6 KiB (3 by after_days; 6 left alone)" in str(dry.message)
    assert one(catalog, "SELECT count(*) FROM stored_objects WHERE codec = 'zstd'") == 0
    state = compress_jobs(return_state=True)
    assert state.name == "Completed", state.message
    assert "3 done; 6 objects" in str(state.message)
    assert "58.6 KiB before, " in str(state.message)
    assert "of video and sound left alone; " in str(state.message), "too little of it to tell what it would gain"
    left = {row["subject"] for row in artifact(saved, "compress-jobs-plan") if row["what"] == "left alone"}
    assert left >= {"audio", "hls_360p", "original", "video_720p"}
    assert one(catalog, "SELECT count(*) FROM stored_objects WHERE codec = 'zstd'") == 6
    assert one(catalog, "SELECT storage_used_bytes FROM api_keys") == used
    assert str(compress_jobs(return_state=True).message).startswith("compress-jobs: nothing to do")
    reach = Locations(catalog, location)
    url = issue_download_url(catalog, reach, AccessPolicy(), api_key="acme", job_id=jobs[0], kind="transcript_txt").url
    assert httpx.get(url).text.startswith("and so on")
    end_urls(catalog, location)


def test_tiers_and_back(saved: str, catalog, location, outputs, another) -> None:  # type: ignore[no-untyped-def]
    from flows.explain_object import explain_object
    from flows.rehydrate_job import rehydrate_job
    from flows.tier_jobs import tier_jobs

    assert "names no warm_location" in str(tier_jobs(return_state=True).message)
    jobs = outputs(2)
    cold = another("cold", "cold")
    TierPolicy(cold_location="cold", smallest_billed_kib=0, cold_price_per_1000_moved=0, cold_idle_days=100).save(
        "default", overwrite=True
    )
    execute(catalog, "UPDATE jobs SET last_accessed_at = now() - interval '99 days' WHERE id = :id", id=str(jobs[1]))
    whole = places(catalog)["main"]
    assert "1 by cold_after_days" in str(tier_jobs(dry_run=True, return_state=True).message)
    state = tier_jobs(return_state=True)
    assert state.name == "Completed", state.message
    assert "a month by the policy's prices" in str(state.message)
    assert places(catalog) == {"main": whole // 2, "cold": whole // 2}
    assert rows(catalog, "SELECT tier FROM jobs ORDER BY tier") == [("cold",), ("hot",)]
    key = one(catalog, "SELECT key FROM stored_objects WHERE job_id = :id AND kind = 'audio'", id=str(jobs[0]))
    assert "location: main → cold" in str([row["what"] for row in _explained(saved, explain_object, key)])
    state = rehydrate_job(job_id=str(jobs[0]), return_state=True)
    assert f"{whole // 2} objects" in str(state.message)
    assert places(catalog) == {"main": whole}
    assert str(tier_jobs(return_state=True).message).startswith("tier-jobs: nothing to do"), "it is not idle any more"
    # Another store that is gone keeps nobody from being moved; and what a run is through with is looked at once more.
    gone = another("gone", "warm")
    for listed in list_prefix(gone.store, ""):
        gone.store.s3.delete_object(Bucket=gone.store.bucket, Key=listed.key)
    gone.store.s3.delete_bucket(Bucket=gone.store.bucket)
    execute(catalog, "UPDATE jobs SET tier = 'cold', last_accessed_at = now() - interval '200 days'")
    assert "nothing to do" in str(tier_jobs(return_state=True).message)
    state = tier_jobs(look_again=True, return_state=True)
    assert "gone was left out" in str(state.message), state.message
    assert "2 done" in str(state.message)
    assert places(catalog) == {"cold": whole}
    execute(catalog, "UPDATE locations SET moved_to = :main WHERE name = 'gone'", main=location.place.id)
    retire_location(catalog, "gone", gone=True)
    for job in jobs:
        rehydrate_job(job_id=str(job))
    assert places(catalog) == {"main": whole}
    with pytest.raises(NotFoundError, match="no location of the tier warm"):
        rehydrate_job(job_id=str(jobs[0]), tier="warm")
    save_policy(TierPolicy(cold_location="main"))
    with pytest.raises(InvalidInputError, match="declared as hot, the Tier Policy wants it cold"):
        tier_jobs()
    end_urls(catalog, location, cold)
    assert_sound(catalog, location, cold)


def _explained(saved: str, flow: Any, key: str) -> list[dict[str, Any]]:
    flow(reference=key)
    return artifact(saved, "explain-object")


def test_a_class_of_the_same_bucket_and_a_server_that_moves_objects_itself(  # type: ignore[no-untyped-def]
    saved: str, catalog, location, outputs
) -> None:
    from flows.probe_store import probe_store as probe
    from flows.reconcile_quota import reconcile_quota
    from flows.tier_jobs import tier_jobs

    jobs = outputs(1)
    assert probe(
        store="main", location="archive", tier="cold", storage_class="GLACIER", return_state=True
    ).is_completed()
    with pytest.raises(InvalidInputError, match="declare the new one under another name"):
        probe(store="main", location="archive", storage_class="STANDARD_IA")
    TierPolicy(cold_location="archive", smallest_billed_kib=0, cold_price_per_1000_moved=0).save(
        "default", overwrite=True
    )
    assert "tier-jobs: 1 done" in str(tier_jobs(return_state=True).message)
    assert set(places(catalog)) == {"archive"}
    archive = open_named(catalog, "archive")
    row = rows(
        catalog, "SELECT id, key, sha256 FROM stored_objects WHERE kind = 'audio' AND job_id = :id", id=str(jobs[0])
    )[0]
    s3, store = location.store.s3, location.store
    assert s3.head_object(Bucket=store.bucket, Key=store.path(row.key))["StorageClass"] == "GLACIER"
    assert str(reconcile_quota(return_state=True).message).startswith("reconcile-quota: nothing to do"), "one shelf"
    # As a lifecycle rule would: the same bytes under the same key in another class.
    put_bytes(store, row.key, b"sound", {"object-id": str(row.id), "sha256": row.sha256})
    assert "1 transition" in str(latest(saved, reconcile_quota))
    assert places(catalog)["main"] == 1
    end_urls(catalog, location, archive)
    assert_sound(catalog, location, archive)


def latest(saved: str, flow: Any) -> str:
    flow()
    return str(latest_artifact(saved, "reconcile-drift")["description"])


def test_the_same_bucket_under_another_name_is_refused(catalog, location) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidInputError, match="is location main of store main already"):
        probe_store(catalog, location.store, "alias")
    inside = location.store.model_copy(update={"prefix": f"{location.store.prefix}/processed/x"})
    with pytest.raises(InvalidInputError, match="lies within processed/"):
        probe_store(catalog, inside, "inside")


def test_migrate_to_another_server_and_back(  # type: ignore[no-untyped-def]
    saved: str, catalog, location, outputs, another, far_server: str, new_jobs
) -> None:
    from flows.migrate_storage import migrate_storage

    jobs = outputs(2)
    bucket = f"far-{uuid4()}"
    store = ObjectStore(
        credentials=MinIOCredentials(minio_root_user="far", minio_root_password="far-secret"),
        endpoint_url=far_server, bucket=bucket,
    )  # fmt: skip
    store.s3.create_bucket(Bucket=bucket)
    far = another("far", "hot", store=store)
    before = places(catalog)["main"]
    assert migrate_storage(from_location="main", to_location="far", return_state=True).name == "DryRun"
    with pytest.raises(InvalidInputError, match="both where from and where to"):
        migrate_storage(from_location="main", to_location="main")
    with pytest.raises(NotFoundError, match="there are: main, far"):
        migrate_storage(from_location="main", to_location="nowhere")
    state = migrate_storage(from_location="main", to_location="far", dry_run=False, return_state=True)
    assert state.name == "Completed", state.message
    assert f"{before} objects" in str(state.message)
    assert places(catalog) == {"far": before}
    link = latest_artifact(saved, "migrate-storage-records")["data"].partition("](")[2].rstrip(")")
    lines = list(csv.DictReader(io.StringIO(httpx.get(link).text)))
    assert [(line["result"], line["from"], line["to"]) for line in lines] == [("moved", "main", "far")] * before
    assert stored_keys(far, "reports") == [key for key in stored_keys(far, "reports") if key.endswith(".csv")]
    url = issue_download_url(
        catalog, Locations(catalog, far, [location]), AccessPolicy(), api_key="acme", job_id=jobs[0], kind="audio"
    ).url
    assert httpx.get(url).content == b"sound"
    new_jobs(1)
    assert places(catalog) == {"far": before + 1}, "new files go there"
    state = migrate_storage(from_location="far", to_location="main", dry_run=False, return_state=True)
    assert state.name == "Completed", state.message
    assert places(catalog) == {"main": before + 1}
    new_jobs(1)
    assert places(catalog) == {"main": before + 2}, "the way back"
    end_urls(catalog, location, far)
    assert stored_keys(far) == []
    with pytest.raises(RefusedError, match="still holds"):
        retire_location(catalog, "main")
    retire_location(catalog, "far")
    execute(catalog, "UPDATE locations SET moved_to = :main WHERE name = 'far'", main=location.place.id)
    assert open_for_new_files(catalog, "far").place.name == "main", "flows that name the old one go on"
    with pytest.raises(RefusedError, match="is retired; its new files go to main; run"):
        open_named(catalog, "far")


KILLED = """
import os, signal
from tasks.relocation import relocate
real, seen = relocate._swap, []
def swap(*arguments):
    result = real(*arguments)
    seen.append(1)
    if len(seen) == 3:
        print("killing", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return result
relocate._swap = swap
from flows.migrate_storage import migrate_storage
migrate_storage(from_location="main", to_location="far", dry_run=False)
"""


@pytest.mark.chaos
def test_migration_killed_in_the_middle_goes_on_from_the_rows(  # type: ignore[no-untyped-def]
    saved: str, catalog, location, outputs, another, far_server: str
) -> None:
    """A delta pass takes what arrived meanwhile, and reads are served all the time."""
    from flows.migrate_storage import migrate_storage

    jobs = outputs(6)
    bucket = f"far-{uuid4()}"
    store = ObjectStore(
        credentials=MinIOCredentials(minio_root_user="far", minio_root_password="far-secret"),
        endpoint_url=far_server, bucket=bucket,
    )  # fmt: skip
    store.s3.create_bucket(Bucket=bucket)
    far = another("far", "hot", store=store)
    save_policy(RelocationPolicy(batch_objects=20, parallel_batches=1))
    whole = places(catalog)["main"]
    environment = {**os.environ, "PREFECT_API_URL": saved, "PREFECT_LOGGING_LEVEL": "ERROR"}
    process = subprocess.Popen([sys.executable, "-c", KILLED], env=environment, stdout=subprocess.PIPE, text=True)
    reach = Locations(catalog, location, [far])
    while process.poll() is None:
        issued = issue_download_url(catalog, reach, AccessPolicy(), api_key="acme", job_id=jobs[0], kind="audio")
        assert httpx.get(issued.url).content == b"sound"
        time.sleep(0.05)
    assert process.returncode == -signal.SIGKILL
    assert process.communicate()[0].strip() == "killing"
    split = places(catalog)
    assert 0 < split["far"] < whole
    assert_sound(catalog, location, far)
    state = migrate_storage(from_location="main", to_location="far", dry_run=False, return_state=True)
    assert state.name == "Completed", state.message
    assert f"{split['main']} objects" in str(state.message), "only the rest"
    assert places(catalog) == {"far": whole}
    assert one(catalog, "SELECT count(*) FROM operation_log WHERE operation = 'migrate-storage'") == whole
    end_urls(catalog, location, far)
    assert stored_keys(location) == []
    assert_sound(catalog, location, far)
    # The fixture looks at main alone.
    migrate_storage(from_location="far", to_location="main", dry_run=False)
