"""A running job's progress over HTTP; and streams by the hundred, which cost nothing while idle."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeAlias
from uuid import UUID

import pytest
from sqlalchemy import event, text

from goodsyard import progress
from goodsyard.doorbell import CHANGED, Doorbell
from goodsyard.progress import PROGRESS, Progress
from producers import job_stream
from producers.waiting import LOOK_AGAIN_SECONDS
from tests.integration.conftest import Api
from tests.yard import until

IN_PROCESS = pytest.mark.in_process("looks into the process")
MAIL = {"to": "someone@example.com", "message_subject": "Hello", "body": "There"}
SAID_AT = datetime(2026, 11, 23, 17, 0, tzinfo=UTC)

Events: TypeAlias = list[tuple[str, Any]]  # Any: the JSON of each

_RUN = """
    UPDATE goodsyard.job SET state = 'running', fence = 1, started_at = now() WHERE id = :id
"""
_FINISH = """
    WITH gone AS (DELETE FROM goodsyard.job WHERE id = ANY(CAST(:ids AS uuid[])) RETURNING *)
    INSERT INTO goodsyard.job_done (id, tenant, kind, state, max_attempts, payload, finished_at)
    SELECT id, tenant, kind, 'succeeded', max_attempts, payload, now() FROM gone
"""


async def _execute(api: Api, statement: str, **parameters: object) -> None:
    async with api.sessions.begin() as tx:
        await tx.execute(text(statement), parameters)


async def _job(api: Api, key: str = "a") -> UUID:
    body = {"kind": "notifications.email", "payload": MAIL}
    answer = await api.http.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})
    return UUID(answer.json()["job"]["id"])


async def _running(api: Api) -> UUID:
    job = await _job(api)
    await _execute(api, _RUN, id=job)
    return job


async def _say(api: Api, job: UUID, fraction: float, fence: int = 1) -> None:
    """Say something as the job's worker does."""
    word = Progress(fence, fraction, "counting", SAID_AT)
    await progress.say(api.services.redis, [(job, word)])


async def _finish(api: Api, *jobs: UUID) -> None:
    await _execute(api, _FINISH, ids=list(jobs))
    Doorbell(api.services.redis).ring(changed=jobs)


async def _shown(api: Api, job: UUID) -> dict[str, Any]:
    answer = await api.http.get(f"/v1/jobs/{job}")
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


@IN_PROCESS
async def test_a_running_job_shows_what_it_last_said(api: Api) -> None:
    job = await _running(api)
    assert (await _shown(api, job))["progress"] is None
    for fraction in (0.1, 0.4):
        await _say(api, job, fraction)
        assert (await _shown(api, job))["progress"] == {
            "fraction": fraction,
            "text": "counting",
            "at": "2026-11-23T17:00:00Z",
        }
    listed = (await api.http.get("/v1/jobs")).json()["data"]
    assert ["progress" in one for one in listed] == [False]


@IN_PROCESS
async def test_what_an_earlier_run_said_is_not_shown(api: Api) -> None:
    job = await _running(api)
    await _say(api, job, 0.9)
    for change in ("fence = 2", "state = 'waiting', fence = 1", "state = 'dead'"):
        await _execute(api, f"UPDATE goodsyard.job SET {change} WHERE id = :id", id=job)  # noqa: S608 - ours
        assert (await _shown(api, job))["progress"] is None, change


@IN_PROCESS
async def test_a_finished_job_shows_no_progress(api: Api) -> None:
    job = await _running(api)
    await _say(api, job, 0.9)
    await _finish(api, job)
    for _ in range(2):  # from its row, then from Redis
        assert (await _shown(api, job))["progress"] is None


@IN_PROCESS
async def test_without_redis_a_job_is_shown_without_progress(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await _running(api)

    async def away(*_: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(api.services.redis, "get", away)
    assert (await _shown(api, job))["progress"] is None


async def _events(api: Api, job: UUID) -> Events:
    """Follow a job up to its end."""
    body = (await api.http.get(f"/v1/jobs/{job}/events")).text
    told = [block.split("\n") for block in body.split("\n\n") if "event: " in block]
    fields = [dict(line.split(": ", 1) for line in lines) for lines in told]
    return [(one["event"], json.loads(one["data"])) for one in fields]


async def _followed(api: Api, *jobs: UUID) -> list[asyncio.Task[Events]]:
    """Return streams that have told what there is, and wait for what comes."""
    streams = [asyncio.create_task(_events(api, job)) for job in jobs]

    async def all_wait() -> bool:
        return api.services.news.waiters == len(streams)

    await until(all_wait, "all streams to wait", 60)
    return streams


async def _looked(api: Api, called: Callable[[], Awaitable[None]]) -> list[str]:
    """Return what the API asks Postgres meanwhile."""
    statements: list[str] = []
    engine = api.services.sessions.kw["bind"].sync_engine

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        await called()
    finally:
        event.remove(engine, "before_cursor_execute", note)
    return statements


@IN_PROCESS
async def test_a_stream_tells_what_the_present_run_says(api: Api) -> None:
    job = await _running(api)
    await _say(api, job, 0.2)
    (stream,) = await _followed(api, job)
    await _say(api, job, 0.9, fence=0)  # of an earlier run, whose worker only seemed dead
    for fraction in (0.4, 0.6):
        await _say(api, job, fraction)

    async def has_heard() -> bool:
        return bool((await _shown(api, job))["progress"]["fraction"] == 0.6)

    await until(has_heard, "the last word")
    await _finish(api, job)
    told = await stream
    assert [name for name, _ in told if name == "state"] == ["state", "state"]
    assert told[0][1]["progress"]["fraction"] == 0.2
    assert (told[-1][1]["state"], told[-1][1]["progress"]) == ("succeeded", None)
    fractions = [data["fraction"] for name, data in told if name == "progress"]
    assert fractions in ([0.4, 0.6], [0.6])  # one that is overtaken need not be told


@IN_PROCESS
async def test_a_word_costs_a_process_no_statement_however_many_follow(api: Api) -> None:
    job = await _running(api)
    streams = await _followed(api, *[job] * 50)

    async def say_much() -> None:
        for step in range(20):
            await _say(api, job, step / 20)

        async def all_have_heard() -> bool:
            return api.services.news.waiters == len(streams)

        await until(all_have_heard, "all streams to wait again")

    asked = await _looked(api, say_much)
    assert [one for one in asked if "awaited" not in one] == []
    await _finish(api, job)
    for told in await asyncio.gather(*streams):
        assert "progress" in [name for name, _ in told]


@IN_PROCESS
async def test_a_stream_learns_that_a_job_runs_though_nobody_told(api: Api) -> None:
    job = await _job(api)
    (stream,) = await _followed(api, job)
    await _execute(api, _RUN, id=job)

    async def is_told() -> bool:
        (watch,) = api.services.news._watchers[str(job)]  # noqa: SLF001 - what it was told last
        return watch.told == "running"

    await until(is_told, "the state", LOOK_AGAIN_SECONDS * 5)
    await _finish(api, job)
    assert [data["state"] for _, data in await stream] == ["waiting", "running", "succeeded"]


@IN_PROCESS
async def test_the_first_word_tells_that_a_job_runs(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def blind() -> None:
        """Miss what nobody tells."""

    monkeypatch.setattr(api.services.news, "look_once", blind)
    job = await _job(api)
    (stream,) = await _followed(api, job)
    await _execute(api, _RUN, id=job)
    await _say(api, job, 0.3)
    (watch,) = api.services.news._watchers[str(job)]  # noqa: SLF001 - as above

    async def is_told() -> bool:
        return watch.told == "running"

    await until(is_told, "the state")
    await _finish(api, job)
    states = [(data["state"], data["progress"]) for name, data in await stream if name == "state"]
    assert [state for state, _ in states] == ["waiting", "running", "succeeded"]
    assert states[1][1]["fraction"] == 0.3


@IN_PROCESS
async def test_an_idle_stream_says_that_it_is_there_and_asks_nobody_anything(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_stream, "STILL_THERE_SECONDS", 0.01)
    job = await _job(api)
    (stream,) = await _followed(api, job)
    (watch,) = api.services.news._watchers[str(job)]  # noqa: SLF001 - to count how often it wakes
    wait, waits = watch.wait, 0

    async def counted(seconds: float) -> bool:
        nonlocal waits
        waits += 1
        return await wait(seconds)

    async def has_woken() -> bool:
        return waits > 5

    monkeypatch.setattr(watch, "wait", counted)
    asked = await _looked(api, lambda: until(has_woken, "the stream to wake a few times"))
    assert [one for one in asked if "awaited" not in one] == []
    await _finish(api, job)
    assert [data["state"] for _, data in await stream] == ["waiting", "succeeded"]


@IN_PROCESS
async def test_hundreds_of_idle_streams_cost_one_statement_a_look_and_no_connection(
    api: Api,
) -> None:
    client = api.services.redis
    jobs = [await _job(api, str(number)) for number in range(10)]

    async def subscriptions() -> tuple[list[Any], int]:
        connections = await client.client_list(_type="pubsub")
        return await client.pubsub_numsub(CHANGED, PROGRESS), len(connections)

    before = await subscriptions()
    streams = await _followed(api, *jobs * 50)
    assert await subscriptions() == before
    news = api.services.news

    async def look_thrice() -> None:
        for _ in range(3):
            await news.look_once()

    began = time.monotonic()
    asked = await _looked(api, look_thrice)
    own_looks = 1 + (time.monotonic() - began) // LOOK_AGAIN_SECONDS
    assert [one for one in asked if "awaited" not in one] == []
    assert 3 <= len(asked) <= 3 + own_looks
    assert news.waiters == len(streams)
    await _finish(api, *jobs)
    ended = [told[-1][1]["state"] for told in await asyncio.gather(*streams)]
    assert ended == ["succeeded"] * 500
