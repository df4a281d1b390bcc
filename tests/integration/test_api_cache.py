"""Equal requests over HTTP share a run, say so in ``Cache-Status``, and can be told not to."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from tests.integration.conftest import Api

_keys = (f"key {number}" for number in count())
DAY = {"since": "2026-06-01T00:00:00Z", "until": "2026-06-02T00:00:00Z"}
MAIL = {"kind": "notifications.email", "payload": {"to": "a@example.com", "body": "x"}}


async def ask(api: Api, key: str | None = None, **payload: str) -> httpx.Response:
    body = {"kind": "payments.reconcile", "payload": DAY | payload}
    answer = await api.http.post(
        "/v1/jobs", json=body, headers={"Idempotency-Key": key or next(_keys)}
    )
    assert answer.status_code == 202, answer.text
    return answer


def job(answer: httpx.Response) -> str:
    identity: str = answer.json()["job"]["id"]
    return identity


async def end(api: Api, answer: httpx.Response) -> None:
    """Have a job succeed, just now."""
    async with api.sessions.begin() as tx:
        await tx.execute(
            text("""
                WITH d AS (DELETE FROM goodsyard.job WHERE id = :id RETURNING *)
                INSERT INTO goodsyard.job_done
                       (id, tenant, kind, version, state, max_attempts, payload, limit_key,
                        created_at, finished_at)
                SELECT id, tenant, kind, version, 'succeeded', max_attempts, payload, limit_key,
                       created_at, now() FROM d"""),
            {"id": job(answer)},
        )


async def count_jobs(api: Api) -> int:
    async with api.sessions.begin() as tx:
        return int(await tx.scalar(text("SELECT count(*) FROM goodsyard.job")) or 0)


async def test_equal_requests_at_once_share_one_run(api: Api) -> None:
    asked = await asyncio.gather(*(ask(api) for _ in range(30)))
    assert len({job(answer) for answer in asked}) == 1
    assert sorted(answer.headers["Cache-Status"] for answer in asked) == [
        *["goodsyard; fwd=miss; collapsed"] * 29,
        "goodsyard; fwd=miss; stored",
    ]
    assert await count_jobs(api) == 1


async def test_a_later_one_is_told_of_the_result_and_for_how_long_it_stands(api: Api) -> None:
    first = await ask(api)
    await end(api, first)
    later = await ask(api)
    assert later.json()["job"] == first.json()["job"] | {"state": "succeeded"}
    name, hit, ttl = later.headers["Cache-Status"].split("; ")
    assert (name, hit) == ("goodsyard", "hit")
    assert 0 <= int(ttl.removeprefix("ttl=")) <= 10
    assert job(await ask(api, until="2026-06-03T00:00:00Z")) != job(first)


async def test_a_repeat_of_a_request_is_told_what_it_was_told_before(api: Api) -> None:
    first = await ask(api, "mine")
    shared = await ask(api, "another's")
    again = await ask(api, "another's")
    assert job(first) == job(shared) == job(again)
    assert again.headers["Idempotent-Replayed"] == "true"


async def test_an_invalidated_run_is_shared_no_more(api: Api) -> None:
    first = await ask(api)
    forgotten = await api.http.post(
        "/v1/cache/invalidate", json={"kind": "payments.reconcile", "payload": DAY}
    )
    assert forgotten.json() == {"kind": "payments.reconcile", "forgotten": 1}
    assert job(await ask(api)) != job(first)
    everything = {"kind": "payments.reconcile"}
    assert (await api.http.post("/v1/cache/invalidate", json=everything)).json()["forgotten"] == 1
    assert (await api.http.post("/v1/cache/invalidate", json=everything)).json()["forgotten"] == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"kind": "notifications.email"}, 404),
        ({"kind": "payments.charge"}, 404),
        ({"kind": "payments.reconcile", "payload": {"since": "x"}}, 422),
        ({}, 422),
    ],
)
async def test_what_shares_no_runs_is_not_invalidated(
    api: Api, body: dict[str, Any], status: int
) -> None:
    assert (await api.http.post("/v1/cache/invalidate", json=body)).status_code == status


async def test_in_a_bulk_a_kind_that_shares_its_runs_is_refused_by_itself(api: Api) -> None:
    report = {"kind": "payments.reconcile", "payload": DAY}
    answer = await api.http.post(
        "/v1/jobs/bulk", json={"jobs": [MAIL, report]}, headers={"Idempotency-Key": "b"}
    )
    assert [one["status"] for one in answer.json()["results"]] == [202, 422]


async def mail(api: Api, **fields: object) -> httpx.Response:
    return await api.http.post(
        "/v1/jobs", json=MAIL | fields, headers={"Idempotency-Key": next(_keys)}
    )


async def test_a_unique_key_holds_in_the_states_and_the_period_asked_for(api: Api) -> None:
    lasting = {"unique_key": "one", "unique_states": ["succeeded"], "unique_period": 60.0}
    first = await mail(api, **lasting)
    await end(api, first)
    assert job(await mail(api, **lasting)) == job(first)
    async with api.sessions.begin() as tx:
        older = "UPDATE goodsyard.job_done SET created_at = created_at - interval '61 seconds'"
        await tx.execute(text(older))
    assert job(await mail(api, **lasting)) != job(first)


@pytest.mark.parametrize(
    "fields",
    [
        {"unique_states": ["succeeded"], "unique_period": 60},
        {"unique_key": "one", "unique_period": 60},
        {"unique_key": "one", "unique_states": ["succeeded"]},
        {"unique_key": "one", "unique_states": ["waiting"], "unique_period": 60},
        {"unique_key": "one", "unique_states": [], "unique_period": 60},
        {"unique_key": "one", "unique_states": ["dead"], "unique_period": 0},
    ],
)
async def test_states_and_a_period_that_say_nothing_together_are_refused(
    api: Api, fields: dict[str, object]
) -> None:
    answer = await mail(api, **fields)
    assert answer.status_code == 422, answer.text
    assert await count_jobs(api) == 0


@pytest.mark.parametrize(
    "own", [{"run_at": "2100-01-01T00:00:00Z"}, {"unique_key": "mine"}], ids=["a time", "a key"]
)
async def test_a_job_with_a_later_time_or_a_key_of_its_own_shares_no_run(
    api: Api, own: dict[str, str]
) -> None:
    await ask(api)
    body = {"kind": "payments.reconcile", "payload": DAY, **own}
    answer = await api.http.post("/v1/jobs", json=body, headers={"Idempotency-Key": next(_keys)})
    assert "Cache-Status" not in answer.headers
    assert await count_jobs(api) == 2
