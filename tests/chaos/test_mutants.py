"""The mutants of `make mutants` are of this code: a rule that was rewritten is broken as it is now."""

from __future__ import annotations

import pytest

from tests.chaos.mutants import MUTANTS, ROOT, Mutant, broken


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_can_be_made(mutant: Mutant) -> None:
    compile(broken(mutant), mutant.file, "exec")
    assert all((ROOT / name).is_file() for name in mutant.tests)
