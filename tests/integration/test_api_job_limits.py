"""Limits of kinds over HTTP: set in parts, penalised, and what they tell a job."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from goodsyard import limited
from goodsyard.contracts import Rate
from goodsyard.limits import set_limit
from tasks.contracts import SendEmail
from tests.integration.conftest import Api

HREF = f"/v1/limits/{SendEmail.kind}"


async def put(api: Api, body: object) -> dict[str, Any]:
    answer = await api.http.put(HREF, json=body)
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def test_what_is_not_named_stays_as_it_is(api: Api) -> None:
    await put(api, {"rate": "100/minute", "burst": 20})
    both = await put(api, {"concurrency": 5})
    assert (both["rate"], both["burst"], both["concurrency"]) == ("100/minute", 20, 5)
    slower = await put(api, {"rate": "1/minute"})
    assert (slower["rate"], slower["concurrency"]) == ("1/minute", 5)
    lifted = await put(api, {"rate": None})
    assert (lifted["rate"], lifted["concurrency"]) == (None, 5)
    assert (await put(api, {"concurrency": None}))["concurrency"] is None
    assert (await api.http.get("/v1/limits")).json()["data"] == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"concurrency": 0},
        {"concurrency": "5"},
        {"burst": 5},
        {"rate": None, "burst": 5},
        {"rate": "1/day", "key": "tenant"},
    ],
)
async def test_a_limit_that_says_nothing_or_nonsense_is_refused(
    api: Api, body: dict[str, object]
) -> None:
    answer = await api.http.put(HREF, json=body)
    assert answer.status_code == 422, answer.text
    assert (await api.http.get("/v1/limits")).json()["data"] == []


async def test_a_kind_is_penalised_and_pardoned(api: Api) -> None:
    answer = await api.http.post(f"{HREF}/penalise", json={"seconds": 60})
    until = datetime.fromisoformat(answer.json()["penalised_until"])
    assert timedelta(seconds=50) < until - datetime.now(UTC) < timedelta(seconds=70)
    shorter = await api.http.post(f"{HREF}/penalise", json={"seconds": 5.5})
    assert datetime.fromisoformat(shorter.json()["penalised_until"]) < until
    pardoned = await api.http.post(f"{HREF}/penalise", json={"seconds": 0})
    assert pardoned.json()["penalised_until"] is None
    assert (await api.http.get("/v1/limits")).json()["data"] == []


@pytest.mark.parametrize("seconds", [-1, 86_401, "5", None])
async def test_a_penalty_of_no_time_there_is_is_refused(api: Api, seconds: object) -> None:
    answer = await api.http.post(f"{HREF}/penalise", json={"seconds": seconds})
    assert answer.status_code == 422


async def test_what_there_is_no_kind_of_is_not_penalised(api: Api) -> None:
    answer = await api.http.post("/v1/limits/no.such/penalise", json={"seconds": 5})
    assert answer.status_code == 404


async def test_a_job_that_waits_for_its_rate_is_told_when_it_may_start(api: Api) -> None:
    jobs = []
    for number in range(3):
        answer = await api.http.post(
            "/v1/jobs",
            json={
                "kind": SendEmail.kind,
                "payload": {"to": "a@example.com", "message_subject": "x", "body": "y"},
            },
            headers={"Idempotency-Key": f"mail {number}"},
        )
        jobs.append(answer.json()["job"]["href"])
    assert (await api.http.get(jobs[2])).json()["estimated_start"] is None, "nothing holds it back"
    async with api.sessions.begin() as tx:
        await set_limit(tx, SendEmail.kind, Rate("1/hour"))
        first = await limited.dispatch(tx, SendEmail, 100)
    assert first is not None
    assert len(first.jobs) == 1
    starts = [(await api.http.get(job)).json()["estimated_start"] for job in jobs]
    assert starts[0] is None, "it is on its way"
    waits = [datetime.fromisoformat(one) - datetime.now(UTC) for one in starts[1:]]
    for hours, wait in enumerate(waits, start=1):
        assert abs(wait - timedelta(hours=hours)) < timedelta(minutes=1)
