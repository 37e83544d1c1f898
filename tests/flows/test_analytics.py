"""Figures, reports, events and findings as flows and commands, on the real Prefect server."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg2
import pytest
from prefect.client.orchestration import get_client
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from typer.testing import CliRunner

from blocks.catalog import CatalogDatabase
from blocks.catalog.locations import declare_place
from blocks.errors import InvalidInputError, NotFoundError, RefusedError
from blocks.object_store.deletion import delete_keys
from blocks.object_store.transfer import put_bytes
from blocks.policies import IngestPolicy, RetentionPolicy
from flows.cleanup import cleanup
from flows.commands.app import app
from flows.common import events
from flows.ingest_videos import ingest_videos
from flows.issue_upload_url import issue_upload_url
from flows.reconcile_quota import reconcile_quota
from flows.refresh_analytics import refresh_analytics
from flows.set_quota import set_quota
from flows.verify_objects import verify_objects
from tasks.layout import IDENTITY_KEY
from tasks.stores import OpenLocation
from tests.flows.conftest import save_policy
from tests.helpers import execute, one, rows, stored_keys, write_video

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("saved")]


def artifacts(key: str) -> list[Any]:
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    return sorted(found, key=lambda artifact: artifact.created)


def heard(event: str, resource: str, since: datetime) -> list[dict[str, Any]]:
    """Payloads of an event since a time; they arrive within seconds."""
    wanted = EventFilter(
        event=EventNameFilter(name=[f"{events.EVENTS}.{event}"]),
        resource=EventResourceFilter(id=[f"{events.EVENTS}.{resource}"]),
        occurred=EventOccurredFilter(since=since, until=since + timedelta(hours=1)),
    )
    deadline = time.monotonic() + 20
    while True:
        with get_client(sync_client=True) as client:
            found = client.read_events(wanted, limit=50).events
        if found or time.monotonic() > deadline:
            return [dict(one_event.payload) for one_event in found]
        time.sleep(0.3)


def test_the_days_figures_and_their_report(
    catalog: CatalogDatabase, location: OpenLocation, new_jobs: Callable[[int], list[UUID]]
) -> None:
    new_jobs(3)
    refresh_analytics(keys=["acme"])
    assert one(catalog, "SELECT sum(objects)::bigint FROM analytics.usage") == 3
    day = one(catalog, "SELECT day FROM analytics.snapshots")
    keys = stored_keys(location, "reports")
    assert {key.split("/")[2] for key in keys} == {"all", "customers"}
    assert len([key for key in keys if key.startswith(f"reports/{day}/all/")]) == 21
    page = httpx.get(artifacts("report")[-1].data.split("](")[1].removesuffix(")"))
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "Customers store" in page.text
    own = httpx.get(artifacts("report-customer-1")[-1].data.split("](")[1].removesuffix(")"))
    assert "<h1>Storage of acme</h1>" in own.text
    files = artifacts("report-customer-1-files")[-1].data
    table = httpx.get(files.split("usage.csv](")[1].partition(")")[0])
    assert table.status_code == 200
    assert "attachment" in table.headers["content-disposition"]
    assert table.text.startswith("api_key_id,customer,kind,tier,objects")
    # Again: the same keys, written over.
    refresh_analytics(keys=["1"])
    assert stored_keys(location, "reports") == keys


def test_figures_without_a_report(catalog: CatalogDatabase, location: OpenLocation) -> None:
    refresh_analytics(store="")
    assert stored_keys(location, "reports") == []
    assert one(catalog, "SELECT count(*) FROM analytics.snapshots") == 1


def test_figures_do_not_wait_for_a_bucket(catalog: CatalogDatabase, location: OpenLocation) -> None:
    """What is stored on a day cannot be read any more when it is over."""
    put_bytes(location.store, IDENTITY_KEY, b"00000000-0000-0000-0000-000000000000 1\n", {})
    state = refresh_analytics(return_state=True)
    assert "belongs to catalog" in str(state.message)
    assert one(catalog, "SELECT count(*) FROM analytics.snapshots") == 1


def test_a_restored_catalog_that_nobody_has_confirmed_yet_has_its_reports(
    catalog: CatalogDatabase, location: OpenLocation
) -> None:
    execute(catalog, "UPDATE catalog_identity SET frozen_since = now(), restored_from = 'a-backup'")
    refresh_analytics()
    assert stored_keys(location, "reports")


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"date": "tomorrow"}, InvalidInputError, "is no day"),
        ({"date": "2999-01-01"}, InvalidInputError, "lies outside of"),
        ({"date": "2020-01-01"}, RefusedError, "there are no figures of 2020-01-01"),
        ({"keys": ["nobody"]}, NotFoundError, "no API key 'nobody'"),
        ({"keys": ["acme", "'; DROP TABLE jobs --"]}, NotFoundError, "no API key"),
        ({"store": "nowhere"}, NotFoundError, "no location 'nowhere'"),
        ({"policy": "nowhere"}, NotFoundError, "nowhere"),
    ],
)
def test_bad_input_writes_nothing(
    catalog: CatalogDatabase, location: OpenLocation, parameters: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        refresh_analytics(**parameters)
    assert one(catalog, "SELECT count(*) FROM analytics.snapshots") == 0
    assert stored_keys(location, "reports") == []


def test_quotas_are_told_when_they_fill(catalog: CatalogDatabase, tmp_path: Path) -> None:
    began = datetime.now(UTC)
    save_policy(IngestPolicy(source_roots=str(tmp_path), expected_outputs_ratio=0))
    set_quota(api_key="acme", quota="1000")
    for number, size in enumerate((700, 150, 100)):
        video = write_video(tmp_path / f"{number}.mp4", bytes([number]) * size)
        ingest_videos(api_key="acme", sources=[str(video)])
    (told,) = heard(events.QUOTA_NEARLY_FULL, "customer.acme", began)
    assert (told["used"], told["quota"], told["free"]) == ("850 B", "1000 B", "150 B"), "once, as it came past 80 %"
    set_quota(api_key="acme", quota="950")
    (told,) = heard(events.QUOTA_FULL, "customer.acme", began)
    assert told["free"] == "0 B"
    # The form holds the bytes: it is the last that is asked for before it is full.
    set_quota(api_key="acme", quota="2000")
    began = datetime.now(UTC)
    issue_upload_url(api_key="acme", filename="more.mp4", size_bytes=800)
    (told,) = heard(events.QUOTA_NEARLY_FULL, "customer.acme", began)
    assert told["free"] == "250 B"
    set_quota(api_key="acme", quota="950")
    # And once a day, by whoever is past it.
    later = datetime.now(UTC)
    refresh_analytics(store="")
    assert [told["quota"] for told in heard(events.QUOTA_FULL, "customer.acme", later)] == ["950 B"]


def test_a_place_that_cannot_be_read_keeps_no_other_from_being_told(
    catalog: CatalogDatabase, location: OpenLocation, new_jobs: Callable[[int], list[UUID]]
) -> None:
    """What was marked is read no more, so that no later run would tell it."""
    new_jobs(1)
    began = datetime.now(UTC)
    catalog.transaction(
        lambda connection: declare_place(
            connection,
            name="gone",
            store="gone",
            bucket="gone",
            prefix="",
            capabilities=location.capabilities.as_json(),
        )
    )
    execute(catalog, "UPDATE stored_objects SET sha256 = repeat('0', 64)")
    state = verify_objects(share=100, return_state=True)
    assert state.name == "Partial"
    assert "1 corrupt; 1 jobs are hurt" in str(state.message)
    assert "gone was not read: no block object-store/gone" in str(state.message)
    (told,) = heard(events.UNSOUND, "catalog.main", began)
    assert told["corrupt"] == "1"
    execute(catalog, "DELETE FROM stored_objects")
    delete_keys(location.store, stored_keys(location))


def test_drift_and_corrupt_objects_are_told_and_written_down(
    catalog: CatalogDatabase, location: OpenLocation, new_jobs: Callable[[int], list[UUID]]
) -> None:
    new_jobs(3)
    began = datetime.now(UTC)
    reconcile_quota(repair=False)
    assert rows(catalog, "SELECT operation, location, finding FROM findings") == [("reconcile-quota", "main", "none")]
    first, second, _ = (row.key for row in rows(catalog, "SELECT key FROM stored_objects ORDER BY key"))
    delete_keys(location.store, [first])
    reconcile_quota(repair=False)
    (told,) = heard(events.DRIFT, "catalog.main", began)
    assert told == {"missing": "1"}
    execute(catalog, "UPDATE stored_objects SET sha256 = repeat('0', 64) WHERE key = :key", key=second)
    verify_objects(share=100)
    (told,) = heard(events.UNSOUND, "catalog.main", began)
    assert (told["corrupt"], told["missing"], told["such_as"] in (first, second)) == ("1", "1", True)
    refresh_analytics(store="")
    found = rows(catalog, "SELECT operation, finding, objects FROM analytics.findings ORDER BY 1, 2")
    assert [tuple(row) for row in found] == [
        ("catalog", "corrupt", 1),
        ("catalog", "missing", 1),
        ("reconcile-quota", "missing", 1),
        ("verify-objects", "corrupt", 1),
        ("verify-objects", "missing", 1),
    ]
    # Healed for the check that ends every test.
    execute(catalog, "DELETE FROM stored_objects WHERE state IN ('missing', 'corrupt')")
    delete_keys(location.store, [second])


def test_reports_go_with_their_days(
    catalog: CatalogDatabase, location: OpenLocation, new_jobs: Callable[[int], list[UUID]]
) -> None:
    refresh_analytics()
    save_policy(RetentionPolicy(reports_days=1))
    plan = artifacts("cleanup-plan")
    cleanup(dry_run=True, as_of=datetime.now(UTC) + timedelta(days=2))
    assert len(artifacts("cleanup-plan")) > len(plan)
    assert '"reports_days"' in artifacts("cleanup-plan")[-1].data
    assert stored_keys(location, "reports"), "a dry run"


def test_a_report_into_a_folder(
    catalog: CatalogDatabase, tmp_path: Path, new_jobs: Callable[[int], list[UUID]]
) -> None:
    new_jobs(1)

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["report", *arguments])

    refused = run(str(tmp_path / "none"))
    assert refused.exit_code == 1
    assert "there are no figures yet: run the flow refresh-analytics" in refused.stderr
    refresh_analytics(store="")
    done = run(str(tmp_path / "new" / "folder"), "--key", "acme")
    assert done.exit_code == 0, done.stderr
    page = Path(done.stdout.strip())
    assert page.name == "report.html"
    assert '<a href="usage.csv">' in page.read_text("utf-8")
    in_the_way = write_video(tmp_path / "file")
    assert "cannot be written" in run(str(in_the_way / "folder")).stderr
    assert "is no day" in run(str(tmp_path), "--date", "soon").stderr


def test_an_analyst_reads_the_figures_and_nothing_else(
    catalog: CatalogDatabase, request: pytest.FixtureRequest
) -> None:

    name = f"ada_{catalog.database}"

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["analyst", *arguments])

    made = run(name)
    assert made.exit_code == 0, made.stderr
    assert len(made.stdout.strip()) > 20
    refresh_analytics(store="")
    connection = psycopg2.connect(host=catalog.host, user=name, dbname=catalog.database)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT customer FROM analytics.latest_customers")
            assert cursor.fetchall() == [("acme",)]
            for refused in ("SELECT * FROM api_keys", "SELECT * FROM job_totals", "DELETE FROM analytics.usage",
                            "SET default_transaction_read_only = off; DELETE FROM analytics.usage"):  # fmt: skip
                with pytest.raises(psycopg2.Error, match=r"permission denied|read-only"):
                    cursor.execute(refused)
    finally:
        connection.close()
    assert run(name).stdout != made.stdout, "a new password for one who lost it"
    for refused in ("postgres", "Robert'); DROP ROLE", "", "pg_monitor", "9lives"):
        assert run(refused).exit_code == 1, refused
    execute(catalog, f"DROP OWNED BY {name}")
    execute(catalog, f"DROP ROLE {name}")
