"""Shares of what may be under way at once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blocks.object_store import ObjectStore, transfer
from blocks.object_store.block import MIB
from blocks.object_store.budget import Budget
from tests.helpers import sha256


class Watched(Budget):
    """Remembers the most that was out at once."""

    most = 0

    def note(self) -> None:
        self.most = max(self.most, self.size_bytes - self._free)


def test_no_more_is_out_than_there_is_and_all_come_to_their_turn() -> None:
    budget = Watched(100)
    got = []

    def work(wanted: int) -> None:
        with budget.share(wanted, 2 * wanted) as share:
            budget.note()
            got.append(share)
            time.sleep(0.001)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, [1, 10, 40, 100, 250] * 20))
    assert len(got) == 100
    assert budget.most <= 100
    assert max(got) == 250, "more than there is goes alone"
    assert budget._free == 100


def test_who_asks_for_much_is_not_overtaken() -> None:
    budget = Budget(10)
    order: list[int] = []
    begun = threading.Event()

    def large() -> None:
        begun.set()
        with budget.share(10, 10):
            order.append(10)

    def small() -> None:
        with budget.share(1, 1):
            order.append(1)

    with budget.share(5, 5):
        first = threading.Thread(target=large)
        first.start()
        begun.wait()
        time.sleep(0.1)
        others = [threading.Thread(target=small) for _ in range(5)]
        for one in others:
            one.start()
        time.sleep(0.1)
        assert order == []
    for one in (first, *others):
        one.join()
    assert order[0] == 10


def test_many_uploads_share_the_line(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Watched(12 * MIB)
    monkeypatch.setattr(transfer, "SENT_AT_ONCE", budget)
    real = transfer.obstore.put

    def put(*arguments: object, **options: object) -> object:
        budget.note()
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(transfer.obstore, "put", put)
    fine = store.model_copy(update={"multipart_upload_part_bytes": 5 * MIB})
    contents = [bytes([number]) * (MIB * (1 + 11 * (number % 2))) for number in range(8)]
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)

    def upload(number: int) -> None:
        transfer.put_file(
            fine, f"{number}", tmp_path / str(number), sha256=sha256(contents[number]),
            size_bytes=len(contents[number]), attributes={},
        )  # fmt: skip

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(upload, range(8)))
    assert 0 < budget.most <= 12 * MIB
    assert [transfer.hash_object(store, f"{number}")[0] for number in range(8)] == [sha256(one) for one in contents]
