"""Jobs over HTTP: submitted by kind, listed, called off, tried again, each by whom it concerns."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import text

from tests.integration.conftest import Api, order_for
from tests.integration.test_costs import counted_costs

MAIL = {"to": "someone@example.com", "message_subject": "Hello", "body": "There"}


async def _submit(api: Api, key: str, **fields: object) -> httpx.Response:
    body = {"kind": "notifications.email", "payload": MAIL, **fields}
    return await api.http.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})


async def _job(api: Api, key: str, **fields: object) -> dict[str, Any]:
    answer = await _submit(api, key, **fields)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = (await api.http.get(answer.headers["Location"])).json()
    return job


async def _set(api: Api, job: str, assignments: str) -> None:
    async with api.sessions.begin() as tx:
        statement = f"UPDATE goodsyard.job SET {assignments} WHERE id = :id"  # noqa: S608 - ours
        await tx.execute(text(statement), {"id": UUID(job)})


async def _dead(api: Api, key: str, **fields: object) -> str:
    job: str = (await _job(api, key, **fields))["id"]
    await _set(
        api,
        job,
        "state = 'dead', reason = 'attempts', error = 'no', attempts = 9, lost = 2,"
        " finished_at = now()",
    )
    return job


async def test_a_job_of_a_public_kind_is_accepted_once(api: Api) -> None:
    run_at = "2030-01-01T00:00:00Z"
    first = await _job(api, "a", priority=2, run_at=run_at)
    assert (first["state"], first["queue"], first["priority"]) == ("waiting", "notifications", 2)
    assert (first["run_at"], first["payload"]["to"]) == (run_at, MAIL["to"])
    again = await _submit(api, "a", priority=2, run_at=run_at)
    assert (again.json()["job"]["id"], again.headers["Idempotent-Replayed"]) == (
        first["id"],
        "true",
    )
    assert (await _submit(api, "a", priority=3)).json()[
        "type"
    ] == "/problems/idempotency-key-reused"
    nameless = await api.http.post(
        "/v1/jobs", json={"kind": "notifications.email", "payload": MAIL}
    )
    assert nameless.json()["type"] == "/problems/idempotency-key-required"


@pytest.mark.in_process("counts or explains the statements of the process")
async def test_a_lone_job_costs_one_statement(api: Api) -> None:
    await _submit(api, "another", priority=1)  # the key that is shown is looked up by now
    with counted_costs() as costs:
        assert (await _submit(api, "a")).status_code == 202
    assert len(costs.statements) == 1


async def test_while_a_job_with_its_unique_key_is_live_it_is_the_answer(api: Api) -> None:
    first = await _job(api, "a", unique_key="daily")
    assert (await _job(api, "b", unique_key="daily"))["id"] == first["id"]
    replay = await _submit(api, "b", unique_key="daily")
    assert replay.json()["job"]["id"] == first["id"]
    assert (await _job(api, "c", unique_key="weekly"))["id"] != first["id"]


async def test_other_kinds_are_not_there(api: Api) -> None:
    for kind in ("orders.process", "payments.charge", "no.such.kind"):
        assert (await _submit(api, "a", kind=kind)).status_code == 404, kind


async def test_a_kind_takes_its_own_scope(api: Api) -> None:
    body = {"kind": "notifications.email", "payload": MAIL}
    for scope, status in (
        ("jobs:admin", 403),
        ("jobs:submit:notifications.webhook", 403),
        ("jobs:submit:notifications.email", 202),
        ("jobs:submit:*", 202),
    ):
        headers = await api.caller(scope) | {"Idempotency-Key": scope}
        answer = await api.http.post("/v1/jobs", json=body, headers=headers)
        assert answer.status_code == status, scope
        if status == 403:
            assert answer.json()["scope"] == "jobs:submit:notifications.email"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"payload": {}}, "#/payload/to"),
    ({"payload": {**MAIL, "colour": "red"}}, "#/payload/colour"),
    ({"payload": None}, "#/payload"),
    ({"priority": 10}, "#/priority"),
    ({"priority": True}, "#/priority"),
    ({"run_at": "tomorrow"}, "#/run_at"),
    ({"run_at": 0}, "#/run_at"),
    ({"run_at": "1700000000"}, "#/run_at"),
    ({"run_at": "0001-01-01T00:00:00+14:00"}, "#/run_at"),
    ({"run_at": "9999-12-31T23:59:59-12:00"}, "#/run_at"),
    ({"run_at": "2030-02-30T00:00:00Z"}, "#/run_at"),
    ({"run_at": "2030-01-01T00:00:00"}, "#/run_at"),
    ({"unique_key": ""}, "#/unique_key"),
    ({"kind": "NO"}, "#/kind"),
]


async def test_a_bad_job_is_told_where(api: Api) -> None:
    for fields, pointer in BAD:
        answer = await _submit(api, "a", **fields)
        assert answer.status_code == 422, (fields, answer.text)
        assert answer.json()["errors"][0]["pointer"] == pointer


async def test_another_tenants_job_is_not_there(api: Api) -> None:
    job = await _dead(api, "a")
    other = await api.caller("admin", tenant="elsewhere")
    for call in (
        api.http.get(f"/v1/jobs/{job}", headers=other),
        api.http.post(f"/v1/jobs/{job}/cancel", headers=other),
        api.http.post(f"/v1/jobs/{job}/retry", headers=other),
    ):
        assert (await call).status_code == 404
    retried = await api.http.post("/v1/jobs/retry", json={}, headers=other)
    assert retried.json()["count"] == 0
    assert (await api.http.get("/v1/jobs", headers=other)).json()["data"] == []


async def test_a_waiting_job_is_cancelled_and_stays_so(api: Api) -> None:
    job = await _job(api, "a")
    for _ in range(2):
        answer = await api.http.post(f"{job['href']}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert (await api.http.get(job["href"])).json()["state"] == "cancelled"
    async with api.sessions.begin() as tx:
        audit = (await tx.execute(text("SELECT actor, action, target FROM goodsyard.audit"))).all()
    assert [tuple(row) for row in audit] == [("admin of tests", "job.cancel", job["id"])]


async def test_what_cannot_be_cancelled_says_why(api: Api) -> None:
    order_job = (await api.submit(order_for(await api.user()))).json()["job"]
    dead, step = await _dead(api, "a"), await _job(api, "b")
    await _set(api, step["id"], "state = 'running', workflow = uuidv7()")
    for job, why in (
        (order_job["id"], "cancel the order"),
        (dead, "dead"),
        (step["id"], "cancel the workflow"),
    ):
        answer = await api.http.post(f"/v1/jobs/{job}/cancel")
        assert answer.status_code == 409
        assert answer.json()["type"] == "/problems/job-state"
        assert why in answer.json()["detail"]
    assert (await api.http.post(f"/v1/jobs/{uuid4()}/cancel")).status_code == 404


async def test_a_dead_job_is_tried_again_from_the_start_under_its_id(api: Api) -> None:
    job = await _dead(api, "a")
    answer = await api.http.post(f"/v1/jobs/{job}/retry", headers={"Idempotency-Key": "again"})
    assert answer.status_code == 202
    shown = (await api.http.get(f"/v1/jobs/{job}")).json()
    for name, value in {
        "id": job,
        "state": "waiting",
        "attempts": 0,
        "lost": 0,
        "reason": None,
        "error": None,
        "finished_at": None,
    }.items():
        assert shown[name] == value, name
    replay = await api.http.post(f"/v1/jobs/{job}/retry", headers={"Idempotency-Key": "again"})
    assert (replay.status_code, replay.headers["Idempotent-Replayed"]) == (202, "true")
    refused = await api.http.post(f"/v1/jobs/{job}/retry")
    assert refused.status_code == 409
    assert "only a dead job" in refused.json()["detail"]


async def test_dead_jobs_are_tried_again_by_filter_and_a_dry_run_only_tells(api: Api) -> None:
    dead = [await _dead(api, str(number)) for number in range(3)]
    await _job(api, "alive")
    for filters, count in (
        ({"kind": "notifications.email"}, 3),
        ({"queue": "notifications", "reason": "attempts"}, 3),
        ({"reason": "lost"}, 0),
        ({"queue": "orders"}, 0),
        ({"kind": "notifications.email", "queue": "orders"}, 0),
        ({}, 3),
    ):
        answer = await api.http.post("/v1/jobs/retry", json={**filters, "dry_run": True})
        assert (answer.status_code, answer.json()["count"]) == (202, count), filters
    assert {job["state"] for job in await _listed(api, state="dead")} == {"dead"}
    answer = await api.http.post("/v1/jobs/retry", json={}, headers={"Idempotency-Key": "all"})
    assert sorted(answer.json()["ids"]) == sorted(dead)
    replay = await api.http.post("/v1/jobs/retry", json={}, headers={"Idempotency-Key": "all"})
    assert replay.json() == answer.json()
    assert await _listed(api, state="dead") == []


async def test_a_job_whose_unique_key_is_held_stays_dead(api: Api) -> None:
    older = await _dead(api, "a", unique_key="one")
    younger = await _dead(api, "b", unique_key="one")
    answer = await api.http.post("/v1/jobs/retry", json={})
    assert answer.json()["ids"] == [younger]
    refused = await api.http.post(f"/v1/jobs/{older}/retry")
    assert refused.status_code == 409
    assert "unique key" in refused.json()["detail"]


async def _listed(api: Api, **params: str) -> list[dict[str, Any]]:
    answer = await api.http.get("/v1/jobs", params=params)
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


async def test_live_and_finished_jobs_are_listed_together(api: Api) -> None:
    jobs = [(await _job(api, str(number)))["id"] for number in range(4)]
    await api.http.post(f"/v1/jobs/{jobs[1]}/cancel")
    await _dead_now(api, jobs[2])
    assert [job["id"] for job in await _listed(api)] == jobs[::-1]
    assert [job["id"] for job in await _listed(api, state="cancelled")] == [jobs[1]]
    assert [job["id"] for job in await _listed(api, state="dead")] == [jobs[2]]
    assert [job["id"] for job in await _listed(api, state="waiting")] == [jobs[3], jobs[0]]
    assert len(await _listed(api, queue="notifications")) == 4
    assert await _listed(api, queue="orders") == await _listed(api, kind="orders.process") == []
    seen: list[str] = []
    params = {"limit": "3"}
    while True:
        page = (await api.http.get("/v1/jobs", params=params)).json()
        seen += [job["id"] for job in page["data"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert seen == jobs[::-1]


async def _dead_now(api: Api, job: str) -> None:
    await _set(api, job, "state = 'dead', reason = 'refused'")


async def test_a_jobs_failures_are_told(api: Api) -> None:
    job = await _job(api, "a")
    async with api.sessions.begin() as tx:
        insert = "INSERT INTO goodsyard.job_attempt (job_id, attempt, error) VALUES (:id, 1, 'no')"
        await tx.execute(text(insert), {"id": UUID(job["id"])})
    shown = (await api.http.get(job["href"])).json()
    assert [(failure["attempt"], failure["error"]) for failure in shown["failures"]] == [(1, "no")]
