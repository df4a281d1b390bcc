"""Notifications over HTTP: told at once what is wrong, carried out once, and nowhere unasked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from aiohttp import web
from pydantic import ValidationError
from sqlalchemy import text

from commerce.notifications import endpoints
from commerce.notifications.channels import Channels, ChannelSettings
from commerce.notifications.models import WebhookEndpoint
from goodsyard.jobs import JobView
from producers.settings import ApiSettings
from tasks.contracts import SendChat, SendEmail, SendWebhook
from tasks.notifications import Chat
from tests.integration.conftest import Api
from tests.saga import Sandbox, open_saga
from tests.yard import Yard, connect

# Apprise 2.2 loads it on Pythons that still have it.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

_keys = (f"notification-{number}" for number in count(1))
RECEIPT = {"order_id": "0192", "total": 1_234, "currency": "EUR"}
MAIL = {"channel": "email", "to": "ann@example.com", "template": "receipt", "data": RECEIPT}
WORDS = {"subject": "Shelf 7", "body": "is empty"}


@dataclass
class Service:
    """Somebody's service for messages, on the loop that must not be held up meanwhile."""

    port: int = 0
    status: int = 200
    heard: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # Any: JSON

    async def hear(self, request: web.Request) -> web.Response:
        self.heard.append((request.path, await request.json()))
        return web.Response(status=self.status)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service, app = Service(), web.Application()
    app.router.add_post("/{rest:.*}", service.hear)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    service.port = runner.addresses[0][1]
    yield service
    await runner.cleanup()


@pytest.fixture
def channels(service: Service) -> ChannelSettings:
    url = f"json://user:SECRET@127.0.0.1:{service.port}"
    addresses = {"shop/alerts": f"{url}/alerts", "shop/sms": f"{url}/sms/{{to}}", "b/c": url}
    return ChannelSettings.model_validate({"notification_channels": json.dumps(addresses)})


@pytest.fixture
def api_settings(api_settings: ApiSettings, channels: ChannelSettings) -> ApiSettings:
    """The API's, with channels."""
    return api_settings.model_copy(update={"notification_channels": channels.notification_channels})


@pytest.fixture
async def yard(api: Api, redis_url: str) -> AsyncIterator[Yard]:
    """The engine on the API's own database."""
    async with connect(api.sessions, redis_url) as connected:
        yield connected


async def notify(api: Api, body: object, *, key: str | None = None) -> httpx.Response:
    return await api.http.post(
        "/v1/notifications", json=body, headers={"Idempotency-Key": key or next(_keys)}
    )


async def accepted(api: Api, body: object) -> UUID:
    answer = await notify(api, body)
    assert answer.status_code == 202, answer.text
    job = answer.json()["job"]
    assert answer.headers["Location"] == job["href"] == f"/v1/jobs/{job['id']}"
    assert job["state"] == "waiting"
    return UUID(job["id"])


async def chatted(yard: Yard, channels: ChannelSettings, job: UUID) -> JobView:
    """Let the texts that are due go out; return what became of a job."""
    deliveries = await yard.dispatch(SendChat.kind)
    await yard.run(Chat(Channels(channels)), deliveries)
    ((tenant,),) = await yard.sql("SELECT id FROM commerce.tenant WHERE name = 'shop'")
    assert tenant == 1, "the yard's own"
    return await yard.job(job)


async def test_a_mail_is_accepted_and_arrives_once_under_the_id_of_its_job(
    api: Api, yard: Yard, sandbox: Sandbox
) -> None:
    async with open_saga(yard, sandbox) as saga:
        jobs = [
            await accepted(api, MAIL | {"to": saga.email}),
            await accepted(api, {"channel": "email", "to": saga.email, **WORDS}),
        ]
        await saga.deliver(SendEmail.kind)
        mails = await saga.mails()
    assert {(mail["message_id"], mail["subject"]) for mail in mails} == {
        (f"<{jobs[0]}@example.com>", "Your receipt"),
        (f"<{jobs[1]}@example.com>", "Shelf 7"),
    }
    assert len(mails) == 2


async def test_a_notification_that_is_sent_twice_is_one(api: Api, yard: Yard) -> None:
    first, again = [await notify(api, MAIL, key="the same") for _ in range(2)]
    assert first.status_code == again.status_code == 202
    assert first.json() == again.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    other = await notify(api, MAIL | {"to": "eve@example.com"}, key="the same")
    assert (other.status_code, other.json()["type"]) == (422, "/problems/idempotency-key-reused")
    bare = await api.http.post("/v1/notifications", json=MAIL)
    assert (bare.status_code, bare.json()["type"]) == (400, "/problems/idempotency-key-required")
    assert len(await yard.sql("SELECT FROM goodsyard.job")) == 1


async def test_what_is_wrong_is_told_at_once_and_where(api: Api, yard: Yard) -> None:
    words = {"channel": "email", "to": "ann@example.com", **WORDS}
    for body, pointer in (
        (MAIL | {"to": "ann"}, "#/to"),
        (MAIL | {"to": None}, "#/to"),
        (MAIL | {"to": "ann@example.com\r\nBcc: eve@example.com"}, "#/to"),
        (MAIL | {"to": "zoë@example.com"}, "#/to"),
        (MAIL | {"to": f"{'a' * 250}@example.com"}, "#/to"),
        (MAIL | {"template": "../messages"}, "#/template"),
        (MAIL | {"data": {"order_id": "0192"}}, "#/data"),
        (MAIL | {"data": RECEIPT | {"total": "much"}}, "#/data"),
        (MAIL | WORDS, "#"),
        (MAIL | {"template": None}, "#"),
        (words | {"body": None}, "#"),
        (words | {"data": {"a": 1}}, "#"),
        (words | {"subject": "one\nBcc: eve@example.com"}, "#/subject"),
        (words | {"body": "bell\a"}, "#/body"),
        (words | {"channel": "b/c"}, "#/channel"),
        (words | {"channel": "c"}, "#/channel"),
        (words | {"channel": "slack://a/b/c"}, "#/channel"),
        (words | {"channel": "alerts"}, "#/to"),
        (words | {"channel": "sms", "to": None}, "#/to"),
        (words | {"channel": "sms", "to": "a/../b"}, "#/to"),
        (words | {"channel": "sms", "to": "1,2"}, "#/to"),
        (words | {"attachment": "/etc/passwd"}, "#/attachment"),
    ):
        answer = await notify(api, body)
        assert answer.status_code == 422, (body, answer.text)
        assert answer.json()["errors"][0]["pointer"] == pointer, (body, answer.text)
        assert "SECRET" not in answer.text
    assert await yard.sql("SELECT FROM goodsyard.job") == []


async def test_a_domain_in_any_script_is_an_address(api: Api) -> None:
    await accepted(api, MAIL | {"to": "ann@bücher.example"})


async def test_a_text_goes_to_the_channel_that_was_named(
    api: Api, yard: Yard, channels: ChannelSettings, service: Service
) -> None:
    to_all = await accepted(api, {"channel": "alerts", **WORDS})
    assert (await chatted(yard, channels, to_all)).state == "succeeded"
    to_one = await accepted(
        api, {"channel": "sms", "to": "+4915112345678", "template": "receipt", "data": RECEIPT}
    )
    assert (await chatted(yard, channels, to_one)).state == "succeeded"
    (path, first), (other_path, second) = service.heard
    assert (path, first["title"], first["message"]) == ("/alerts", "Shelf 7", "is empty")
    assert other_path.rstrip("/") == "/sms/+4915112345678"
    assert "12.34 EUR" in second["message"]


async def test_a_text_that_may_have_arrived_is_never_sent_again(
    api: Api, yard: Yard, channels: ChannelSettings, service: Service
) -> None:
    service.status = 500
    job = await accepted(api, {"channel": "alerts", **WORDS})
    ended = await chatted(yard, channels, job)
    assert (ended.state, ended.reason) == ("dead", "uncertain")
    assert ended.error is not None
    assert "SECRET" not in ended.error
    assert len(service.heard) == 1


async def endpoint(api: Api, **fields: object) -> WebhookEndpoint:
    """Have an endpoint registered."""
    async with api.sessions.begin() as tx:
        tenant = (
            await tx.scalars(text("SELECT id FROM commerce.tenant WHERE name = 'shop'"))
        ).one()
        made = WebhookEndpoint(
            tenant=tenant, url="https://shop.example.com/Hooks", events=["job.dead"]
        )
        await endpoints.register(tx, made)
        for name, value in fields.items():
            setattr(made, name, value)
    return made


@pytest.mark.parametrize("called", ["by its id", "by its URL", "by its URL, otherwise written"])
async def test_a_webhook_goes_to_an_endpoint_that_is_registered(
    api: Api, yard: Yard, called: str
) -> None:
    registered = await endpoint(api)
    to = {
        "by its id": str(registered.id),
        "by its URL": registered.url,
        "by its URL, otherwise written": "HTTPS://Shop.Example.COM/Hooks",
    }[called]
    job = await accepted(api, {"channel": "webhook", "to": to, **WORDS})
    ((kind, subject, payload),) = await yard.sql(
        "SELECT kind, subject, payload FROM goodsyard.job WHERE id = :id", id=job
    )
    assert (kind, subject) == (SendWebhook.kind, registered.id)
    webhook = SendWebhook.model_validate(payload)
    assert webhook.event == "notification"
    assert (webhook.data["subject"], webhook.data["body"]) == ("Shelf 7", "is empty")


async def test_a_webhook_goes_nowhere_else(api: Api, yard: Yard) -> None:
    registered = await endpoint(api)
    theirs = await api.caller("admin", tenant="elsewhere")
    for headers, to in (
        ({}, None),
        ({}, "http://169.254.169.254/latest/meta-data"),
        ({}, "https://eve.example.com/Hooks"),
        ({}, "https://shop.example.com/hooks"),
        ({}, str(uuid4())),
        (theirs, str(registered.id)),
        (theirs, registered.url),
    ):
        answer = await api.http.post(
            "/v1/notifications",
            json={"channel": "webhook", "to": to, **WORDS},
            headers={**headers, "Idempotency-Key": next(_keys)},
        )
        assert answer.status_code == 422, to
        assert answer.json()["errors"][0]["pointer"] == "#/to"
    assert await yard.sql("SELECT FROM goodsyard.job") == []


async def test_a_webhook_to_an_endpoint_that_is_disabled_is_told_so(api: Api) -> None:
    gone = await endpoint(api, disabled_at=datetime.now(UTC), disabled_reason="gone")
    answer = await notify(api, {"channel": "webhook", "to": gone.url, **WORDS})
    assert answer.status_code == 422
    assert "disabled (gone)" in answer.json()["errors"][0]["detail"]


async def test_a_text_for_a_channel_that_is_gone_is_refused_and_goes_nowhere(
    api: Api, yard: Yard, service: Service
) -> None:
    job = await accepted(api, {"channel": "alerts", **WORDS})
    ended = await chatted(yard, ChannelSettings(notification_channels={}), job)
    assert (ended.state, ended.reason, service.heard) == ("dead", "refused", [])


async def test_a_tenant_knows_its_own_channels_only(api: Api) -> None:
    theirs = await api.caller("admin", tenant="elsewhere")
    answer = await api.http.post(
        "/v1/notifications",
        json={"channel": "alerts", **WORDS},
        headers={**theirs, "Idempotency-Key": "theirs"},
    )
    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {"pointer": "#/channel", "detail": "There is no such channel; there are email, webhook"}
    ]


async def test_only_who_may_notify_does(api: Api) -> None:
    headers = await api.caller("orders:write", "jobs:submit:*")
    headers |= {"Idempotency-Key": "hopeful"}
    answer = await api.http.post("/v1/notifications", json=MAIL, headers=headers)
    assert (answer.status_code, answer.json()["scope"]) == (403, "notifications:write")
    chat = {"kind": SendChat.kind, "payload": {}}
    around = await api.http.post("/v1/jobs", json=chat, headers=headers)
    assert around.status_code == 404, "it is no public kind"


@pytest.mark.parametrize(
    ("addresses", "why"),
    [
        ("{", "not JSON"),
        ('{"alerts": "json://127.0.0.1"}', "TENANT/NAME"),
        ('{"shop/email": "json://127.0.0.1"}', "TENANT/NAME"),
        ('{"shop/Alerts": "json://127.0.0.1"}', "TENANT/NAME"),
        ('{"shop/alerts": "nope://SECRET"}', "none that Apprise knows"),
        ('{"shop/alerts": "slack://SECRET"}', "none that Apprise knows"),
        ('{"shop/alerts": "json://{to}/SECRET"}', "in its host"),
        ('{"shop/alerts": "json://user:{to}@127.0.0.1/SECRET"}', "in its host"),
        ('{"shop/alerts": "{to}://SECRET"}', "in its host"),
        ('{"shop/alerts": 1}', "string"),
    ],
)
def test_channels_that_cannot_be_used_are_told_at_the_start_without_their_secrets(
    addresses: str, why: str
) -> None:
    with pytest.raises(ValidationError) as error:
        ChannelSettings.model_validate({"notification_channels": addresses})
    (problem,) = error.value.errors()
    assert why in problem["msg"]
    assert "SECRET" not in problem["msg"]


def test_channels_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    address = '{"shop/alerts": "json://127.0.0.1"}'
    monkeypatch.setenv("GOODSYARD_NOTIFICATION_CHANNELS", address)
    assert Channels(ChannelSettings()).of("shop") == ["alerts"]
    monkeypatch.setenv("GOODSYARD_NOTIFICATION_CHANNELS", "{")
    with pytest.raises(ValidationError, match="not JSON"):
        ChannelSettings()
