"""Each dependency has its purpose told, and what else was looked at; and no other has."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "decisions" / "0001-dependencies.md"


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = (
        project["project"]["dependencies"],
        *project["project"]["optional-dependencies"].values(),
        *project["dependency-groups"].values(),
    )
    return {Requirement(text).name for group in groups for text in group}


def told() -> set[str]:
    page = PAGE.read_text()
    (frame,) = re.findall(r"^## Decision\n\n(.+?) are the frame", page, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| (`[^|]+) \| [^|]+ \| [^|]+ \|$", page, re.MULTILINE)
    return {
        re.sub(r"\[.*\]", "", name)
        for names in (frame, *rows)
        for name in re.findall(r"`([^`]+)`", names)
    }


def test_the_page_has_a_row_for_each_dependency_and_for_nothing_else() -> None:
    assert told() == declared()
