"""Every mutant still fits the code that it is to break."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.__main__ import Mutant, mutants, switch_off


@pytest.mark.parametrize("mutant", mutants(), ids=lambda mutant: mutant.name)
def test_a_mutant_fits_the_code_and_names_its_guard_and_rows(
    mutant: Mutant, tmp_path: Path
) -> None:
    assert mutant.guard.endswith(".")
    assert mutant.rows
    switch_off(mutant, tmp_path)
