"""Which backup somebody means, and what is said of those that cannot be used. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import pytest

from blocks.errors import DamagedBackupError, InvalidInputError, NotFoundError
from blocks.policies import BackupPolicy
from tasks.backups.health import judge, too_small
from tasks.backups.listing import Backups, choose
from tests.tasks.backups.test_manifest import make
from tests.tasks.backups.test_retention import DAY, FIRST, night

OURS = UUID(int=7)
NIGHTS = Backups(OURS, tuple(night(FIRST + n * DAY) for n in reversed(range(5))))


def test_the_newest_and_the_newest_before() -> None:
    assert choose([NIGHTS], "latest")[1].at == FIRST + 4 * DAY
    assert choose([NIGHTS], "latest", before=FIRST + 2.5 * DAY)[1].at == FIRST + 2 * DAY
    assert choose([NIGHTS], NIGHTS.all[3].id)[1] == NIGHTS.all[3]


def test_damaged_and_forged_ones_are_passed_over_and_refused_by_id() -> None:
    damaged, forged = night(FIRST + 9 * DAY, verified=False), night(FIRST + 99 * DAY, why_not="written before that")
    some = Backups(OURS, (forged, damaged, *NIGHTS.all))
    assert choose([some], "latest")[1].at == FIRST + 4 * DAY
    for one in (damaged, forged):
        with pytest.raises(DamagedBackupError, match=one.id):
            choose([some], one.id)
    rotten = night(FIRST + 9 * DAY, verified=False, rotten=("0" * 64,))
    some = Backups(OURS, (rotten, *NIGHTS.all))
    assert choose([some], "latest")[1].at == FIRST + 4 * DAY
    assert choose([some], rotten.id)[1] == rotten, "its dump is whole: the restore says how it goes without the rest"


@pytest.mark.parametrize(
    ("wanted", "before", "error", "words"),
    [
        ("yesterday", None, InvalidInputError, "write latest, or an id"),
        ("../20260101T030000Z-00000000", None, InvalidInputError, "write latest"),
        ("20260101T030000Z-00000001", None, NotFoundError, "there are: 20260105T030000Z-00000000"),
        ("latest", FIRST - DAY, NotFoundError, "no backup before 2025-12-31"),
        ("latest", datetime(2026, 1, 1), InvalidInputError, "no time zone"),  # noqa: DTZ001 -- that is the test
        (NIGHTS.all[0].id, FIRST, InvalidInputError, "one of them"),
    ],
)
def test_what_is_none(wanted: str, before: datetime | None, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        choose([NIGHTS], wanted, before=before)


def test_a_store_with_backups_of_several_catalogs() -> None:
    other = Backups(UUID(int=8), (night(FIRST),))
    with pytest.raises(InvalidInputError, match="several catalogs"):
        choose([NIGHTS, other], "latest")
    assert choose([NIGHTS, Backups(UUID(int=8))], "latest")[0] == OURS
    with pytest.raises(NotFoundError, match="there is none"):
        choose([], "latest")


def test_alarms() -> None:
    policy, now = BackupPolicy(), FIRST + 4 * DAY
    assert judge(NIGHTS, [], policy, now + timedelta(hours=25)).alarms == ()
    assert "no good backup for 27.0 h" in judge(NIGHTS, [], policy, now + timedelta(hours=27)).alarms[0]
    assert judge(Backups(OURS), [], policy, now).alarms == ("there is no verified backup at all",)
    assert judge(Backups(OURS), [], policy, now).rows()


def test_a_backup_of_half_the_usual_size() -> None:
    def sized(at: datetime, size: int):  # type: ignore[no-untyped-def]
        one = night(at)
        file = make().files[0].model_copy(update={"size_bytes": size})
        assert one.manifest is not None
        return night(at, manifest=one.manifest.model_copy(update={"files": (file,)}))

    before = [sized(FIRST + n * DAY, 1000) for n in range(5)]
    small, fair = sized(FIRST + 9 * DAY, 499), sized(FIRST + 9 * DAY, 500)
    assert "less than 50 % of the usual 1000 B" in too_small(small, before, BackupPolicy())
    assert too_small(fair, before, BackupPolicy()) == ""
    assert too_small(small, [], BackupPolicy()) == "", "the first of all"
