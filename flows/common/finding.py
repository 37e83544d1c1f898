"""What a run found, written down and told: for the figures of the day, and for whoever listens to events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from blocks.catalog import CatalogDatabase
from blocks.catalog.findings import Found, record_findings
from flows.common.events import DRIFT, UNSOUND, tell
from flows.common.opening import run_label
from tasks.analytics import findings
from tasks.drift.judge import Drift
from tasks.drift.verify import VerifyReport
from tasks.removal.lifecycle_reach import RuleReach

HARMLESS = ("young orphan", "newer", "spare", "transition", "held")
"""Kinds of drift that are nothing to wake somebody for."""


def note_drift(database: CatalogDatabase, catalog: str, drifted: Sequence[Drift]) -> None:
    """What a reconciliation found in each place."""
    found = findings.of_drift(drifted)
    _write(database, "reconcile-quota", [one.place for one in drifted], found)
    if serious := [one for one in found if one.finding not in HARMLESS]:
        tell(DRIFT, catalog, of="catalog", **_sums(serious))


def note_lag(database: CatalogDatabase, reach: Mapping[str, Sequence[RuleReach]]) -> None:
    """What the bucket's rules should have reached."""
    _write(database, "apply-lifecycle", list(reach), findings.of_lifecycle(reach))


def note_unsound(
    database: CatalogDatabase, catalog: str, reports: Mapping[str, VerifyReport], *, some_kinds: bool
) -> None:
    """What was read and is not its content, or not there. Of some kinds alone nobody can say that there was none."""
    found = [one for place, report in reports.items() for one in findings.of_verification(place, report)]
    _write(database, "verify-objects", [] if some_kinds else list(reports), found)
    if found:
        first = next(one for report in reports.values() for one in report.alarming)
        tell(UNSOUND, catalog, of="catalog", such_as=first.key, **_sums(found))


def _write(database: CatalogDatabase, operation: str, places: Sequence[str], found: Sequence[Found]) -> None:
    database.transaction(lambda connection: record_findings(connection, operation, places, found, run=run_label()))


def _sums(found: Sequence[Found]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for one in found:
        name = one.finding.replace(" ", "_")
        sums[name] = sums.get(name, 0) + one.objects
    return sums
