"""Calls the API until it answers: what it refuses for a while is tried again, and counts once."""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self, TypeAlias
from urllib.parse import quote

import aiohttp
import orjson

from ops.errors import CommandError

PATIENCE = 120.0  # seconds a call is tried for: a restart takes a tenth of it
PATIENCE_AT_FIRST = 5.0  # until anything was ever answered: the address may be wrong
WORTH_TELLING = 2.0  # seconds of trouble that a person wants to know of
FIRST_PAUSE = 0.2  # seconds, doubled at each try
LONGEST_PAUSE = 10.0
TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=5)

EMAIL_TAKEN = "/problems/email-taken"
IN_FLIGHT = "/problems/request-in-flight"

# Where an order or a user stands in a request says nothing to a reader.
_IN_BULK = re.compile(r"^#/(orders|users)/\d+/?")

MAX_USERNAME = 64  # characters the API takes

_FOR_A_WHILE = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)

Document: TypeAlias = dict[str, Any]  # JSON of the API, whose form is the API's to say


class ImportStoppedError(CommandError):
    """The import can't go on; the message says why, what was kept and what to do."""


class RefusedError(Exception):
    """The API refuses one thing for good; the message is its reason."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API said to one call."""

    status: int
    headers: Mapping[str, str]
    document: Document

    @property
    def is_for_a_while(self) -> bool:
        """Tell whether the same call may be answered otherwise in a moment."""
        return self.status in _FOR_A_WHILE or self.document.get("type") == IN_FLIGHT


class Client:
    """The calls an import makes; an async context manager.

    Args:
        url: the address of the API.
        key: the key to it.
        tell: told what is wrong when a call has been failing for a while.
    """

    def __init__(self, url: str, key: str, tell: Callable[[str], None]) -> None:
        self._base = url.rstrip("/") + "/v1"
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._tell = tell
        self._patience = PATIENCE_AT_FIRST
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(headers=self._headers, timeout=TIMEOUT)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._http is not None:
            await self._http.close()

    async def submit(self, orders: Sequence[Mapping[str, object]]) -> list[Document]:
        """Hand orders in and return what became of each, in their order.

        Raises:
            ImportStoppedError: the API is gone for good or doesn't take the key.
        """
        answer = await self._call("POST", "/orders/bulk", {"orders": orders})
        return list(_expected(answer, HTTPStatus.OK).document["results"])

    async def users(self, emails: Sequence[str]) -> dict[str, str | RefusedError]:
        """Return the id of the user with each address, creating those there are none of.

        Raises:
            ImportStoppedError: as ``submit``.
        """
        # Without an idempotency key: an address is unique, and whoever comes second is told who
        # has it.
        people = [{"email": email, "username": _username(email)} for email in emails]
        answer = await self._call("POST", "/users/bulk", {"users": people})
        results = _expected(answer, HTTPStatus.OK).document["results"]
        return {email: _user_of(result) for email, result in zip(emails, results, strict=True)}

    async def ensure_stock(self, sku: str, on_hand: int) -> None:
        """Give a SKU that is unknown ``on_hand`` pieces; leave a known one as it is.

        What is no SKU is left to be refused with the order that names it.

        Raises:
            ImportStoppedError: as ``submit``.
        """
        path = f"/stock/{quote(sku, safe='')}"
        answer = await self._call("GET", path)
        if answer.status == HTTPStatus.NOT_FOUND:
            answer = await self._call("PUT", path, {"on_hand": on_hand})
        if answer.status not in {HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY}:
            _expected(answer, HTTPStatus.OK, HTTPStatus.CREATED)

    async def _call(self, method: str, path: str, body: object = None) -> Answer:
        """Return the API's answer to this call, made as often as it takes."""
        data = None if body is None else orjson.dumps(body)
        patience = _Patience(self._patience, self._tell)
        while True:
            try:
                answer = await self._try(method, path, data)
            except (aiohttp.ClientError, TimeoutError) as error:  # nobody knows if it was taken
                trouble = f"{self._base} does not answer: {str(error) or 'it takes too long'}"
                await patience.spend(trouble, at_least=0.0)
            else:
                self._patience = PATIENCE
                if not answer.is_for_a_while:
                    return answer
                trouble = f"{self._base} answers {answer.status}: {reason_of(answer.document)}"
                await patience.spend(trouble, at_least=_retry_after(answer.headers))

    async def _try(self, method: str, path: str, data: bytes | None) -> Answer:
        if self._http is None:
            raise RuntimeError("the client is not open")
        async with self._http.request(method, self._base + path, data=data) as response:
            return Answer(response.status, response.headers, _document(await response.read()))


class _Patience:
    """The pauses between the tries of one call: longer each time, until there are no more."""

    def __init__(self, seconds: float, tell: Callable[[str], None]) -> None:
        self._began = time.monotonic()
        self._deadline = self._began + seconds
        self._pause = FIRST_PAUSE
        self._tell: Callable[[str], None] | None = tell

    async def spend(self, trouble: str, *, at_least: float) -> None:
        """Wait before the next try.

        Raises:
            ImportStoppedError: there is to be no next try.
        """
        pause = max(at_least, random.uniform(0, self._pause))  # noqa: S311 - spreads calls
        now = time.monotonic()
        if now + pause > self._deadline:
            raise ImportStoppedError(trouble)
        if self._tell is not None and now - self._began > WORTH_TELLING:
            self._tell(f"{trouble}; it is tried again for {self._deadline - now:.0f} s")
            self._tell = None
        await asyncio.sleep(pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)


def reason_of(problem: Document) -> str:
    """Return what a problem document (RFC 9457) says, in one line."""
    places = [
        f"{_IN_BULK.sub('', error.get('pointer', ''))} {error['detail']}".strip()
        for error in problem.get("errors", [])
    ]
    return "; ".join(places) or str(problem.get("detail") or problem.get("title") or problem)


def _user_of(result: Document) -> str | RefusedError:
    if result["status"] == HTTPStatus.CREATED:
        return str(result["user"]["id"])
    if result["problem"].get("type") == EMAIL_TAKEN:
        return str(result["location"]).rpartition("/")[2]
    return RefusedError(reason_of(result["problem"]))


def _username(email: str) -> str:
    """Return a name that is an address's own: the address, if it is not too long for a name."""
    if len(email) <= MAX_USERNAME:
        return email
    return f"{email[:31]}-{hashlib.sha256(email.encode()).hexdigest()[:32]}"


def _expected(answer: Answer, *statuses: HTTPStatus) -> Answer:
    if answer.status not in statuses:
        raise ImportStoppedError(f"The API answered {answer.status}: {reason_of(answer.document)}")
    return answer


def _document(body: bytes) -> Document:
    """Return the JSON object in a body; a proxy's page is shown as it is."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {"detail": body[:200].decode(errors="replace")}
    return document if isinstance(document, dict) else {"detail": repr(document)[:200]}


def _retry_after(headers: Mapping[str, str]) -> float:
    seconds = headers.get("Retry-After", "")
    return float(seconds) if seconds.isdecimal() else 0.0
