"""Into a place that must restore what is read: nothing can be read back there, and all is proved the same."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from botocore.exceptions import ClientError

from blocks.catalog import CatalogDatabase
from blocks.errors import RefusedError
from blocks.object_store.failures import store_errors
from blocks.object_store.probing import Capabilities, Finding
from tasks.relocation import relocate, rewriting
from tasks.relocation.rewriting import Target
from tasks.stores import Locations, OpenLocation
from tests.helpers import execute, stored_keys
from tests.tasks.relocation.moves import MIB, POLICY, WHY, everything


@pytest.fixture
def archive(catalog: CatalogDatabase, declare, new_job, monkeypatch: pytest.MonkeyPatch) -> OpenLocation:  # type: ignore[no-untyped-def]
    """A video at home, and where it goes."""
    execute(catalog, "UPDATE api_keys SET storage_quota_bytes = NULL")
    new_job(os.urandom(2 * MIB))

    def refuse(*_: object, **__: object) -> None:
        raise RefusedError("it has to be restored first")

    monkeypatch.setattr(rewriting, "hash_content", refuse)
    made: OpenLocation = declare("archive", tier="cold", needs_restore=True)
    return replace(made, place=replace(made.place, storage_class="GLACIER"))


def move(catalog: CatalogDatabase, location: OpenLocation, archive: OpenLocation) -> str:
    locations = Locations(catalog, location, [archive])
    (outcome,) = relocate.relocate(catalog, locations, POLICY, everything(catalog), Target(archive), WHY)
    return outcome.error or outcome.result


@pytest.mark.parametrize("etag", ["0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdef-2"])
def test_a_copy_that_its_etag_does_not_prove_is_sent_from_here(
    catalog: CatalogDatabase, location: OpenLocation, archive: OpenLocation, etag: str
) -> None:
    """Where a key of the server's encrypts, an ETag is no hash of the bytes, and a copy has another one."""
    execute(catalog, "UPDATE stored_objects SET etag = :etag", etag=etag)
    assert move(catalog, location, archive) == "moved"


def test_where_nothing_could_prove_it_nothing_is_written(
    catalog: CatalogDatabase, location: OpenLocation, archive: OpenLocation
) -> None:
    execute(catalog, "UPDATE stored_objects SET etag = NULL")
    careless = replace(archive, capabilities=Capabilities((Finding("checks_uploads", works=False),)))
    assert "its server checks no upload: nothing could prove" in move(catalog, location, careless)
    assert stored_keys(archive) == []


def test_what_is_not_restored_yet_is_no_matter_of_credentials(location: OpenLocation) -> None:
    answer = {"Error": {"Code": "InvalidObjectState", "Message": "not valid for the object's storage class"},
              "ResponseMetadata": {"HTTPStatusCode": 403}}  # fmt: skip
    with pytest.raises(RefusedError, match="lies in an archive and is not restored yet") as told:  # noqa: SIM117
        with store_errors(location.store, "reading x"):
            raise ClientError(answer, "GetObject")  # type: ignore[arg-type]
    assert "credentials" not in str(told.value)
