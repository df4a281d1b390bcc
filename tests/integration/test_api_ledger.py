"""Accounts and transfers: all or nothing, never below zero, and the books balance after each."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from itertools import count
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError

from commerce.payments import balances, ledger
from commerce.payments.ledger import Transfer
from goodsyard.job import new_id
from tests.integration.conftest import Api

_keys = (f"ledger-{number}" for number in count(1))
Document = dict[str, Any]  # Any: JSON


async def post(
    api: Api, path: str, body: Document, key: str | None = None, **headers: str
) -> httpx.Response:
    headers = {**headers, "Idempotency-Key": key or next(_keys)}
    return await api.http.post(path, json=body, headers=headers)


async def opened(api: Api, code: str, **fields: object) -> Document:
    answer = await post(api, "/v1/accounts", {"code": code, "currency": "EUR", **fields})
    assert answer.status_code == 201, answer.text
    account: Document = answer.json()
    return account


async def wallet(api: Api, code: str, funds: int) -> Document:
    """Open an account and put funds on it, from one that stands for the world outside."""
    account = await opened(api, code)
    world = await opened(api, f"world-of-{code}", may_overdraw=True)
    if funds:
        assert (await transfer(api, world, account, funds)).status_code == 201
    return account


async def transfer(
    api: Api, payer: Document, payee: Document, amount: object, key: str | None = None, **other: str
) -> httpx.Response:
    body = {
        "from_account": payer["id"],
        "to_account": payee["id"],
        "amount": amount,
        "currency": "EUR",
    }
    return await post(api, "/v1/transfers", {**body, **other}, key)


async def balance(api: Api, account: Document) -> int:
    answer = await api.http.get(account["href"])
    assert answer.status_code == 200, answer.text
    found: int = answer.json()["balance"]["amount"]
    return found


async def sheet(api: Api) -> Document:
    answer = await api.http.get("/v1/reports/trial-balance")
    assert answer.status_code == 200, answer.text
    found: Document = answer.json()
    return found


async def test_a_transfer_moves_funds_and_is_found_again(api: Api) -> None:
    payer, payee = await wallet(api, "anna", 1_000), await opened(api, "ben")
    answer = await transfer(api, payer, payee, 300)
    assert answer.status_code == 201, answer.text
    moved = answer.json()
    assert answer.headers["Location"] == moved["href"] == f"/v1/transfers/{moved['id']}"
    assert moved["amount"] == {"amount": 300, "currency": "EUR"}
    assert (moved["from_account"], moved["to_account"]) == (payer["id"], payee["id"])
    assert (await api.http.get(moved["href"])).json() == moved
    assert (await balance(api, payer), await balance(api, payee)) == (700, 300)
    assert (await sheet(api))["balanced"]


async def test_a_transfer_that_is_sent_twice_moves_funds_once(api: Api) -> None:
    payer, payee = await wallet(api, "anna", 1_000), await opened(api, "ben")
    answers = await asyncio.gather(
        *(transfer(api, payer, payee, 300, "the same") for _ in range(20))
    )
    assert {answer.status_code for answer in answers} <= {201, 409}
    again = await transfer(api, payer, payee, 300, "the same")
    assert again.headers["Idempotent-Replayed"] == "true"
    made = {answer.json()["id"] for answer in [*answers, again] if answer.status_code == 201}
    assert len(made) == 1
    assert await balance(api, payee) == 300
    other = await transfer(api, payer, payee, 301, "the same")
    assert (other.status_code, other.json()["type"]) == (422, "/problems/idempotency-key-reused")


async def test_no_account_goes_below_zero_unless_it_may(api: Api) -> None:
    payer, payee = await wallet(api, "anna", 100), await opened(api, "ben")
    refused = await transfer(api, payer, payee, 101, "too much")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/insufficient-funds")
    assert refused.json()["balance"] == {"amount": 100, "currency": "EUR"}
    assert (await balance(api, payer), await balance(api, payee)) == (100, 0)
    assert (await transfer(api, payee, payer, 1)).status_code == 409
    credit = await opened(api, "credit", may_overdraw=True)
    assert (await transfer(api, credit, payer, 1)).status_code == 201
    assert await balance(api, credit) == -1
    retried = await transfer(api, payer, payee, 101, "too much")  # a refusal uses no key up
    assert retried.status_code == 201
    with pytest.raises(IntegrityError, match="account_not_overdrawn"):
        async with api.sessions.begin() as tx:  # whatever a statement of tomorrow does
            await tx.execute(text("UPDATE commerce.account SET balance = -1 WHERE code = 'ben'"))


async def test_payments_from_one_account_at_once_never_take_more_than_is_there(api: Api) -> None:
    payer, payee = await wallet(api, "anna", 1_000), await opened(api, "ben")
    answers = await asyncio.gather(*(transfer(api, payer, payee, 300) for _ in range(20)))
    assert Counter(answer.status_code for answer in answers) == {201: 3, 409: 17}
    assert (await balance(api, payer), await balance(api, payee)) == (100, 900)
    assert (await sheet(api))["balanced"]


async def test_opposing_transfers_never_wait_in_a_circle(api: Api) -> None:
    accounts = [await wallet(api, name, 1_000) for name in ("anna", "ben", "carl")]
    pairs = [random.Random(7).sample(accounts, 2) for _ in range(100)]  # noqa: S311 - a fixed shuffle
    answers = await asyncio.gather(*(transfer(api, payer, payee, 10) for payer, payee in pairs))
    assert {answer.status_code for answer in answers} == {201}
    left = [await balance(api, account) for account in accounts]
    assert sum(left) == 3_000
    for account, now in zip(accounts, left, strict=True):
        gains = sum((payee is account) - (payer is account) for payer, payee in pairs)
        assert now == 1_000 + 10 * gains
    assert (await sheet(api))["balanced"]


async def test_a_transfer_that_can_not_be_says_why_and_moves_nothing(api: Api) -> None:
    payer, payee = await wallet(api, "anna", 1_000), await opened(api, "ben")
    dollars = await opened(api, "ben", currency="USD")
    nobody = {"id": str(uuid4())}
    other = await api.caller("admin", tenant="elsewhere")
    theirs = await post(api, "/v1/accounts", {"code": "anna", "currency": "EUR"}, **other)
    for to, amount, status, where in (
        (payer, 1, 422, "#/to_account"),
        (dollars, 1, 422, "#/currency"),
        (payee, 0, 422, "#/amount"),
        (payee, 1.5, 422, "#/amount"),
        (payee, "1", 422, "#/amount"),
        (nobody, 1, 404, None),
        (theirs.json(), 1, 404, None),
    ):
        answer = await transfer(api, payer, to, amount)
        assert answer.status_code == status, (to, amount, answer.text)
        assert [e["pointer"] for e in answer.json().get("errors", ())] == ([where] if where else [])
    assert await balance(api, payer) == 1_000
    assert (await api.http.get(payer["href"], headers=other)).status_code == 404


async def _sold(api: Api, amount: int) -> None:
    async with api.sessions.begin() as tx:
        (tenant,) = await tx.scalars(text("SELECT id FROM commerce.tenant WHERE name = 'shop'"))
        sale = Transfer(tenant, "gateway", "sales", amount, "EUR", "capture", new_id())
        await ledger.book(tx, [sale])


async def test_the_flows_accounts_show_what_it_booked_and_take_no_transfer(api: Api) -> None:
    payer = await wallet(api, "anna", 1_000)
    await _sold(api, 1_499)
    await _sold(api, 501)
    gateway, sales = (await sheet(api))["accounts"][:2]
    assert [(a["code"], a["debits"], a["credits"]) for a in (gateway, sales)] == [
        ("gateway", 2_000, 0),
        ("sales", 0, 2_000),
    ]
    assert (await balance(api, gateway), await balance(api, sales)) == (2_000, -2_000)
    for one, other in ((payer, gateway), (gateway, payer)):
        answer = await transfer(api, one, other, 1)
        assert (answer.status_code, answer.json()["type"]) == (409, "/problems/flows-account")
    taken = await post(api, "/v1/accounts", {"code": "sales", "currency": "EUR"})
    assert (taken.status_code, taken.headers["Location"]) == (409, sales["href"])


async def test_an_account_is_opened_once(api: Api) -> None:
    first = await post(api, "/v1/accounts", {"code": "anna", "currency": "EUR"}, "the same")
    again = await post(api, "/v1/accounts", {"code": "anna", "currency": "EUR"}, "the same")
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json() == first.json()
    taken = await post(api, "/v1/accounts", {"code": "anna", "currency": "EUR"})
    assert (taken.status_code, taken.json()["type"]) == (409, "/problems/account-taken")
    assert taken.headers["Location"] == first.json()["href"]
    for change in ({"code": "Anna Ö"}, {"may_overdraw": 1}, {"balance": 5}):
        answer = await post(api, "/v1/accounts", {"code": "b", "currency": "EUR", **change})
        assert answer.status_code == 422, change


async def test_who_is_no_administrator_makes_no_money_from_nothing(api: Api) -> None:
    writer = await api.caller("ledger:write")
    body = {"code": "credit", "currency": "EUR", "may_overdraw": True}
    answer = await post(api, "/v1/accounts", body, **writer)
    assert (answer.status_code, answer.json()["scope"]) == (403, "admin")
    assert (await api.http.get("/v1/reports/trial-balance", headers=writer)).status_code == 403


async def test_a_balance_that_is_not_what_its_transfers_come_to_is_told(api: Api) -> None:
    await wallet(api, "anna", 1_000)
    async with api.sessions.begin() as tx:
        await tx.execute(text("UPDATE commerce.account SET balance = 999 WHERE code = 'anna'"))
    found = await sheet(api)
    assert not found["balanced"]
    assert [(c["debits"], c["credits"], c["astray"]) for c in found["currencies"]] == [
        (1_000, 1_000, 1)
    ]


_YEARS = """
    INSERT INTO commerce.transfer (id, tenant, debit, credit, amount, currency, code, payment_id)
    SELECT uuidv7(make_interval(hours => -n)), g.tenant, g.id, s.id, 1, 'EUR', 'capture', uuidv7()
      FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n, commerce.account g
      JOIN commerce.account s ON s.tenant = g.tenant AND s.code = 'sales'
     WHERE g.code = 'gateway'
"""


async def test_a_trial_balance_reads_what_is_new_and_counts_all(
    api: Api, database_url: str
) -> None:
    await _sold(api, 1)
    async with api.sessions.begin() as tx:
        await tx.execute(text(_YEARS), {"first": 1, "last": 20_000})
    await balances.sum_up(api.sessions, most=7_000)
    assert (await sheet(api))["currencies"][0]["debits"] == 20_001
    assert (await sheet(api))["currencies"][0]["debits"] == 20_001, "summed up once"
    async with api.sessions.begin() as tx:
        await tx.execute(text(_YEARS), {"first": 1, "last": 5})
        await tx.execute(text("ANALYZE commerce.transfer"))
    found = await sheet(api)
    assert (found["currencies"][0]["credits"], found["balanced"]) == (20_006, True)
    conninfo = make_url(database_url).set(drivername="postgresql")
    for statement in (balances._TOTALS, balances._ONE):  # noqa: SLF001 - their plan is the matter
        query = statement.text.replace(":tenant", "1").replace(":account", "NULL")
        with psycopg.connect(conninfo.render_as_string(hide_password=False)) as connection:
            # Rows that lie where other tests' were are not in order, as those of a ledger are.
            connection.execute("SET LOCAL enable_seqscan = off")
            rows = connection.execute(f"EXPLAIN {query}".encode()).fetchall()
        plan = "\n".join(row[0] for row in rows)
        assert re.search(r"using transfer_pkey on transfer\b.*\n +Index Cond: \(id > ", plan), plan


async def test_trial_balances_at_once_sum_up_once(api: Api) -> None:
    await _sold(api, 1)
    async with api.sessions.begin() as tx:
        await tx.execute(text(_YEARS), {"first": 1, "last": 2_000})
    found = await asyncio.gather(*(sheet(api) for _ in range(6)))
    assert {sheet["currencies"][0]["debits"] for sheet in found} == {2_001}
    assert (await sheet(api))["currencies"][0]["debits"] == 2_001
