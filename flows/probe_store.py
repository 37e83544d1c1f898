"""The flow `probe-store`."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.loading import load_block
from blocks.object_store import ObjectStore
from flows.opening import done, open_catalog, reported, show_table
from tasks import stores


@flow(name="probe-store", flow_run_name="probe {store}")
@reported
def probe_store(store: str = "main", catalog: str = "main") -> State[None]:
    """Find out what an S3 server really does, by trying, and declare the store in the catalog.

    Writes and removes small objects under `probe/`, marks the bucket as this catalog's, and stores the answers that
    other flows choose their way by. Run it for a new store and after every upgrade of the server. It never touches
    an object of a customer. A versioned bucket is refused: deletes would free nothing.

    Args:
        store: Name of the Object Store block to probe.
        catalog: Name of the Catalog Database block.
    """
    location = stores.probe_store(open_catalog(catalog), load_block(ObjectStore, store), store)
    show_table(
        "probe-store",
        [
            {"capability": f.name, "works": "yes" if f.works else "no", "seen": f.detail}
            for f in location.capabilities.findings
        ],
        f"What the server behind {store} does",
    )
    works = sum(finding.works for finding in location.capabilities.findings)
    return done(f"{store}: {works} of {len(location.capabilities.findings)} capabilities; the store is declared")
