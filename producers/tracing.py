"""A caller's trace goes on in the jobs it starts, if its ``traceparent`` is sound (W3C)."""

from __future__ import annotations

import re

from starlette.requests import Request

# Trace Context, 3.2.2: version 00 has exactly these four fields; a later one may have more.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?P<more>-[!-~]*)?"
)
_MOST = 200


def trace_context(request: Request) -> str | None:
    """Return the request's ``traceparent``; a bad one is ignored, as the standard asks."""
    value = request.headers.get("traceparent", "").strip()
    match = _TRACEPARENT.fullmatch(value) if len(value) <= _MOST else None
    return None if match is None or (match["more"] and value.startswith("00")) else value
