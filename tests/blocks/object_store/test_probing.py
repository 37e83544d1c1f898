"""The probe against a real server, and against one whose bucket cannot be used."""

from __future__ import annotations

import pytest

from blocks.catalog import CatalogDatabase
from blocks.errors import NotFoundError, StoreUnavailableError, UnfitStoreError
from blocks.object_store import ObjectStore
from blocks.object_store.listing import list_prefix
from blocks.object_store.probing import Capabilities, probe
from blocks.object_store.trials import NEEDED, TRIALS
from tasks.declaring import probe_store
from tasks.stores import open_location
from tests.chaos.faults import error
from tests.helpers import rows
from tests.line import Answer, Call, Fault, Verdict
from tests.wires import wired


def test_what_the_embedded_server_does(capabilities: Capabilities) -> None:
    found = {finding.name: finding.works for finding in capabilities.findings}
    assert found.keys() == TRIALS.keys() | {"presigned_urls_expire"}
    assert all(found[name] for name in NEEDED)
    assert capabilities.checks_uploads
    assert not capabilities.has("transition_rules"), "SeaweedFS takes expiration rules and no transitions"
    assert not capabilities.has("a capability nobody probed")


def test_findings_survive_the_catalog(capabilities: Capabilities) -> None:
    assert Capabilities.from_json(capabilities.as_json()) == capabilities
    assert not Capabilities.from_json(None).checks_uploads


def test_a_probe_leaves_nothing_and_is_stored(catalog: CatalogDatabase, store: ObjectStore) -> None:
    with pytest.raises(NotFoundError, match="run the flow probe-store"):
        open_location(catalog, store, "main")
    probe_store(catalog, store, "main")
    assert list(list_prefix(store, "probe")) == []
    assert open_location(catalog, store, "main").capabilities.has("reads_back")
    probe_store(catalog, store, "main")
    assert len(rows(catalog, "SELECT 1 FROM locations")) == 1


def test_lifecycle_rules_that_are_there_stay(store: ObjectStore) -> None:
    store.s3.create_bucket(Bucket="with-rules")
    theirs = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "x/"}, "Expiration": {"Days": 3}}
    store.s3.put_bucket_lifecycle_configuration(Bucket="with-rules", LifecycleConfiguration={"Rules": [theirs]})
    probe(store.model_copy(update={"bucket": "with-rules"}))
    kept = store.s3.get_bucket_lifecycle_configuration(Bucket="with-rules")["Rules"]
    assert [rule["ID"] for rule in kept] == ["theirs"]


def test_a_versioned_bucket_is_refused(store: ObjectStore) -> None:
    store.s3.create_bucket(Bucket="versioned")
    store.s3.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    with pytest.raises(UnfitStoreError, match="deletes would free nothing"):
        probe(store.model_copy(update={"bucket": "versioned"}))


def test_a_bucket_that_is_not_there(store: ObjectStore) -> None:
    with pytest.raises(NotFoundError):
        probe(store.model_copy(update={"bucket": "not-there"}))


class Unwell(Fault):
    """The store cannot say whether the bucket is versioned."""

    async def before(self, call: Call) -> Verdict | Answer:
        return error(503, "SlowDown") if "?versioning" in call.what else Verdict.PASS


def test_a_bucket_that_may_be_versioned_is_not_taken(store: ObjectStore) -> None:
    told = pytest.raises(StoreUnavailableError, match="looking at the bucket's versioning")
    with wired(store.model_copy(update={"retries": 1}), Unwell()) as unwell, told:
        probe(unwell)


def test_a_public_address_that_nobody_answers_at(store: ObjectStore) -> None:
    with pytest.raises(UnfitStoreError, match=r"cannot be used: .*presigned_get: .*Connection refused"):
        probe(store.model_copy(update={"public_endpoint_url": "http://127.0.0.1:9"}))
    assert list(list_prefix(store, "probe")) == []
