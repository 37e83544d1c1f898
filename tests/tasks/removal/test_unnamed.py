"""What no row names is removed with a line of the log, and one that stays has none."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from blocks.catalog import CatalogDatabase
from blocks.catalog.log import Unnamed
from blocks.errors import RefusedError
from blocks.object_store.transfer import put_bytes
from tasks.removal.unnamed import remove_unnamed
from tasks.stores import OpenLocation
from tests.chaos.faults import SomeStay, error
from tests.helpers import rows, stored_keys
from tests.line import Answer, Call, Fault, Verdict
from tests.wires import wired


def test_what_a_store_refuses_to_remove_is_not_in_the_log(catalog: CatalogDatabase, location: OpenLocation) -> None:
    objects = [Unnamed(f"temp/{name}/blob", "temp_days", 5) for name in "abc"]
    for unnamed in objects:
        put_bytes(location.store, unnamed.key, b"12345", {})
    with wired(location.store, SomeStay(0, "after", times=1000, store=location.store)) as refusing:
        failed = remove_unnamed(catalog, refusing, objects, operation="expire", run="cleanup-1")
    assert failed == dict.fromkeys(["temp/a/blob", "temp/c/blob"], "InternalError: the line says so")
    assert stored_keys(location, "temp") == ["temp/a/blob", "temp/c/blob"]
    assert rows(catalog, "SELECT operation, rule, before ->> 'key' AS key, bytes FROM operation_log") == [
        ("expire", "temp_days", "temp/b/blob", 5)
    ]


def test_an_error_of_a_key_that_is_gone_all_the_same_keeps_its_line(
    catalog: CatalogDatabase, location: OpenLocation
) -> None:
    """The store may have done what it says it has not."""
    unnamed = Unnamed("temp/a/blob", "temp_days", 5)
    put_bytes(location.store, unnamed.key, b"12345", {})
    line = SomeStay(0, "after", times=1000, store=location.store, gone=True)
    with wired(location.store, line) as refusing:
        assert list(remove_unnamed(catalog, refusing, [unnamed], operation="expire", run="")) == [unnamed.key]
    assert stored_keys(location, "temp") == []
    assert len(rows(catalog, "SELECT FROM operation_log")) == 1


@dataclass
class NoDeletes(Fault):
    """Credentials that may read and write, and not remove."""

    async def before(self, call: Call) -> Verdict | Answer:
        return error(403, "AccessDenied") if call.what.startswith("POST ") and "delete" in call.what else Verdict.PASS


def test_a_store_that_lets_nobody_remove_leaves_no_line(catalog: CatalogDatabase, location: OpenLocation) -> None:
    unnamed = Unnamed("temp/a/blob", "temp_days", 5)
    put_bytes(location.store, unnamed.key, b"12345", {})
    with wired(location.store, NoDeletes()) as refusing, pytest.raises(RefusedError, match="AccessDenied"):
        remove_unnamed(catalog, refusing, [unnamed], operation="expire", run="")
    assert rows(catalog, "SELECT FROM operation_log") == []


@dataclass
class SomeStayUnseen(SomeStay):
    """And nobody is let look at what is left."""

    async def before(self, call: Call) -> Verdict | Answer:
        return error(503, "SlowDown") if call.what.startswith("HEAD ") else await super().before(call)


def test_what_was_removed_is_told_though_nobody_can_look_at_the_rest(
    catalog: CatalogDatabase, location: OpenLocation
) -> None:
    objects = [Unnamed(f"temp/{name}/blob", "temp_days", 5) for name in "ab"]
    for unnamed in objects:
        put_bytes(location.store, unnamed.key, b"12345", {})
    hurried = location.store.model_copy(update={"retries": 0})
    with wired(hurried, SomeStayUnseen(0, "after", times=1000, store=location.store)) as refusing:
        assert list(remove_unnamed(catalog, refusing, objects, operation="expire", run="")) == ["temp/a/blob"]
    assert len(rows(catalog, "SELECT FROM operation_log")) == 2, "what is not known may have gone"
