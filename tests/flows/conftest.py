"""The blocks that the flows' defaults name, on the real Prefect server."""

from __future__ import annotations

import pytest
from prefect_aws.credentials import MinIOCredentials

from blocks.embedded import Endpoints
from blocks.policies import AccessPolicy, IngestPolicy
from tasks.customers import create_key
from tests.helpers import assert_sound


@pytest.fixture
def saved(prefect_api, endpoints: Endpoints, catalog, store, location, tmp_path):  # type: ignore[no-untyped-def]
    """The blocks that the flows' defaults name."""
    credentials = MinIOCredentials(
        minio_root_user=endpoints.access_key, minio_root_password=endpoints.secret_key.get_secret_value()
    )
    credentials.save("main", overwrite=True)
    catalog.save("main", overwrite=True)
    store.model_copy(update={"credentials": MinIOCredentials.load("main")}).save("main", overwrite=True, _sync=True)
    IngestPolicy(source_roots=str(tmp_path), batch_files=3).save("default", overwrite=True)
    AccessPolicy().save("default", overwrite=True)
    create_key(catalog, "acme", "10 MiB")
    yield prefect_api
    assert_sound(catalog, location)
