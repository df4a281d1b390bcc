"""Calls to the API for a person at a terminal: an answer, or a message that says why not."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import aiohttp
import orjson

from ops.errors import CommandError
from ops.settings import api_and_key

Body = dict[str, Any]  # JSON, whose form is the API's to say

# Longer than the API's own longest wait.
_SECONDS_TO_ANSWER = 35
_LONGEST_PAGE = 100


class Api:
    """The API at one address, opened by one key.

    Args:
        url: its address; None is GOODSYARD_API_URL.
        key: the key to it; None is GOODSYARD_API_KEY.

    Raises:
        CommandError: one is neither given nor set.
    """

    def __init__(self, url: str | None, key: str | None) -> None:
        address, self._key = api_and_key(url, key)
        self._base = address.rstrip("/") + "/v1"

    def get(self, path: str, query: Mapping[str, object] | None = None) -> Body:
        """Return what ``GET path`` answers; parts of the query that are None are left out."""
        return asyncio.run(self._call("GET", path, query=query))

    def entries(self, path: str, query: Mapping[str, object], most: int) -> Iterator[Body]:
        """Yield the first ``most`` entries of a list, from as many pages as it takes."""
        cursor = None
        while most > 0:
            page = self.get(path, {**query, "cursor": cursor, "limit": min(most, _LONGEST_PAGE)})
            yield from page["data"]
            most -= len(page["data"])
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def post(self, path: str, body: Body | None = None) -> Body:
        """Return what ``POST path`` answers; each call is a request of its own, never a replay."""
        return asyncio.run(self._call("POST", path, body=body, key=str(uuid.uuid4())))

    def put(self, path: str, body: Body) -> Body:
        """Return what ``PUT path`` answers."""
        return asyncio.run(self._call("PUT", path, body=body))

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Body | None = None,
        key: str | None = None,
    ) -> Body:
        headers = {"Authorization": f"Bearer {self._key}"}
        if key is not None:
            headers["Idempotency-Key"] = key
        timeout = aiohttp.ClientTimeout(_SECONDS_TO_ANSWER)
        try:
            async with (
                aiohttp.ClientSession(headers=headers, timeout=timeout) as session,
                session.request(
                    method, self._base + path, params=_set_ones(query or {}), json=body
                ) as response,
            ):
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise CommandError(
                f"No answer from {self._base}: {str(error) or 'it took too long'}. "
                "See that the API runs there, or name another with --api."
            ) from error
        if not response.ok:
            raise CommandError(_problem(response.status, answer))
        return dict(orjson.loads(answer)) if answer else {}


def _set_ones(query: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in query.items() if value is not None}


def _problem(status: int, answer: bytes) -> str:
    """Return what a problem document says (RFC 9457), or what there is instead of one."""
    try:
        problem = orjson.loads(answer)
        errors = [f"{error['pointer']}: {error['detail']}" for error in problem.get("errors", [])]
        return "\n".join([f"{problem['title']}: {problem['detail']}", *errors])
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return f"The API answered {status}: {answer[:200].decode(errors='replace')}"
