"""Users, stock, queues and limits over HTTP."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event, text

from commerce.accounts.profiles import profile_key
from commerce.accounts.users import find_user
from tests.integration.conftest import Api, order_for


async def test_a_user_is_added_once_and_read(api: Api) -> None:
    body = {"email": "Ada@Example.com", "username": "ada", "full_name": "Ada L."}
    headers = {"Idempotency-Key": "ada"}
    added = await api.http.post("/v1/users", json=body, headers=headers)
    assert added.status_code == 201, added.text
    user = added.json()
    assert added.headers["Location"] == user["href"] == f"/v1/users/{user['id']}"
    assert (user["email"], user["username"], user["full_name"]) == (
        "Ada@example.com",
        "ada",
        "Ada L.",
    )
    again = await api.http.post("/v1/users", json=body, headers=headers)
    assert (again.status_code, again.json()) == (201, user)
    assert again.headers["Idempotent-Replayed"] == "true"
    for _ in range(2):  # from Postgres, then from Redis
        assert (await api.http.get(user["href"])).json() == user


async def test_what_is_taken_says_by_whom(api: Api) -> None:
    body = {"email": "ada@example.com", "username": "ada"}
    place = (await api.http.post("/v1/users", json=body)).headers["Location"]
    for change, name in (
        ({"username": "other", "email": "ADA@example.com"}, "email-taken"),
        ({"email": "other@example.com"}, "username-taken"),
    ):
        answer = await api.http.post("/v1/users", json=body | change)
        assert (answer.status_code, answer.headers["Location"]) == (409, place)
        assert answer.json()["type"] == f"/problems/{name}"
    other = await api.caller("admin", tenant="elsewhere")
    assert (await api.http.post("/v1/users", json=body, headers=other)).status_code == 201
    assert (await api.http.get(place, headers=other)).status_code == 404


async def test_a_bad_user_is_told_where(api: Api) -> None:
    good = {"email": "ada@example.com", "username": "ada"}
    for change, pointer in (
        ({"email": "ada"}, "#/email"),
        ({"email": f"{'a' * 250}@example.com"}, "#/email"),
        ({"email": "a@b\r\nBcc: c@example.com"}, "#/email"),
        ({"username": "two words"}, "#/username"),
        ({"username": ""}, "#/username"),
        ({"full_name": "bell\a"}, "#/full_name"),
        ({"password": "short"}, "#/password"),
        ({"tenant": 7}, "#/tenant"),
    ):
        answer = await api.http.post("/v1/users", json=good | change)
        assert answer.status_code == 422, change
        assert answer.json()["errors"][0]["pointer"] == pointer


async def test_a_password_is_kept_as_an_argon2_hash_and_never_shown(api: Api) -> None:
    user = await api.user(password="correct horse")  # noqa: S106 - nobody's
    assert "password" not in (await api.http.get(f"/v1/users/{user}")).text
    async with api.sessions.begin() as tx:
        row = await tx.scalar(text("SELECT password_hash FROM commerce.users"))
    assert row.startswith("$argon2id$")


async def test_an_erased_user_is_gone_from_everywhere_but_the_row(api: Api) -> None:
    user = await api.user(full_name="Ada")
    href = f"/v1/users/{user}"
    assert (await api.http.get(href)).status_code == 200  # and kept in Redis from here on
    assert (await api.http.delete(href)).status_code == 204
    assert (await api.http.get(href)).status_code == 404
    assert (await api.http.get(f"{href}/orders")).status_code == 404
    assert (await api.http.delete(href)).status_code == 404
    assert (await api.submit(order_for(user))).status_code == 422
    async with api.sessions.begin() as tx:
        row = (
            await tx.execute(text("SELECT email, username, full_name FROM commerce.users"))
        ).one()
    assert tuple(row) == (None, None, None)


@pytest.mark.in_process("looks into the process")
async def test_a_read_that_began_before_the_erasure_brings_nobody_back(api: Api) -> None:
    user = UUID(await api.user())
    async with api.sessions.begin() as tx:
        tenant = (await tx.scalars(text("SELECT tenant FROM commerce.users"))).one()

    async def read_slowly() -> str:
        async with api.sessions.begin() as tx:
            assert await find_user(tx, tenant, user)  # the reader has the row in hand ...
        assert (await api.http.delete(f"/v1/users/{user}")).status_code == 204
        return "what it read"

    # ... and keeps it to itself
    assert await api.services.cache.read(profile_key(tenant, user), 60, read_slowly)
    assert await api.services.profiles.read(tenant, user) is None
    assert (await api.http.get(f"/v1/users/{user}")).status_code == 404


async def test_a_user_with_orders_under_way_is_not_erased(api: Api) -> None:
    user = await api.user()
    await api.submit(order_for(user))
    answer = await api.http.delete(f"/v1/users/{user}")
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/open-orders")
    assert (await api.http.get(f"/v1/users/{user}")).status_code == 200
    async with api.sessions.begin() as tx:
        await tx.execute(text("UPDATE commerce.orders SET status = 'paid'"))
    assert (await api.http.delete(f"/v1/users/{user}")).status_code == 204


@pytest.mark.in_process("counts or explains the statements of the process")
async def test_a_users_orders_take_as_many_queries_for_one_as_for_many(api: Api) -> None:
    user = await api.user()
    statements: list[str] = []
    engine = api.services.sessions.kw["bind"].sync_engine

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    async def orders_and_queries() -> tuple[int, int]:
        statements.clear()
        answer = await api.http.get(f"/v1/users/{user}/orders")
        assert all(len(order["lines"]) == 1 for order in answer.json()["data"])
        return len(answer.json()["data"]), len(statements)

    await api.submit(order_for(user))
    await api.http.get(f"/v1/users/{user}")
    event.listen(engine, "before_cursor_execute", note)
    assert await orders_and_queries() == (1, 2)
    for _ in range(9):
        await api.submit(order_for(user))
    assert await orders_and_queries() == (10, 2)


async def test_stock_is_counted_and_never_below_what_is_promised(api: Api) -> None:
    assert (await api.http.get("/v1/stock/CD")).status_code == 404
    for on_hand in (10, 7):
        answer = await api.http.put("/v1/stock/CD", json={"on_hand": on_hand})
        assert answer.json() == {"sku": "CD", "on_hand": on_hand, "reserved": 0}
    async with api.sessions.begin() as tx:
        await tx.execute(text("UPDATE commerce.stock SET reserved = 5"))
    refused = await api.http.put("/v1/stock/CD", json={"on_hand": 4})
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/below-reserved")
    assert (refused.json()["on_hand"], refused.json()["reserved"]) == (7, 5)
    assert (await api.http.get("/v1/stock/CD")).json()["on_hand"] == 7
    other = await api.caller("admin", tenant="elsewhere")
    assert (await api.http.get("/v1/stock/CD", headers=other)).status_code == 404


async def test_queues_tell_their_depth_and_are_paused(api: Api) -> None:
    await api.submit(order_for(await api.user()))

    async def queue(name: str) -> dict[str, Any]:
        queues = (await api.http.get("/v1/queues")).json()["data"]
        assert [one["name"] for one in queues] == sorted(one["name"] for one in queues)
        found: dict[str, Any] = next(one for one in queues if one["name"] == name)
        return found

    orders = await queue("orders")
    assert orders["depth"] == {"waiting": 1, "dispatched": 0, "running": 0, "dead": 0}
    assert orders["oldest_seconds"] >= 0
    assert (orders["paused"], orders["workers"], orders["kinds"]) == (
        False,
        0,
        ["orders.process", "orders.expire"],
    )
    async with api.sessions.begin() as tx:
        await tx.execute(text("UPDATE goodsyard.job SET lost = 3"))
    assert (await queue("quarantine"))["depth"]["waiting"] == 1
    for action, paused in (("pause", True), ("pause", True), ("resume", False)):
        answer = await api.http.post(f"/v1/queues/orders/{action}")
        assert (answer.status_code, answer.json()["paused"]) == (200, paused)
    assert (await api.http.post("/v1/queues/nowhere/pause")).status_code == 404
    async with api.sessions.begin() as tx:
        actions = (await tx.scalars(text("SELECT action FROM goodsyard.audit ORDER BY id"))).all()
    assert actions == ["queue.pause", "queue.pause", "queue.resume"]


async def test_limits_are_set_shown_and_lifted(api: Api) -> None:
    href = "/v1/limits/payments.charge"
    assert (await api.http.get(href)).json()["rate"] is None
    answer = await api.http.put(href, json={"rate": "100/minute", "burst": 20})
    shown = {
        "name": "payments.charge",
        "rate": "100/minute",
        "burst": 20.0,
        "concurrency": None,
        "penalised_until": None,
        "free_at": None,
    }
    assert (answer.status_code, answer.json()) == (200, shown)
    assert (await api.http.get("/v1/limits")).json()["data"] == [shown]
    queues = (await api.http.get("/v1/queues")).json()["data"]
    assert next(one for one in queues if one["name"] == "payments")["limits"] == [shown]
    for bad in (
        {"rate": "fast"},
        {"rate": "0/second"},
        {"rate": 5},
        {},
        {"rate": "1/day", "burst": 0},
    ):
        assert (await api.http.put(href, json=bad)).status_code == 422, bad
    assert (await api.http.put("/v1/limits/no.such", json={"rate": "1/day"})).status_code == 404
    assert (await api.http.put(href, json={"rate": None})).json()["rate"] is None
    assert (await api.http.get("/v1/limits")).json()["data"] == []


async def test_what_is_not_there_is_not_found(api: Api) -> None:
    for path in ("users", "orders", "jobs"):
        assert (await api.http.get(f"/v1/{path}/{uuid4()}")).status_code == 404
