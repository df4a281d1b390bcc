"""Who runs the place by hand needs the scope for it, and is written down."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from fastapi import FastAPI
from sqlalchemy import text

from commerce.accounts.scopes import SCOPES
from goodsyard.submit import Staged, stage
from goodsyard.workflows import Step, stage_workflow
from producers.app import create_app
from producers.settings import ApiSettings
from tasks.contracts import SendEmail
from tests.integration.conftest import Api


class Case(NamedTuple):
    """A change by hand: what it takes, and what the audit log calls it."""

    call: str
    scope: str
    action: str
    body: object = None


# In an order in which each finds something to change. In braces: what ``_things`` has made.
CASES = [
    Case("POST /v1/jobs/{job_id}/cancel", "jobs:admin", "job.cancel"),
    Case("POST /v1/jobs/{dead_id}/retry", "jobs:admin", "job.retry"),
    Case("POST /v1/jobs/retry", "jobs:admin", "job.retry", {}),
    Case("POST /v1/workflows/{workflow_id}/cancel", "jobs:admin", "workflow.cancel"),
    Case("POST /v1/queues/{queue}/pause", "admin", "queue.pause"),
    Case("POST /v1/queues/{queue}/resume", "admin", "queue.resume"),
    Case("PUT /v1/limits/{kind}", "admin", "limit.set", {"rate": "5/second"}),
    Case("POST /v1/limits/{kind}/penalise", "admin", "limit.penalise", {"seconds": 5}),
    Case("POST /v1/schedules/{schedule}/pause", "admin", "schedule.pause"),
    Case("POST /v1/schedules/{schedule}/resume", "admin", "schedule.resume"),
    Case(
        "POST /v1/cache/invalidate",
        "jobs:admin",
        "cache.invalidate",
        {"kind": "payments.reconcile"},
    ),
    Case("PUT /v1/stock/{sku}", "stock:write", "stock.count", {"on_hand": 5}),
    Case("POST /v1/stock/{sku}/adjust", "stock:write", "stock.adjust", {"by": 1, "reason": "x"}),
    Case("POST /v1/accounts", "ledger:write", "account.open", {"code": "till", "currency": "EUR"}),
    Case(
        "POST /v1/webhook-endpoints",
        "webhooks:write",
        "webhook_endpoint.register",
        {"url": "https://192.88.0.1/", "events": ["order.*"]},
    ),
    Case(
        "POST /v1/webhook-endpoints/{endpoint_id}/rotate-secret",
        "webhooks:write",
        "webhook_endpoint.rotate",
        {},
    ),
    Case(
        "POST /v1/webhook-endpoints/{endpoint_id}/replay",
        "webhooks:write",
        "webhook.replay",
        {"since": "2026-01-01T00:00:00Z"},
    ),
    Case(
        "POST /v1/webhook-endpoints/{disabled_id}/enable",
        "webhooks:write",
        "webhook_endpoint.enable",
    ),
    Case("DELETE /v1/webhook-endpoints/{endpoint_id}", "webhooks:write", "webhook_endpoint.remove"),
    Case("POST /v1/api-keys", "admin", "api_key.issue", {"name": "x", "scopes": ["orders:read"]}),
    Case("DELETE /v1/api-keys/{key_id}", "admin", "api_key.revoke"),
    Case("PUT /v1/users/{user_id}/role", "admin", "user.role", {"role": "support"}),
    Case("PUT /v1/users/{user_id}/password", "admin", "user.password", {"password": "a" * 12}),
    Case("DELETE /v1/users/{user_id}/sessions", "admin", "user.sign_out"),
    Case("DELETE /v1/users/{user_id}", "admin", "user.erase"),
]

EVERYDAY = {
    "POST /v1/orders",
    "POST /v1/orders/bulk",
    "POST /v1/orders/{}/cancel",
    "POST /v1/orders/{}/refund",
    "POST /v1/payments",
    "POST /v1/payments/{}/refund",
    "POST /v1/transfers",
    "POST /v1/notifications",
    "POST /v1/jobs",
    "POST /v1/workflows",
    "POST /v1/jobs/bulk",
    "POST /v1/users",
    "POST /v1/users/bulk",
    "POST /v1/gateway/events",
    "POST /v1/auth/token",
    "PUT /v1/auth/password",
    "DELETE /v1/auth/sessions",
}
"""What the business and its customers do: rows of their own keep who did it, and when."""


def test_every_call_that_changes_something_is_everyday_business_or_written_down(
    api_settings: ApiSettings,
) -> None:
    declared = dict(_changes(create_app(api_settings)))
    by_hand = {_unnamed(case.call): {case.scope} for case in CASES}
    assert declared.keys() == by_hand.keys() | EVERYDAY
    assert {call: declared[call] for call in by_hand} == by_hand


async def test_what_is_done_by_hand_takes_its_scope_and_is_written_down(api: Api) -> None:
    things = await _things(api)
    for case in CASES:
        method, _, path = case.call.format(**things).partition(" ")
        headers = {"Idempotency-Key": case.call.replace(" ", "")}
        others = await api.caller(*sorted(SCOPES - {case.scope, "admin"}))
        refused = await api.http.request(method, path, json=case.body, headers=headers | others)
        assert (refused.status_code, refused.json().get("scope")) == (403, case.scope), case
        before = await _audited(api)
        theirs = await api.caller(case.scope)
        done = await api.http.request(method, path, json=case.body, headers=headers | theirs)
        assert done.is_success, (case, done.text)
        assert await _audited(api) == [*before, ("tests", case.action)], case


def _changes(app: FastAPI) -> Iterator[tuple[str, set[str]]]:
    """Return each call that isn't a read, with the scopes it declares in the document."""
    for path, calls in app.openapi()["paths"].items():
        for method, call in calls.items():
            if method != "get":
                scopes = {scope for one in call.get("security", []) for scope in one["Bearer"]}
                yield _unnamed(f"{method.upper()} {path}"), scopes


def _unnamed(call: str) -> str:
    return re.sub(r"\{\w+\}", "{}", call)


async def _things(api: Api) -> dict[str, object]:
    """Make what is changed by hand; return how it is named in a call."""
    mail = SendEmail(to="a@example.com", template="receipt")
    async with api.sessions.begin() as tx:
        tenant: int = (await tx.execute(text("SELECT id FROM commerce.tenant"))).scalar_one()
        waiting, *dead = (Staged(tenant, mail) for _ in range(3))
        await stage(tx, [waiting, *dead])
        workflow = await stage_workflow(tx, tenant, [Step("mail", mail)])
        await tx.execute(
            text("UPDATE goodsyard.job SET state = 'dead', reason = 'lost' WHERE id = ANY(:ids)"),
            {"ids": [job.id for job in dead]},
        )
        endpoint, disabled = (
            await tx.execute(
                text("""
                    INSERT INTO commerce.webhook_endpoint (tenant, url, events, disabled_at)
                    VALUES (:tenant, 'https://example.com/', '{order.*}', NULL),
                           (:tenant, 'https://example.com/', '{order.*}', now())
                    RETURNING id"""),
                {"tenant": tenant},
            )
        ).scalars()
    key = await api.key("orders:read")
    return {
        "job_id": waiting.id,
        "workflow_id": workflow.id,
        "dead_id": dead[0].id,
        "queue": "orders",
        "schedule": "payments.reconcile-daily",
        "kind": SendEmail.kind,
        "sku": "CD",
        "endpoint_id": endpoint,
        "disabled_id": disabled,
        "key_id": key.split("_")[2],
        "user_id": await api.user(full_name="Ann"),
    }


async def _audited(api: Api) -> list[tuple[str, str]]:
    async with api.sessions.begin() as tx:
        rows = await tx.execute(text("SELECT actor, action FROM goodsyard.audit ORDER BY id"))
        return [(row.actor, row.action) for row in rows]
