"""The Prefect UI as an operator uses it, in a real browser: a form is filled, an artifact read, a plan approved."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from prefect.deployments import run_deployment

from blocks.catalog import CatalogDatabase
from blocks.policies import SafetyPolicy
from tests.conftest import RunningStack
from tests.flows.conftest import save_policy
from tests.helpers import one, rows

playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
CHROMIUM = os.environ.get("CHROMIUM") or next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
NO_BROWSER = "Prefect's real pages need a browser, which no wheel carries: install chromium, or name one in CHROMIUM"
pytestmark = [
    pytest.mark.prefect,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER),
]
SECONDS = 1000


@pytest.fixture
def browse(worker: RunningStack) -> Callable[[Callable[[Any], None]], None]:
    """Runs a script with a page of a new browser, in a thread: Prefect would take its event loop for one of its own."""

    def run(script: Callable[[Any], None]) -> None:
        with playwright.sync_playwright() as tools:
            browser = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            address = worker.stack.endpoints().prefect_url
            page = browser.new_page(viewport={"width": 1400, "height": 1400}, base_url=address)
            # A busy machine takes its time; whatever is waited for is seen at once when it is there.
            page.set_default_timeout(60 * SECONDS)
            try:
                script(page)
            except BaseException:
                page.screenshot(path=str(worker.stack.folder / "logs" / "browser.png"), full_page=True)
                raise
            finally:
                browser.close()

    def browse(script: Callable[[Any], None]) -> None:
        with ThreadPoolExecutor(max_workers=1) as thread:
            thread.submit(run, script).result()

    return browse


def expect(page: Any, text: str | re.Pattern[str]) -> None:
    playwright.expect(page.get_by_text(text).first).to_be_visible(timeout=60 * SECONDS)


def test_a_form_is_filled_run_and_its_artifact_seen(
    browse: Callable[[Callable[[Any], None]], None], saved: str, catalog: CatalogDatabase
) -> None:
    def script(page: Any) -> None:
        page.goto("/deployments")
        page.get_by_placeholder("Search deployments").fill("set-quota")
        page.locator('a[href*="/deployments/deployment/"]', has_text="set-quota").first.click()
        page.get_by_text("Description", exact=True).first.click()
        expect(page, re.compile("Raise, lower or lift a customer's quota"))
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_text("Custom run").click()
        expect(page, "A size such as 500 MiB or 10 GiB, 0 to take nothing in, or unlimited.")
        fields = page.locator("textarea")
        fields.nth(0).fill("acme")
        fields.nth(1).fill("123 MiB")
        with page.expect_response(lambda answer: answer.url.endswith("/create_flow_run")) as created:
            page.get_by_role("button", name="Submit").click()
        # Not by the note that pops up with a link: it goes by itself, on a busy machine before it can be clicked.
        page.goto(f"/runs/flow-run/{created.value.json()['id']}")
        expect(page, "Completed")
        page.get_by_text("Artifacts", exact=True).last.click()
        # Not by its name, which the deployment has as well: on a busy machine its link is there before the artifact's.
        page.locator('a[href*="/artifacts/artifact/"]').first.click()
        expect(page, re.compile("quota of acme: 10 MiB → 123 MiB"))

    browse(script)
    assert one(catalog, "SELECT storage_quota_bytes FROM api_keys") == 123 * 1024**2


def test_a_plan_that_waits_is_approved(
    browse: Callable[[Callable[[Any], None]], None],
    saved: str,
    catalog: CatalogDatabase,
    new_jobs: Callable[[int], list[UUID]],
) -> None:
    save_policy(SafetyPolicy(most_objects=2))
    new_jobs(3)
    parameters = {"api_key": "acme", "dry_run": False}
    run: Any = run_deployment("delete-jobs/delete-jobs", parameters=parameters, timeout=0)

    def script(page: Any) -> None:
        page.goto(f"/runs/flow-run/{run.id}")
        expect(page, "Suspended")
        assert rows(catalog, "SELECT DISTINCT state FROM stored_objects") == [("live",)]
        page.get_by_role("button", name="Resume", exact=True).click()
        expect(page, re.compile("3 objects are more than 2"))
        # Its list opens by the keyboard; a click made by a machine is too fast for it.
        page.get_by_role("dialog").get_by_role("button", name="deny").press("ArrowDown")
        page.get_by_role("option", name="approve").click()
        page.get_by_role("button", name=re.compile("Submit|Resume")).last.click()
        expect(page, "Completed")

    browse(script)
    assert rows(catalog, "SELECT DISTINCT state FROM stored_objects") == [("trashed",)]
