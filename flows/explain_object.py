"""The flow `explain-object`."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from blocks.loading import load_block
from blocks.policies import RetentionPolicy
from flows.common.opening import done, open_catalog, reported, show_table
from tasks.history import explain, sentence


@flow(name="explain-object", flow_run_name="explain {reference}")
@reported
def explain_object(reference: str, catalog: str = "main", policy: str = "default") -> State[None]:
    """Tell where an object is, who owns it, what was done to it by which run and rule, and what comes next.

    It reads the catalog and the operation log, and changes nothing. In SQL: SELECT * FROM explain_object('…').

    Args:
        reference: An object's id, a key it has or had, or the id of its job.
        catalog: Name of the Catalog Database block.
        policy: Name of the Retention Policy block, for what comes next.
    """
    database = open_catalog(catalog)
    found = explain(database, load_block(RetentionPolicy, policy), reference)
    rows = [
        {
            "at": f"{event.at:%Y-%m-%d %H:%M:%S}",
            "what": sentence(event),
            "rule": event.rule,
            "run": event.run,
            "customer": event.customer,
            "bytes": event.size_bytes,
        }
        for event in found.events
    ]
    message = f"{len(found.events)} entries; next: " + ("; ".join(found.next_steps[:5]) or "nothing is left of it")
    show_table("explain-object", rows, message)
    return done(message)
