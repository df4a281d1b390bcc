"""Many orders in one request: each accepted or refused by itself, as if it had come alone."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from sqlalchemy import text

from tests.integration.conftest import Api, order_for


async def _bulk(api: Api, orders: list[Any]) -> list[dict[str, Any]]:
    answer = await api.http.post("/v1/orders/bulk", json={"orders": orders})
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


async def test_a_bad_order_harms_no_other(api: Api) -> None:
    user = await api.user()
    good = order_for(user)
    results = await _bulk(
        api,
        [
            good | {"idempotency_key": "1"},
            good | {"idempotency_key": "2", "lines": []},
            good,
            "no order at all",
            good | {"idempotency_key": "5", "user_id": "0198a6b0-0000-7000-8000-000000000000"},
            good | {"idempotency_key": "6"},
            good | {"idempotency_key": "7", "metadata": {"note": "nul\0"}},
        ],
    )
    assert [result["status"] for result in results] == [202, 422, 400, 422, 422, 202, 422]
    assert results[1]["problem"]["errors"][0]["pointer"] == "#/orders/1/lines"
    assert results[2]["problem"]["type"] == "/problems/idempotency-key-required"
    assert results[3]["problem"]["errors"][0]["pointer"] == "#/orders/3"
    assert results[4]["problem"]["errors"][0]["pointer"] == "#/orders/4/user_id"
    assert results[6]["problem"]["errors"][0]["pointer"] == "#/orders/6/metadata/note"
    for result in (results[0], results[5]):
        assert (await api.http.get(result["order"]["href"])).json() == result["order"]
        assert (await api.http.get(result["job"]["href"])).json()["state"] == "waiting"
    # What was refused has used up no key.
    again = await _bulk(api, [good | {"idempotency_key": key} for key in ("2", "5")])
    assert [("replayed" in result, result["status"]) for result in again] == [(False, 202)] * 2


async def test_alone_and_in_a_bulk_it_is_the_same_request(api: Api) -> None:
    order = order_for(await api.user())
    alone = (await api.submit(order, "a")).json()["order"]
    results = await _bulk(api, [order | {"idempotency_key": key} for key in ("a", "b")])
    assert (results[0]["order"]["id"], results[0]["replayed"]) == (alone["id"], True)
    assert "replayed" not in results[1]
    replay = await api.submit(order, "b")
    assert replay.headers["Idempotent-Replayed"] == "true"
    assert replay.json()["order"]["id"] == results[1]["order"]["id"]
    other = await _bulk(api, [order | {"idempotency_key": "a", "currency": "USD"}])
    assert other[0]["problem"]["type"] == "/problems/idempotency-key-reused"


async def test_a_key_twice_in_a_bulk_is_one_order(api: Api) -> None:
    order = order_for(await api.user()) | {"idempotency_key": "twice"}
    first, second, third = await _bulk(api, [order, order, order | {"currency": "USD"}])
    assert "replayed" not in first
    assert (second["order"]["id"], second["replayed"]) == (first["order"]["id"], True)
    assert third["problem"]["type"] == "/problems/idempotency-key-reused"


async def test_one_key_in_flight_holds_up_no_other(api: Api) -> None:
    order = order_for(await api.user())
    keys = [f"k{number}" for number in range(20)]
    async with api.sessions.begin() as elsewhere:
        await elsewhere.execute(
            text(
                "INSERT INTO goodsyard.request_key (tenant, key, hash, resource)"
                " SELECT id, 'k7', '', '{}' FROM commerce.tenant WHERE name = 'shop'"
            )
        )
        results = await _bulk(api, [order | {"idempotency_key": key} for key in keys])
        await elsewhere.rollback()
    statuses = {key: result["status"] for key, result in zip(keys, results, strict=True)}
    assert statuses == {key: 409 if key == "k7" else 202 for key in keys}
    assert results[7]["problem"]["type"] == "/problems/request-in-flight"


async def test_equal_bulks_at_once_create_each_order_once(api: Api) -> None:
    order = order_for(await api.user())
    orders = [order | {"idempotency_key": f"k{number}"} for number in range(50)]
    # In opposite orders: neither may wait for the other in a circle.
    both = await asyncio.gather(*(_bulk(api, orders[::step]) for step in (1, -1) * 3))
    accepted = [r for results in both for r in results if r["status"] == 202]
    assert {r["status"] for results in both for r in results} <= {202, 409}
    assert sum("replayed" not in result for result in accepted) == 50
    async with api.sessions.begin() as tx:
        assert await tx.scalar(text("SELECT count(*) FROM commerce.orders")) == 50


async def test_a_bulk_has_its_bounds(api: Api) -> None:
    order = order_for(await api.user())
    assert await _bulk(api, []) == []
    too_many = [order | {"idempotency_key": str(number)} for number in range(1_001)]
    answer = await api.http.post("/v1/orders/bulk", json={"orders": too_many})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "#/orders"
    assert len(await _bulk(api, too_many[:1_000])) == 1_000
    large = order | {"idempotency_key": "large", "metadata": {"x": "y" * 100_000}}
    assert (await _bulk(api, [large]))[0]["status"] == 202
    answer = await _huge(api)
    assert answer.status_code == 413
    assert answer.json()["type"] == "/problems/body-too-large"


async def _huge(api: Api) -> httpx.Response:
    headers = {"Content-Type": "application/json"}
    return await api.http.post("/v1/orders/bulk", content=b" " * (4 * 2**20 + 1), headers=headers)
