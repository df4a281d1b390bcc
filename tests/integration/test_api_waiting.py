"""``wait``: woken by news, right without it, cheap while nothing happens."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event, text

from goodsyard.doorbell import Doorbell
from producers.waiting import LOOK_AGAIN_SECONDS
from tests.integration.conftest import Api, order_for
from tests.yard import until

_SET = "UPDATE commerce.orders SET status = CAST(:status AS commerce.order_status) WHERE id = :id"
_FINISH = """
    WITH gone AS (DELETE FROM goodsyard.job WHERE id = :id RETURNING *)
    INSERT INTO goodsyard.job_done (id, tenant, kind, state, max_attempts, payload, result,
                                    finished_at)
    SELECT id, tenant, kind, 'succeeded', max_attempts, payload, '{"ok": 1}', now() FROM gone
"""
_KILL = "UPDATE goodsyard.job SET state = 'dead', reason = 'attempts' WHERE id = :id"


async def _execute(api: Api, statement: str, **parameters: object) -> None:
    async with api.sessions.begin() as tx:
        await tx.execute(text(statement), parameters)


async def _waiting(api: Api, *ids: str) -> None:
    """Return when requests have looked at all of ``ids`` and wait for news of them."""

    async def awaited() -> bool:
        return all(api.services.news.is_awaited(UUID(one)) for one in ids)

    await until(awaited, "requests to wait for news")


@contextmanager
def _statements(api: Api) -> Iterator[list[str]]:
    """Collect what the API asks Postgres meanwhile."""
    statements: list[str] = []
    engine = api.services.sessions.kw["bind"].sync_engine

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


async def _accepted(api: Api) -> tuple[dict[str, Any], dict[str, Any]]:
    accepted = (await api.submit(order_for(await api.user()))).json()
    return accepted["order"], accepted["job"]


@pytest.mark.in_process("looks into the process")
async def test_a_waiter_is_woken_by_the_doorbell(api: Api) -> None:
    order, _ = await _accepted(api)
    waiting = asyncio.create_task(api.http.get(order["href"], params={"wait": 30}))
    await _waiting(api, order["id"])
    await _execute(api, _SET, status="paid", id=UUID(order["id"]))
    rung = time.monotonic()
    Doorbell(api.services.redis).ring(changed=[UUID(order["id"])])
    assert (await waiting).json()["status"] == "paid"
    assert time.monotonic() - rung < LOOK_AGAIN_SECONDS / 2


@pytest.mark.in_process("looks into the process")
async def test_a_waiter_for_an_order_hears_of_its_payment(api: Api) -> None:
    order, _ = await _accepted(api)
    payment = uuid4()
    insert = (
        "INSERT INTO commerce.payment (id, tenant, order_id, user_id, amount, currency,"
        " payment_method) SELECT :payment, tenant, id, user_id, total, currency, payment_method"
        " FROM commerce.orders WHERE id = :id"
    )
    await _execute(api, insert, payment=payment, id=UUID(order["id"]))
    await _execute(api, _SET, status="reserved", id=UUID(order["id"]))
    waiting = asyncio.create_task(api.http.get(order["href"], params={"wait": 30}))
    await _waiting(api, order["id"], str(payment))
    await _execute(api, _SET, status="paid", id=UUID(order["id"]))
    rung = time.monotonic()
    Doorbell(api.services.redis).ring(changed=[payment])
    assert (await waiting).json()["status"] == "paid"
    assert time.monotonic() - rung < LOOK_AGAIN_SECONDS / 2


@pytest.mark.in_process("looks into the process")
async def test_lost_news_make_a_waiter_slower_and_no_worse(api: Api) -> None:
    order, _ = await _accepted(api)
    waiting = asyncio.create_task(api.http.get(order["href"], params={"wait": 30}))
    await _waiting(api, order["id"])
    await _execute(api, _SET, status="paid", id=UUID(order["id"]))
    async with asyncio.timeout(LOOK_AGAIN_SECONDS * 3):
        assert (await waiting).json()["status"] == "paid"


@pytest.mark.live
async def test_a_wait_ends_when_a_job_of_the_order_is_dead_and_names_it(api: Api) -> None:
    order, job = await _accepted(api)
    await _execute(api, _KILL, id=UUID(job["id"]))
    async with asyncio.timeout(2):
        answer = await api.http.get(order["href"], params={"wait": 30})
    assert answer.json()["blocked_by"] == {
        "job": job["id"],
        "kind": "orders.process",
        "reason": "attempts",
        "href": job["href"],
    }
    assert (await api.http.get(order["href"])).json()["blocked_by"]["job"] == job["id"]


async def test_a_wait_ends_when_time_is_up(api: Api) -> None:
    order, job = await _accepted(api)
    for href in (order["href"], job["href"]):
        started = time.monotonic()
        answer = await api.http.get(href, params={"wait": 0.3})
        assert answer.status_code == 200
        assert 0.3 <= time.monotonic() - started < 2
    for bad in ("31", "-1", "nan", "soon"):
        assert (await api.http.get(order["href"], params={"wait": bad})).status_code == 422
    nowhere = f"/v1/orders/{uuid4()}"
    assert (await api.http.get(nowhere, params={"wait": 30})).status_code == 404


@pytest.mark.in_process("looks into the process")
async def test_waiters_hold_no_connections(api: Api) -> None:
    accepted = [await _accepted(api) for _ in range(15)]  # more than the pool has connections
    waits = [
        asyncio.create_task(api.http.get(order["href"], params={"wait": 30}))
        for order, _ in accepted
    ]
    await _waiting(api, *(order["id"] for order, _ in accepted))
    async with asyncio.timeout(2):
        assert (await api.http.get("/v1/orders")).status_code == 200
    for order, _ in accepted:
        await _execute(api, _SET, status="rejected", id=UUID(order["id"]))
        Doorbell(api.services.redis).ring(changed=[UUID(order["id"])])
    answers = await asyncio.gather(*waits)
    assert {answer.json()["status"] for answer in answers} == {"rejected"}


@pytest.mark.in_process("looks into the process")
async def test_waiters_cost_no_statement_while_nothing_happens(api: Api) -> None:
    accepted = [await _accepted(api) for _ in range(3)]
    waits = [
        asyncio.create_task(api.http.get(accepted[n % 3][0]["href"], params={"wait": 30}))
        for n in range(100)
    ]
    news = api.services.news

    async def all_wait() -> bool:
        return news.waiters == len(waits)

    await until(all_wait, "all requests to wait", 25)  # the waits themselves end after 30
    began = time.monotonic()
    with _statements(api) as statements:
        for _ in range(3):
            await news.look_once()
    ours = [statement for statement in statements if "awaited" in statement]
    assert statements == ours, statements
    own_looks = 1 + (time.monotonic() - began) // LOOK_AGAIN_SECONDS
    assert 3 <= len(ours) <= 3 + own_looks  # the process's own may have come in between
    for order, _ in accepted:
        await _execute(api, _SET, status="paid", id=UUID(order["id"]))
    await news.look_once()
    answers = await asyncio.gather(*waits)
    assert {answer.json()["status"] for answer in answers} == {"paid"}


@pytest.mark.in_process("looks into the process")
async def test_lost_news_of_each_kind_are_found_in_one_look(api: Api) -> None:
    (paid, paying), (blocked, dead), (_, done) = [await _accepted(api) for _ in range(3)]
    hrefs = [paid["href"], blocked["href"], done["href"], paying["href"]]
    waits = [asyncio.create_task(api.http.get(href, params={"wait": 30})) for href in hrefs]
    await _waiting(api, paid["id"], blocked["id"], done["id"], paying["id"])
    await _execute(api, _SET, status="paid", id=UUID(paid["id"]))
    await _execute(api, _KILL, id=UUID(dead["id"]))
    await _execute(api, _FINISH, id=UUID(done["id"]))
    await api.services.news.look_once()
    async with asyncio.timeout(LOOK_AGAIN_SECONDS / 2):
        ended = await asyncio.gather(*waits[:3])
    assert ended[0].json()["status"] == "paid"
    assert ended[1].json()["blocked_by"]["job"] == dead["id"]
    assert ended[2].json()["state"] == "succeeded"
    assert api.services.news.is_awaited(UUID(paying["id"]))
    waits[3].cancel()


@pytest.mark.in_process("looks into the process")
async def test_a_job_is_waited_for_and_its_result_kept(api: Api) -> None:
    _, job = await _accepted(api)
    waiting = asyncio.create_task(api.http.get(job["href"], params={"wait": 30}))
    await _waiting(api, job["id"])
    await _execute(api, _FINISH, id=UUID(job["id"]))
    Doorbell(api.services.redis).ring(changed=[UUID(job["id"])])
    done = (await waiting).json()
    assert (done["state"], done["result"]) == ("succeeded", {"ok": 1})
    key = f"goodsyard:result:{job['id']}"
    assert 0 < await api.services.redis.ttl(key) <= 300
    await _execute(api, "DELETE FROM goodsyard.job_done")  # as retention does: the copy answers
    assert (await api.http.get(job["href"])).json() == done
    other = await api.caller("admin", tenant="elsewhere")
    assert (await api.http.get(job["href"], headers=other)).status_code == 404


async def test_a_dead_jobs_report_is_never_kept(api: Api) -> None:
    _, job = await _accepted(api)
    await _execute(api, _KILL, id=UUID(job["id"]))
    assert (await api.http.get(job["href"])).json()["state"] == "dead"
    assert (await api.http.post(f"{job['href']}/retry")).status_code == 202
    assert (await api.http.get(job["href"])).json()["state"] == "waiting"


@pytest.mark.in_process("looks into the process")
async def test_a_stream_tells_each_state_and_ends_with_the_job(api: Api) -> None:
    _, job = await _accepted(api)

    async def events() -> list[str]:
        async with api.http.stream("GET", f"{job['href']}/events") as stream:
            assert stream.headers["Content-Type"].startswith("text/event-stream")
            lines = [line async for line in stream.aiter_lines()]
        return [json.loads(line[6:])["state"] for line in lines if line.startswith("data: ")]

    following = asyncio.create_task(events())
    await _waiting(api, job["id"])
    await _execute(api, _FINISH, id=UUID(job["id"]))
    Doorbell(api.services.redis).ring(changed=[UUID(job["id"])])
    assert await following == ["waiting", "succeeded"]
    headers = {"Last-Event-ID": "succeeded"}
    again = await api.http.get(f"{job['href']}/events", headers=headers)
    assert again.status_code == 204
    assert (await api.http.get(f"/v1/jobs/{uuid4()}/events")).status_code == 404


@pytest.mark.in_process("looks into the process")
async def test_who_hangs_up_is_waited_for_no_longer(api: Api) -> None:
    _, job = await _accepted(api)
    hung_up, sent = asyncio.Event(), []

    async def receive() -> dict[str, object]:
        if not received:
            received.append(True)
            return {"type": "http.request", "body": b"", "more_body": False}
        await hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message["type"])

    for path, query in ((job["href"], b"wait=30"), (f"{job['href']}/events", b"")):
        received: list[bool] = []
        hung_up.clear()
        request = api.http.build_request("GET", path)
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": query,
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "app": api.app,
        }
        waiting = asyncio.create_task(api.app(scope, receive, send))
        await _waiting(api, job["id"])
        hung_up.set()
        async with asyncio.timeout(LOOK_AGAIN_SECONDS / 2):
            await waiting
        assert api.services.news.waiters == 0
