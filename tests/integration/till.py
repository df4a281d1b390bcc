"""A shop whose charges are asked for over HTTP, and move on step by step at a real sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx

from tests.integration.conftest import Api
from tests.saga import VISA, Saga, Sandbox, open_saga
from tests.yard import connect

_keys = (f"till-{number}" for number in count(1))
Document = dict[str, Any]  # Any: JSON


@dataclass
class Till:
    """The API in process, a caller of the shop's tenant, and the workers behind it."""

    api: Api
    saga: Saga
    caller: Mapping[str, str]

    async def post(self, path: str, body: object, key: str | None = None) -> httpx.Response:
        """Ask for something, under a key of its own unless one is given."""
        headers = {**self.caller, "Idempotency-Key": key or next(_keys)}
        return await self.api.http.post(path, json=body, headers=headers)

    async def get(self, path: str) -> Document:
        """Read something that is there."""
        answer = await self.api.http.get(path, headers=self.caller)
        assert answer.status_code == 200, answer.text
        document: Document = answer.json()
        return document

    def bill(self, **fields: object) -> Document:
        """Return a charge of 14.99 EUR."""
        return {
            "user_id": str(self.saga.user),
            "amount": 1_499,
            "currency": "EUR",
            "payment_method": VISA,
            **fields,
        }

    async def charged(self, **fields: object) -> Document:
        """Charge, let the workers come to the end of it, and return the payment."""
        answer = await self.post("/v1/payments", self.bill(**fields))
        assert answer.status_code == 202, answer.text
        await self.saga.finish()
        return await self.get(answer.json()["payment"]["href"])


@asynccontextmanager
async def open_till(api: Api, redis_url: str, sandbox: Sandbox) -> AsyncIterator[Till]:
    """Have a shop for a while."""
    async with connect(api.sessions, redis_url) as yard, open_saga(yard, sandbox) as saga:
        caller = await api.caller("admin", tenant=f"shop of {saga.email}")
        yield Till(api, saga, caller)
