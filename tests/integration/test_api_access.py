"""Who may do what, how often: keys, scopes, rate limits, and what a Redis outage changes."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy import text

from commerce.accounts.keys import create_api_key, revoke_api_key
from goodsyard.database import Sessions
from producers import authentication
from producers.app import create_app
from producers.settings import ApiSettings
from tests.integration.conftest import Api, order_for


@pytest.mark.in_process("opens further connections to the application itself")
async def test_without_a_valid_key_nothing_is_told(api: Api) -> None:
    bad = (None, "", "Bearer", "Bearer x", "Basic abc", "Bearer gy_live_0123456789abcdef_wrong")
    for authorization in bad:
        headers = {} if authorization is None else {"Authorization": authorization}
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(api.app), base_url="http://api.test", headers=headers
        ) as http:
            for path in ("/v1/orders", "/v1/nowhere"):
                answer = await http.get(path)
                assert answer.status_code == 401, authorization
                assert answer.headers["WWW-Authenticate"] == "Bearer"
                assert answer.headers["Content-Type"] == "application/problem+json"
                assert answer.json()["type"] == "/problems/unauthenticated"
                assert int(answer.headers["RateLimit-Limit"]) == 60


async def test_a_wrong_secret_does_not_open_a_real_id(api: Api) -> None:
    key = await api.key("admin")
    wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
    answer = await api.http.get("/v1/orders", headers={"Authorization": f"Bearer {wrong}"})
    assert answer.status_code == 401


CALLS = [
    ("POST", "/v1/orders", "orders:write"),
    ("POST", "/v1/orders/bulk", "orders:write"),
    ("GET", "/v1/orders", "orders:read"),
    ("POST", "/v1/users", "users:write"),
    ("GET", "/v1/users/0198a6b0-0000-7000-8000-000000000000", "users:read"),
    ("DELETE", "/v1/users/0198a6b0-0000-7000-8000-000000000000", "admin"),
    ("PUT", "/v1/stock/CD", "stock:write"),
    ("GET", "/v1/stock/CD", "stock:read"),
    ("GET", "/v1/jobs", "jobs:read"),
    ("POST", "/v1/jobs/retry", "jobs:admin"),
    ("GET", "/v1/queues", "queues:read"),
    ("POST", "/v1/queues/orders/pause", "admin"),
    ("GET", "/v1/limits", "limits:read"),
    ("GET", "/v1/reports/top-customers", "reports:read"),
    ("PUT", "/v1/limits/payments.charge", "admin"),
    ("POST", "/v1/api-keys", "admin"),
    ("GET", "/v1/api-keys", "admin"),
    ("GET", "/v1/users/0198a6b0-0000-7000-8000-000000000000/role", "admin"),
    ("PUT", "/v1/users/0198a6b0-0000-7000-8000-000000000000/role", "admin"),
]


async def test_each_call_takes_its_scope_and_says_which(api: Api) -> None:
    headers = await api.caller("jobs:submit:*") | {"Idempotency-Key": "k"}
    for method, path, scope in CALLS:
        body: dict[str, object] | None = {} if method in {"POST", "PUT"} else None
        answer = await api.http.request(method, path, headers=headers, json=body)
        assert answer.status_code == 403, (method, path)
        assert answer.json()["type"] == "/problems/missing-scope"
        assert answer.json()["scope"] == scope


async def test_a_key_is_made_shown_once_and_revoked(api: Api) -> None:
    body = {"name": "till", "scopes": ["stock:read", "orders:write"]}
    headers = {"Idempotency-Key": "make"}
    made = await api.http.post("/v1/api-keys", json=body, headers=headers)
    assert made.status_code == 201
    bearer = {"Authorization": f"Bearer {made.json()['key']}"}
    assert (await api.http.get("/v1/stock/CD", headers=bearer)).status_code == 404
    replay = await api.http.post("/v1/api-keys", json=body, headers=headers)
    assert replay.headers["Idempotent-Replayed"] == "true"
    assert replay.json() == {k: v for k, v in made.json().items() if k != "key"}
    other = await api.caller("admin", tenant="elsewhere")
    place = made.headers["Location"]
    assert (await api.http.delete(place, headers=other)).status_code == 404
    assert (await api.http.delete(place)).status_code == 204
    assert (await api.http.get("/v1/stock/CD", headers=bearer)).status_code == 401
    assert (await api.http.delete(place)).status_code == 404
    async with api.sessions.begin() as tx:
        stored = (await tx.execute(text("SELECT k::text FROM commerce.api_key k"))).scalars().all()
    assert not any(made.json()["key"][-20:] in row for row in stored)


async def test_keys_are_listed_without_what_opens_anything(api: Api) -> None:
    made = await api.http.post("/v1/api-keys", json={"name": "till", "scopes": ["stock:read"]})
    await api.caller("admin", tenant="elsewhere")
    keys = (await api.http.get("/v1/api-keys")).json()
    assert keys["next_cursor"] is None
    assert [key["name"] for key in keys["data"]] == ["admin of tests", "till"]
    assert keys["data"][1] == {k: v for k, v in made.json().items() if k != "key"}
    await api.http.delete(made.headers["Location"])
    assert len((await api.http.get("/v1/api-keys")).json()["data"]) == 1


async def test_no_key_makes_one_that_may_do_more_than_itself(api: Api) -> None:
    for scopes in (["users:write"], ["jobs:admin", "limits:read"]):
        bearer = await api.caller(*scopes)
        answer = await api.http.post(
            "/v1/api-keys", json={"name": "more", "scopes": scopes}, headers=bearer
        )
        assert (answer.status_code, answer.json()["scope"]) == (403, "admin")
    spared = {"name": "spared", "scopes": ["admin"], "unlimited": True}
    answer = await api.http.post("/v1/api-keys", json=spared)
    assert answer.json()["errors"][0]["pointer"] == "#/unlimited"


async def test_a_key_with_a_scope_that_does_not_exist_is_refused(api: Api) -> None:
    for scopes in ([], ["orders"], ["jobs:submit:"], ["ADMIN"], "admin"):
        answer = await api.http.post("/v1/api-keys", json={"name": "x", "scopes": scopes})
        assert answer.status_code == 422, scopes
        assert answer.json()["errors"][0]["pointer"] == "#/scopes"


async def test_an_expired_key_opens_nothing(api: Api) -> None:
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    body = {"name": "x", "scopes": ["admin"], "expires_at": past}
    made = (await api.http.post("/v1/api-keys", json=body)).json()
    bearer = {"Authorization": f"Bearer {made['key']}"}
    assert (await api.http.get("/v1/orders", headers=bearer)).status_code == 401


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the API remember callers for less than it does, which is five seconds at the most."""
    assert authentication.REMEMBER_SECONDS <= 5
    monkeypatch.setattr(authentication, "REMEMBER_SECONDS", 0.2)


@pytest.mark.in_process("changes what the process goes by")
async def test_a_key_revoked_elsewhere_is_refused_within_seconds(brief: None, api: Api) -> None:
    key = await api.key("stock:read")
    bearer = {"Authorization": f"Bearer {key}"}
    assert (await api.http.get("/v1/stock/CD", headers=bearer)).status_code == 404
    async with api.sessions.begin() as tx:
        assert await revoke_api_key(tx, key.split("_")[2])
    async with asyncio.timeout(5):
        while (await api.http.get("/v1/stock/CD", headers=bearer)).status_code != 401:
            pass


async def _limited(settings: ApiSettings, sessions: Sessions, rate: str) -> tuple[Api, str]:
    rates = {f"standard/{group}": rate for group in ("read", "write", "bulk")}
    app = create_app(settings.model_copy(update={"api_rates": rates, "api_failures_rate": rate}))
    async with sessions.begin() as tx:
        key = await create_api_key(tx, "shop", "limited", ["stock:read"])
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api.test")
    return Api(http, app, sessions), key


async def test_one_request_too_many_is_refused_and_not_counted(
    api_settings: ApiSettings, sessions: Sessions
) -> None:
    api, key = await _limited(api_settings, sessions, "5/hour")
    bearer = {"Authorization": f"Bearer {key}"}
    async with api.app.router.lifespan_context(api.app), api.http:
        answers = [await api.http.get("/v1/stock/CD", headers=bearer) for _ in range(9)]
        assert [answer.status_code for answer in answers] == [404] * 5 + [429] * 4
        remaining = [int(answer.headers["RateLimit-Remaining"]) for answer in answers]
        assert remaining == [4, 3, 2, 1, 0, 0, 0, 0, 0]
        refused = answers[-1]
        assert refused.json()["type"] == "/problems/rate-limited"
        assert 0 < int(refused.headers["Retry-After"]) <= 7_200
        assert refused.headers["RateLimit-Limit"] == "5"
        counted = [
            await api.services.redis.hget(name, "count")
            async for name in api.services.redis.scan_iter("goodsyard:rate:standard:read:*")
        ]
        assert counted == ["5"]
        # Each caller for itself; one marked unlimited not at all, and told the figures anyway.
        unlimited = await api.caller("stock:read")
        answers = [await api.http.get("/v1/stock/CD", headers=unlimited) for _ in range(9)]
        assert {answer.status_code for answer in answers} == {404}
        assert {answer.headers["RateLimit-Remaining"] for answer in answers} == {"5"}
        guesses = [
            await api.http.get("/v1/stock/CD", headers={"Authorization": f"Bearer {n}"})
            for n in range(6)
        ]
        assert [answer.status_code for answer in guesses] == [401] * 5 + [429]


async def test_without_redis_orders_are_accepted_and_hardly_slower(
    api_settings: ApiSettings, sessions: Sessions
) -> None:
    nowhere = api_settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    api, _ = await _limited(nowhere, sessions, "5/hour")
    bearer = await api.caller("admin", unlimited=False)
    async with api.app.router.lifespan_context(api.app), api.http:
        api.http.headers.update(bearer)
        user = await api.user()
        started = time.monotonic()
        for number in range(10):  # more than the limit: it fails open
            answer = await api.submit(order_for(user), f"k{number}")
            assert answer.status_code == 202
            assert answer.headers["RateLimit-Limit"] == "5"
            assert (await api.http.get(answer.json()["job"]["href"])).status_code == 200
            assert (await api.http.get(f"/v1/users/{user}")).status_code == 200
        assert time.monotonic() - started < 5
        metrics = (await api.http.get("/metrics")).text
        assert 'goodsyard_redis_skipped_total{use="rate limit"} 3' in metrics
        ready = await api.http.get("/readyz")
        assert (ready.status_code, ready.json()["redis"]) == (200, "no answer")


async def test_without_postgres_nothing_is_accepted_and_it_is_said(
    api_settings: ApiSettings, sessions: Sessions
) -> None:
    nowhere = "postgresql+psycopg://nobody:x@127.0.0.1:1/nothing"
    api, key = await _limited(
        api_settings.model_copy(update={"database_url": nowhere}), sessions, "5/hour"
    )
    bearer = {"Authorization": f"Bearer {key}"}
    async with api.app.router.lifespan_context(api.app), api.http:
        for call in (
            api.http.get("/v1/stock/CD", headers=bearer),
            api.http.post("/v1/orders", json={}, headers=bearer),
            api.http.get("/readyz"),
            api.http.get("/metrics"),
        ):
            answer = await call
            assert answer.status_code == 503
            assert answer.json()["type"] == "/problems/unavailable"
            assert int(answer.headers["Retry-After"]) > 0
        assert (await api.http.get("/healthz")).status_code == 200
