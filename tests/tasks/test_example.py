import time
from datetime import UTC, datetime
from pathlib import Path

from reports.exporting import export
from reports.figures import read_figures
from tasks.example import seed_example
from tests.helpers import one


def test_smoke(catalog, location):  # type: ignore[no-untyped-def]
    t = time.time()
    print(seed_example(catalog, now=datetime.now(UTC)), time.time() - t)
    print(one(catalog, "select count(*) from stored_objects"), one(catalog, "select count(*) from storage_changes"))
    for customer in ("", "bergwerk-tv"):
        t = time.time()
        folder = Path("/tmp/report") / (customer or "all")
        folder.mkdir(parents=True, exist_ok=True)
        files = export(read_figures(catalog, customer=customer), folder, links=True)
        print(time.time() - t, [(f.name, f.stat().st_size) for f in files])
