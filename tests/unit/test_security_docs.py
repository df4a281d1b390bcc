"""Each threat is met by a test that exists, or the page says plainly that it isn't in our hands."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
THREATS = 18
NOT_OURS = "not in the code's hands"

_NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")


def test_every_threat_has_a_test_or_says_that_it_is_not_in_our_hands() -> None:
    rows = _rows()
    assert len(rows) == THREATS
    bare = [what for what, _, held in rows if not _NAMED.search(held) and held != NOT_OURS]
    assert bare == []


def test_what_is_not_in_our_hands_says_whose_it_is() -> None:
    for what, does, held in _rows():
        assert (NOT_OURS in does.lower()) == (held == NOT_OURS), what


def test_every_test_that_is_named_exists() -> None:
    named = set(_NAMED.findall(PAGE))
    assert len(named) > THREATS
    assert {f"{file}::{name}" for file, name in named if name not in _tests_of(file)} == set()


def test_every_name_of_a_test_is_written_so_that_it_is_looked_for() -> None:
    assert len(_NAMED.findall(PAGE)) == PAGE.count("::test_")


def test_the_readme_leads_to_the_page() -> None:
    assert "(docs/security.md)" in (ROOT / "README.md").read_text()


def _rows() -> list[list[str]]:
    table = re.findall(r"^\| (.+) \|$", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in row.split(" | ")] for row in table[1:]]


def _tests_of(file: str) -> set[str]:
    path = ROOT / "tests" / file
    if not path.exists():
        return set()
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return {one.name for one in ast.parse(path.read_text()).body if isinstance(one, functions)}
