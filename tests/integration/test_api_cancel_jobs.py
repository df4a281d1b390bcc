"""Cancel over HTTP: at once while a job waits, by asking while it runs, told to whoever follows."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest
from sqlalchemy import text

from goodsyard.doorbell import Doorbell
from goodsyard.results import JobReport
from tests.integration.conftest import Api
from tests.yard import until

MAIL = {"to": "someone@example.com", "message_subject": "Hello", "body": "There"}


async def _running(api: Api) -> str:
    body = {"kind": "notifications.email", "payload": MAIL}
    answer = await api.http.post("/v1/jobs", json=body, headers={"Idempotency-Key": "a"})
    job: str = answer.json()["job"]["id"]
    await _set(api, job, "state = 'running', fence = 1, started_at = now()")
    return job


async def _set(api: Api, job: str, assignments: str) -> None:
    async with api.sessions.begin() as tx:
        statement = f"UPDATE goodsyard.job SET {assignments} WHERE id = :id"  # noqa: S608 - ours
        await tx.execute(text(statement), {"id": UUID(job)})


async def _audit(api: Api) -> list[tuple[str, ...]]:
    async with api.sessions.begin() as tx:
        rows = await tx.execute(text("SELECT actor, action, target FROM goodsyard.audit"))
        return [tuple(row) for row in rows]


async def test_a_running_job_is_asked_to_end_once_and_says_so(api: Api) -> None:
    job = await _running(api)
    assert (await api.http.get(f"/v1/jobs/{job}")).json()["cancel_requested"] is False
    for _ in range(2):
        answer = await api.http.post(f"/v1/jobs/{job}/cancel")
        assert answer.status_code == 200, answer.text
        assert answer.json()["state"] == "running"
        assert answer.json()["cancel_requested"] is True
    assert (await api.http.get(f"/v1/jobs/{job}")).json()["cancel_requested"] is True
    assert (await api.http.get("/v1/jobs")).json()["data"][0]["cancel_requested"] is True
    assert await _audit(api) == [("admin of tests", "job.cancel", job)]


async def test_a_job_that_was_asked_to_end_is_cancelled_at_once_where_it_waits_again(
    api: Api,
) -> None:
    job = await _running(api)
    await api.http.post(f"/v1/jobs/{job}/cancel")
    await _set(api, job, "state = 'waiting'")
    answer = await api.http.post(f"/v1/jobs/{job}/cancel")
    assert (answer.json()["state"], answer.json()["cancel_requested"]) == ("cancelled", False)


async def test_to_ask_takes_the_scope_and_the_tenant(api: Api) -> None:
    job = await _running(api)
    reader = await api.caller("jobs:read")
    stranger = await api.caller("admin", tenant="elsewhere")
    for headers, status in ((reader, 403), (stranger, 404)):
        answer = await api.http.post(f"/v1/jobs/{job}/cancel", headers=headers)
        assert answer.status_code == status
    assert (await api.http.get(f"/v1/jobs/{job}")).json()["cancel_requested"] is False
    assert await _audit(api) == []


@pytest.mark.in_process("looks into the process")
async def test_who_follows_a_job_is_told_that_it_was_asked_to_end(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await _running(api)
    results, looks = api.services.results, 0
    read = results.read

    async def counted(tenant: int, job_id: UUID) -> JobReport | None:
        nonlocal looks
        report = await read(tenant, job_id)
        looks += 1
        return report

    monkeypatch.setattr(results, "read", counted)
    following = asyncio.create_task(api.http.get(f"/v1/jobs/{job}/events"))

    async def waits() -> bool:
        return api.services.news.is_awaited(UUID(job))

    await until(waits, "the stream to wait")
    before = looks
    await api.http.post(f"/v1/jobs/{job}/cancel")

    async def has_looked() -> bool:
        return looks > before

    await until(has_looked, "the stream to look again")
    await _set(api, job, "state = 'dead', reason = 'uncertain'")
    Doorbell(api.services.redis).ring(changed=[UUID(job)])
    told = [line for line in (await following).text.split("\n") if line.startswith("data: ")]
    assert ['"cancel_requested":true' in line for line in told] == [False, True, True]
    assert ['"state":"running"' in line for line in told] == [True, True, False]
