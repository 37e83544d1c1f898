"""A platform with customers who are not to reach each other, and a picture of everything that it has written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect_aws.credentials import MinIOCredentials
from sqlalchemy import Connection, text

from blocks.catalog import CatalogDatabase
from blocks.object_store import ObjectStore
from blocks.object_store.listing import list_prefix
from blocks.object_store.probing import Capabilities
from blocks.policies import POLICIES, AccessPolicy, BackupPolicy, IngestPolicy, RelocationPolicy
from tasks.customers import create_key, set_disabled
from tasks.intake.ingest import ingest_videos
from tasks.intake.outputs import register_outputs
from tasks.intake.uploads import complete_upload, issue_upload_url
from tasks.stores import Locations, OpenLocation, open_location
from tests.helpers import declared, write_outputs, write_video

HERE, ELSEWHERE, VAULT = "besieged", "besieged-cold", "besieged-vault"
"""Blocks of the platform: everything is called HERE that has no other name."""
OWNER, STRANGER, DISABLED = "acme", "rival", "closed"
"""Customers: who asks, who owns what is asked for wrongly, and one whose key was disabled."""


@dataclass(frozen=True)
class Platform:
    """Two locations, a vault and three customers, each with a job; `jobs` and `uploads` are by customer."""

    catalog: CatalogDatabase
    stores: dict[str, ObjectStore]
    folder: Path
    jobs: dict[str, UUID] = field(default_factory=dict)
    uploads: dict[str, UUID] = field(default_factory=dict)

    @property
    def ingest(self) -> IngestPolicy:
        """Sources below the platform's folder."""
        return IngestPolicy(source_roots=str(self.folder), expected_outputs_ratio=0.0)

    @property
    def access(self) -> AccessPolicy:
        """Downloads below a folder of their own."""
        return AccessPolicy(download_roots=str(self.folder / "downloads"))

    @property
    def home(self) -> OpenLocation:
        """Where new files go."""
        return open_location(self.catalog, self.stores[HERE], HERE)

    @property
    def locations(self) -> Locations:
        """Both of them."""
        return Locations(self.catalog, self.home, [open_location(self.catalog, self.stores[ELSEWHERE], ELSEWHERE)])

    def found(self, capabilities: Capabilities) -> None:
        """Locations, customers, a job with outputs for each, and an upload that was completed."""
        for name, tier in ((HERE, "hot"), (ELSEWHERE, "cold")):
            declared(self.catalog, self.stores[name], name, capabilities, tier=tier)
        for customer in (OWNER, STRANGER, DISABLED):
            create_key(self.catalog, customer, "10 MiB")
            self.jobs[customer] = self._job(customer)
            self.uploads[customer] = self._upload(customer)
        set_disabled(self.catalog, api_key=DISABLED, disabled=True)

    def save(self) -> None:
        """The blocks that flows name, on the Prefect server of this process."""
        self.catalog.save(HERE, overwrite=True)
        credentials = self.stores[HERE].credentials
        credentials.save(HERE, overwrite=True, _sync=True)
        kept = {"credentials": MinIOCredentials.load(HERE)}
        for name, store in self.stores.items():
            store.model_copy(update=kept).save(name, overwrite=True, _sync=True)
        own = {IngestPolicy: self.ingest, AccessPolicy: self.access,
               BackupPolicy: BackupPolicy(compression_level=1, restore_jobs=1)}  # fmt: skip
        for policy in POLICIES:
            own.get(policy, policy()).save(HERE, overwrite=True)
        # A command that takes no name of it looks for this one.
        RelocationPolicy().save("default", overwrite=True)

    def written(self) -> dict[str, Any]:
        """Everything that lasts: each row of each table, and what lies in the stores and in the folder."""

        def tables(connection: Connection) -> dict[str, Any]:
            rows = connection.execute(text(connection.execute(text(_ALL_ROWS)).scalar_one()))
            return {row.name: (row.rows, row.digest) for row in rows}

        stored = {
            f"{name}: {one.key}": (one.size_bytes, one.last_modified)
            for name, store in self.stores.items()
            for one in list_prefix(store, "")
        }
        files = {str(path): path.lstat().st_mtime_ns for path in self.folder.rglob("*") if not path.is_dir()}
        return self.catalog.transaction(tables) | stored | files

    def beside(self) -> list[str]:
        """Databases that restores left beside the catalog."""
        found = self.catalog.transaction(
            lambda connection: connection.execute(
                text("SELECT datname FROM pg_database WHERE datname ~ ('^' || current_database() || '_')")
            ).scalars().all()
        )  # fmt: skip
        self.catalog.disconnect()
        return list(found)

    def _job(self, customer: str) -> UUID:
        video = write_video(self.folder / "videos" / f"{customer}.mp4", f"a video of {customer}".encode())
        (made,) = ingest_videos(self.catalog, self.home, self.ingest, api_key=customer, sources=[str(video)]).outcomes
        assert made.job_id is not None, made.error
        folder = write_outputs(self.folder / "outputs" / customer, segments=1)
        register_outputs(self.catalog, self.home, self.ingest, job_id=made.job_id, outputs=str(folder))
        return made.job_id

    def _upload(self, customer: str) -> UUID:
        content = f"sent by {customer}".encode()
        issued = issue_upload_url(
            self.catalog, self.home, self.access, self.ingest, api_key=customer, filename="sent.mp4",
            size_bytes=len(content),
        )  # fmt: skip
        httpx.post(issued.form.url, data=issued.form.fields, files={"file": content}).raise_for_status()
        complete_upload(self.catalog, self.locations, self.ingest, api_key=customer, upload_id=issued.upload_id)
        return issued.upload_id


# A statement that makes a statement: a table that is added tomorrow is looked at too.
_ALL_ROWS = """
SELECT string_agg(format(
         'SELECT %L AS name, count(*) AS rows, sum(hashtextextended(t::text, 0)) AS digest FROM %I.%I t',
         relname, nspname, relname), ' UNION ALL ')
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE nspname IN ('public', 'analytics') AND relkind IN ('r', 'p') AND NOT relispartition
"""
