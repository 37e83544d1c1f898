"""The flow `probe-store`."""

from __future__ import annotations

from typing import Literal

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.catalog.locations import Declaration
from blocks.errors import InvalidInputError
from blocks.loading import load_block
from blocks.object_store import ObjectStore
from flows.common.opening import done, open_catalog, reported, show_table
from tasks import declaring


@flow(name="probe-store", flow_run_name="probe {store}")
@reported
def probe_store(
    store: str = "main",
    location: str = "",
    tier: Literal["", "hot", "warm", "cold"] = "",
    storage_class: str = "",
    price_per_gib_month: float | None = None,
    needs_restore: bool | None = None,
    serves_urls: bool | None = None,
    catalog: str = "main",
) -> State[None]:
    """Find out what an S3 server really does, by trying, and declare a location in the catalog.

    Writes and removes small objects under `probe/`, marks the bucket as this catalog's, and stores the answers that
    other flows choose their way by. Run it for a new store and after every upgrade of the server. What was declared
    before stays, unless it is given anew. It never touches an object of a customer. A versioned bucket is refused:
    deletes would free nothing.

    Args:
        store: Name of the Object Store block to probe.
        location: Name of the location; the store's unless given. A second one in the same bucket differs in its class.
        tier: What it is to tier-jobs and rehydrate-job; hot for a new one.
        storage_class: The server's storage class for objects of this location, for example STANDARD_IA or GLACIER.
        price_per_gib_month: What a GiB costs there a month; the Tier Policy's price of the tier unless given.
        needs_restore: Whether objects there have to be restored before they can be read, as in GLACIER.
        serves_urls: Whether customers reach the server; if not, objects are brought back before a URL is made.
        catalog: Name of the Catalog Database block.
    """
    if price_per_gib_month is not None and not 0 <= price_per_gib_month <= 1e6:
        raise InvalidInputError(f"price_per_gib_month={price_per_gib_month} is no price: 0 to 1000000")
    opened = declaring.probe_store(
        open_catalog(catalog),
        load_block(ObjectStore, store),
        store,
        location=location,
        storage_class=storage_class,
        said=Declaration(tier or None, price_per_gib_month, needs_restore, serves_urls),
    )
    show_table(
        "probe-store",
        [
            {"capability": f.name, "works": "yes" if f.works else "no", "seen": f.detail}
            for f in opened.capabilities.findings
        ],
        f"What the server behind {store} does",
    )
    works, place = sum(finding.works for finding in opened.capabilities.findings), opened.place
    where = f"location {place.name} is {place.tier}" + (f", class {place.storage_class}" if place.storage_class else "")
    return done(f"{store}: {works} of {len(opened.capabilities.findings)} capabilities; {where}")
