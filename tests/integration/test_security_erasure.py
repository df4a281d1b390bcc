"""Who is erased is nowhere: neither in our rows nor in what jobs say, done or still to be done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pytest
from sqlalchemy import text

from tasks.contracts import SendEmail
from tasks.erasure import NOBODY
from tests.integration.conftest import Api, order_for

# Every table there is, those included that nobody has thought up yet; partitions by their parent.
_TABLES = """
    SELECT format('%I.%I', n.nspname, c.relname)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname IN ('goodsyard', 'commerce') AND c.relkind IN ('r', 'p')
       AND NOT c.relispartition
"""

_TEXTS = """
    SELECT c.table_schema || '.' || c.table_name || '.' || c.column_name
      FROM information_schema.columns c
      JOIN information_schema.tables t USING (table_schema, table_name)
     WHERE t.table_type = 'BASE TABLE' AND c.table_schema IN ('goodsyard', 'commerce')
       AND c.data_type IN ('text', 'jsonb', 'ARRAY') AND c.table_name !~ '^job_done_'
"""


@pytest.fixture
def database_url(own_database_url: str) -> str:
    """One of its own, since the planner goes by what was ever in its tables."""
    return own_database_url


async def notify(api: Api, to: str, key: str, words: str = "Dear Ann Arbor") -> str:
    body = {"channel": "email", "to": to, "subject": words, "body": words}
    answer = await api.http.post("/v1/notifications", json=body, headers={"Idempotency-Key": key})
    assert answer.status_code == 202, answer.text
    job: str = answer.json()["job"]["id"]
    return job


async def change(api: Api, statement: str, **parameters: Any) -> None:  # noqa: ANN401 - SQL's
    async with api.sessions.begin() as tx:
        await tx.execute(text(statement), parameters)


MARK = "Quetzalcoatl"
"""What nobody else has in any word of theirs."""

NEVER_THEIRS: Final[Mapping[str, str]] = {
    "goodsyard.job.kind": "ours",
    "goodsyard.job.reason": "ours",
    "goodsyard.job.limit_key": "what a policy counts by: ids",
    "goodsyard.job.slot_key": "likewise",
    "goodsyard.job.unique_key": "of a service that hands jobs in",
    "goodsyard.job.trace_context": "hexadecimal",
    "goodsyard.request_key.key": "of a service, for thirty days",
    "goodsyard.request_key.resource": "ids",
    "goodsyard.job_limit.name": "a kind",
    "goodsyard.limit_bucket.name": "a kind",
    "goodsyard.limit_bucket.key": "what a policy counts by: ids",
    "goodsyard.workflow.reason": "ours",
    "goodsyard.step.name": "of a service that hands jobs in",
    "goodsyard.step.kind": "ours",
    "goodsyard.step.limit_key": "what a policy counts by: ids",
    "goodsyard.step.slot_key": "likewise",
    "goodsyard.schedule.name": "ours",
    "goodsyard.schedule_tick.schedule": "ours",
    "goodsyard.shared_run.kind": "ours",
    "goodsyard.shared_run.key": "a hash, or of a service that hands jobs in",
    "goodsyard.queue.name": "ours",
    "goodsyard.worker.node": "a machine",
    "goodsyard.worker.queues": "ours",
    "goodsyard.dropped.reason": "ours",
    "goodsyard.audit.actor": "a key's name, or a person's id",
    "goodsyard.audit.action": "ours",
    "goodsyard.audit.target": "ids and names of things",
    "goodsyard.audit.detail": "what staff did",
    "commerce.tenant.name": "the operator's",
    "commerce.tenant.plan": "ours",
    "commerce.api_key.id": "random",
    "commerce.api_key.name": "a service",
    "commerce.api_key.scopes": "ours",
    "commerce.users.password_hash": "a hash, gone as well",  # pragma: allowlist secret
    "commerce.users.role": "ours",
    "commerce.stock.sku": "a thing",
    "commerce.order_line.sku": "a thing",
    "commerce.orders.currency": "ISO 4217",
    "commerce.orders.payment_method": "the gateway's token: nothing without an account there",
    "commerce.orders.reason": "a code",
    "commerce.payment.currency": "ISO 4217",
    "commerce.payment.payment_method": "as an order's",
    "commerce.payment.gateway_id": "the gateway's",
    "commerce.payment.failure": "the gateway's code",
    "commerce.payment.dispute": "the gateway's code",
    "commerce.account.code": "the bookkeeper's",
    "commerce.account.currency": "ISO 4217",
    "commerce.transfer.currency": "ISO 4217",
    "commerce.transfer.code": "ours",
    "commerce.inbox.id": "the gateway's",
    "commerce.inbox.kind": "the gateway's",
    "commerce.webhook_endpoint.url": "a service's",
    "commerce.webhook_endpoint.events": "ours",
    "commerce.webhook_endpoint.disabled_reason": "ours",
}
"""Columns of text that no user's words get into, and what is in them instead."""

PLANTED: Final = {
    "goodsyard.job.payload",
    "goodsyard.job.result",
    "goodsyard.job.error",
    "goodsyard.job_attempt.error",
    "goodsyard.step.payload",
    "commerce.users.email",
    "commerce.users.username",
    "commerce.users.full_name",
    "commerce.orders.metadata",
    "commerce.payment.description",
}


async def found_in(api: Api, words: str) -> set[str]:
    """Return the tables that have ``words`` in some row, whatever their case."""
    async with api.sessions.begin() as tx:
        looks = [
            f"SELECT '{table}' FROM {table} t WHERE t::text ILIKE :words"  # noqa: S608 - its name
            for table in await tx.scalars(text(_TABLES))
        ]
        return set(await tx.scalars(text(" UNION ALL ".join(looks)), {"words": f"%{words}%"}))


async def plant(api: Api) -> str:
    """Put the mark wherever a user's words can get, and return the user."""
    address = f"{MARK}@example.com"
    user = await api.user(email=address, username=MARK, full_name=f"Ann {MARK}")
    await api.submit(order_for(user, metadata={"note": {"for": [f"Ann {MARK}"]}}))
    payment = {"user_id": user, "amount": 5, "currency": "EUR", "payment_method": "pm_card_visa"}
    await api.http.post(
        "/v1/payments",
        json=payment | {"description": f"a gift for {MARK}"},
        headers={"Idempotency-Key": "gift"},
    )
    await change(api, "UPDATE commerce.orders SET status = 'paid'")
    waits = await notify(api, address, "waits", f"Dear {MARK}")
    await change(
        api,
        "WITH w AS (INSERT INTO goodsyard.workflow (id, tenant)"
        " SELECT id, tenant FROM goodsyard.job WHERE id = :id RETURNING id) "
        "INSERT INTO goodsyard.step (job_id, workflow, tenant, name, kind, payload)"
        " SELECT j.id, w.id, j.tenant, 'mail', j.kind, j.payload"
        " FROM goodsyard.job j JOIN w USING (id)",
        id=waits,
    )
    dead = await notify(api, address.upper(), "dead")
    done = await notify(api, address, "done")
    trouble = f"no mailbox {address}"
    await change(
        api,
        "UPDATE goodsyard.job SET state = 'dead', error = CAST(:error AS text), "
        "result = to_jsonb(CAST(:error AS text)), "
        "finished_at = now() WHERE id = :id",
        id=dead,
        error=trouble,
    )
    for job in (dead, done):
        await change(
            api,
            "INSERT INTO goodsyard.job_attempt (job_id, attempt, error) VALUES (:id, 1, :error)",
            id=job,
            error=trouble,
        )
    await change(
        api,
        "WITH gone AS (DELETE FROM goodsyard.job WHERE id = :id RETURNING *) "
        "INSERT INTO goodsyard.job_done "
        "(id, tenant, kind, state, max_attempts, payload, result, error) "
        "SELECT id, tenant, kind, 'succeeded', max_attempts, payload, "
        "jsonb_build_object('to', CAST(:to AS text)), :error FROM gone",
        id=done,
        to=address,
        error=trouble,
    )
    return user


async def test_who_is_erased_is_in_no_row_of_any_table(api: Api) -> None:
    user = await plant(api)
    other = await notify(api, "bob@example.com", "another's", "Dear Bob")
    assert await found_in(api, MARK) == {
        "goodsyard.job",
        "goodsyard.job_done",
        "goodsyard.job_attempt",
        "goodsyard.step",
        "commerce.users",
        "commerce.orders",
        "commerce.payment",
    }
    erased = await api.http.delete(f"/v1/users/{user}")
    assert erased.status_code == 204, erased.text
    assert await found_in(api, MARK) == set()
    async with api.sessions.begin() as tx:
        statement = "SELECT state, payload FROM goodsyard.job_done WHERE kind = :kind"
        mails = (await tx.execute(text(statement), {"kind": SendEmail.kind})).all()
        amounts = (
            "SELECT (SELECT sum(total) FROM commerce.orders), sum(amount) FROM commerce.payment"
        )
        kept = (await tx.execute(text(amounts))).one()
    assert {row.payload["to"] for row in mails} == {NOBODY}
    assert sorted(row.state for row in mails) == ["cancelled", "cancelled", "succeeded"]
    assert tuple(kept) == (2_500, 5)
    assert (await api.http.get(f"/v1/jobs/{other}")).json()["state"] == "waiting"
    assert await found_in(api, "bob@example.com") == {"goodsyard.job"}


async def test_of_each_column_of_text_it_is_known_whether_a_users_words_get_in(api: Api) -> None:
    async with api.sessions.begin() as tx:
        columns = set(await tx.scalars(text(_TEXTS)))
    # What is over has the columns of what is not.
    columns = {name.replace("goodsyard.job_done.", "goodsyard.job.") for name in columns}
    assert columns == PLANTED | NEVER_THEIRS.keys()


async def test_another_users_words_stay(api: Api) -> None:
    ann, bob = await api.user(), await api.user()
    for user in (ann, bob):
        await api.submit(order_for(user, metadata={"note": user}))
    await change(api, "UPDATE commerce.orders SET status = 'paid'")
    assert (await api.http.delete(f"/v1/users/{ann}")).status_code == 204
    orders = (await api.http.get("/v1/orders")).json()["data"]
    assert {order["user_id"]: order["metadata"] for order in orders} == {
        ann: {},
        bob: {"note": bob},
    }


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


@pytest.mark.parametrize(
    ("what", "index"),
    [
        (
            (
                "goodsyard.job_done WHERE tenant = 1 AND kind = 'notifications.email' "
                "AND lower(payload ->> 'to') = lower('x')"
            ),
            "lower((payload ->> 'to'::text))",
        ),
        (
            (
                "commerce.payment WHERE tenant = 1 AND order_id IS NULL "
                "AND user_id = '0198a6b0-0000-7000-8000-000000000000'"
            ),
            "payment_alone",
        ),
    ],
    ids=["mails to an address", "payments without an order"],
)
async def test_what_is_forgotten_is_found_through_an_index(api: Api, what: str, index: str) -> None:
    async with api.sessions.begin() as tx:
        await tx.execute(text("SET LOCAL enable_seqscan = off"))
        plan = await tx.scalars(text(f"EXPLAIN SELECT id FROM {what}"))  # noqa: S608 - one of the above
        assert index in "\n".join(plan.all())
