"""What a newcomer reads first is so: every verb there is is told of, and no other."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
README = (ROOT / "README.md").read_text()
VERBS = set(re.findall(r"^\.PHONY: ([a-z-]+)$", MAKEFILE, re.MULTILINE))
OF_MAKE_ITSELF = {"new-venv"}
"""Steps of other verbs, that nobody types."""


def test_make_help_tells_of_every_verb() -> None:
    told = set(re.findall(r"^([a-z-]+):.*## \S", MAKEFILE, re.MULTILINE))
    assert told == VERBS - OF_MAKE_ITSELF


def test_every_verb_is_in_the_readme_and_every_verb_there_exists() -> None:
    assert set(re.findall(r"`make ([a-z-]+)`", README)) == VERBS - OF_MAKE_ITSELF


def test_every_link_of_the_readme_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_example_of_compose_names_every_variable_that_compose_takes() -> None:
    takes = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    example = (ROOT / ".env.example").read_text()
    assert set(re.findall(r"^#?(\w+)=", example, re.MULTILINE)) == takes
