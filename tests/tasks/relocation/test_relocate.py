"""The mechanism: what is moved is proved, swapped under its generation, and old bytes stay while URLs for them last."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from blocks.catalog.clock import catalog_now
from blocks.catalog.relocations import LIVE_OR_TRASHED
from blocks.errors import CatalogUnavailableError, RefusedError, StoreUnavailableError
from blocks.object_store.probing import Capabilities
from blocks.object_store.transfer import head, put_bytes, read_bytes
from blocks.policies import RetentionPolicy
from tasks.intake.outputs import register_outputs
from tasks.relocation import relocate, rewriting
from tasks.relocation.intents import recover
from tasks.relocation.migration import Migration, find_jobs, plan_migration
from tasks.relocation.moving import move_batch, split
from tasks.relocation.rewriting import Target
from tasks.removal.deletion import Wanted as Chosen
from tasks.removal.deletion import (
    apply_deletion,
    apply_erasure,
    apply_undelete,
    hold,
    plan_deletion,
    plan_undelete,
    select,
)
from tasks.stores import Locations
from tests.helpers import assert_sound, execute, one, rows, stored_keys, write_outputs
from tests.tasks.relocation.moves import MIB, POLICY, WHY, end_urls, everything, results, sweep_of


def test_there_and_back(move, catalog, location, cold, job) -> None:  # type: ignore[no-untyped-def]
    used = one(catalog, "SELECT storage_used_bytes FROM api_keys")
    before = everything(catalog)
    assert results(move()) == {"moved": len(before)}
    assert {row.location_id for row in everything(catalog)} == {cold.place.id}
    assert len(stored_keys(cold)) == len(stored_keys(location)) == len(before), "old bytes stay for a while"
    assert one(catalog, "SELECT storage_used_bytes FROM api_keys") == used
    end_urls(catalog)
    finished = recover(sweep_of(catalog, location, cold))
    assert (finished.objects, finished.freed_bytes) == (len(before), sum(row.stored_bytes for row in before))
    assert stored_keys(location) == []

    assert results(move(location)) == {"moved": len(before)}
    after = everything(catalog)
    assert {row.key for row in after}.isdisjoint({row.key for row in before}), "no key is ever written twice"
    assert [(row.sha256, row.size_bytes) for row in after] == [(row.sha256, row.size_bytes) for row in before]
    log = rows(catalog, "SELECT before, after, rule, run FROM operation_log WHERE operation = 'tier-jobs' ORDER BY id")
    assert len(log) == 2 * len(before)
    assert (log[0].before["location"], log[0].after["location"]) == ("main", "cold")
    assert (log[0].rule, log[0].run) == ("cold_after_days", "the run")


def test_metadata_and_type_travel_along(move, catalog, cold, job) -> None:  # type: ignore[no-untyped-def]
    move()
    for row in everything(catalog):
        found = head(cold.store, row.key)
        assert found.metadata == {"object-id": str(row.id), "sha256": row.sha256}
        content_type = cold.store.s3.head_object(Bucket=cold.store.bucket, Key=row.key)["ContentType"]
        assert content_type != "application/octet-stream"


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, 5 * MIB + 1, 17 * MIB])
@pytest.mark.parametrize("same", [True, False])
def test_every_size_goes_whole_and_proved(  # type: ignore[no-untyped-def]
    move, catalog, location, cold, new_job, monkeypatch, size: int, same: bool
) -> None:
    execute(catalog, "UPDATE api_keys SET storage_quota_bytes = NULL")
    new_job(os.urandom(size) if size else b"x")
    monkeypatch.setattr(relocate, "same_server", lambda *_: same)
    assert results(move()) == {"moved": 1}
    (row,) = everything(catalog)
    assert row.location_id == cold.place.id
    assert row.etag == head(cold.store, row.key).etag


def test_a_copy_in_parts_is_read_back(move, catalog, location, cold, new_job, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    execute(catalog, "UPDATE api_keys SET storage_quota_bytes = NULL")
    new_job(os.urandom(17 * MIB))
    small = cold.store.model_copy(
        update={"multipart_copy_threshold_bytes": 6 * MIB, "multipart_copy_part_bytes": 6 * MIB}
    )
    read: list[str] = []
    real = rewriting.hash_content
    monkeypatch.setattr(
        rewriting, "hash_content", lambda store, key, *a, **o: read.append(key) or real(store, key, *a, **o)
    )
    assert results(move(replace(cold, store=small))) == {"moved": 1}
    assert read == [everything(catalog)[0].key]
    assert "-3" in str(head(cold.store, read[0]).etag)


def test_a_server_that_refuses_to_copy_is_read_from(move, catalog, new_job, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    new_job(os.urandom(2 * MIB))

    def refused(*_: Any, **__: Any) -> None:
        raise RefusedError("no copying here")

    monkeypatch.setattr(rewriting, "copy", refused)
    monkeypatch.setattr(rewriting, "copy_as_it_is", refused)
    assert results(move()) == {"moved": 1}


def test_where_nothing_can_be_read_back_a_copy_has_to_prove_itself(  # type: ignore[no-untyped-def]
    catalog, location, declare, new_job, monkeypatch
) -> None:
    """An archive refuses to be read: what no ETag proves is written once, by this side, and not copied before."""
    execute(catalog, "UPDATE api_keys SET storage_quota_bytes = NULL")
    job = new_job(os.urandom(17 * MIB))
    archive = declare("archive", tier="cold", needs_restore=True)
    assert "-" in one(catalog, "SELECT etag FROM stored_objects")
    calls: list[str] = []
    for name in ("copy", "copy_as_it_is", "put_stream"):
        real = getattr(rewriting, name)
        monkeypatch.setattr(rewriting, name, lambda *a, name=name, real=real, **o: calls.append(name) or real(*a, **o))

    def refuse(*_: Any, **__: Any) -> None:
        raise RefusedError("it has to be restored first")

    monkeypatch.setattr(rewriting, "hash_content", refuse)
    locations = Locations(catalog, location, [archive])
    (outcome,) = relocate.relocate(catalog, locations, POLICY, everything(catalog), Target(archive), WHY)
    assert (outcome.job_id, outcome.result, outcome.error) == (job, "moved", "")
    assert calls == ["put_stream"]


def test_a_copy_that_cannot_be_proved_is_not_written_twice(move, catalog, cold, new_job, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """A refusal to read it back is none to copy it."""
    execute(catalog, "UPDATE api_keys SET storage_quota_bytes = NULL")
    new_job(os.urandom(17 * MIB))

    def refuse(*_: Any, **__: Any) -> None:
        raise RefusedError("it may not be read")

    monkeypatch.setattr(rewriting, "hash_content", refuse)
    monkeypatch.setattr(rewriting, "put_stream", lambda *_, **__: pytest.fail("written once more"))
    (outcome,) = move()
    assert (outcome.result, outcome.error) == ("failed", "it may not be read")
    assert stored_keys(cold) == []


def test_chunks_are_bounded_by_objects_and_by_bytes(move, catalog, new_job, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Rows are swapped a chunk at a time: a kill costs no more than one of copying."""
    for number in range(7):
        new_job(b"%d" % number * 100)
    monkeypatch.setattr(relocate, "CHUNK_BYTES", 250)
    seen: list[int] = []
    real = relocate.open_intents
    monkeypatch.setattr(relocate, "open_intents", lambda c, some, **o: seen.append(len(some)) or real(c, some, **o))
    assert results(move()) == {"moved": 7}
    assert seen == [2, 2, 2, 1]
    monkeypatch.setattr(relocate, "CHUNK_BYTES", 10)
    assert [len(one) for one in relocate._chunks(everything(catalog), 500)] == [1] * 7, "one larger goes by itself"
    assert [len(one) for one in relocate._chunks([], 500)] == []


@pytest.mark.parametrize(("size", "codec"), [(500, None), (3 * MIB, None), (500, "zstd"), (3 * MIB, "zstd")])
def test_a_source_that_is_not_its_content_is_not_moved(  # type: ignore[no-untyped-def]
    catalog, location, cold, locations, new_job, monkeypatch, size: int, codec: str | None
) -> None:
    """Copied by the server, compressed in memory, or as a stream."""
    monkeypatch.setattr(rewriting, "WHOLE_BYTES", MIB)
    new_job(b"a" * size)
    (row,) = everything(catalog)
    put_bytes(location.store, row.key, b"b" * size, {})
    (outcome,) = relocate.relocate(catalog, locations, POLICY, [row], Target(cold, codec), WHY)
    assert outcome.result == "failed"
    assert "not its content" in outcome.error
    assert everything(catalog) == [row]
    assert stored_keys(cold) == []
    assert one(catalog, "SELECT state FROM relocations") == "done"


def test_a_store_that_does_not_check_is_read_back(  # type: ignore[no-untyped-def]
    catalog, location, cold, locations, new_job, monkeypatch
) -> None:
    new_job(b"the content")
    rows_before = everything(catalog)
    real = rewriting.put_bytes

    def broken(store, key, body, attributes, **options):  # type: ignore[no-untyped-def]
        return real(store, key, b"THE CONTENT", attributes, **options)

    monkeypatch.setattr(rewriting, "put_bytes", broken)
    monkeypatch.setattr(relocate, "same_server", lambda *_: False)
    seen = Capabilities(())
    (outcome,) = relocate.relocate(
        catalog, locations, POLICY, rows_before, Target(replace(cold, capabilities=seen)), WHY
    )
    assert (outcome.result, stored_keys(cold)) == ("failed", [])
    assert everything(catalog) == rows_before


def test_compressed_and_back(move, catalog, location, job) -> None:  # type: ignore[no-untyped-def]
    words = b"the same words again and again " * 500
    execute(catalog, "UPDATE api_keys SET storage_quota_bytes = NULL")
    (text,) = [row for row in everything(catalog) if row.kind == "transcript_txt"]
    # As if the transcript were longer: the row and its bytes are changed together.
    put_bytes(location.store, text.key, words, {})
    execute(
        catalog, "UPDATE stored_objects SET sha256 = encode(sha256(CAST(:words AS bytea)), 'hex'), size_bytes = :size, "
        "stored_bytes = :size, etag = NULL WHERE id = :id", words=words, size=len(words), id=str(text.id),
    )  # fmt: skip
    (text,) = [row for row in everything(catalog) if row.kind == "transcript_txt"]
    (outcome,) = move(location, [text], codec="zstd")
    (packed,) = [row for row in everything(catalog) if row.kind == "transcript_txt"]
    assert (packed.codec, packed.size_bytes, outcome.after_bytes) == ("zstd", len(words), packed.stored_bytes)
    assert packed.stored_bytes < len(words) / 50
    frame = read_bytes(location.store, packed.key, at_most=MIB)
    assert frame[:4] == b"\x28\xb5\x2f\xfd", "one plain frame (RFC 8878, 3.1.1)"

    (outcome,) = move(location, [packed], codec="zstd")
    assert outcome.result == "moved", "already so: only copied"
    (packed,) = [row for row in everything(catalog) if row.kind == "transcript_txt"]
    move(location, [packed], codec="identity")
    (plain,) = [row for row in everything(catalog) if row.kind == "transcript_txt"]
    assert (plain.codec, plain.stored_bytes, plain.sha256) == ("identity", len(words), text.sha256)


def test_what_does_not_get_smaller_is_left(move, catalog, location, new_job) -> None:  # type: ignore[no-untyped-def]
    new_job(os.urandom(5000))
    before = everything(catalog)
    (outcome,) = move(location, codec="zstd")
    assert (outcome.result, outcome.error) == ("skipped", "raw/video_original.mp4 would not get 5 % smaller")
    assert everything(catalog) == before
    assert stored_keys(location) == [before[0].key]


@pytest.mark.parametrize("codec", ["zstd", "identity"])
def test_large_texts_stream(move, catalog, location, new_job, monkeypatch, codec: str) -> None:  # type: ignore[no-untyped-def]
    execute(catalog, "UPDATE api_keys SET storage_quota_bytes = NULL")
    new_job(b"0123456789abcdef" * (MIB // 4) + os.urandom(100))
    monkeypatch.setattr(rewriting, "WHOLE_BYTES", 0)
    assert results(move(location, codec="zstd")) == {"moved": 1}
    (packed,) = everything(catalog)
    assert packed.codec == "zstd"
    assert results(move(codec=codec)) == {"moved": 1}
    assert everything(catalog)[0].codec == codec


def test_a_row_that_changed_since_is_left_alone(move, catalog, cold, job) -> None:  # type: ignore[no-untyped-def]
    found = everything(catalog)
    stale = [replace(row, generation=row.generation - 1) for row in found[:2]]
    hold(catalog, job_ids=[str(job)], reason="case 7")
    assert results(move(rows=stale + found[2:])) == {"changed": len(found)}
    assert stored_keys(cold) == []
    hold(catalog, job_ids=[str(job)], reason="", release=True)
    assert results(move(rows=stale + found[2:])) == {"changed": 2, "moved": len(found) - 2}


@pytest.mark.parametrize("what", ["trash", "hold", "move"])
def test_what_happens_between_writing_and_swapping_wins(  # type: ignore[no-untyped-def]
    move, catalog, location, cold, locations, job, monkeypatch, what: str
) -> None:
    found, real = everything(catalog), relocate._swap

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.setattr(relocate, "_swap", real)
        if what == "trash":
            plan = plan_deletion(select(catalog, Chosen((str(job),))))
            apply_deletion(sweep_of(catalog, location), RetentionPolicy(), plan)
        elif what == "hold":
            hold(catalog, job_ids=[str(job)], reason="case 7")
        else:
            assert results(relocate.relocate(catalog, locations, POLICY, found, Target(cold), WHY)) == {
                "moved": len(found)
            }
        return real(*arguments)

    monkeypatch.setattr(relocate, "_swap", meanwhile)
    assert results(move()) == {"changed": len(found)}
    assert len(stored_keys(cold)) == (len(found) if what == "move" else 0), "what was written in vain is removed"
    assert not rows(catalog, "SELECT 1 FROM relocations WHERE state IN ('open', 'failed')")


def test_a_job_that_is_erased_while_it_is_moved_leaves_nothing(  # type: ignore[no-untyped-def]
    move, catalog, location, cold, job, monkeypatch
) -> None:
    found, real = everything(catalog), relocate._swap

    def meanwhile(*arguments: Any) -> Any:
        sweep = sweep_of(catalog, location, cold)
        apply_erasure(sweep, plan_deletion(select(catalog, Chosen((str(job),))), purge_now=True))
        for row in rows(catalog, "SELECT key FROM relocations"):  # and their bytes arrive only now
            put_bytes(cold.store, row.key, b"late", {})
        return real(*arguments)

    monkeypatch.setattr(relocate, "_swap", meanwhile)
    assert results(move()) == {"changed": len(found)}
    assert (stored_keys(location), stored_keys(cold)) == ([], [])
    assert rows(catalog, "SELECT 1 FROM jobs") == []


def test_a_swap_whose_answer_is_lost(move, catalog, cold, job, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    found, real = everything(catalog), relocate.swap

    def hang_up(connection, *arguments, **options):  # type: ignore[no-untyped-def]
        catalog.transaction(lambda other: real(other, *arguments, **options))
        raise CatalogUnavailableError("the answer to COMMIT was lost")

    monkeypatch.setattr(relocate, "swap", hang_up)
    assert results(move()) == {"moved": len(found)}
    assert len(stored_keys(cold)) == len(found)


def test_the_trash_moves_and_comes_back(move, catalog, location, cold, job) -> None:  # type: ignore[no-untyped-def]
    used = one(catalog, "SELECT storage_used_bytes FROM api_keys")
    plan = plan_deletion(select(catalog, Chosen((str(job),))))
    apply_deletion(sweep_of(catalog, location), RetentionPolicy(), plan)
    found = everything(catalog, states=("trashed",))
    assert found
    assert results(move(rows=found)) == {"changed": len(found)}, "only where it is asked for"
    assert results(move(rows=found, movable=LIVE_OR_TRASHED)) == {"moved": len(found)}
    assert {row.state for row in rows(catalog, "SELECT state FROM stored_objects")} == {"trashed"}
    end_urls(catalog)
    recover(sweep_of(catalog, location))
    apply_undelete(sweep_of(catalog, location), plan_undelete(select(catalog, Chosen((str(job),)), trashed=True)))
    assert one(catalog, "SELECT storage_used_bytes FROM api_keys") == used


def test_bounded_memory(move, catalog, new_job, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Objects under way never take more than the budget, and one that is larger goes alone."""
    for number in range(6):
        new_job(bytes([number]) * 400_000)
    under_way, most, lock = [0], [0], threading.Lock()
    real = rewriting.read_bytes

    def counted(store, key, *, at_most):  # type: ignore[no-untyped-def]
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        try:
            return real(store, key, at_most=at_most)
        finally:
            with lock:
                under_way[0] -= 1

    monkeypatch.setattr(rewriting, "read_bytes", counted)
    monkeypatch.setattr(relocate, "same_server", lambda *_: False)
    monkeypatch.setattr(relocate, "MIB", 20_000)  # 192 × 20,000 bytes hold four of them, and their copies
    assert results(move()) == {"moved": 6}
    assert most[0] <= 4


def test_the_outputs_of_a_job_that_come_later_start_it_over(  # type: ignore[no-untyped-def]
    catalog, location, policy, new_job: Callable[[bytes], UUID], tmp_path
) -> None:
    job = new_job(b"x")
    execute(catalog, "UPDATE jobs SET tier = 'cold', compressed_at = now()")
    register_outputs(catalog, location, policy, job_id=job, outputs=str(write_outputs(tmp_path / "out")))
    assert rows(catalog, "SELECT tier, compressed_at FROM jobs") == [("hot", None)]


def test_a_batch_that_is_tried_again_counts_what_it_moved_before(  # type: ignore[no-untyped-def]
    catalog, location, cold, locations, job, monkeypatch
) -> None:
    """As after a killed process: the report tells of all that the run did, and of nothing twice."""
    migration = Migration(location, cold)
    _, moves = plan_migration(find_jobs(catalog, migration), migration)
    since = catalog.transaction(catalog_now)
    (batch,) = split(moves, POLICY, run="a run", records="reports/x", since=since)
    objects = len(everything(catalog))
    chunks, real = iter([None]), relocate._relocate_chunk

    def breaks_off_at_the_second(*arguments: Any) -> list[Any]:
        if next(chunks, "no more") is not None:
            raise StoreUnavailableError("gone")
        return real(*arguments)

    small = POLICY.model_copy(update={"batch_objects": 7})
    with monkeypatch.context() as patched:
        patched.setattr(relocate, "_relocate_chunk", breaks_off_at_the_second)
        with pytest.raises(StoreUnavailableError):
            move_batch(catalog, locations, small, batch)
    assert one(catalog, "SELECT count(*) FROM relocations") == 7
    moved = move_batch(catalog, locations, small, batch)
    assert (moved.jobs[job].moved, moved.jobs[job].changed, moved.jobs[job].skipped) == (objects, 0, 0)
    assert moved.jobs[job].after_bytes == one(catalog, "SELECT sum(stored_bytes) FROM stored_objects")
    lines = read_bytes(cold.store, moved.records, at_most=MIB).decode().splitlines()
    assert len(lines) == objects
    assert all(",moved,main,processed/" in line for line in lines)
    later = replace(batch, since=catalog.transaction(catalog_now))
    assert move_batch(catalog, locations, small, later).jobs[job].moved == 0, "a later pass counts its own"
    assert_sound(catalog, location, cold)
