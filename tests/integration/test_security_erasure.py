"""Who is erased is nowhere: neither in our rows nor in what jobs say, done or still to be done."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import text

from tasks.erasure import NOBODY
from tests.integration.conftest import Api

# Everything there is, as text: what was erased must be in none of it.
_ALL = """
    SELECT (SELECT coalesce(jsonb_agg(j), '[]') FROM goodsyard.job j)
        || (SELECT coalesce(jsonb_agg(j), '[]') FROM goodsyard.job_done j)
        || (SELECT coalesce(jsonb_agg(a), '[]') FROM goodsyard.job_attempt a)
        || (SELECT coalesce(jsonb_agg(u), '[]') FROM commerce.users u)
        || (SELECT coalesce(jsonb_agg(r), '[]') FROM goodsyard.request_key r)
        || (SELECT coalesce(jsonb_agg(a), '[]') FROM goodsyard.audit a)
"""


async def notify(api: Api, to: str, key: str, words: str = "Dear Ann Arbor") -> str:
    body = {"channel": "email", "to": to, "subject": words, "body": words}
    answer = await api.http.post("/v1/notifications", json=body, headers={"Idempotency-Key": key})
    assert answer.status_code == 202, answer.text
    job: str = answer.json()["job"]["id"]
    return job


async def change(api: Api, statement: str, **parameters: Any) -> None:  # noqa: ANN401 - SQL's
    async with api.sessions.begin() as tx:
        await tx.execute(text(statement), parameters)


async def test_an_erased_address_is_in_no_job_whatever_became_of_it(api: Api) -> None:
    user = await api.user(email="ann@example.com", username="arbor", full_name="Ann Arbor")
    await notify(api, "ann@example.com", "waits")
    dead = await notify(api, "ANN@example.com", "dead")
    done = await notify(api, "ann@example.com", "done")
    other = await notify(api, "bob@example.com", "another's", "Dear Bob")
    await change(
        api,
        "UPDATE goodsyard.job SET state = 'dead', error = 'no mailbox ann@example.com', "
        "finished_at = now() WHERE id = :id",
        id=dead,
    )
    for job in (dead, done):
        await change(
            api,
            "INSERT INTO goodsyard.job_attempt (job_id, attempt, error) "
            "VALUES (:id, 1, 'no mailbox ann@example.com')",
            id=job,
        )
    await change(
        api,
        "WITH gone AS (DELETE FROM goodsyard.job WHERE id = :id RETURNING *) "
        "INSERT INTO goodsyard.job_done (id, tenant, kind, state, max_attempts, payload, result) "
        "SELECT id, tenant, kind, 'succeeded', max_attempts, payload, "
        '\'{"to": "ann@example.com"}\' FROM gone',
        id=done,
    )
    assert (await api.http.delete(f"/v1/users/{user}")).status_code == 204
    async with api.sessions.begin() as tx:
        everything = json.dumps(await tx.scalar(text(_ALL)))
        mails = (await tx.execute(text("SELECT id, state, payload FROM goodsyard.job_done"))).all()
    for personal in ("ann@", "ANN@", "arbor", "Arbor"):
        assert personal not in everything
    assert {row.payload["to"] for row in mails} == {NOBODY}
    assert sorted(row.state for row in mails) == ["cancelled", "cancelled", "succeeded"]
    assert (await api.http.get(f"/v1/jobs/{other}")).json()["state"] == "waiting"
    assert "bob@example.com" in everything


async def test_a_mail_that_is_being_sent_puts_the_erasure_off(api: Api) -> None:
    user = await api.user(email="cid@example.com")
    job = await notify(api, "cid@example.com", "now")
    await change(api, "UPDATE goodsyard.job SET state = 'running' WHERE id = :id", id=job)
    refused = await api.http.delete(f"/v1/users/{user}")
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/mail-under-way")
    assert int(refused.headers["Retry-After"]) > 0
    assert (await api.http.get(f"/v1/users/{user}")).json()["email"] == "cid@example.com"
    await change(api, "UPDATE goodsyard.job SET state = 'waiting' WHERE id = :id", id=job)
    assert (await api.http.delete(f"/v1/users/{user}")).status_code == 204


async def test_another_tenants_mails_to_the_same_address_stay(api: Api) -> None:
    user = await api.user(email="dot@example.com")
    there = await api.caller("admin", tenant="elsewhere")
    body = {"channel": "email", "to": "dot@example.com", "subject": "x", "body": "y"}
    sent = await api.http.post(
        "/v1/notifications", json=body, headers=there | {"Idempotency-Key": "theirs"}
    )
    assert (await api.http.delete(f"/v1/users/{user}")).status_code == 204
    kept = await api.http.get(sent.json()["job"]["href"], headers=there)
    assert kept.json()["state"] == "waiting"


async def test_the_history_of_mails_is_found_by_address_through_an_index(api: Api) -> None:
    async with api.sessions.begin() as tx:
        await tx.execute(text("SET LOCAL enable_seqscan = off"))
        plan = await tx.scalars(
            text(
                "EXPLAIN SELECT id FROM goodsyard.job_done WHERE tenant = 1 "
                "AND kind = 'notifications.email' AND lower(payload ->> 'to') = lower('x')"
            )
        )
        assert "lower((payload ->> 'to'::text))" in "\n".join(plan.all())
