"""Much at a time: what takes hours is cut, looks at its jobs again, and asks no server for more than it can do."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from blocks.catalog.moving import Wanted
from blocks.errors import StoreUnavailableError
from blocks.object_store.transfer import put_bytes
from blocks.policies import GIB, RelocationPolicy
from tasks.relocation import relocate, rewriting
from tasks.relocation.intents import recover
from tasks.relocation.moving import Move, Recipe, move_batch, split, sum_up
from tasks.relocation.rewriting import Target
from tasks.stores import Locations
from tests.helpers import assert_sound, execute, one, rows, stored_keys
from tests.tasks.relocation.moves import MIB, POLICY, WHY, everything, results, sweep_of
from tests.tasks.removal.removals import erase


def test_a_terabyte_of_few_videos_is_many_batches() -> None:
    recipe = Recipe(Wanted((1,)), "cold", "tier-jobs", "cold_after_days")
    moves = [Move(uuid4(), 1, 2 * GIB, recipe) for _ in range(500)]
    assert [len(batch.job_ids) for batch in split(moves, POLICY, run="r")] == [16] * 31 + [4]
    small = [replace(move, stored_bytes=MIB) for move in moves]
    assert len(split(small, POLICY, run="r")) == 1


def test_asked_for_while_its_batch_is_under_way(catalog, location, cold, locations, new_job, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Its turn may come hours after the batch began, and somebody wants it by now."""
    jobs = [new_job(b"%d" % number * 100) for number in range(3)]
    execute(catalog, "UPDATE jobs SET status = 'completed', completed_at = now() - interval '400 days'")
    idle_before = one(catalog, "SELECT now() - interval '30 days'")
    recipe = Recipe(Wanted((location.place.id,)), "cold", "tier-jobs", "cold_after_days", idle_before=idle_before)
    (batch,) = split([Move(job, 1, 100, recipe) for job in jobs], POLICY, run="a run")
    monkeypatch.setattr(relocate, "CHUNK_BYTES", 100)
    real = relocate._relocate_chunk

    def others_are_asked_for(*arguments: Any) -> list[Any]:
        found = real(*arguments)
        execute(
            catalog, "UPDATE jobs SET last_accessed_at = now() WHERE id NOT IN "
            "(SELECT job_id FROM stored_objects WHERE location_id = :cold)", cold=cold.place.id,
        )  # fmt: skip
        return found

    monkeypatch.setattr(relocate, "_relocate_chunk", others_are_asked_for)
    done = move_batch(catalog, locations, POLICY, batch)
    found = sum_up([done]).values()
    assert (sum(job.moved for job in found), sum(job.changed for job in found)) == (1, 2)
    assert_sound(catalog, location, cold)


class Counted:
    """How many calls, and how many bytes, were under way at once."""

    def __init__(self, real: Any, size: int = 0) -> None:
        self.real, self.size, self.now, self.most, self._lock = real, size, 0, 0, threading.Lock()

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.2)
        try:
            return self.real(*arguments, **options)
        finally:
            with self._lock:
                self.now -= 1


@pytest.fixture
def videos(catalog, new_job) -> None:  # type: ignore[no-untyped-def]
    execute(catalog, "UPDATE api_keys SET storage_quota_bytes = NULL")
    for _ in range(4):
        new_job(os.urandom(17 * MIB))


def test_a_server_copies_large_objects_side_by_side(catalog, location, cold, videos, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """None of it passes through here, so that none of this process's memory is waited for."""
    target = replace(cold, store=cold.store.model_copy(update={"multipart_upload_part_bytes": 16 * MIB}))
    copies = Counted(rewriting.copy)
    monkeypatch.setattr(rewriting, "copy", copies)
    locations = Locations(catalog, location, [target])
    found = relocate.relocate(catalog, locations, RelocationPolicy(), everything(catalog), Target(target), WHY)
    assert results(found) == {"moved": 4}
    assert copies.most > 1
    assert_sound(catalog, location, target)


def test_a_server_is_asked_for_no_more_than_it_can_copy_in_time(catalog, location, cold, videos, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """What outlasts the client's timeout is lost to it, and done all the same."""
    hurried = replace(cold, store=cold.store.model_copy(update={"timeout_seconds": 8}))
    copies = Counted(rewriting.copy)
    monkeypatch.setattr(rewriting, "copy", copies)
    locations = Locations(catalog, location, [hurried])
    found = relocate.relocate(catalog, locations, RelocationPolicy(), everything(catalog), Target(hurried), WHY)
    assert results(found) == {"moved": 4}
    assert copies.most == 8 * relocate.COPIED_A_SECOND // POLICY.parallel_batches // (17 * MIB)


@pytest.fixture
def lost(catalog, location, cold, locations, new_job, monkeypatch) -> Any:  # type: ignore[no-untyped-def]
    """A job whose copy was made, and the answer to it was not heard."""
    job = new_job(b"content")
    real = relocate.copied_as_it_is

    def unanswered(*arguments: Any) -> bool:
        real(*arguments)
        raise StoreUnavailableError("no answer within the timeout")

    with monkeypatch.context() as patched:
        patched.setattr(relocate, "copied_as_it_is", unanswered)
        found = relocate.relocate(catalog, locations, POLICY, everything(catalog), Target(cold), WHY)
    assert [(one.result, one.transient) for one in found] == [("failed", True)]
    return job


def test_a_copy_whose_answer_is_lost_is_left_to_the_next_run(catalog, location, cold, lost) -> None:  # type: ignore[no-untyped-def]
    """Its bytes may come after its key was removed: then nobody would know of them."""
    (intent,) = rows(catalog, "SELECT state, key FROM relocations")
    assert (intent.state, stored_keys(cold)) == ("failed", [intent.key])
    assert recover(sweep_of(catalog, location, cold)).objects == 1
    assert stored_keys(cold) == []
    assert_sound(catalog, location, cold)


def test_such_a_copy_is_known_of_though_its_job_is_erased(catalog, location, cold, lost) -> None:  # type: ignore[no-untyped-def]
    key = one(catalog, "SELECT key FROM relocations")
    both = sweep_of(catalog, location, cold)
    assert [outcome.result for outcome in erase(both, lost).outcomes] == ["done"]
    put_bytes(cold.store, key, b"content", {})  # what the server was still at
    assert recover(both).objects == 1
    assert stored_keys(cold) == []
