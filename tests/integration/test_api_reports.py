"""Top customers: what was paid and kept, computed by one for all, and of nobody who was erased."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import event, text

from producers.app import create_app
from producers.settings import ApiSettings
from tests.integration.conftest import Api

TOP = "/v1/reports/top-customers"

_ORDER = """
    INSERT INTO commerce.orders
        (tenant, user_id, currency, total, amount_refunded, payment_method, status)
    SELECT tenant, id, :currency, :total, :refunded, 'pm_card_visa',
           CAST(:status AS commerce.order_status)
      FROM commerce.users WHERE id = :user
"""


async def _ordered(
    api: Api, user: str, total: int, *, currency: str = "EUR", **fields: object
) -> None:
    values = {"refunded": 0, "status": "paid", "total": total, "currency": currency, **fields}
    async with api.sessions.begin() as tx:
        await tx.execute(text(_ORDER), values | {"user": UUID(user)})


async def _top(api: Api, **params: object) -> list[dict[str, Any]]:
    answer = await api.http.get(TOP, params={key: str(value) for key, value in params.items()})
    assert answer.status_code == 200, answer.text
    assert answer.json()["next_cursor"] is None
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


async def test_what_was_paid_and_not_given_back_counts(api: Api) -> None:
    first, second, third = [await api.user(email=f"{n}@example.com") for n in ("a", "b", "c")]
    await _ordered(api, first, 500)
    await _ordered(api, first, 700, refunded=100)
    await _ordered(api, first, 90, currency="USD")
    await _ordered(api, second, 1_200)
    await _ordered(api, third, 900, refunded=900, status="refunded")
    for status in ("pending", "reserved", "rejected", "payment_failed", "cancelled"):
        await _ordered(api, third, 10_000, status=status)

    def row(user: str, email: str, currency: str, orders: int, spent: int) -> dict[str, Any]:
        return {
            "user_id": user,
            "email": email,
            "currency": currency,
            "order_count": orders,
            "total_spent": spent,
        }

    expected = [
        row(second, "b@example.com", "EUR", 1, 1_200),
        row(first, "a@example.com", "EUR", 2, 1_100),
        row(first, "a@example.com", "USD", 1, 90),
    ]
    assert await _top(api) == expected
    assert await _top(api, limit=1) == expected[:1]
    assert await _top(api, currency="USD") == expected[2:]
    assert await _top(api, currency="JPY") == []
    other = await api.caller("admin", tenant="elsewhere")
    elsewhere = (await api.http.get(TOP, headers=other)).json()
    assert elsewhere == {"data": [], "next_cursor": None, "as_of": None}


async def test_bad_questions_are_told_so(api: Api) -> None:
    for bad in ({"limit": "0"}, {"limit": "101"}, {"limit": "x"}, {"currency": "euro"}):
        answer = await api.http.get(TOP, params=bad)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["parameter"] == next(iter(bad))


async def test_it_takes_its_scope(api: Api) -> None:
    may = await api.caller("reports:read")
    assert (await api.http.get(TOP, headers=may)).status_code == 200
    may_not = await api.caller("orders:read", "users:read")
    answer = await api.http.get(TOP, headers=may_not)
    assert (answer.status_code, answer.json()["scope"]) == (403, "reports:read")


@pytest.fixture
async def other_process(api: Api, api_settings: ApiSettings) -> AsyncIterator[Api]:
    """A second API process's worth of connections, on the same database and Redis."""
    app = create_app(api_settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://api.test",
            headers=api.http.headers,
            timeout=40,
        ) as http,
    ):
        yield Api(http, app, api.sessions)


@pytest.mark.in_process("looks into the process")
async def test_of_fifty_callers_of_two_processes_one_computes(api: Api, other_process: Api) -> None:
    await _ordered(api, await api.user(), 500)
    computed: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if "ranked" in statement:
            computed.append(statement)

    for process in (api, other_process):
        # Connections are made already, however busy this machine is.
        await asyncio.gather(*(process.services.redis.ping() for _ in range(25)))
        engine = process.services.sessions.kw["bind"].sync_engine
        event.listen(engine, "before_cursor_execute", note)
    answers = await asyncio.gather(
        *(
            process.http.get(TOP, params={"limit": n})
            for n in range(1, 26)
            for process in (api, other_process)
        )
    )
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert len(computed) == 1


@pytest.mark.in_process("opens further connections to the application itself")
async def test_a_customer_who_was_erased_is_a_bare_number_at_once(
    api: Api, other_process: Api
) -> None:
    user = await api.user()
    await _ordered(api, user, 500)
    for process in (api, other_process):
        assert (await _top(process))[0]["email"]
    assert (await api.http.delete(f"/v1/users/{user}")).status_code == 204
    for process in (api, other_process):
        [row] = await _top(process)
        assert (row["user_id"], row["email"], row["total_spent"]) == (user, None, 500)
        assert (await process.http.get(f"/v1/users/{user}")).status_code == 404
