"""Ten thousand jobs in one request: one commit, and each accepted or refused by itself."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from goodsyard.job import MOST_IN_BATCH, id_in_batch, new_id
from tasks.contracts import SendEmail
from tests.integration.conftest import Api

Document = dict[str, Any]


def mail(to: str = "a@example.com", **fields: object) -> Document:
    return {"kind": SendEmail.kind, "payload": {"to": to, "body": "x"}, **fields}


async def post(api: Api, jobs: list[Any], key: str = "bulk", **headers: str) -> httpx.Response:
    return await api.http.post(
        "/v1/jobs/bulk", json={"jobs": jobs}, headers={"Idempotency-Key": key, **headers}
    )


async def results(api: Api, jobs: list[Any], key: str = "bulk") -> list[Document]:
    answer = await post(api, jobs, key)
    assert answer.status_code == 200, answer.text
    told: list[Document] = answer.json()["results"]
    assert len(told) == len(jobs)
    return told


async def count(api: Api) -> int:
    async with api.sessions.begin() as tx:
        return int(await tx.scalar(text("SELECT count(*) FROM goodsyard.job")) or 0)


async def test_ten_thousand_jobs_are_taken_in_at_once_in_their_order(api: Api) -> None:
    told = await results(api, [mail(f"a{n}@example.com") for n in range(10_000)])
    assert {one["status"] for one in told} == {202}
    ids = [one["job"]["id"] for one in told]
    assert ids == sorted(set(ids)), "each has an id of its own, and they ascend"
    assert await count(api) == 10_000
    for place in (0, 9_999):
        job = (await api.http.get(told[place]["job"]["href"])).json()
        assert job["payload"]["to"] == f"a{place}@example.com"


async def test_one_job_too_many_and_none_are_refused_whole(api: Api) -> None:
    assert (await post(api, [mail()] * 10_001)).status_code == 422
    assert (await post(api, [])).status_code == 422
    assert await count(api) == 0


async def test_a_bad_job_harms_no_other(api: Api) -> None:
    told = await results(
        api,
        [
            mail(),
            mail(priority=10),
            "no job",
            {"kind": "payments.charge", "payload": {}},
            mail("nobody"),
            mail(run_at="tomorrow"),
            mail("nul\0@example.com"),
            mail(run_at="2100-01-01T00:00:00Z", priority=0),
        ],
    )
    assert [one["status"] for one in told] == [202, 422, 422, 404, 422, 422, 422, 202]
    pointers = [one["problem"]["errors"][0]["pointer"] for one in told if one["status"] == 422]
    assert pointers == [
        "#/jobs/1/priority",
        "#/jobs/2",
        "#/jobs/4/payload/to",
        "#/jobs/5/run_at",
        "#/jobs/6/payload/to",
    ]
    assert await count(api) == 2
    late = (await api.http.get(told[7]["job"]["href"])).json()
    assert (late["run_at"], late["priority"]) == ("2100-01-01T00:00:00Z", 0)


async def test_what_is_more_than_a_job_is_handed_in_by_itself(api: Api) -> None:
    (first,) = await results(api, [mail()], "first")
    lasting: Document = {
        "unique_key": "one",
        "unique_states": ["succeeded"],
        "unique_period": 60,
    }
    told = await results(api, [mail(**lasting), mail(after=[first["job"]["id"]]), mail()])
    assert [one["status"] for one in told] == [422, 422, 202]
    pointers = [one["problem"]["errors"][0]["pointer"] for one in told[:2]]
    assert pointers == ["#/jobs/0/unique_states", "#/jobs/1/after"]


async def test_a_repeat_is_told_of_the_same_jobs_as_they_are_by_then(api: Api) -> None:
    jobs = [mail(), mail("nobody"), mail(unique_key="one"), mail(unique_key="one")]
    first = await results(api, jobs)
    assert first[2]["job"]["id"] == first[3]["job"]["id"]
    await api.http.post(f"{first[0]['job']['href']}/cancel")
    again = await post(api, jobs)
    assert again.headers["Idempotent-Replayed"] == "true"
    told = again.json()["results"]
    assert [one.get("job", {}).get("id") for one in told] == [
        one.get("job", {}).get("id") for one in first
    ]
    assert [one["status"] for one in told] == [202, 422, 202, 202]
    assert told[0]["job"]["state"] == "cancelled"
    assert await count(api) == 1
    other = await post(api, [mail()])
    assert (other.status_code, other.json()["type"]) == (422, "/problems/idempotency-key-reused")


async def test_equal_bulks_at_once_stage_their_jobs_once(api: Api) -> None:
    jobs = [mail(f"a{n}@example.com") for n in range(50)]
    answers = await asyncio.gather(*(post(api, jobs) for _ in range(8)))
    won = [answer for answer in answers if answer.status_code == 200]
    assert won
    assert {answer.status_code for answer in answers} <= {200, 409}
    ids = {tuple(one["job"]["id"] for one in answer.json()["results"]) for answer in won}
    assert len(ids) == 1
    assert await count(api) == 50


async def test_bulks_with_unique_keys_in_common_neither_deadlock_nor_double(api: Api) -> None:
    keys = [f"key {n}" for n in range(40)]
    jobs = [mail(unique_key=key) for key in keys]
    answers = await asyncio.gather(
        *(post(api, jobs[turn:] + jobs[:turn], key=f"bulk {turn}") for turn in range(0, 40, 5))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert await count(api) == len(keys)
    async with api.sessions.begin() as tx:
        rows = await tx.execute(text("SELECT unique_key, id FROM goodsyard.job"))
        held = {row.unique_key: str(row.id) for row in rows}
    for turn, answer in zip(range(0, 40, 5), answers, strict=True):
        told = {
            (keys[turn:] + keys[:turn])[place]: one["job"]["id"]
            for place, one in enumerate(answer.json()["results"])
        }
        assert told == held


async def test_a_key_without_the_scope_of_a_kind_is_refused_that_kind(api: Api) -> None:
    caller = await api.caller(f"jobs:submit:{SendEmail.kind}", tenant="other")
    report = {
        "kind": "payments.reconcile",
        "payload": {"since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z"},
    }
    answer = await post(api, [mail(), report], **caller)
    told = answer.json()["results"]
    assert [one["status"] for one in told] == [202, 403]
    assert told[1]["problem"]["scope"] == "jobs:submit:payments.reconcile"


async def test_without_an_idempotency_key_nothing_is_taken_in(api: Api) -> None:
    answer = await api.http.post("/v1/jobs/bulk", json={"jobs": [mail()]})
    assert answer.status_code == 400
    assert await count(api) == 0


@pytest.mark.parametrize("place", [0, 1, 3, 4, 9_999, MOST_IN_BATCH - 1])
def test_an_id_of_a_batch_has_its_time_and_its_place_and_is_hard_to_guess(place: int) -> None:
    batch = new_id()
    one = id_in_batch(batch, place)
    assert (one.version, one.variant) == (batch.version, batch.variant)
    assert one.int >> 80 == batch.int >> 80
    assert one == id_in_batch(batch, place)
    assert one.int & (2**60 - 1) != id_in_batch(new_id(), place).int & (2**60 - 1)
    if place:
        assert id_in_batch(batch, place - 1) < one
