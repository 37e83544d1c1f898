"""The flow `set-quota`."""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State

from flows.common.events import watching_quota
from flows.common.opening import done, open_catalog, reported, show_table
from tasks import customers


@flow(name="set-quota", flow_run_name="quota of {api_key}: {quota}")
@reported
def set_quota(api_key: str, quota: str, catalog: str = "main") -> State[str]:
    """Raise, lower or lift a customer's quota. What is stored stays, even above a lowered quota.

    Keys are created on the command line only (`python -m flows key create`), where the secret is shown once.

    Args:
        api_key: Label or id of the customer.
        quota: A size such as 500 MiB or 10 GiB, 0 to take nothing in, or unlimited.
        catalog: Name of the Catalog Database block.
    """
    database = open_catalog(catalog)
    with watching_quota(database, api_key=api_key):
        change = customers.set_quota(database, api_key=api_key, quota=quota)
    after = change.after
    show_table(
        "set-quota",
        [
            {
                "key": after.label,
                "before": change.before.quota_bytes,
                "after": after.quota_bytes,
                "used": after.used_bytes,
            }
        ],
        change.summary(),
    )
    return done(change.summary(), change.summary())
