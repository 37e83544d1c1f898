"""One customer's jobs in a catalog, prefixes and a folder of their own: what is acted upon, and what must hold then."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect_aws.credentials import MinIOCredentials

from blocks.catalog import CatalogDatabase
from blocks.catalog.clock import catalog_now
from blocks.catalog.locations import read_identity
from blocks.catalog.sweeps import sweep_lock
from blocks.object_store import ObjectStore
from blocks.object_store.block import MIB
from blocks.object_store.multipart import list_multipart_uploads
from blocks.object_store.probing import Capabilities
from blocks.policies import AccessPolicy, BackupPolicy, IngestPolicy, RetentionPolicy
from tasks.backups.listing import list_backups
from tasks.backups.verifying import verify_backup
from tasks.customers import create_key
from tasks.intake.ingest import ingest_videos
from tasks.intake.outputs import register_outputs
from tasks.plans import Report
from tasks.removal.cleanup import apply_cleanup, find_due
from tasks.removal.cleanup_plan import plan_cleanup
from tasks.stores import Locations, OpenLocation, open_location
from tasks.sweeping import Sweep
from tests.helpers import assert_sound, declared, execute, one, rows, write_outputs, write_video

CUSTOMER = "acme"
PLACES = {"home": "hot", "cold": "cold"}
"""Locations of every world, and their tiers."""


@dataclass(frozen=True)
class Address:
    """Where a world is; plain values, so that another process finds it too."""

    host: str
    port: int
    database: str
    s3_url: str
    access_key: str
    secret_key: str
    bucket: str
    prefix: str
    folder: Path


class World:
    """A world as it is seen from one side: directly, or through the line."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.folder = address.folder
        self.catalog = CatalogDatabase(
            host=address.host, port=address.port, username="postgres", database=address.database, sslmode="disable"
        )
        self.ingest_policy = IngestPolicy(
            source_roots=str(self.folder), expected_outputs_ratio=0.0, parallel_batches=1, parallel_transfers=1
        )
        self._opened: dict[str, OpenLocation] = {}
        self.access_policy = AccessPolicy(download_roots=str(self.folder / "downloads"))

    def at(self, **changes: Any) -> World:
        """The same world by another way."""
        return World(replace(self.address, **changes))

    def store(self, name: str) -> ObjectStore:
        """The block of a location, or of the vault of backups."""
        where = self.address
        return ObjectStore(
            credentials=MinIOCredentials(minio_root_user=where.access_key, minio_root_password=where.secret_key),
            endpoint_url=where.s3_url,
            bucket=where.bucket,
            prefix=f"{where.prefix}/{name}",
            multipart_upload_part_bytes=5 * MIB,
            timeout_seconds=20,
            retries=2,
        )

    def place(self, name: str) -> OpenLocation:
        """A location, looked up as every flow does."""
        return open_location(self.catalog, self.store(name), name)

    # Not `cached_property`: in Python 3.11 one thread that waits in it keeps all others out, in every world.
    @property
    def home(self) -> OpenLocation:
        """Where new files go."""
        return self._opened.get("home") or self._opened.setdefault("home", self.place("home"))

    @property
    def cold(self) -> OpenLocation:
        """Where old ones go."""
        return self._opened.get("cold") or self._opened.setdefault("cold", self.place("cold"))

    @property
    def locations(self) -> Locations:
        """Both of them."""
        return Locations(self.catalog, self.home, [self.cold])

    def reopened(self) -> World:
        """Looked up anew, as another run would: a restore may have raised the epoch meanwhile."""
        return World(self.address)

    def sweep(self, run: str) -> Sweep:
        """A sweep without a lock: for what takes none."""
        return Sweep(self.catalog, (self.home, self.cold), run)

    @contextmanager
    def sweeping(self, run: str, *, wait: float = 0) -> Iterator[Sweep]:
        """A sweep that holds both places, as the flows do."""
        places = [place for location in (self.home, self.cold) for place in location.place.shelf]
        with sweep_lock(self.catalog, places, holder=run, wait=timedelta(seconds=wait)) as lock:
            yield Sweep(self.catalog, (self.home, self.cold), run, before_batch=lock.require)

    @contextmanager
    def scratch(self) -> Iterator[None]:
        """Temporary folders below this world's own, so that a cleanup finds no others; for the whole process."""
        made = self.folder / "scratch"
        made.mkdir(exist_ok=True)
        before, tempfile.tempdir = tempfile.tempdir, str(made)
        try:
            yield
        finally:
            tempfile.tempdir = before

    # What a test begins with

    def found(self, capabilities: Capabilities) -> None:
        """An identity, two locations and a customer."""
        execute(self.catalog, "UPDATE catalog_identity SET catalog_id = gen_random_uuid()")
        for name, tier in PLACES.items():
            declared(self.catalog, self.store(name), name, capabilities, tier=tier)
        create_key(self.catalog, CUSTOMER, "10 MiB")

    def video(self, name: str, content: bytes | None = None) -> str:
        """A file to take in."""
        return str(write_video(self.folder / "videos" / f"{name}.mp4", content or f"the video {name}".encode() * 20))

    def job(self, name: str, *, outputs: bool = True) -> UUID:
        """A job with one video, and everything that is made of it."""
        (made,) = ingest_videos(
            self.catalog, self.home, self.ingest_policy, api_key=CUSTOMER, sources=[self.video(name)]
        ).outcomes
        assert made.job_id is not None, made.error
        if outputs:
            folder = write_outputs(self.folder / "outputs" / name, segments=1)
            register_outputs(self.catalog, self.home, self.ingest_policy, job_id=made.job_id, outputs=str(folder))
        return made.job_id

    def job_named(self, name: str) -> UUID:
        """The job that `job` made."""
        return UUID(str(one(self.catalog, "SELECT id FROM jobs WHERE filename = :name", name=f"{name}.mp4")))

    # What must hold afterwards

    def cleanup(self, run: str = "the night") -> Report:
        """One cleanup under the lock."""
        with self.sweeping(run, wait=20) as sweep:
            facts = find_due(sweep, RetentionPolicy())
            return apply_cleanup(sweep, RetentionPolicy(), facts, plan_cleanup(facts))

    def nights_pass(self) -> None:
        """Reservations lapse, URLs end, what nobody finished counts as given up; and cleanup runs."""
        for _ in range(2):
            for statement in (
                "UPDATE reservations SET expires_at = clock_timestamp()",
                "UPDATE stored_objects SET created_at = created_at - interval '9 days' WHERE state = 'pending'",
                "UPDATE jobs SET updated_at = updated_at - interval '9 days' WHERE status IN ('uploading', 'failed')",
                "UPDATE relocations SET created_at = created_at - interval '9 days', "
                "       release_after = release_after - interval '9 days' WHERE state <> 'done'",
            ):
                execute(self.catalog, statement)
            report = self.cleanup()
            assert not report.failed, report.outcomes

    def assert_sound(self) -> None:
        """Counters, bytes and keys agree, as far as they can be seen."""
        assert_sound(self.catalog, self.home, self.cold)

    def assert_settled(self, *, once: bool = True) -> None:
        """And nothing is under way any more: no row waits, no intent is open.

        Unless a history repeats itself (deleted, brought back, deleted), no effect was recorded twice: `once`.
        """
        self.assert_sound()
        waiting = rows(self.catalog, "SELECT key, state FROM stored_objects WHERE state IN ('pending', 'purging')")
        assert waiting == [], "rows without an end"
        assert rows(self.catalog, "SELECT key, state FROM relocations WHERE state <> 'done'") == [], "open intents"
        assert rows(self.catalog, "SELECT id FROM reservations") == [], "quota nobody uses"
        later = self.catalog.transaction(catalog_now) + timedelta(days=9)
        going = find_due(self.sweep("later"), RetentionPolicy(), as_of=later, dry_run=True).places
        for location in (self.home, self.cold):
            (planned,) = ({one.upload_id for one in p.multiparts} for p in going if p.place == location.place.name)
            left = {one.upload_id for one in list_multipart_uploads(location.store)}
            assert left <= planned, "parts that nobody puts together, and no cleanup takes"
        twice = rows(
            self.catalog,
            "SELECT job_id, object_id, operation, before, after FROM operation_log "
            # An orphan is written down before it goes, and again where it did not.
            " WHERE coalesce(object_id, job_id) IS NOT NULL AND operation <> 'remove-orphan' "
            " GROUP BY 1, 2, 3, 4, 5 HAVING count(*) > 1",
        )
        assert not (once and twice), f"recorded twice: {twice}"

    def assert_vault_sound(self) -> None:
        """Every backup in it is whole, and nothing is half made or half gone; also where there is none at all."""
        vault, catalog_id = self.store("vault"), self.catalog.transaction(read_identity).catalog_id
        found = list_backups(vault, catalog_id)
        assert found.unfinished == {}, "a backup that nobody finishes"
        for backup in found.all:
            assert backup.usable, f"{backup.id}: {backup.why_not or 'it was read back, and is damaged'}"
            checked = verify_backup(self.catalog, vault, backup, BackupPolicy(parallel_transfers=1), contents=True)
            assert checked.ok, f"{backup.id}: {checked.because}"
        assert list(list_multipart_uploads(vault)) == [], "parts of a backup that nobody makes any more"

    def picture(self) -> list[Sequence[Any]]:
        """What customers have, without ids, keys and times: equal pictures are equal worlds to them."""
        jobs = rows(
            self.catalog,
            "SELECT j.filename, j.status, j.deleted_at IS NOT NULL, coalesce(j.hold, ''), "
            "       regexp_replace(o.name, '[0-9a-f-]{36}', 'an id'), o.state, o.codec, "
            "       l.name, o.size_bytes, o.sha256 "
            "  FROM jobs j LEFT JOIN stored_objects o ON o.job_id = j.id LEFT JOIN locations l ON l.id = o.location_id "
            " WHERE j.status NOT IN ('failed', 'cleaned_up') OR o.id IS NOT NULL ORDER BY 1, 2, 3, 5, 6, 10",
        )
        keys = rows(
            self.catalog,
            "SELECT label, storage_quota_bytes, storage_used_bytes, storage_reserved_bytes FROM api_keys ORDER BY 1",
        )
        return [*jobs, *keys]
