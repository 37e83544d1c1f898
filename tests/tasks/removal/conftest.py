"""What tests of the bucket's rules share."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import pytest

from blocks.catalog import CatalogDatabase
from blocks.catalog.locations import declare_place
from blocks.embedded import Endpoints
from blocks.object_store.probing import Capabilities
from tasks.stores import OpenLocation
from tests.conftest import make_store


@pytest.fixture
def open_in(endpoints: Endpoints, catalog: CatalogDatabase, capabilities: Capabilities) -> Callable[..., OpenLocation]:
    """A location with this prefix, in a bucket that the test has for itself: rules are a property of the bucket."""
    name = f"rules-{uuid4()}"
    make_store(endpoints, prefix="").s3.create_bucket(Bucket=name)

    def make(prefix: str = "", seen: Capabilities = capabilities) -> OpenLocation:
        store = make_store(endpoints, prefix=prefix, bucket=name)
        place = catalog.transaction(
            lambda connection: declare_place(
                connection,
                name=f"at {prefix}",
                store=f"at {prefix}",
                bucket=name,
                prefix=prefix,
                capabilities=seen.as_json(),
            )
        )
        return OpenLocation(place, store, seen)

    return make
