"""What many tests look at: the counters, the objects, the bytes behind them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from prefect_aws.credentials import MinIOCredentials
from sqlalchemy import text

from blocks.catalog import CatalogDatabase
from blocks.catalog.locations import Declaration, declare_place, read_identity
from blocks.object_store import ObjectStore
from blocks.object_store.listing import list_prefix
from blocks.object_store.probing import Capabilities
from blocks.object_store.transfer import put_bytes
from tasks.content import hash_content
from tasks.layout import IDENTITY_KEY
from tasks.parallel import in_parallel
from tasks.stores import OpenLocation


def rows(catalog: CatalogDatabase, statement: str, **parameters: Any) -> list[Any]:
    """The rows of a query."""
    return list(catalog.transaction(lambda connection: connection.execute(text(statement), parameters).all()))


def one(catalog: CatalogDatabase, statement: str, **parameters: Any) -> Any:
    """The single value of a query."""
    return catalog.transaction(lambda connection: connection.execute(text(statement), parameters).scalar_one())


def execute(catalog: CatalogDatabase, statement: str, **parameters: Any) -> None:
    """Change something behind the project's back."""
    catalog.transaction(lambda connection: connection.execute(text(statement), parameters))


def stored_keys(location: OpenLocation, prefix: str = "processed") -> list[str]:
    """What lies in the bucket."""
    return sorted(listed.key for listed in list_prefix(location.store, prefix))


def write_video(path: Path, content: bytes = b"a video") -> Path:
    """A file that is as good as a video to everything but a player."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_outputs(folder: Path, *, segments: int = 3) -> Path:
    """A job's folder with every kind of output; contents tell the files apart."""
    for size in ("360p", "720p"):
        write_video(folder / size / f"video_{size}.mp4", f"mp4 {size}".encode() * 10)
        names = [f"segment_{number:04d}.ts" for number in range(segments)]
        for name in names:
            write_video(folder / size / "segments" / name, f"{size} {name}".encode())
        listed = "".join(f"#EXTINF:2.0,\n{name}\n" for name in names)
        (folder / size / "segments" / "playlist.m3u8").write_text(
            f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n{listed}#EXT-X-ENDLIST\n"
        )
    write_video(folder / "audio" / "audio.mp3", b"sound")
    for ending in ("txt", "srt", "vtt", "json"):
        write_video(folder / "transcription" / f"transcript.{ending}", f"words as {ending}".encode())
    write_video(folder / "metadata.json", b"{}")
    return folder


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def run_elsewhere(catalog: CatalogDatabase, location: OpenLocation, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, which can be killed; it finds `catalog`, `location` and `IngestPolicy`.

    A fork would not do: obstore's threads do not survive it.
    """
    credentials = location.store.credentials
    assert isinstance(credentials, MinIOCredentials)
    given = {
        "catalog": catalog.model_dump(include={"host", "username", "database"}),
        "store": location.store.model_dump(include={"bucket", "prefix", "endpoint_url", "multipart_upload_part_bytes"}),
        "user": credentials.minio_root_user,
        "password": credentials.minio_root_password.get_secret_value(),
    }
    opening = (
        "import json, os\n"
        "from prefect_aws.credentials import MinIOCredentials\n"
        "from blocks.catalog import CatalogDatabase\n"
        "from blocks.object_store import ObjectStore\n"
        "from blocks.policies import IngestPolicy\n"
        "from tasks.stores import open_location\n"
        "given = json.loads(os.environ['GIVEN'])\n"
        "catalog = CatalogDatabase(**given['catalog'])\n"
        "credentials = MinIOCredentials(minio_root_user=given['user'], minio_root_password=given['password'])\n"
        "store = ObjectStore(credentials=credentials, **given['store'])\n"
        "location = open_location(catalog, store, 'main')\n"
    )
    return subprocess.run(
        [sys.executable, "-c", opening + script],
        env={**os.environ, "GIVEN": json.dumps(given)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def assert_totals(catalog: CatalogDatabase) -> None:
    """The totals, once what has changed is folded into them, are the sums over all objects."""
    execute(catalog, "SELECT fold_storage_changes('-infinity')")
    for kept, counted in (
        (
            "SELECT * FROM storage_totals",
            "SELECT api_key_id, kind, location_id, codec, state, count(*), sum(size_bytes)::bigint, "
            "       sum(stored_bytes)::bigint FROM stored_objects "
            " WHERE state IN ('live', 'missing', 'corrupt', 'trashed') GROUP BY 1, 2, 3, 4, 5",
        ),
        (
            "SELECT job_id, api_key_id, objects, size_bytes, stored_bytes, created_at, "
            "       CASE WHEN completed_at IS NOT NULL THEN read_at END FROM job_totals",
            "SELECT j.id, j.api_key_id, count(*), sum(o.size_bytes)::bigint, sum(o.stored_bytes)::bigint, "
            "       j.created_at, CASE WHEN j.completed_at IS NOT NULL THEN j.last_accessed_at END "
            "  FROM jobs j JOIN stored_objects o ON o.job_id = j.id "
            " WHERE o.state IN ('live', 'missing', 'corrupt') GROUP BY j.id",
        ),
        (
            "SELECT api_key_id, since, day, jobs, stored_bytes FROM age_totals WHERE jobs <> 0",
            "SELECT api_key_id, s.since, s.day, count(*), sum(stored_bytes)::bigint FROM job_totals, LATERAL (VALUES "
            "  ('created', (created_at AT TIME ZONE 'UTC')::date), "
            "  ('read', coalesce((read_at AT TIME ZONE 'UTC')::date, 'infinity'))) AS s (since, day) GROUP BY 1, 2, 3",
        ),
    ):
        difference = f"(({kept}) EXCEPT ({counted})) UNION ALL (({counted}) EXCEPT ({kept}))"
        assert rows(catalog, difference) == [], kept


def assert_sound(catalog: CatalogDatabase, *locations: OpenLocation) -> None:
    """Invariants 1, 2, 4 and 5 as they can be seen from outside, whatever a test did before."""
    # Locations that differ in their class alone lie in one bucket.
    shelves = {(location.store.bucket, location.store.prefix): location.store for location in locations}
    stores = {
        row.id: shelves.get((row.bucket, row.prefix))
        for row in rows(catalog, "SELECT id, bucket, prefix FROM locations")
    }
    for row in rows(
        catalog,
        "SELECT k.label, k.storage_used_bytes AS used, k.storage_reserved_bytes AS reserved, "
        "  (SELECT coalesce(sum(o.size_bytes), 0) FROM stored_objects o WHERE o.api_key_id = k.id "
        "      AND o.state IN ('live', 'missing', 'corrupt')) AS used_sum, "
        "  (SELECT coalesce(sum(r.bytes), 0) FROM reservations r WHERE r.api_key_id = k.id) AS reserved_sum "
        "FROM api_keys k",
    ):
        assert row.used == row.used_sum, row.label
        assert row.reserved == row.reserved_sum, row.label
    assert_totals(catalog)
    there = {
        id(store): {listed.key: listed.size_bytes for prefix in ("processed", "uploads")
                    for listed in list_prefix(store, prefix)}
        for store in shelves.values()
    }  # fmt: skip

    def check(row: Any) -> None:
        store = stores[row.location_id]
        assert store is not None, "which store is it in?"
        found = hash_content(store, row.key, row.codec, at_most=row.size_bytes)
        assert found == (row.sha256, row.size_bytes), row.key
        assert there[id(store)].get(row.key) == row.stored_bytes, row.key

    live = rows(
        catalog,
        "SELECT location_id, key, codec, sha256, size_bytes, stored_bytes FROM stored_objects "
        " WHERE state = 'live' OR (state = 'trashed' AND trashed_state = 'live')",
    )
    in_parallel(check, live, threads=8)
    named = {
        row.key
        for row in rows(
            catalog,
            "SELECT key FROM stored_objects UNION SELECT key FROM relocations WHERE state <> 'done' "
            "UNION SELECT old_key FROM relocations WHERE state <> 'done'",
        )
    }
    for keys in there.values():
        assert set(keys) <= named


def declared(
    catalog: CatalogDatabase, store: ObjectStore, name: str, capabilities: Capabilities, **said: Any
) -> OpenLocation:
    """A location of this catalog, as a probe that found these capabilities would leave it."""
    place = catalog.transaction(
        lambda connection: declare_place(
            connection, name=name, store=name, bucket=store.bucket, prefix=store.prefix,
            capabilities=capabilities.as_json(), said=Declaration(**said),
        )
    )  # fmt: skip
    put_bytes(store, IDENTITY_KEY, catalog.transaction(read_identity).as_text().encode(), {})
    return OpenLocation(place, store, capabilities)
