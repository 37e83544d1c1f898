"""An unknown key, a disabled key and another customer's job, in every operation that names a key or a job.

Customers' operations see their own jobs alone: another's is as unknown as one that never was, word for word. What an
operator calls reaches every job; a disabled key stops nothing of that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import pytest

from blocks.errors import NotFoundError, RefusedError
from blocks.policies import RelocationPolicy, RetentionPolicy
from tasks.access import issue_download_url
from tasks.customers import set_quota
from tasks.downloads import bulk_download
from tasks.history import explain
from tasks.intake.ingest import ingest_videos
from tasks.intake.outputs import register_outputs
from tasks.intake.uploads import complete_upload, issue_upload_url
from tasks.relocation.rehydrate import rehydrate_job
from tasks.removal.deletion import Wanted, hold, select
from tests.hostile.besieged import DISABLED, OWNER, STRANGER, Platform
from tests.hostile.parameters import DEPLOYED, signature
from tests.hostile.values import UNKNOWN_ID

NAMES_SOMEBODY = {"api_key", "keys", "job_id", "job_ids", "upload_id", "reference"}
"""Parameters that say whose, or which job."""


@dataclass(frozen=True)
class Asked:
    """Who asks for what."""

    platform: Platform
    key: str
    job: UUID | str
    upload: UUID | str


@dataclass(frozen=True)
class Operation:
    """What a flow does, without Prefect. `names_job` is whether a job, or an upload, is asked for beside the key."""

    call: Callable[[Asked], object]
    names_job: bool = True


def at(asked: Asked) -> dict[str, object]:
    """Where every operation works."""
    return {"catalog": asked.platform.catalog, "api_key": asked.key}


CUSTOMERS: dict[str, Operation] = {
    "ingest-videos": Operation(
        lambda a: ingest_videos(
            location=a.platform.home, policy=a.platform.ingest, sources=[f"{a.platform.folder}/videos/{OWNER}.mp4"],
            **at(a),
        ), names_job=False,
    ),
    "issue-download-url": Operation(
        lambda a: issue_download_url(
            locations=a.platform.locations, policy=a.platform.access, job_id=a.job, kind="audio", **at(a)
        ),
    ),
    "issue-download-url, a stream": Operation(
        lambda a: issue_download_url(
            locations=a.platform.locations, policy=a.platform.access, job_id=a.job, kind="hls_360p", **at(a)
        ),
    ),
    "issue-upload-url": Operation(
        lambda a: issue_upload_url(
            location=a.platform.home, access=a.platform.access, ingest=a.platform.ingest, filename="a.mp4",
            size_bytes=9, **at(a),
        ), names_job=False,
    ),
    "issue-upload-url, beside a job": Operation(
        lambda a: issue_upload_url(
            location=a.platform.home, access=a.platform.access, ingest=a.platform.ingest, filename="a.jpg",
            size_bytes=9, job_id=a.job, **at(a),
        ),
    ),
    "complete-upload": Operation(
        lambda a: complete_upload(
            locations=a.platform.locations, policy=a.platform.ingest, upload_id=a.upload, **at(a)
        ),
    ),
    "bulk-download": Operation(
        lambda a: bulk_download(
            locations=a.platform.locations, policy=a.platform.access, job_ids=[a.job], **at(a)
        ),
    ),
}  # fmt: skip
"""Each by its flow's name, and what else is tried of it."""

OPERATORS: dict[str, Callable[[Asked], object]] = {
    "register-outputs": lambda a: register_outputs(
        a.platform.catalog, a.platform.home, a.platform.ingest, job_id=a.job,
        outputs=f"{a.platform.folder}/outputs/{a.key}",
    ),
    "set-quota": lambda a: set_quota(a.platform.catalog, api_key=a.key, quota="10 MiB"),
    "delete-jobs": lambda a: select(a.platform.catalog, Wanted((str(a.job),), a.key)),
    "undelete-jobs": lambda a: select(a.platform.catalog, Wanted((str(a.job),), a.key)),
    "hold-jobs": lambda a: hold(a.platform.catalog, job_ids=[str(a.job)], reason="", release=True),
    "rehydrate-job": lambda a: rehydrate_job(
        a.platform.catalog, a.platform.locations, RelocationPolicy(), job_id=a.job
    ),
    "explain-object": lambda a: explain(a.platform.catalog, RetentionPolicy(), str(a.job)),
}  # fmt: skip
ELSEWHERE = {"migrate-storage", "refresh-analytics"}
"""Operators', too; their filters are tried in test_flows."""


def test_every_operation_is_in_a_table() -> None:
    named = {flow for flow in DEPLOYED if NAMES_SOMEBODY & set(signature(flow))}
    known = {name.partition(",")[0] for name in CUSTOMERS} | set(OPERATORS) | ELSEWHERE
    assert named == known, "a flow that names a customer or a job belongs into one of the tables"


def of(platform: Platform, customer: str, *, asker: str | None = None) -> Asked:
    """What a customer has, asked for by somebody."""
    return Asked(platform, asker or customer, platform.jobs[customer], platform.uploads[customer])


@pytest.mark.parametrize("operation", CUSTOMERS)
def test_an_unknown_key(platform: Platform, operation: str) -> None:
    before = platform.written()
    with pytest.raises(NotFoundError, match="no API key 'nobody'; there are: acme, closed, rival"):
        CUSTOMERS[operation].call(of(platform, OWNER, asker="nobody"))
    assert platform.written() == before


@pytest.mark.parametrize("operation", CUSTOMERS)
def test_a_disabled_key(platform: Platform, operation: str) -> None:
    before = platform.written()
    with pytest.raises(RefusedError, match="API key closed has been disabled since 20"):
        CUSTOMERS[operation].call(of(platform, DISABLED))
    assert platform.written() == before


@pytest.mark.parametrize("operation", [name for name, one in CUSTOMERS.items() if one.names_job])
@pytest.mark.parametrize("owner", [STRANGER, DISABLED])
def test_another_customers_job_is_as_unknown_as_none(platform: Platform, operation: str, owner: str) -> None:
    call, before = CUSTOMERS[operation].call, platform.written()
    theirs = of(platform, owner, asker=OWNER)
    told = []
    for asked in (theirs, Asked(platform, OWNER, UNKNOWN_ID, UNKNOWN_ID)):
        with pytest.raises(NotFoundError) as caught:
            call(asked)
        told.append(str(caught.value).replace(str(asked.job), "ID").replace(str(asked.upload), "ID"))
    assert told[0] == told[1], "whoever asks learns that there is such a job"
    assert "ID" in told[0]
    assert platform.written() == before


@pytest.mark.parametrize("operation", CUSTOMERS)
def test_their_own_is_theirs(platform: Platform, operation: str) -> None:
    """Otherwise the refusals above might have any reason."""
    CUSTOMERS[operation].call(of(platform, OWNER))


@pytest.mark.parametrize("operation", OPERATORS)
def test_an_operator_reaches_a_disabled_customers_jobs(platform: Platform, operation: str) -> None:
    OPERATORS[operation](of(platform, DISABLED))
    before = platform.written()
    with pytest.raises(NotFoundError, match="no (API key|job) |neither the catalog nor its log knows"):
        OPERATORS[operation](Asked(platform, "nobody", UNKNOWN_ID, UNKNOWN_ID))
    assert platform.written() == before
