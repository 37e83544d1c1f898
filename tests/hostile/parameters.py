"""For every flow: a call that works, and what each of its parameters means."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from prefect import Flow

from tests.hostile import values
from tests.hostile.besieged import ELSEWHERE, HERE, OWNER, VAULT, Platform
from tests.hostile.values import Kind

PROJECT = Path(__file__).parents[2]
TYPED = Kind((), "")
"""A choice or a switch: its declared type refuses everything else."""
BLOCKS = {"store": HERE, "catalog": HERE, "policy": HERE, "safety": HERE, "relocation": HERE, "integrity": HERE,
          "access": HERE, "backups": VAULT, "target": HERE}  # fmt: skip
"""Parameters that name a block, and which one."""


@dataclass(frozen=True)
class Attacked:
    """A flow with parameters that work, and what each of its parameters means beside those of BLOCKS."""

    parameters: Callable[[Platform], dict[str, Any]]
    kinds: dict[str, Kind]
    with_others: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What else has to be given for a parameter to be looked at."""


def of_owner(platform: Platform, *names: str) -> dict[str, Any]:
    """Values of the customer who asks."""
    known = {
        "api_key": OWNER, "job_id": str(platform.jobs[OWNER]), "job_ids": [str(platform.jobs[OWNER])],
        "upload_id": str(platform.uploads[OWNER]),
    }  # fmt: skip
    return {name: known[name] for name in names}


DRY = {"dry_run": True}

FLOWS: dict[str, Attacked] = {
    "probe-store": Attacked(
        lambda platform: {},
        {"location": values.NEW_LOCATION, "tier": TYPED, "storage_class": values.CLASS,
         "price_per_gib_month": values.PRICE, "needs_restore": TYPED, "serves_urls": TYPED},
        {"storage_class": {"location": "besieged-class"}},
    ),
    "ingest-videos": Attacked(
        lambda platform: of_owner(platform, "api_key") | {"sources": [f"{platform.folder}/videos/{OWNER}.mp4"]},
        {"api_key": values.API_KEY, "sources": values.SOURCES, "expected_sha256": values.HASHES,
         "manifest": values.MANIFEST, "reprocess": TYPED},
    ),
    "register-outputs": Attacked(
        lambda platform: of_owner(platform, "job_id") | {"outputs": f"{platform.folder}/outputs/{OWNER}"},
        {"job_id": values.JOB_ID, "outputs": values.OUTPUTS},
    ),
    "issue-download-url": Attacked(
        lambda platform: of_owner(platform, "api_key", "job_id"),
        {"api_key": values.API_KEY, "job_id": values.JOB_ID, "kind": TYPED, "expires_in": values.SECONDS,
         "accept_encoding": values.FREE, "name": values.FILE_IN_JOB},
    ),
    "issue-upload-url": Attacked(
        lambda platform: of_owner(platform, "api_key") | {"filename": "a.mp4", "size_bytes": 10},
        {"api_key": values.API_KEY, "filename": values.FILENAME, "size_bytes": values.SIZE, "job_id": values.JOB_ID,
         "expires_in": values.SECONDS},
    ),
    "complete-upload": Attacked(
        lambda platform: of_owner(platform, "api_key", "upload_id"),
        {"api_key": values.API_KEY, "upload_id": values.UPLOAD_ID, "expected_sha256": values.SHA256},
    ),
    "set-quota": Attacked(
        lambda platform: of_owner(platform, "api_key") | {"quota": "10 MiB"},
        {"api_key": values.API_KEY, "quota": values.QUOTA},
    ),
    "bulk-download": Attacked(
        lambda platform: of_owner(platform, "job_ids"),
        {"job_ids": values.JOB_IDS, "kinds": values.KINDS, "api_key": values.API_KEY,
         "target": values.FOLDER},
    ),
    "delete-jobs": Attacked(
        lambda platform: of_owner(platform, "job_ids") | DRY,
        {"job_ids": values.JOB_IDS, "api_key": values.API_KEY, "status": TYPED,
         "older_than_days": values.DAYS, "larger_than": values.SIZE_TEXT, "dry_run": TYPED, "purge_now": TYPED,
         "stores": values.LOCATIONS},
    ),
    "undelete-jobs": Attacked(
        lambda platform: of_owner(platform, "job_ids") | DRY,
        {"job_ids": values.JOB_IDS, "api_key": values.API_KEY, "dry_run": TYPED},
    ),
    "hold-jobs": Attacked(
        lambda platform: of_owner(platform, "job_ids") | {"release": True},
        {"job_ids": values.JOB_IDS, "reason": values.REASON, "release": TYPED},
        {"reason": {"release": False}},
    ),
    "explain-object": Attacked(
        lambda platform: {"reference": str(platform.jobs[OWNER])},
        {"reference": values.REFERENCE},
    ),
    "rehydrate-job": Attacked(
        lambda platform: of_owner(platform, "job_id"),
        {"job_id": values.JOB_ID, "tier": TYPED, "kinds": values.KINDS, "restored": TYPED},
    ),
    "migrate-storage": Attacked(
        lambda platform: {"from_location": HERE, "to_location": ELSEWHERE},
        {"from_location": values.LOCATION, "to_location": values.LOCATION, "api_key": values.API_KEY,
         "job_ids": values.JOB_FILTER, "kinds": values.KINDS, "older_than_days": values.DAYS,
         "new_files": TYPED, "dry_run": TYPED},
    ),
    "restore": Attacked(
        lambda platform: {},
        {"backup": values.BACKUP, "before": values.TIME, "cutover": TYPED, "metadata_objects": TYPED,
         "even_if_damaged": TYPED,
         "even_if_unreadable": TYPED, "take_over_buckets": TYPED, "key": values.BLOCK, "catalog_id": values.CATALOG_ID},
    ),
    "confirm-restore": Attacked(
        lambda platform: {},
        {"dry_run": TYPED, "take_over_buckets": TYPED, "metadata_objects": TYPED, "key": values.BLOCK_LATER,
         "backups": values.BLOCK_LATER, "policy": values.BLOCK_LATER, "integrity": values.BLOCK_LATER},
    ),
    "cleanup": Attacked(lambda platform: DRY, {"dry_run": TYPED, "as_of": values.TIME, "stores": values.LOCATIONS}),
    "backup": Attacked(lambda platform: {"kind": "catalog"}, {"kind": TYPED, "dry_run": TYPED}),
    "reconcile-quota": Attacked(
        lambda platform: {"repair": False}, {"repair": TYPED, "grace_hours": values.HOURS, "stores": values.LOCATIONS}
    ),
    "compress-jobs": Attacked(
        lambda platform: DRY, {"dry_run": TYPED, "look_again": TYPED, "stores": values.LOCATIONS}
    ),
    "tier-jobs": Attacked(
        lambda platform: DRY,
        {"dry_run": TYPED, "look_again": TYPED, "relocation": values.BLOCK_LATER, "safety": values.BLOCK_LATER},
    ),
    "refresh-analytics": Attacked(
        lambda platform: {}, {"date": values.DAY, "keys": values.listed(values.API_KEY)}
    ),
    "apply-lifecycle": Attacked(lambda platform: DRY, {"dry_run": TYPED, "stores": values.LOCATIONS}),
    "verify-objects": Attacked(
        lambda platform: {}, {"share": values.SHARE, "kinds": values.KINDS, "stores": values.LOCATIONS}
    ),
    "restore-drill": Attacked(
        lambda platform: {}, {"backup": values.BACKUP, "metadata_objects": TYPED, "key": values.BLOCK}
    ),
}  # fmt: skip


def deployed() -> dict[str, Flow[..., Any]]:
    """Every flow of prefect.yaml, by its name."""
    found = {}
    for one in yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]:
        module, _, name = one["entrypoint"].partition(":")
        found[one["name"]] = getattr(importlib.import_module(module), name)
    return found


DEPLOYED = deployed()


def signature(flow: str) -> dict[str, inspect.Parameter]:
    """A flow's parameters."""
    return dict(inspect.signature(DEPLOYED[flow].fn).parameters)


def meaning(flow: str) -> dict[str, Kind]:
    """What each parameter of a flow means, those that name blocks included."""
    # The catalog knows locations; the probe is what declares them.
    store = values.BLOCK if flow == "probe-store" else values.LOCATION
    blocks = {name: store if name == "store" else values.BLOCK for name in BLOCKS if name in signature(flow)}
    return blocks | FLOWS[flow].kinds


def working(flow: str, platform: Platform) -> dict[str, Any]:
    """All that has to be said for a flow to work."""
    blocks = {name: block for name, block in BLOCKS.items() if name in signature(flow)}
    if flow in TARGETS:
        del blocks["target"]
    return blocks | FLOWS[flow].parameters(platform)


TARGETS = ("bulk-download",)
"""Flows whose target is no block."""
