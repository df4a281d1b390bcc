"""Every call of the API has an entry in docs/api with a request and an answer, and no other has."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import SecretStr

from producers.app import create_app
from producers.settings import ApiSettings

PAGES = Path(__file__).parents[2] / "docs" / "api"
ENTRY = re.compile(r"^## `([A-Z]+) (/\S+)`$(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def entries() -> dict[tuple[str, str], str]:
    texts = [page.read_text() for page in PAGES.glob("*.md")]
    return {(method, path): text for one in texts for method, path, text in ENTRY.findall(one)}


def routes(settings: ApiSettings) -> set[tuple[str, str]]:
    paths = create_app(settings).openapi()["paths"]
    return {(method.upper(), path) for path, methods in paths.items() for method in methods}


def test_every_call_has_an_example_and_every_example_a_call() -> None:
    settings = ApiSettings.model_validate(
        {
            "secret_key": SecretStr("x" * 64),
            "database_url": "postgresql+psycopg://nobody@127.0.0.1:1/none",
            "redis_url": "redis://127.0.0.1:1/0",
        }
    )
    assert entries().keys() == routes(settings)


def test_every_entry_shows_a_request_and_its_answer() -> None:
    lacking = [call for call, text in entries().items() if text.count("```http") < 2]
    assert lacking == []


def test_no_page_shows_a_secret() -> None:
    told = "".join(page.read_text() for page in PAGES.glob("*.md"))
    assert re.findall(r"gy_live_\w+|whsec_\w+|eyJ\w+", told) == []
