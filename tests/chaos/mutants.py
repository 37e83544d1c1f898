"""Every protocol, broken on purpose: a test must fail for each. `make mutants` runs them, on a copy of the code.

A test that passes with the protocol broken proves nothing; this is what says which ones would.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = ("blocks", "tasks", "flows", "reports", "tests", "pyproject.toml", "prefect.yaml", "README.md", "Makefile")
FAILED_TESTS = 1
"""pytest's exit code where tests ran and some failed; others mean that they did not run."""


@dataclass(frozen=True)
class Mutant:
    """A rule that is broken: text by text in one file, and tests that must notice."""

    name: str
    file: str
    changes: tuple[tuple[str, str], ...]
    tests: tuple[str, ...]


MUTANTS = (
    Mutant(
        "swap before verify: a copy is taken for proved",
        "tasks/relocation/rewriting.py",
        (("    if found != (row.sha256, row.size_bytes):\n", "    if False:\n"),),
        ("tests/tasks/relocation/test_relocate.py",),
    ),
    Mutant(
        "no generation check where a row is swapped",
        "blocks/catalog/relocations.py",
        (("r.state = 'open' AND o.generation = r.generation AND", "r.state = 'open' AND"),),
        ("tests/tasks/relocation/test_relocate.py", "tests/tasks/relocation/test_intents.py"),
    ),
    Mutant(
        "no generation check where bytes become live",
        "blocks/catalog/objects.py",
        (("o.id = w.id AND o.generation = w.generation AND o.state = 'pending'", "o.id = w.id"),),
        (
            "tests/tasks/intake/test_ingest.py",
            "tests/tasks/intake/test_outputs.py",
            "tests/tasks/intake/test_ingest_faults.py",
        ),
    ),
    Mutant(
        "no fence: a sweep whose lock was cut goes on",
        "blocks/catalog/sweeps.py",
        (('            self.session.execute(text("SELECT 1"))\n', "            pass\n"),),
        ("tests/blocks/catalog/test_sweeps.py",),
    ),
    Mutant(
        "no fence: another catalog's bucket is taken for our own",
        "tasks/stores.py",
        (("def require_own(", "def require_own(*_: object) -> None:\n    return\n\n\ndef _asked_before("),),
        (
            "tests/tasks/removal/test_purging.py",
            "tests/tasks/drift/test_reconcile.py",
            "tests/tasks/backups/test_aftermath.py",
        ),
    ),
    Mutant(
        "no fence: a restore hands out generations again",
        "blocks/catalog/restored.py",
        (
            (
                '    _set_generations(connection, epoch)\n    connection.execute(text("UPDATE approvals',
                '    connection.execute(text("UPDATE approvals',
            ),
        ),
        ("tests/tasks/backups/test_cutover.py",),
    ),
    Mutant(
        "delete before swap: old bytes go before the row points at new ones",
        "tasks/relocation/relocate.py",
        (
            (
                "    swapped = _swap(",
                "    from blocks.object_store.deletion import delete_keys\n\n"
                "    for row in rows:\n"
                "        delete_keys(sources[row.location_id].store, [row.key])\n"
                "    swapped = _swap(",
            ),
        ),
        ("tests/tasks/relocation/test_relocate.py", "tests/tasks/relocation/test_relocate_served.py"),
    ),
    Mutant(
        "count, then reserve: admission without the key's lock",
        "blocks/catalog/migrations/versions/v0001_main_job.py",
        (
            (
                "SELECT * INTO owner FROM api_keys WHERE id = p_key FOR NO KEY UPDATE;",
                "SELECT * INTO owner FROM api_keys WHERE id = p_key;",
            ),
            (
                "     WHERE id = p_key AND (wanted = 0 OR storage_quota_bytes IS NULL\n"
                "           OR storage_used_bytes + storage_reserved_bytes - lapsed + wanted <= storage_quota_bytes);",
                "     WHERE id = p_key;",
            ),
        ),
        ("tests/blocks/catalog/test_admission.py",),
    ),
    Mutant(
        "manifest first: a backup counts before it was read back",
        "tasks/backups/taking.py",
        (
            (
                "    _read_back(making.target, manifest)\n    _require_lock(making, snapshot)\n"
                "    _commit(making, snapshot, manifest)\n",
                "    _commit(making, snapshot, manifest)\n    _read_back(making.target, manifest)\n"
                "    _require_lock(making, snapshot)\n",
            ),
        ),
        ("tests/tasks/backups/test_taking.py",),
    ),
)


def broken(mutant: Mutant) -> str:
    """Its file, with the rule broken.

    Raises:
        ValueError: the text to change is not there, once: the code has changed, and so must the mutant.
    """
    text = (ROOT / mutant.file).read_text()
    for before, after in mutant.changes:
        if text.count(before) != 1:
            raise ValueError(f"{mutant.name}: {mutant.file} holds {text.count(before)} times {before!r}")
        text = text.replace(before, after)
    return text


def survives(mutant: Mutant) -> str:
    """Run its tests on a copy of the code; returns why it survived, empty where a test noticed."""
    # Short: PostgreSQL's socket lies below.
    with tempfile.TemporaryDirectory(prefix="mut-") as folder:
        for name in CODE:
            source, target = ROOT / name, Path(folder) / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        (Path(folder) / mutant.file).write_text(broken(mutant))
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not chaos", *mutant.tests],
            cwd=folder,
            # The copy before the installed project.
            env={**os.environ, "PYTHONPATH": folder},
            capture_output=True,
            text=True,
            check=False,
        )
    if ended.returncode == FAILED_TESTS:
        return ""
    if ended.returncode == 0:
        return "no test noticed"
    return f"the tests did not run: {ended.stdout[-500:]} {ended.stderr[-500:]}"


def main() -> int:
    """Break everything in turn; 1 where something survived."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of a mutant's name")
    wanted = [mutant for mutant in MUTANTS if parser.parse_args().only in mutant.name]
    survived = 0
    for mutant in wanted:
        started = time.monotonic()
        why = survives(mutant)
        survived += bool(why)
        print(
            f"{'SURVIVED' if why else 'noticed':9} {mutant.name} ({time.monotonic() - started:.0f} s) {why}", flush=True
        )
    print(f"{len(wanted) - survived} of {len(wanted)} broken protocols were noticed")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
