"""What prefect.yaml and the README say, held against the code."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow

from flows.common.schedules import TAG

PROJECT = Path(__file__).parents[2]
TAGS = {"customer", "nightly", "weekly", "careful"}
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    module, _, name = deployment["entrypoint"].partition(":")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, Flow)
    return found


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: one["name"])
def test_a_deployment_is_its_flow(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)
    assert flow.name == deployment["name"]
    ours, *others = deployment["tags"]
    assert ours == TAG, "alarms and `status` look at what carries it"
    assert others
    assert set(others) <= TAGS
    assert flow.description
    assert "description" not in deployment, "the flow's docstring is what the UI shows"


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: one["name"])
def test_every_parameter_is_described(deployment: dict[str, Any]) -> None:
    properties = flow_of(deployment).parameters.properties
    assert properties
    for name, one in properties.items():
        assert one.get("description", "").endswith("."), name


def test_every_flow_is_deployed() -> None:
    files = {path.stem for path in (PROJECT / "flows").glob("*.py") if not path.stem.startswith("__")}
    assert {deployment["name"].replace("-", "_") for deployment in DEPLOYMENTS} == files


def test_the_readme_lists_every_flow_as_prefect_yaml_does() -> None:
    readme = (PROJECT / "README.md").read_text()
    for deployment in DEPLOYMENTS:
        described = str(flow_of(deployment).description).strip().splitlines()[0]
        line = f"| `{deployment['name']}` | {', '.join(deployment['tags'][1:])} | {described} |"
        assert line in readme, line


def test_the_readme_names_every_command() -> None:
    from typer.main import get_command

    from flows.commands.app import app

    readme = (PROJECT / "README.md").read_text()
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]  # a click group
        for sub in getattr(command, "commands", {None: None}):
            assert f"python -m flows {name}{f' {sub}' if sub else ''}" in readme
