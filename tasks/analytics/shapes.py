"""Aggregates as the tables have them: pure, frames in and frames out. Sizes are bytes, money is a month's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blocks.catalog.analytics import WIDER
from blocks.policies import GIB, TierPolicy

if TYPE_CHECKING:
    import pandas as pd

COUNTED = ("live", "missing", "corrupt")
"""States that count against quotas."""
_CUSTOMER = ["api_key_id", "customer"]


def prices(locations: pd.DataFrame, policy: TierPolicy) -> pd.DataFrame:
    """What a byte costs a month in each location: location_id, tier, price, in_use. Its own price, else its tier's."""
    of_tier = locations["tier"].map({"hot": policy.hot_price, "warm": policy.warm_price, "cold": policy.cold_price})
    price = locations["price_per_gib_month"].astype("Float64").fillna(of_tier.astype("Float64"))
    return locations[["location_id", "tier", "in_use"]].assign(price=price.astype("float64") / GIB)


def usage(stored: pd.DataFrame, customers: pd.DataFrame, priced: pd.DataFrame) -> pd.DataFrame:
    """The rows of `analytics.usage` but the day: one for each customer, kind and tier."""
    table = stored.merge(priced, on="location_id")
    counted, trashed = table["state"].isin(COUNTED), table["state"].eq("trashed")
    table = table.assign(
        unsound_objects=table["objects"].where(table["state"].isin(["missing", "corrupt"]), 0),
        trashed_objects=table["objects"].where(trashed, 0),
        trashed_bytes=table["stored_bytes"].where(trashed, 0),
        monthly_cost=table["stored_bytes"].astype("float64") * table["price"],
        objects=table["objects"].where(counted, 0),
        size_bytes=table["size_bytes"].where(counted, 0),
        stored_bytes=table["stored_bytes"].where(counted, 0),
    )
    sums = ["objects", "size_bytes", "stored_bytes", "unsound_objects", "trashed_objects", "trashed_bytes",
            "monthly_cost"]  # fmt: skip
    grouped = table.groupby(["api_key_id", "kind", "tier"], as_index=False)[sums].sum()
    return grouped.merge(customers[_CUSTOMER], on="api_key_id")


def quotas(customers: pd.DataFrame, used: pd.DataFrame) -> pd.DataFrame:
    """Customers with what is free of their quota, in percent too, and what they cost; `used` is what `usage` gave."""
    taken = customers["used_bytes"] + customers["reserved_bytes"]
    free = (customers["quota_bytes"] - taken).clip(lower=0)
    quota = customers["quota_bytes"].astype("Float64")
    share = (100 * taken.astype("Float64") / quota).where(quota > 0)
    share = share.mask(((quota == 0) & (taken > 0)).fillna(False), 100.0)
    cost = used.groupby("api_key_id")["monthly_cost"].sum()
    costs = customers["api_key_id"].map(cost).astype("Float64").fillna(0.0)
    return customers.assign(free_bytes=free, used_percent=share, monthly_cost=costs)


def savings(
    stored: pd.DataFrame,
    duplicates: pd.DataFrame,
    shared: pd.DataFrame,
    customers: pd.DataFrame,
    priced: pd.DataFrame,
    policy: TierPolicy,
) -> pd.DataFrame:
    """The rows of `analytics.savings` but the day: one for each customer and source that saves something."""
    import pandas as pd

    held = stored[stored["state"].isin(COUNTED)].merge(priced, on="location_id")
    squeezed = held[held["codec"] != "identity"]
    squeezed = squeezed.assign(saved_bytes=squeezed["size_bytes"] - squeezed["stored_bytes"])
    cooler = held[held["tier"] != "hot"]
    cheaper = _hot_price(priced, policy) - cooler["price"]
    parts = [
        _summed("deduplication", duplicates.merge(priced, on="location_id")),
        _summed("compression", squeezed),
        _summed("tiers", cooler.assign(saved_bytes=0), money=cooler["stored_bytes"].astype("float64") * cheaper),
        _summed(WIDER, shared.merge(priced, on="location_id")),
    ]
    return pd.concat(parts, ignore_index=True).merge(customers[_CUSTOMER], on="api_key_id")


def _hot_price(priced: pd.DataFrame, policy: TierPolicy) -> float:
    """What a byte would cost a month if it had stayed hot: where that is cheapest, since nobody knows where it was."""
    hot = priced.loc[priced["tier"].eq("hot") & priced["in_use"], "price"]
    return float(hot.min()) if len(hot) else policy.hot_price / GIB


def _summed(source: str, table: pd.DataFrame, *, money: pd.Series | None = None) -> pd.DataFrame:
    per_month = table["saved_bytes"].astype("float64") * table["price"] if money is None else money
    table = table.assign(source=source, saved_per_month=per_month)
    sums = ["objects", "saved_bytes", "saved_per_month"]
    return table.groupby(["api_key_id", "source"], as_index=False)[sums].sum()
