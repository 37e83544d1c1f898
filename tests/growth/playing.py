"""Everything that flows and customers do, beside the crowd, with every statement that is sent for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from blocks.catalog import CatalogDatabase
from tests.chaos.acts import ACTS
from tests.chaos.walking import Worlds
from tests.growth.calls import BY_CUSTOMERS, BY_FLOWS, Crowd, claim
from tests.growth.grafting import grafted
from tests.growth.judging import BY_CUSTOMERS as TABLES_BY_CUSTOMERS
from tests.growth.judging import Grown, Trouble, judge
from tests.growth.plans import Statement, watched

ELSEWHERE = {
    "restore-drill": "fills a database of its own",
    "restore": "fills a database of its own, and takes the crowd's place; what it asks of it is among the calls",
    "upgrade": "fills a database of its own",
    "backup-retention": "asks the store alone",
}
"""Acts that send nothing to the catalog that has grown."""
CUSTOMERS_ACTS = (
    "ingest", "register-outputs", "register-outputs-from-temp", "issue-upload-url", "complete-upload-of-a-video",
    "complete-upload-for-a-job", "issue-download-url", "bulk-download", "bulk-download-to-a-folder",
)  # fmt: skip
"""Nothing of these may grow with the number of customers either."""


def play_acts(
    catalog: CatalogDatabase, worlds: Worlds, grown: Grown, *, but: Collection[str] = ()
) -> dict[str, list[Trouble]]:
    """What is wrong with the statements of each act."""
    found = {}
    for name, act in ACTS.items():
        if name in ELSEWHERE or name in but:
            continue
        with worlds() as small:
            act.prepare(small)
            small.catalog.disconnect()
            world = small.at(database=catalog.database)
            with grafted(small.address, world.address), seen(world.catalog) as statements:
                act.do(world)
            act.tidy(world)
        found[name] = list(judge(statements, _of(grown, customers=name in CUSTOMERS_ACTS)))
    return found


def play_calls(crowd: Crowd, grown: Grown) -> dict[str, list[Trouble]]:
    """What is wrong with the statements of each call."""
    claim(crowd)  # the acts have left another identity
    found = {}
    for calls in (BY_CUSTOMERS, BY_FLOWS):
        for name, call in calls.items():
            with seen(crowd.catalog) as statements:
                call(crowd)
            found[name] = list(judge(statements, _of(grown, customers=calls is BY_CUSTOMERS)))
    return found


def asked(catalog: CatalogDatabase, ask: Callable[[], object]) -> list[Statement]:
    """The statements that some work sends."""
    with seen(catalog) as statements:
        ask()
    return statements


@contextmanager
def seen(catalog: CatalogDatabase) -> Iterator[list[Statement]]:
    """The statements that are sent meanwhile."""
    catalog.disconnect()
    with watched() as watch:
        yield watch.statements
        catalog.disconnect()
    assert watch.statements, "somebody asked the catalog something"


def _of(grown: Grown, *, customers: bool) -> Grown:
    return grown if customers else grown.but(TABLES_BY_CUSTOMERS)
