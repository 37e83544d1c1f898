"""What is found to compress, and what the kinds that are left alone would gain."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import pytest

from blocks.object_store.block import MIB
from blocks.object_store.deletion import delete_keys
from blocks.policies import CompressionPolicy
from tasks.relocation.compression import find_compressible, plan_compression
from tasks.stores import Locations, OpenLocation
from tasks.sweeping import Sweep
from tests.helpers import execute, one


@pytest.mark.parametrize(
    ("video", "gain"),
    [(b"a" * MIB, "(16 KiB) would get 99.9 % smaller, all of it 1022.6 KiB"),
     (os.urandom(MIB), "(16 KiB) would get 0.0 % smaller, all of it 0 B"),
     (b"a" * 100, "compressed already by its nature")],
    ids=["blanks", "noise", "too small to tell"],
)  # fmt: skip
def test_what_videos_would_gain_is_told_by_a_sample_of_them(
    sweep: Sweep, location: OpenLocation, new_job: Callable[[bytes], UUID], video: bytes, gain: str
) -> None:
    new_job(video)
    execute(sweep.catalog, "UPDATE jobs SET status = 'completed', completed_at = now() - interval '400 days'")
    policy = CompressionPolicy()

    def left_alone() -> str:
        facts = find_compressible(sweep, Locations(sweep.catalog, location), policy)
        (item,) = plan_compression(facts, policy).plan.skipped
        return item.because

    assert left_alone().endswith(gain)
    # A sample that cannot be read is no reason to fail.
    delete_keys(location.store, [one(sweep.catalog, "SELECT key FROM stored_objects")])
    assert left_alone() == "compressed already by its nature"


def test_a_sample_is_taken_from_what_can_be_read(
    sweep: Sweep, location: OpenLocation, declare, new_job: Callable[[bytes], UUID]
) -> None:  # type: ignore[no-untyped-def]
    """Those in an archive come first by their ids, and would leave nothing to look at: no gain, as if seen."""
    archive = declare("archive", tier="cold", needs_restore=True)
    for number in range(3):
        new_job(b"%d" % number * MIB)
    execute(sweep.catalog, "UPDATE jobs SET status = 'completed', completed_at = now() - interval '400 days'")
    first = "SELECT id FROM jobs ORDER BY id LIMIT :archived"
    move = f"UPDATE stored_objects SET location_id = :place WHERE job_id IN ({first})"
    both, policy = replace(sweep, locations=(location, archive)), CompressionPolicy(sample_objects=1)
    locations = Locations(sweep.catalog, location, [archive])
    for archived, said in ((2, r" left alone, which would gain \d"), (3, r" left alone$")):
        execute(sweep.catalog, move, place=archive.place.id, archived=archived)
        planned = plan_compression(find_compressible(both, locations, policy), policy)
        assert re.search(said, planned.left_alone), planned.left_alone
