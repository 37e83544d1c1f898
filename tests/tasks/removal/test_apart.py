"""What lies in the same bucket and is not this location's, or is called as no file is."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from blocks.catalog import CatalogDatabase
from blocks.catalog.clock import catalog_now
from blocks.embedded import Endpoints
from blocks.object_store import listing
from blocks.object_store.deletion import delete_keys
from blocks.object_store.listing import list_prefix
from blocks.object_store.multipart import abort_multipart_upload, list_multipart_uploads
from blocks.object_store.probing import Capabilities
from blocks.object_store.transfer import put_bytes, read_bytes
from blocks.policies import RetentionPolicy
from tasks.plans import Report
from tasks.removal.cleanup import apply_cleanup, find_due
from tasks.removal.cleanup_plan import plan_cleanup
from tasks.stores import OpenLocation
from tasks.sweeping import Sweep
from tests.conftest import make_store
from tests.helpers import declared, stored_keys


@pytest.fixture(autouse=True)
def scratch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def clean(catalog: CatalogDatabase, *locations: OpenLocation) -> Report:
    """As it would be in four days."""
    sweep = Sweep(catalog, locations, run="cleanup-1")
    at = catalog.transaction(catalog_now) + timedelta(days=4)
    facts = find_due(sweep, RetentionPolicy(), as_of=at, dry_run=True)
    return apply_cleanup(sweep, RetentionPolicy(), facts, plan_cleanup(facts))


def test_an_upload_of_a_location_within_another(
    catalog: CatalogDatabase, location: OpenLocation, endpoints: Endpoints, capabilities: Capabilities
) -> None:
    """Whose rows the outer one does not look at: what is reserved for is not its to tell."""
    inner = make_store(endpoints, prefix=f"{location.store.prefix}/archive")
    declared(catalog, inner, "archive", capabilities)
    for store in (location.store, inner):
        store.s3.create_multipart_upload(Bucket=store.bucket, Key=store.path("processed/x/raw/y"))
    report = clean(catalog, location)
    assert [(one.item.action, one.result) for one in report.outcomes] == [("abort upload", "done")]
    (left,) = list_multipart_uploads(location.store)
    assert left.key == "archive/processed/x/raw/y"
    abort_multipart_upload(location.store, left.key, left.upload_id)  # others look for what is left in the bucket


@pytest.mark.parametrize("name", ["x/", "x/y/", "a\x01b", "a\ufffeb"])
def test_a_key_that_is_called_as_no_file_is(catalog: CatalogDatabase, location: OpenLocation, name: str) -> None:
    """Such as the mark that a console makes for a new folder."""
    store, key = location.store, f"temp/{name}"
    store.s3.put_object(Bucket=store.bucket, Key=store.path(key), Body=b"")
    assert [one.key for one in list_prefix(store, "temp")] == [key]
    assert [(one.item.subject, one.result) for one in clean(catalog, location).outcomes] == [(key, "done")]
    assert stored_keys(location, "temp") == []


def test_the_mark_of_a_folder_goes_alone(location: OpenLocation) -> None:
    """SeaweedFS keeps it as the folder itself."""
    store = location.store
    put_bytes(store, "processed/x/raw/y", b"12345", {})
    store.s3.put_object(Bucket=store.bucket, Key=store.path("processed/x/"), Body=b"")
    assert stored_keys(location) == ["processed/x/", "processed/x/raw/y"]
    assert delete_keys(store, ["processed/x/"]) == {}
    assert stored_keys(location) == ["processed/x/raw/y"]
    assert read_bytes(store, "processed/x/raw/y", at_most=5) == b"12345"


def test_a_listing_is_whole_and_in_order_around_what_is_empty(
    location: OpenLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page is listed in another way, and the next as before."""
    monkeypatch.setattr(listing, "PAGE", 3)
    store, names = location.store, ["a", "b/", "b/c", "c", "d", "e/", "f", "g", "h", "i/", "i/j", "k/"]
    for name in names:
        body = b"" if name.endswith("/") or name in "dh" else b"x"
        store.s3.put_object(Bucket=store.bucket, Key=store.path(f"temp/{name}"), Body=body)
    assert [one.key for one in list_prefix(store, "temp")] == [f"temp/{name}" for name in names]
