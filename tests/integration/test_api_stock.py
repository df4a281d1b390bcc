"""Stock over HTTP: counted by people, adjusted by people, and never below what orders were told."""

from __future__ import annotations

import asyncio
from itertools import count

import httpx
from sqlalchemy import text

from tests.integration.conftest import Api

_keys = (f"stock-{number}" for number in count(1))


async def on_hand(api: Api, pieces: int, *, reserved: int = 0) -> None:
    answer = await api.http.put("/v1/stock/CD", json={"on_hand": pieces})
    assert answer.status_code == 200, answer.text
    async with api.sessions.begin() as tx:
        await tx.execute(text("UPDATE commerce.stock SET reserved = :n"), {"n": reserved})


async def adjust(
    api: Api, by: object, *, key: str | None = None, sku: str = "CD", reason: object = "counted"
) -> httpx.Response:
    return await api.http.post(
        f"/v1/stock/{sku}/adjust",
        json={"by": by, "reason": reason},
        headers={"Idempotency-Key": key or next(_keys)},
    )


async def test_an_adjustment_adds_to_what_is_there(api: Api) -> None:
    await on_hand(api, 10, reserved=4)
    for by, left in ((5, 15), (-11, 4), (0, 4)):
        answer = await adjust(api, by)
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"sku": "CD", "on_hand": left, "reserved": 4}


async def test_an_adjustment_that_is_sent_twice_counts_once(api: Api) -> None:
    await on_hand(api, 10)
    first = await adjust(api, -3, key="the same")
    await adjust(api, -2)
    again = await adjust(api, -3, key="the same")
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json() == {"sku": "CD", "on_hand": 5, "reserved": 0}, "as it is now"
    other = await adjust(api, -4, key="the same")
    assert (other.status_code, other.json()["type"]) == (422, "/problems/idempotency-key-reused")
    bare = await api.http.post("/v1/stock/CD/adjust", json={"by": 1, "reason": "found"})
    assert (bare.status_code, bare.json()["type"]) == (400, "/problems/idempotency-key-required")


async def test_adjustments_at_once_are_all_counted(api: Api) -> None:
    await on_hand(api, 100)
    answers = await asyncio.gather(*(adjust(api, by) for by in (-3, 2) * 15))
    assert {answer.status_code for answer in answers} == {200}
    assert (await api.http.get("/v1/stock/CD")).json()["on_hand"] == 85


async def test_nothing_is_taken_away_that_an_order_was_promised(api: Api) -> None:
    await on_hand(api, 10, reserved=8)
    refused = await adjust(api, -3, key="too many")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/below-reserved")
    assert (refused.json()["on_hand"], refused.json()["reserved"]) == (10, 8)
    assert (await api.http.get("/v1/stock/CD")).json()["on_hand"] == 10
    await on_hand(api, 11, reserved=8)
    retried = await adjust(api, -3, key="too many")  # a refusal uses no key up
    assert retried.json() == {"sku": "CD", "on_hand": 8, "reserved": 8}


async def test_what_was_never_counted_or_is_another_tenants_is_not_there(api: Api) -> None:
    await on_hand(api, 10)
    assert (await adjust(api, 1, sku="LP")).status_code == 404
    other = await api.caller("admin", tenant="elsewhere")
    answer = await api.http.post(
        "/v1/stock/CD/adjust",
        json={"by": 1, "reason": "found"},
        headers={**other, "Idempotency-Key": "theirs"},
    )
    assert answer.status_code == 404
    assert (await api.http.get("/v1/stock/CD")).json()["on_hand"] == 10


async def test_a_bad_adjustment_is_told_where(api: Api) -> None:
    await on_hand(api, 10)
    for by, reason, pointer in (
        (1.0, "found", "#/by"),
        ("1", "found", "#/by"),
        (True, "found", "#/by"),
        (10**12 + 1, "found", "#/by"),
        (10**12, "found", "#/by"),
        (1, "", "#/reason"),
        (1, "bell\a", "#/reason"),
        (1, None, "#/reason"),
    ):
        answer = await adjust(api, by, reason=reason)
        assert answer.status_code == 422, (by, reason)
        assert answer.json()["errors"][0]["pointer"] == pointer


async def test_who_changed_the_stock_and_why_is_written_down(api: Api) -> None:
    await on_hand(api, 10)
    await adjust(api, -3, reason="broken in transit", key="broken")
    await adjust(api, -3, reason="broken in transit", key="broken")
    await adjust(api, -30)
    async with api.sessions.begin() as tx:
        rows = await tx.execute(
            text("SELECT actor, action, target, detail FROM goodsyard.audit ORDER BY id")
        )
        assert [tuple(row) for row in rows] == [
            ("admin of tests", "stock.count", "CD", {"on_hand": 10}),
            ("admin of tests", "stock.adjust", "CD", {"by": -3, "reason": "broken in transit"}),
        ]


async def test_only_who_may_change_the_stock_does(api: Api) -> None:
    await on_hand(api, 10)
    reader = await api.caller("stock:read")
    assert (await api.http.get("/v1/stock/CD", headers=reader)).status_code == 200
    answer = await api.http.post(
        "/v1/stock/CD/adjust",
        json={"by": 1, "reason": "found"},
        headers={**reader, "Idempotency-Key": "hopeful"},
    )
    assert (answer.status_code, answer.json()["scope"]) == (403, "stock:write")
