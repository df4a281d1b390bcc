"""Endpoints over HTTP: registered once, their secret shown once, and seen by their tenant alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from commerce.notifications.postman import Postman
from commerce.notifications.signing import WebhookSettings
from goodsyard.submit import Staged, stage
from producers.settings import ApiSettings
from tasks.contracts import SendWebhook
from tasks.webhooks import Webhook
from tests.integration.conftest import Api
from tests.receivers import Receiver, answer, listen
from tests.saga import SECRET_KEY
from tests.yard import TENANT, Yard, connect

PATH = "/v1/webhook-endpoints"
NOBODY = f"{PATH}/0198a6b0-0000-7000-8000-000000000000"


@pytest.fixture
def allow_private() -> bool:
    """Whether receivers on this machine will do; not where a test is about those refused."""
    return True


@pytest.fixture
def api_settings(api_settings: ApiSettings, allow_private: bool) -> ApiSettings:  # noqa: FBT001 - a fixture
    """The API's."""
    return api_settings.model_copy(update={"webhook_allow_private": allow_private})


async def register(api: Api, url: str = "http://127.0.0.1:9/", **headers: str) -> dict[str, Any]:
    body = {"url": url, "events": ["order.*", "job.dead"]}
    made = await api.http.post(PATH, json=body, headers=headers)
    assert made.status_code == 201, made.text
    document: dict[str, Any] = made.json()
    assert made.headers["Location"] == document["href"] == f"{PATH}/{document['id']}"
    return document


async def test_the_secret_is_shown_once(api: Api) -> None:
    made = await register(api)
    assert made.pop("secret").startswith("whsec_")
    assert (made["failing_since"], made["disabled_at"], made["previous_secret_until"]) == (
        None,
    ) * 3
    read = await api.http.get(made["href"])
    listed = await api.http.get(PATH)
    assert read.json() == made
    assert listed.json() == {"data": [made], "next_cursor": None}
    async with api.sessions.begin() as tx:
        row = (await tx.execute(text("SELECT * FROM commerce.webhook_endpoint"))).one()
    assert "whsec" not in str(row)


async def test_a_registration_that_is_sent_twice_is_one_and_shows_the_secret_once(api: Api) -> None:
    first = await register(api, **{"Idempotency-Key": "one"})
    secret = first.pop("secret")
    again = await api.http.post(
        PATH,
        json={"url": first["url"], "events": ["order.*", "job.dead"]},
        headers={"Idempotency-Key": "one"},
    )
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (201, "true")
    assert again.json() == first
    assert secret not in again.text
    assert len((await api.http.get(PATH)).json()["data"]) == 1


@pytest.mark.parametrize("allow_private", [False])
@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"url": "http://shop.example/"}, "#/url"),
        ({"url": "https://127.0.0.1/"}, "#/url"),
        ({"url": "https://localhost/"}, "#/url"),
        ({"url": "https://[::ffff:169.254.169.254]/"}, "#/url"),
        ({"url": "https://0x7f.1/"}, "#/url"),
        ({"url": "https://user@shop.example/"}, "#/url"),
        ({"url": ""}, "#/url"),
        ({"url": 7}, "#/url"),
        ({"events": []}, "#/events"),
        ({"events": ["order.shipped"]}, "#/events/0"),
        ({"events": ["*"]}, "#/events/0"),
        ({"secret": "whsec_mine"}, "#/secret"),
    ],
)
async def test_what_is_wrong_is_told_at_once_and_where(
    api: Api, body: dict[str, object], pointer: str
) -> None:
    wish = {"url": "https://127.0.0.1/", "events": ["order.*"]} | body
    refused = await api.http.post(PATH, json=wish)
    assert refused.status_code == 422, refused.text
    assert refused.json()["errors"][0]["pointer"] == pointer
    assert (await api.http.get(PATH)).json()["data"] == []


@pytest.mark.in_process("changes what the process goes by")
async def test_there_is_a_most_of_them(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commerce.notifications.endpoints.MOST_ENDPOINTS", 2)
    for _ in range(2):
        await register(api)
    refused = await api.http.post(PATH, json={"url": "http://127.0.0.1/", "events": ["job.dead"]})
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/too-many-endpoints")
    other = await api.caller("webhooks:write", tenant="others")
    made = await api.http.post(
        PATH, json={"url": "http://127.0.0.1/", "events": ["job.dead"]}, headers=other
    )
    assert made.status_code == 201


CALLS = [
    ("GET", "", None),
    ("DELETE", "", None),
    ("POST", "/rotate-secret", {}),
    ("POST", "/enable", None),
    ("POST", "/replay", {"since": "2026-11-23T00:00:00Z"}),
]


@pytest.mark.parametrize(("method", "path", "body"), CALLS)
async def test_another_tenants_endpoint_is_as_good_as_absent(
    api: Api, method: str, path: str, body: dict[str, object] | None
) -> None:
    href = (await register(api))["href"]
    stranger = await api.caller("webhooks:read", "webhooks:write", tenant="others")

    async def ask(where: str) -> httpx.Response:
        return await api.http.request(method, where + path, json=body, headers=stranger)

    theirs, nobodys = await ask(href), await ask(NOBODY)
    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.json()["type"] == "/problems/not-found"
    assert (await api.http.get(href)).status_code == 200
    assert (await api.http.get(PATH, headers=stranger)).json()["data"] == []


@pytest.mark.parametrize(("method", "path", "body"), [("POST", None, {}), *CALLS])
async def test_each_call_takes_its_scope(
    api: Api, method: str, path: str | None, body: dict[str, object] | None
) -> None:
    href = (await register(api))["href"]
    where = PATH if path is None else href + path
    wanted = "webhooks:read" if method == "GET" else "webhooks:write"
    other = ({"webhooks:read", "webhooks:write"} - {wanted}).pop()
    caller = await api.caller("orders:write", other)
    refused = await api.http.request(method, where, json=body, headers=caller)
    assert (refused.status_code, refused.json()["scope"]) == (403, wanted)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with listen() as listening:
        yield listening


@pytest.fixture
async def yard(api: Api, redis_url: str) -> AsyncIterator[Yard]:
    """The engine, on the API's own database."""
    async with connect(api.sessions, redis_url) as connected:
        yield connected


async def send(yard: Yard, endpoint: dict[str, Any], *, events: int = 1) -> list[str]:
    """Tell an endpoint of new events, and return their ids."""
    staged = [
        Staged(
            TENANT,
            SendWebhook(
                endpoint_id=endpoint["id"], event="order.paid",
                occurred_at=datetime.now(UTC), data={},
            ),
        )
        for _ in range(events)
    ]  # fmt: skip
    async with yard.sessions.begin() as tx:
        await stage(tx, staged)
    await deliver(yard)
    return [str(job.id) for job in staged]


async def deliver(yard: Yard) -> None:
    settings = WebhookSettings(secret_key=SecretStr(SECRET_KEY), webhook_allow_private=True)
    sender = Postman(settings)
    await yard.run(Webhook(sender, yard.sessions), await yard.dispatch(SendWebhook.kind))
    await sender.close()


async def test_a_receiver_verifies_with_the_secret_it_was_shown_before_and_after_a_rotation(
    api: Api, yard: Yard, receiver: Receiver
) -> None:
    endpoint = await register(api, receiver.url)
    rotated = await api.http.post(
        f"{endpoint['href']}/rotate-secret",
        json={"overlap_seconds": 3_600},
        headers={"Idempotency-Key": "turn"},
    )
    assert rotated.json()["previous_secret_until"] is not None
    await send(yard, endpoint)
    for secret in (endpoint["secret"], rotated.json()["secret"]):
        assert receiver.received[0].verify(secret)["type"] == "order.paid"
    again = await api.http.post(
        f"{endpoint['href']}/rotate-secret",
        json={"overlap_seconds": 3_600},
        headers={"Idempotency-Key": "turn"},
    )
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (200, "true")
    assert "secret" not in again.json()
    await send(yard, endpoint)
    receiver.received[1].verify(rotated.json()["secret"])


async def test_gone_then_enabled_then_replayed(api: Api, yard: Yard, receiver: Receiver) -> None:
    endpoint = await register(api, receiver.url)
    receiver.reply = answer(410)
    (event,) = await send(yard, endpoint)
    document = (await api.http.get(endpoint["href"])).json()
    assert document["disabled_reason"] == "it answered 410 Gone"
    job = (await api.http.get(f"/v1/jobs/{event}")).json()
    assert (job["state"], job["reason"]) == ("dead", "refused")
    assert "410" in job["error"]

    replay = f"{endpoint['href']}/replay"
    refused = await api.http.post(replay, json={"event": event})
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/endpoint-disabled")
    enabled = await api.http.post(f"{endpoint['href']}/enable")
    assert (enabled.status_code, enabled.json()["disabled_at"]) == (200, None)
    receiver.reply = answer(200)
    for replayed in (None, "true"):
        accepted = await api.http.post(
            replay, json={"event": event}, headers={"Idempotency-Key": "again"}
        )
        assert accepted.status_code == 202
        assert accepted.json() == {"count": 1, "ids": [event], "before": None}
        assert accepted.headers.get("Idempotent-Replayed") == replayed
    under_way = await api.http.post(replay, json={"event": event})
    assert (under_way.status_code, under_way.json()["type"]) == (409, "/problems/job-state")
    await deliver(yard)
    assert [str(received.id) for received in receiver.received] == [event, event]


async def test_all_since_a_time_are_replayed(api: Api, yard: Yard, receiver: Receiver) -> None:
    endpoint = await register(api, receiver.url)
    events = await send(yard, endpoint, events=3)
    receiver.received.clear()
    since = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
    accepted = await api.http.post(f"{endpoint['href']}/replay", json={"since": since})
    assert sorted(accepted.json()["ids"]) == sorted(events)
    await deliver(yard)
    assert sorted(str(received.id) for received in receiver.received) == sorted(events)


@pytest.mark.parametrize(
    "body",
    [{}, {"event": NOBODY[-36:], "since": "2026-11-23T00:00:00Z"}, {"before": NOBODY[-36:]},
     {"since": "yesterday"}, {"event": "x"}],
)  # fmt: skip
async def test_a_replay_names_one_event_or_a_time(api: Api, body: dict[str, object]) -> None:
    href = (await register(api))["href"]
    refused = await api.http.post(f"{href}/replay", json=body)
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/validation")


async def test_an_event_it_never_had_is_not_replayed(api: Api, yard: Yard) -> None:
    one, other = await register(api), await register(api)
    (event,) = await send(yard, one)
    missing = await api.http.post(f"{other['href']}/replay", json={"event": event})
    assert missing.status_code == 404


async def test_a_deleted_endpoint_is_gone_and_what_waits_for_it_ends_at_once(
    api: Api, yard: Yard, receiver: Receiver
) -> None:
    endpoint = await register(api, receiver.url)
    receiver.reply = answer(503, **{"Retry-After": "3600"})
    (event,) = await send(yard, endpoint)
    assert (await api.http.delete(endpoint["href"])).status_code == 204
    assert (await api.http.delete(endpoint["href"])).status_code == 404
    await deliver(yard)
    job = (await api.http.get(f"/v1/jobs/{event}")).json()
    assert (job["state"], job["reason"]) == ("dead", "refused")
    assert len(receiver.received) == 1
