"""Answers are serialised once, straight from what was read; our own data isn't validated again."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response


class JsonAnswer(Response):
    """A JSON body; UUIDs and enums as strings, times as RFC 3339 in UTC."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:  # noqa: ANN401 - Response's own signature
        """Serialise ``content``."""
        return dumps(content)


def dumps(content: object) -> bytes:
    """Return ``content`` as answers have it."""
    return orjson.dumps(content, option=orjson.OPT_UTC_Z)


def no_content() -> Response:
    """Return the answer to a DELETE."""
    return Response(status_code=204)
