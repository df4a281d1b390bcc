"""``Idempotency-Key``: of equal requests, however many and however often, one is carried out.

The header is that of the IETF draft "The Idempotency-Key HTTP Header Field", whose value is a
quoted string; a bare one is taken too, since most clients send it so.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Header, Request
from pydantic import JsonValue
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard import request_keys
from goodsyard.request_keys import KeyClaim, KeyHolder, request_hash
from producers import problems
from producers.problems import ProblemError

HEADER = "Idempotency-Key"
REPLAYED: Mapping[str, str] = {"Idempotent-Replayed": "true"}
"""What an answer carries that repeats an earlier one."""

KEY_PATTERN = "^[ -~]{1,255}$"
"""A key: printable ASCII."""

_QUOTED = re.compile(r'"(?:[ !#-\[\]-~]|\\["\\])*"')
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class RequestKey:
    """A request's key and what it asks for."""

    key: str
    method: str
    path: str
    body: JsonValue

    @property
    def hash(self) -> bytes:
        """By which requests are the same; only of a body that was validated (nesting!)."""
        return request_hash(self.method, self.path, self.body)

    def claim(self, resource: Mapping[str, JsonValue]) -> KeyClaim:
        """Return the wish to be the one that creates ``resource``."""
        return KeyClaim(self.key, self.hash, resource)


def parse_key(value: str) -> str:
    """Return the key in a header's value, bare or quoted.

    Raises:
        ProblemError: it is empty, longer than 255 characters or not printable ASCII.
    """
    key = _ESCAPED.sub(r"\1", value[1:-1]) if _QUOTED.fullmatch(value) else value
    if not re.fullmatch(KEY_PATTERN, key):
        raise ProblemError(
            problems.KEY_REQUIRED,
            "The Idempotency-Key must be 1 to 255 printable ASCII characters, bare or in quotes.",
        )
    return key


_Value = Header(
    alias=HEADER,
    description="Of your own making, the same whenever you repeat this very request: the request "
    "is carried out once, and repeats get its answer. 1 to 255 printable ASCII characters, bare or "
    "as a quoted string.",
    # Told, not checked here: a bad key is no validation error but a 400, as the draft asks.
    json_schema_extra={"pattern": "^[!-~]([ -~]{0,253}[!-~])?$"},
)


async def _required(request: Request, value: Annotated[str, _Value]) -> RequestKey:
    return await _read(request, value)


async def _accepted(
    request: Request, value: Annotated[str | None, _Value] = None
) -> RequestKey | None:
    return None if value is None else await _read(request, value)


async def _read(request: Request, value: str) -> RequestKey:
    body = await request.json() if await request.body() else None
    return RequestKey(parse_key(value), request.method, request.url.path, body)


RequiredKey = Annotated[RequestKey, Depends(_required)]
"""A parameter of calls that must carry a key."""
AcceptedKey = Annotated[RequestKey | None, Depends(_accepted)]
"""A parameter of calls that may carry a key."""


async def claim(
    tx: AsyncSession, tenant: int, key: RequestKey | None, resource: Mapping[str, JsonValue]
) -> KeyHolder:
    """Take the request's key, if it has one, in the transaction that creates ``resource``.

    Returns:
        Whether we are to create it (always, without a key), or what an equal request created.

    Raises:
        KeyInFlightError: an equal request hasn't ended yet.
        ProblemError: the key belongs to another request (422).
    """
    if key is None:
        return KeyHolder(won=True, same_request=True, resource=resource)
    holder = (await request_keys.claim(tx, tenant, [key.claim(resource)]))[key.key]
    if not holder.same_request:
        raise ProblemError(problems.KEY_REUSED)
    return holder


async def claim_job(
    tx: AsyncSession,
    tenant: int,
    key: RequestKey,
    resource: Mapping[str, JsonValue],
    stage: Callable[[], Awaitable[UUID]],
) -> tuple[KeyHolder, UUID]:
    """Take the request's key and stage its job, or find the job that an equal request staged.

    Args:
        tx: the transaction.
        tenant: the key's scope.
        key: the request's.
        resource: what the job works on.
        stage: stages the job, in the transaction, and returns its id.

    Raises:
        KeyInFlightError: an equal request hasn't ended yet.
        ProblemError: the key belongs to another request (422).
    """
    holder = await claim(tx, tenant, key, resource)
    if not holder.won:
        return holder, UUID(str(holder.resource["job"]))
    job_id = await stage()
    await request_keys.amend(tx, tenant, key.key, {**resource, "job": str(job_id)})
    return holder, job_id


def replayed(holder: KeyHolder) -> Mapping[str, str]:
    """Return the headers that say whether an answer repeats an earlier one."""
    return {} if holder.won else REPLAYED
