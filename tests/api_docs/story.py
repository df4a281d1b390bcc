"""One told story calls every route of the API once or more, and keeps what was said."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import httpx

from ops.sandbox.events import signature


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request that was made for a route of the document, and its answer."""

    route: tuple[str, str]
    note: str
    answer: httpx.Response


class Story:
    """Makes requests with the administrator's key, and keeps each with its answer."""

    def __init__(self, http: httpx.AsyncClient, key: str) -> None:
        self._http = http
        self._key = key
        self.exchanges: list[Exchange] = []

    async def ask(  # noqa: PLR0913 - what a request is made of
        self,
        route: str,
        body: object = None,
        *,
        note: str = "",
        key: str | None = None,
        query: dict[str, str] | None = None,
        form: dict[str, str] | None = None,
        raw: bytes | None = None,
        headers: dict[str, str] | None = None,
        token: str | None = None,
        **names: str,
    ) -> httpx.Response:
        """Call ``route``, a method and a path of the document, whose names are filled in."""
        method, path = route.split(" ")
        sent = {"Authorization": f"Bearer {token or self._key}", **(headers or {})}
        if path in {"/v1/auth/token", "/v1/gateway/events"} or not path.startswith("/v1/"):
            del sent["Authorization"]
        if key is not None:
            sent["Idempotency-Key"] = key
        if body is not None:
            raw = json.dumps(body).encode()
        if raw is not None:
            sent["Content-Type"] = "application/json"
        answer = await self._http.request(
            method, path.format(**names), params=query, data=form, content=raw, headers=sent
        )
        self.exchanges.append(Exchange((method, path), note, answer))
        return answer


async def tell(story: Story, sandbox: httpx.AsyncClient, gateway_secret: str) -> None:
    """Walk through every route; those that make something come before those that read it."""
    ada = await _people(story)
    await _goods(story)
    order = await _orders(story, ada)
    await _payments(story, ada, order, gateway_secret)
    await _ledger(story)
    await _jobs(story)
    await _workflows(story)
    await _telling(story, sandbox)
    await _operations(story)
    await story.ask("DELETE /v1/users/{user_id}", user_id=ada, note="Her ledger stays.")


async def _people(story: Story) -> str:
    person = {"email": "ada@example.com", "username": "ada", "full_name": "Ada Lovelace"}
    password = "a long walk by the Thames"  # noqa: S105 - of the example  # pragma: allowlist secret
    made = await story.ask("POST /v1/users", {**person, "password": password}, key="user-ada")
    ada: str = made.json()["id"]
    many = {"users": [{"email": "bob@example.com", "username": "bob"}]}
    bob = (await story.ask("POST /v1/users/bulk", many)).json()["results"][0]["user"]["id"]
    await story.ask("GET /v1/users/{user_id}", user_id=ada)
    await story.ask("GET /v1/users/{user_id}/role", user_id=ada)
    await story.ask("PUT /v1/users/{user_id}/role", {"role": "admin"}, user_id=ada)
    form = {"grant_type": "password", "username": "ada", "password": password}
    token = (await story.ask("POST /v1/auth/token", form=form)).json().get("access_token")
    wrong = {**form, "password": "guessed"}  # pragma: allowlist secret
    await story.ask("POST /v1/auth/token", form=wrong, note="A wrong password:")
    await story.ask("GET /v1/users/me", token=token)
    change = {"old_password": password, "new_password": password[::-1]}
    await story.ask("PUT /v1/auth/password", change, token=token)
    form["password"] = change["new_password"]
    token = (await story.ask("POST /v1/auth/token", form=form)).json().get("access_token")
    await story.ask("DELETE /v1/auth/sessions", token=token)
    await story.ask("PUT /v1/users/{user_id}/password", {"password": password}, user_id=ada)
    await story.ask("DELETE /v1/users/{user_id}/sessions", user_id=ada)
    await story.ask("PUT /v1/users/{user_id}/role", {"role": "admin"}, user_id=bob)
    await story.ask("PUT /v1/users/{user_id}/role", {"role": "customer"}, user_id=ada)
    new = {"name": "the shop", "scopes": ["orders:write", "orders:read"]}
    key = (await story.ask("POST /v1/api-keys", new, key="key-shop")).json()
    await story.ask("GET /v1/api-keys")
    await story.ask("DELETE /v1/api-keys/{key_id}", key_id=key["id"])
    return ada


async def _goods(story: Story) -> None:
    await story.ask("PUT /v1/stock/{sku}", {"on_hand": 100}, sku="CD")
    arrived = {"by": 20, "reason": "delivery 4711"}
    await story.ask("POST /v1/stock/{sku}/adjust", arrived, sku="CD", key="delivery-4711")
    await story.ask("GET /v1/stock/{sku}", sku="CD")


async def _orders(story: Story, ada: str) -> str:
    order = {
        "user_id": ada,
        "currency": "EUR",
        "payment_method": "pm_card_visa",
        "lines": [{"sku": "CD", "quantity": 2, "unit_amount": 1250}],
    }
    made = (await story.ask("POST /v1/orders", order, key="order-1")).json()
    order_id = str(made["order"]["id"])
    await story.ask("POST /v1/orders", order, key="order-1", note="The same again:")
    other = {**order, "currency": "USD"}
    await story.ask("POST /v1/orders", other, key="order-1", note="Another body, same key:")
    await story.ask(
        "GET /v1/orders/{order_id}", order_id=order_id, query={"wait": "30"}, note="Until it ends:"
    )
    await story.ask("GET /v1/orders", query={"user_id": ada, "limit": "1"})
    await story.ask("GET /v1/users/{user_id}/orders", user_id=ada)
    await story.ask("POST /v1/orders/bulk", {"orders": [{**order, "idempotency_key": "order-2"}]})
    part = {"amount": 1250}
    await story.ask("POST /v1/orders/{order_id}/refund", part, order_id=order_id, key="refund-1")
    third = (await story.ask("POST /v1/orders", order, key="order-3")).json()
    third_id = third["order"]["id"]
    await story.ask("POST /v1/orders/{order_id}/cancel", order_id=third_id, key="cancel-3")
    await story.ask("GET /v1/reports/top-customers", query={"currency": "EUR"})
    return order_id


async def _payments(story: Story, ada: str, order: str, gateway_secret: str) -> None:
    asked = {"user_id": ada, "amount": 900, "currency": "EUR", "payment_method": "pm_card_visa"}
    made = (await story.ask("POST /v1/payments", asked, key="pay-1")).json()
    payment = made["payment"]["id"]
    await story.ask("GET /v1/payments/{payment_id}", payment_id=payment, query={"wait": "30"})
    await story.ask("GET /v1/payments", query={"order_id": order})
    await story.ask("POST /v1/payments/{payment_id}/refund", payment_id=payment, key="pay-back-1")
    event = {"id": "evt_1", "object": "event", "type": "customer.created", "data": {"object": {}}}
    raw = json.dumps(event).encode()
    signed = {"Stripe-Signature": signature(raw, gateway_secret.encode(), int(time.time()))}
    await story.ask("POST /v1/gateway/events", raw=raw, headers=signed)
    await story.ask("POST /v1/gateway/events", raw=raw, note="Without a signature:")


async def _ledger(story: Story) -> None:
    ids = []
    for code in ("funds", "marketing"):
        account = {"code": code, "currency": "EUR", "may_overdraw": code == "funds"}
        ids.append((await story.ask("POST /v1/accounts", account, key=code)).json()["id"])
    move = {"from_account": ids[0], "to_account": ids[1], "amount": 5000, "currency": "EUR"}
    moved = (await story.ask("POST /v1/transfers", move, key="move-1")).json()
    back = {**move, "from_account": ids[1], "to_account": ids[0], "amount": 9000}
    await story.ask("POST /v1/transfers", back, key="move-2", note="More than there is:")
    await story.ask("GET /v1/transfers/{transfer_id}", transfer_id=moved["id"])
    await story.ask("GET /v1/accounts/{account_id}", account_id=ids[1])
    await story.ask("GET /v1/reports/trial-balance")


async def _jobs(story: Story) -> None:
    day = {"since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z"}
    job = {"kind": "payments.reconcile", "payload": day}
    made = (await story.ask("POST /v1/jobs", job, key="reconcile-1")).json()["job"]["id"]
    await story.ask("GET /v1/jobs/{job_id}", job_id=made, query={"wait": "30"})
    await story.ask("GET /v1/jobs/{job_id}/events", job_id=made)
    later = {**job, "run_at": "2099-01-01T00:00:00Z"}
    waiting = (await story.ask("POST /v1/jobs", later, key="reconcile-2")).json()["job"]["id"]
    await story.ask("POST /v1/jobs/{job_id}/cancel", job_id=waiting)
    await story.ask("POST /v1/jobs/retry", {"queue": "payments", "dry_run": True}, key="all")
    await story.ask("GET /v1/jobs", query={"queue": "payments", "limit": "1"})
    mails = [
        {"kind": "notifications.email", "payload": {"to": to, "body": "It is here."}}
        for to in ("ada@example.com", "nobody")
    ]
    await story.ask("POST /v1/jobs/bulk", {"jobs": mails}, key="jobs-1")
    await story.ask("POST /v1/cache/invalidate", job)


async def _workflows(story: Story) -> None:
    report = {
        "kind": "payments.reconcile",
        "payload": {"since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z"},
    }
    steps = [
        {"name": "january 1st", **report},
        {"name": "tell", "after": ["january 1st"], "run_at": "2099-01-01T00:00:00Z", **report},
    ]
    path = "/v1/workflows"
    made = await story.ask(f"POST {path}", {"steps": steps}, key="workflow-1")
    one = {"workflow_id": made.json()["workflow"]["id"]}
    circle = [{"name": "a", "after": ["a"], **report}]
    await story.ask(f"POST {path}", {"steps": circle}, key="workflow-2", note="In a circle:")
    await story.ask(f"GET {path}/{{workflow_id}}", **one)
    await story.ask(f"POST {path}/{{workflow_id}}/cancel", **one)
    await story.ask(f"GET {path}", query={"limit": "1"})


async def _telling(story: Story, sandbox: httpx.AsyncClient) -> None:
    await sandbox.post("/sandbox/faults", json={"fault": "mail_550"})
    mail = {"channel": "email", "to": "ada@example.com", "subject": "Hello", "body": "It is here."}
    sent = (await story.ask("POST /v1/notifications", mail, key="hello-1")).json()["job"]["id"]
    await story.ask("GET /v1/jobs/{job_id}", job_id=sent, query={"wait": "30"}, note="A dead one:")
    again = "POST /v1/jobs/{job_id}/retry"
    await story.ask(again, job_id=sent, key="again-1")
    await story.ask(again, job_id=sent, key="again-2", note="One that isn't dead:")
    # An address, so that no name is looked up; nothing is told of here that would be sent there.
    where = {"url": "https://93.184.215.14/webhooks", "events": ["job.dead"]}
    path = "/v1/webhook-endpoints"
    made = (await story.ask(f"POST {path}", where, key="endpoint-1")).json()["id"]
    one = path + "/{endpoint_id}"
    await story.ask(f"GET {path}")
    await story.ask(f"GET {one}", endpoint_id=made)
    await story.ask(f"POST {one}/rotate-secret", endpoint_id=made, key="rotate-1")
    await story.ask(f"POST {one}/enable", endpoint_id=made, key="enable-1")
    since = {"since": "2026-01-01T00:00:00Z"}
    await story.ask(f"POST {one}/replay", since, endpoint_id=made, key="replay-1")
    await story.ask(f"DELETE {one}", endpoint_id=made)


async def _operations(story: Story) -> None:
    await story.ask("GET /v1/queues")
    await story.ask("POST /v1/queues/{name}/pause", name="notifications")
    await story.ask("POST /v1/queues/{name}/resume", name="notifications")
    listed = (await story.ask("GET /v1/limits")).json()["data"]
    name = listed[0]["name"] if listed else "payments.charge"
    await story.ask("GET /v1/limits/{name}", name=name)
    await story.ask("PUT /v1/limits/{name}", {"rate": "100/second"}, name=name)
    await story.ask("POST /v1/limits/{name}/penalise", {"seconds": 0}, name=name)
    daily = (await story.ask("GET /v1/schedules")).json()["data"][0]["name"]
    await story.ask("POST /v1/schedules/{name}/pause", name=daily)
    await story.ask("POST /v1/schedules/{name}/resume", name=daily)
    for path in ("/healthz", "/readyz", "/metrics"):
        await story.ask(f"GET {path}")
    await story.ask("GET /problems/{name}", name="rate-limited")
