"""What the probe says of a server: with a reason for everything that does not work, and nothing left behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError
from pydantic import SecretStr

from blocks.catalog import CatalogDatabase
from blocks.errors import ForeignCatalogError, NotFoundError, RefusedError, UnfitStoreError
from blocks.object_store import ObjectStore
from blocks.object_store.clock import store_now
from blocks.object_store.lifecycle import read_rules
from blocks.object_store.listing import list_prefix, list_range
from blocks.object_store.multipart import list_multipart_uploads
from blocks.object_store.probing import Capabilities, probe, require_class
from blocks.object_store.transfer import head, put_bytes
from blocks.object_store.trials import NEEDED, TRIALS
from tasks.declaring import probe_store
from tasks.layout import IDENTITY_KEY
from tasks.stores import open_location
from tests.contract import servers
from tests.contract.asking import refusal
from tests.contract.servers import Server

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
SECTION = README.partition("### Other servers")[2].partition("\n## ")[0]


def test_minio_is_asked_as_well() -> None:
    """One line of the summary instead of one for each test of this folder."""
    if servers.names() != (servers.YOURS,) and servers.find_minio() is None:
        pytest.skip("MinIO was not asked: `make minio` builds it where Go 1.24 or newer is")


def test_it_says_what_it_saw(capabilities: Capabilities, does: Callable[[str], bool]) -> None:
    assert {one.name for one in capabilities.findings} == TRIALS.keys() | {"presigned_urls_expire"}
    assert all(does(name) for name in NEEDED)
    assert all(bool(capabilities.why_not(name)) != does(name) for name in TRIALS)
    assert "run the flow probe-store" in capabilities.why_not("what nobody tried")


def test_the_readme_tells_the_same(server: Server, capabilities: Capabilities) -> None:
    if server.is_yours:
        pytest.skip("the README is of servers that everybody can start")
    head_line, *_ = re.findall(r"^\| found by.*$", SECTION, flags=re.MULTILINE)
    column = [cell.strip().lower() for cell in head_line.strip("|").split("|")].index(server.name)
    told = {
        cells[0].strip().strip("`"): cells[column].strip()
        for cells in (line.strip("|").split("|") for line in re.findall(r"^\| `\w+` \|.*$", SECTION, re.MULTILINE))
    }
    assert told == {one.name: "yes" if one.works else "no" for one in capabilities.findings}


def test_it_leaves_nothing(catalog: CatalogDatabase, store: ObjectStore) -> None:
    rules = read_rules(store)
    found = probe_store(catalog, store, "main").capabilities
    assert found.as_json() == open_location(catalog, store, "main").capabilities.as_json()
    assert [listed.key for listed in list_prefix(store, "")] == [IDENTITY_KEY]
    assert list(list_multipart_uploads(store)) == []
    assert read_rules(store) == rules
    put_bytes(store, IDENTITY_KEY, b"somebody else's", {})
    with pytest.raises(ForeignCatalogError, match=f"bucket {store.bucket} belongs to catalog"):
        open_location(catalog, store, "main")


def test_a_bucket_that_is_not_there(store: ObjectStore) -> None:
    gone = store.model_copy(update={"bucket": f"not-there-{uuid4()}"})
    with pytest.raises((NotFoundError, RefusedError), match=gone.bucket):
        probe(gone)


def test_strangers_are_told_what_to_do(store: ObjectStore) -> None:
    wrong = store.credentials.model_copy(update={"minio_root_password": SecretStr("not-the-secret")})
    with pytest.raises(RefusedError, match=f"in bucket {store.bucket}.*check the block's credentials"):
        probe(store.model_copy(update={"credentials": wrong}))


def test_a_versioned_bucket_is_refused(server: Server, store: ObjectStore) -> None:
    if server.is_yours:
        pytest.skip("whether your buckets are versioned is not ours to change")
    versioned = store.model_copy(update={"bucket": f"versioned-{uuid4()}"})
    versioned.s3.create_bucket(Bucket=versioned.bucket)
    with suppress(ClientError):  # what keeps no versions is as good as a bucket without
        versioned.s3.put_bucket_versioning(Bucket=versioned.bucket, VersioningConfiguration={"Status": "Enabled"})
    if versioned.s3.get_bucket_versioning(Bucket=versioned.bucket).get("Status"):
        with pytest.raises(UnfitStoreError, match=f"bucket {versioned.bucket} is versioned"):
            probe(versioned)


@pytest.mark.parametrize("storage_class", ["STANDARD", "STANDARD_IA", "NO_SUCH_CLASS"])
def test_a_class_is_kept_or_refused(store: ObjectStore, storage_class: str) -> None:
    if because := refusal(lambda: require_class(store, storage_class)):
        assert storage_class != "STANDARD"
        assert f"bucket {store.bucket} " in because
        assert f"class {storage_class}" in because
    else:
        put_bytes(store, "a/x", b"x", {"Storage-Class": storage_class})
        (listed,) = list_range(store, "a", after="", until=None, classes=True)
        assert listed.storage_class == ("" if storage_class == "STANDARD" else storage_class)
    assert list(list_prefix(store, "probe")) == []


def test_ages_are_the_stores(store: ObjectStore, does: Callable[[str], bool]) -> None:
    assert does("clock_agrees")
    before = store_now(store)
    put_bytes(store, "x", b"x", {})
    after = store_now(store)
    assert before.tzinfo is not None
    # Seconds are whole in both, and not rounded the same way by all.
    assert (before.timestamp() - 1) <= head(store, "x").last_modified.timestamp() <= after.timestamp() + 1
    with pytest.raises((NotFoundError, RefusedError), match="asking for the time"):
        store_now(store.model_copy(update={"bucket": f"not-there-{uuid4()}"}))
