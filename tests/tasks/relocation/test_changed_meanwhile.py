"""What changes while a nightly flow is at it: it is looked at again the next night, and nothing is given up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from blocks.catalog import CatalogDatabase, drift
from blocks.catalog.drift import Fenced
from blocks.policies import CompressionPolicy, IngestPolicy, RelocationPolicy, RetentionPolicy, TierPolicy
from tasks.intake import outputs
from tasks.intake.outputs import register_outputs
from tasks.relocation.compression import CompressionPlan, find_compressible, plan_compression
from tasks.relocation.moving import mark_through, move_batch, split, sum_up
from tasks.relocation.tiering import TierPlan, find_idle, plan_tiers
from tasks.removal.cleanup import apply_cleanup, find_due
from tasks.removal.cleanup_plan import plan_cleanup
from tasks.removal.deletion import Wanted, apply_undelete, plan_undelete, select
from tasks.stores import Locations, OpenLocation
from tasks.sweeping import Sweep
from tests.helpers import execute, one, rows, write_outputs
from tests.tasks.removal.removals import delete

POLICY = RelocationPolicy()
TIERS = TierPolicy(cold_location="cold", smallest_billed_kib=0, cold_price_per_1000_moved=0)
TEXTS = CompressionPolicy(after_days=1, idle_days=0, smallest_bytes=0, least_gain_percent=0, sample_objects=0)
AUDIO, TRANSCRIPT = "audio/audio.mp3", "transcription/transcript.txt"


@pytest.fixture
def both(catalog: CatalogDatabase, location: OpenLocation, cold: OpenLocation) -> Sweep:
    return Sweep(catalog, (location, cold), run="the night")


@pytest.fixture
def register(
    catalog: CatalogDatabase, location: OpenLocation, policy: IngestPolicy, new_job: Callable[[], UUID], tmp_path: Path
):  # type: ignore[no-untyped-def]
    """Registers the outputs of one job; what is left out the first time comes with the second."""
    job, folder = new_job(), write_outputs(tmp_path / "out")
    (folder / TRANSCRIPT).write_bytes(b"words " * 1000)

    def run(*, without: str = "") -> UUID:
        held = (folder / without).read_bytes() if without else b""
        if without:
            (folder / without).unlink()
        register_outputs(catalog, location, policy, job_id=job, outputs=str(folder))
        if without:
            (folder / without).write_bytes(held)
        return job

    return run


def idle(catalog: CatalogDatabase) -> None:
    execute(catalog, "UPDATE jobs SET completed_at = now() - interval '400 days', last_accessed_at = NULL")


def move(
    both: Sweep, locations: Locations, planned: TierPlan | CompressionPlan, meanwhile: Callable[[], object]
) -> None:
    moved = [move_batch(both.catalog, locations, POLICY, one) for one in split(planned.moves, POLICY, run="a run")]
    meanwhile()
    settled = planned.settled if isinstance(planned, TierPlan) else {planned.mark: planned.settled}
    mark_through(both.catalog, planned.moves, sum_up(moved), settled)


def tier(both: Sweep, locations: Locations, meanwhile: Callable[[], object] = lambda: None) -> int:
    """How many objects the night found to move."""
    planned = plan_tiers(find_idle(both, TIERS), TIERS)
    move(both, locations, planned, meanwhile)
    return sum(one.objects for one in planned.moves)


def test_an_output_that_comes_while_its_job_is_moved_follows(both: Sweep, locations: Locations, register) -> None:  # type: ignore[no-untyped-def]
    register(without=AUDIO)
    idle(both.catalog)
    assert tier(both, locations, register) == 16
    idle(both.catalog)
    assert tier(both, locations) == 1
    assert tier(both, locations) == 0, "and then it is through"
    assert one(both.catalog, "SELECT tier FROM jobs") == "cold"


def test_a_job_that_comes_back_from_the_trash_meanwhile_follows(both: Sweep, locations: Locations, register) -> None:  # type: ignore[no-untyped-def]
    job = register()
    idle(both.catalog)
    planned = plan_tiers(find_idle(both, TIERS), TIERS)
    delete(both, job)
    move(both, locations, planned, lambda: apply_undelete(
        both, plan_undelete(select(both.catalog, Wanted((str(job),))))))  # fmt: skip
    assert tier(both, locations) == 17


def test_an_object_that_is_found_again_follows(both: Sweep, locations: Locations, register) -> None:  # type: ignore[no-untyped-def]
    register()
    idle(both.catalog)
    execute(both.catalog, "UPDATE stored_objects SET state = 'missing' WHERE kind = 'original'")
    assert tier(both, locations) == 16
    (row,) = rows(both.catalog, "SELECT id, generation, api_key_id FROM stored_objects WHERE kind = 'original'")
    back = [Fenced(row.id, row.generation)]
    assert both.catalog.transaction(
        lambda connection: drift.mark(connection, row.api_key_id, back, state="live", run="r", rule="returned")
    )
    assert tier(both, locations) == 1
    # What was sound all along changes nothing.
    (row,) = rows(both.catalog, "SELECT id, generation, api_key_id FROM stored_objects WHERE kind = 'audio'")
    same = [Fenced(row.id, row.generation)]
    assert both.catalog.transaction(
        lambda connection: drift.mark(connection, row.api_key_id, same, state="live", run="r", rule="mismatch")
    )
    assert one(both.catalog, "SELECT tier FROM jobs") == "cold"


def test_a_text_that_comes_meanwhile_is_compressed_the_next_night(both: Sweep, locations: Locations, register) -> None:  # type: ignore[no-untyped-def]
    register(without=TRANSCRIPT)
    idle(both.catalog)
    move(both, locations, plan_compression(find_compressible(both, locations, TEXTS), TEXTS), register)
    idle(both.catalog)
    planned = plan_compression(find_compressible(both, locations, TEXTS), TEXTS)
    move(both, locations, planned, lambda: None)
    assert one(both.catalog, f"SELECT codec FROM stored_objects WHERE name = '{TRANSCRIPT}'") == "zstd"


def test_a_job_whose_outputs_are_being_written_is_not_stuck(  # type: ignore[no-untyped-def]
    sweep: Sweep, register, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It may have waited for a day before the transcoder came to it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    execute(sweep.catalog, "UPDATE jobs SET updated_at = now() - interval '25 hours'")
    write = outputs.write_objects
    done = []

    def while_the_night_goes_on(*arguments: object, **options: object) -> object:
        written = write(*arguments, **options)  # type: ignore[arg-type]  # as it was called
        facts = find_due(sweep, RetentionPolicy())
        done.append(apply_cleanup(sweep, RetentionPolicy(), facts, plan_cleanup(facts)))
        return written

    monkeypatch.setattr(outputs, "write_objects", while_the_night_goes_on)
    register()
    assert [report.outcomes for report in done] == [()]
    assert one(sweep.catalog, "SELECT status FROM jobs") == "completed"
