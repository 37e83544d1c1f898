"""Prefect's standards for every block of the project."""

from __future__ import annotations

from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite

from blocks.catalog import CatalogDatabase
from blocks.object_store import ObjectStore
from blocks.policies import POLICIES

BLOCKS: list[type[Block]] = [CatalogDatabase, ObjectStore, *POLICIES]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
class TestStandards(BlockStandardTestSuite):
    @pytest.fixture
    def block(self) -> type[Block]:  # the parameter above takes its place
        raise AssertionError("parametrized")

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        """Prefect's own test fetches the logo; tests stay on this machine."""
        assert str(block._logo_url).startswith("https://")


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_forms_are_flat_and_in_order(block: type[Block]) -> None:
    properties: dict[str, Any] = block.model_json_schema()["properties"]
    shown = {name: one for name, one in properties.items() if name != "credentials"}
    assert all(one.get("type") or one.get("anyOf") for one in shown.values())
    assert not any(one.get("type") in ("array", "object") for one in shown.values())
    positions = [one.get("position") for one in properties.values()]
    assert positions == list(range(len(positions)))


def test_secrets_are_secret_fields() -> None:
    assert CatalogDatabase.model_json_schema()["properties"]["password"]["anyOf"][0]["format"] == "password"
    assert "hunter2" not in repr(CatalogDatabase(host="h", password="hunter2"))
