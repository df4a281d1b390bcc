"""Exchanges become Markdown: a page for each theme, with no secret in it that opens anything."""

from __future__ import annotations

import json
import re
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

from tests.api_docs.story import Exchange

PAGES = Path(__file__).parents[2] / "docs" / "api"

_MOST_LINES = 28  # of a body
_TOLD = ("location", "idempotent-replayed", "retry-after", "www-authenticate", "content-type")
_SECRETS = (
    (re.compile(r"gy_live_\w+[\w-]*"), "gy_live_…"),
    (re.compile(r"whsec_[\w+/=-]+"), "whsec_…"),
    (re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+"), "eyJ…"),
    (re.compile(r"v1=[0-9a-f]{64}"), "v1=…"),
    # What opens nothing, and looks so to `make secrets`: the ids of keys are new with each run.
    (re.compile(r'("(?:(?:old_|new_)?password|secret|previous_secret_until)": )"[^"]+"'), r'\1"…"'),
    (re.compile(r'(?<=["/])[0-9a-f]{16}\b'), "…"),
)


def write(folder: Path, document: dict[str, Any], exchanges: list[Exchange]) -> None:
    """Write the pages of ``document``'s routes anew, and an index of them."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.md"):
        old.unlink()
    routes = [
        (operation["tags"][0], method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    index = ["# The HTTP API, by example", "", "Asked of a running system by `make docs-api`.", ""]
    for tag, group in groupby(sorted(routes, key=lambda route: route[0]), lambda route: route[0]):
        name, lines = f"{tag.replace(' ', '-')}.md", [f"# {tag.capitalize()}", ""]
        index += [f"## [{tag.capitalize()}]({name})", ""]
        for _, method, path, operation in group:
            index.append(f"- `{method} {path}`: {_purpose(operation)}")
            lines += _entry(method, path, operation)
            for exchange in exchanges:
                if exchange.route == (method, path):
                    lines += _told(exchange)
        index.append("")
        (folder / name).write_text("\n".join(lines).rstrip() + "\n")
    (folder / "README.md").write_text("\n".join(index).rstrip() + "\n")


def _purpose(operation: dict[str, Any]) -> str:
    return " ".join(operation["description"].split("\n\n")[0].split())


def _entry(method: str, path: str, operation: dict[str, Any]) -> list[str]:
    scopes = [f"`{scope}`" for way in operation.get("security", ()) for scope in way["Bearer"]]
    needs = ", ".join(scopes) or ("a valid key" if "security" in operation else "no key")
    refusals = sorted(status for status in operation["responses"] if status >= "400")
    named = []
    for status in refusals:
        kinds = re.findall(r"`[a-z-]+`", operation["responses"][status]["description"])
        named.append(f"{status} {', '.join(kinds)}")
    told = f"Needs: {needs}. Refusals: {'; '.join(named)}."
    return [f"## `{method} {path}`", "", _purpose(operation), "", told, ""]


def _told(exchange: Exchange) -> list[str]:
    answer, request = exchange.answer, exchange.answer.request
    asked = [f"{request.method} {unquote_plus(request.url.raw_path.decode())}"]
    asked += [
        f"{name.title()}: {request.headers[name]}"
        for name in ("authorization", "idempotency-key", "stripe-signature", "content-type")
        if name in request.headers
    ]
    said = [f"{answer.status_code} {answer.reason_phrase}"]
    said += [f"{name.title()}: {answer.headers[name]}" for name in _TOLD if name in answer.headers]
    note = [exchange.note, ""] if exchange.note else []
    blocks = [*_block(asked, request.content), *_block(said, answer.content)]
    return [*note, *blocks]


def _block(head: list[str], body: bytes) -> list[str]:
    text = body.decode()
    try:
        text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        text = text.strip()
    lines = text.splitlines()
    if len(lines) > _MOST_LINES:
        lines = [*lines[:_MOST_LINES], "…"]
    told = "\n".join([*head, *(["", *lines] if lines else [])])
    for secret, shown in _SECRETS:
        told = secret.sub(shown, told)
    return ["```http", *told.splitlines(), "```", ""]
