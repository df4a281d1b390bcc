"""``python -m tests.api_docs``: start everything, tell the story, write ``docs/api``, stop."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import httpx

from ops.demo.system import running
from tests.api_docs.page import PAGES, write
from tests.api_docs.story import Story, tell

_FOLDER = Path(".api-docs")


async def _main() -> None:
    async with running(_FOLDER) as addresses:
        secret = _secret()
        async with (
            httpx.AsyncClient(base_url=addresses.api, timeout=60) as http,
            httpx.AsyncClient(base_url=addresses.gateway) as sandbox,
        ):
            story = Story(http, addresses.api_key)
            await tell(story, sandbox, f"whsec_{secret}")
            document = (await http.get("/openapi.json")).json()
    write(PAGES, document, story.exchanges)
    sys.stdout.write(f"{len(story.exchanges)} exchanges written to {PAGES}\n")


def _secret() -> str:
    return (_FOLDER / "secrets" / "gateway-events").read_text().strip()


_FOLDER.mkdir(exist_ok=True)
asyncio.run(_main())
