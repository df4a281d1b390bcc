"""Webhooks reach who listens, signed and under one id, and an endpoint's trouble stays its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from uuid import UUID

import pytest
from aiohttp import web
from pydantic import SecretStr
from standardwebhooks import WebhookVerificationError

from commerce.notifications import endpoints, health, postman
from commerce.notifications.postman import Letter, NotDelivered, Postman
from commerce.notifications.signing import WebhookSettings
from goodsyard import sweeper
from goodsyard.database import open_engine, session_factory
from goodsyard.execution import Executor
from goodsyard.flow import Flow
from goodsyard.interventions import Actor
from goodsyard.job import new_id
from goodsyard.jobs import read_job
from goodsyard.submit import Staged, stage
from tasks.contracts import SendWebhook
from tasks.replays import UnderWayError, UnknownEventError, replay_one, replay_since
from tasks.webhooks import Webhook
from tests.receivers import Endpoint, Receiver, answer, listen, register
from tests.saga import SECRET_KEY, Saga
from tests.yard import until

ROOT = Path(__file__).parents[2]
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with listen() as listening:
        yield listening


@pytest.fixture
async def endpoint(saga: Saga, receiver: Receiver) -> Endpoint:
    return await register(saga, receiver.url)


async def tell(endpoint: Endpoint, times: int = 1, event: str = "order.paid") -> list[UUID]:
    """Stage events for an endpoint."""
    staged = [
        Staged(
            endpoint.saga.tenant,
            SendWebhook(endpoint_id=endpoint.id, event=event, occurred_at=NOON, data={"n": n}),
        )
        for n in range(times)
    ]
    async with endpoint.saga.yard.sessions.begin() as tx:
        await stage(tx, staged)
    return [job.id for job in staged]


async def deliver(saga: Saga) -> None:
    await saga.deliver(SendWebhook.kind)


async def states(endpoint: Endpoint) -> Counter[str]:
    return Counter(state for _, _, state, _ in await endpoint.jobs())


async def error_of(endpoint: Endpoint) -> str:
    ((_, _, _, error),) = await endpoint.jobs()
    return error


async def test_a_webhook_verifies_by_the_standards_own_package(
    saga: Saga, endpoint: Endpoint, receiver: Receiver
) -> None:
    (job,) = await tell(endpoint)
    await deliver(saga)
    (received,) = receiver.received
    assert received.verify(endpoint.secret()) == {
        "type": "order.paid", "timestamp": "2026-11-23T12:00:00Z", "data": {"n": 0},
    }  # fmt: skip
    assert received.id == job
    assert received.headers["content-type"] == "application/json"
    assert await states(endpoint) == {"succeeded": 1}
    for wrong in (endpoint.secret(2), f"whsec_{'A' * 43}="):
        with pytest.raises(WebhookVerificationError):
            received.verify(wrong)


async def test_what_failed_is_sent_again_under_the_same_id_and_says_what_it_was_answered(
    saga: Saga, endpoint: Endpoint, receiver: Receiver
) -> None:
    (job,) = await tell(endpoint)
    secrets = "no\x00 room\nBearer abc.def whsec_AAAA 4242 4242 4242 4242 "
    receiver.reply = answer(500, secrets + "x" * 9_999)
    await deliver(saga)
    receiver.reply = answer(204)
    await saga.hurry()
    await deliver(saga)
    first, second = receiver.received
    assert first.id == second.id == job
    assert first.body == second.body
    (attempt,) = await saga.yard.attempts(job)
    assert attempt.error.startswith("HTTP 500: no room … … … xxx"), attempt.error
    assert len(attempt.error) < 220
    assert await states(endpoint) == {"succeeded": 1}


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
async def test_a_redirect_is_a_failure_and_never_followed(
    saga: Saga, endpoint: Endpoint, receiver: Receiver, status: int
) -> None:
    await tell(endpoint)
    receiver.reply = answer(status, Location=f"{receiver.url}elsewhere")
    await deliver(saga)
    assert len(receiver.received) == 1
    assert f"HTTP {status}: redirects are not followed" in await error_of(endpoint)
    assert await states(endpoint) == {"waiting": 1}


@pytest.mark.parametrize(
    ("status", "header", "wait"),
    [
        (429, "3600", 3_600),
        (503, "3600", 3_600),
        (503, "<in two hours>", 7_200),
        (429, "999999999999", 86_400),
        (429, "-5", 0),
        (429, "soon", 0),
        (500, "3600", 0),
    ],
)
async def test_retry_after_is_heeded_where_it_means_something(
    endpoint: Endpoint, receiver: Receiver, status: int, header: str, wait: float
) -> None:
    in_two_hours = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
    header = header.replace("<in two hours>", in_two_hours)
    await tell(endpoint)
    receiver.reply = answer(status, **{"Retry-After": header})
    await deliver(endpoint.saga)
    ((waits,),) = await endpoint.saga.yard.sql(
        "SELECT extract(epoch FROM run_at - now())::float8 FROM goodsyard.job"
    )
    # Less what this test takes; more by the first retry's own wait where nothing else is asked.
    assert wait - 60 <= waits <= max(wait, SendWebhook.policy.backoff.base)


async def test_gone_disables_the_endpoint_and_what_waits_for_it_ends_clearly(
    saga: Saga, endpoint: Endpoint, receiver: Receiver
) -> None:
    await tell(endpoint)
    receiver.reply = answer(503, **{"Retry-After": "3600"})
    await deliver(saga)  # one that waits for its next attempt, an hour ahead
    receiver.reply = answer(410)
    await tell(endpoint, 2)
    await deliver(saga)
    assert await endpoint.column("disabled_reason") == health.GONE
    await deliver(saga)
    assert await states(endpoint) == {"dead": 3}
    errors = sorted(error for _, _, _, error in await endpoint.jobs())
    assert errors[:2] == ["HTTP 410: the endpoint is disabled"] * 2
    assert "enable it, then replay" in errors[2]
    called = len(receiver.received)
    await saga.put_in_stock(CD=5)
    await saga.order()
    await saga.finish()
    assert len(receiver.received) == called  # nothing is kept for who wants nothing


async def test_what_is_on_its_way_to_a_deleted_endpoint_is_refused(
    saga: Saga, endpoint: Endpoint, receiver: Receiver
) -> None:
    await tell(endpoint)
    async with saga.yard.sessions.begin() as tx:
        assert not await endpoints.remove(tx, saga.tenant + 1, endpoint.id)
        assert await endpoints.remove(tx, saga.tenant, endpoint.id)
    await deliver(saga)
    assert receiver.received == []
    assert "was deleted" in await error_of(endpoint)


async def test_a_job_of_another_tenant_does_not_reach_the_endpoint(
    saga: Saga, endpoint: Endpoint, receiver: Receiver
) -> None:
    event = SendWebhook(endpoint_id=endpoint.id, event="order.paid", occurred_at=NOON, data={})
    async with saga.yard.sessions.begin() as tx:
        await stage(tx, [Staged(saga.tenant + 1, event)])
    await deliver(saga)
    assert receiver.received == []


async def test_while_a_secret_is_rotated_requests_are_signed_with_both(
    saga: Saga, endpoint: Endpoint, receiver: Receiver
) -> None:
    for overlap, generations in ((3_600, {1, 2}), (0, {3})):
        async with saga.yard.sessions.begin() as tx:
            assert await endpoints.rotate(tx, saga.tenant, endpoint.id, timedelta(seconds=overlap))
        await tell(endpoint)
        await deliver(saga)
        received = receiver.received[-1]
        assert len(received.headers["webhook-signature"].split()) == len(generations)
        for generation in range(1, 4):
            if generation in generations:
                received.verify(endpoint.secret(generation))
            else:
                with pytest.raises(WebhookVerificationError):
                    received.verify(endpoint.secret(generation))


async def test_an_answer_without_end_is_cut_and_a_slow_one_is_given_up(
    saga: Saga, endpoint: Endpoint, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = 0

    async def for_ever(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(status=500)
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65_536)
                sent += 65_536
        except ConnectionError:
            return response

    receiver.reply = for_ever
    await tell(endpoint)
    await deliver(saga)
    assert len(await error_of(endpoint)) < 220
    assert sent < 100_000_000

    monkeypatch.setattr(postman, "CALL_SECONDS", 0.2)
    slow = Postman(WebhookSettings(secret_key=SecretStr(SECRET_KEY), webhook_allow_private=True))
    receiver.reply = receiver.hang
    letter = Letter(endpoint.id, receiver.url, [1], new_id(), "{}")
    assert await slow.deliver(letter) == NotDelivered("no answer within 0.2 s")
    await slow.close()


async def test_an_endpoint_that_fails_is_spared_and_asked_by_one(
    saga: Saga, endpoint: Endpoint, receiver: Receiver
) -> None:
    receiver.reply = answer(500)
    await tell(endpoint, health.TRIP_AFTER)
    await deliver(saga)
    assert await endpoint.column("spared_until > now()")
    called = len(receiver.received)
    waiting = await tell(endpoint, 8)
    await deliver(saga)
    assert len(receiver.received) == called  # nobody was called,
    assert [await saga.yard.attempts(job) for job in waiting] == [[]] * 8  # at nobody's expense

    await saga.yard.sql("UPDATE commerce.webhook_endpoint SET spared_until = now()")
    await saga.hurry()
    await asyncio.gather(deliver(saga), deliver(saga))
    assert len(receiver.received) == called + 1  # whoever tries

    receiver.reply = answer(200)
    await saga.yard.sql("UPDATE commerce.webhook_endpoint SET spared_until = now()")
    await saga.hurry()
    await deliver(saga)
    assert await endpoint.column("spared_until") is None
    await saga.hurry()
    await deliver(saga)
    assert await states(endpoint) == {"succeeded": health.TRIP_AFTER + 8}


async def test_of_all_processes_one_may_try_an_endpoint_that_is_spared(
    saga: Saga, endpoint: Endpoint
) -> None:
    await saga.yard.sql("UPDATE commerce.webhook_endpoint SET spared_until = now()")
    key = (saga.tenant, endpoint.id)
    may = []
    async with saga.yard.sessions.begin() as one, saga.yard.sessions.begin() as other:
        for tx in (one, other):
            routes = await endpoints.find_routes(await tx.connection(), [key])
            may.append(routes[key].is_probe)
    async with saga.yard.sessions.begin() as late:
        routes = await endpoints.find_routes(await late.connection(), [key])
        may.append(routes[key].is_probe)
    assert may == [True, False, False]


async def test_an_endpoint_that_failed_for_days_is_disabled(
    saga: Saga, endpoint: Endpoint, receiver: Receiver
) -> None:
    receiver.reply = answer(500)
    await tell(endpoint)
    await deliver(saga)
    await saga.yard.sql(
        "UPDATE commerce.webhook_endpoint SET failing_since = now() - make_interval(days => 5)"
    )
    await saga.hurry()
    await deliver(saga)
    assert await endpoint.column("disabled_reason") == health.FAILING
    async with saga.yard.sessions.begin() as tx:
        assert await endpoints.enable(tx, saga.tenant, endpoint.id)
    assert await endpoint.column("failing_since") is None


async def test_an_endpoint_that_hangs_holds_up_no_other(
    saga: Saga, endpoint: Endpoint, receiver: Receiver
) -> None:
    async with listen() as healthy:
        other = await register(saga, healthy.url)
        receiver.reply = receiver.hang
        await tell(endpoint, 30)
        await saga.executor.run(SendWebhook.kind, await saga.yard.dispatch(SendWebhook.kind))
        for _ in range(3):  # though the first one's calls are out all the time
            await tell(other, 20)
            await saga.executor.run(SendWebhook.kind, await saga.yard.dispatch(SendWebhook.kind))

        async def all_there() -> bool:
            return await states(other) == {"succeeded": 60}

        await until(all_there, "the other endpoint's webhooks")
        assert len(receiver.received) <= 10  # the most of one endpoint
        receiver.hang_up.set()


async def test_a_worker_killed_between_send_and_settlement_sends_again_under_the_same_id(
    saga: Saga, endpoint: Endpoint, receiver: Receiver, database_url: str, redis_url: str
) -> None:
    (job,) = await tell(endpoint)
    ((_, fence),) = await saga.yard.dispatch(SendWebhook.kind)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.mortal", database_url, redis_url, SendWebhook.kind, str(job), str(fence)),
        cwd=ROOT,
        env=os.environ | {"GOODSYARD_FAILPOINT": "before_settle"},
    )
    assert await process.wait() == -signal.SIGKILL
    await saga.yard.sql("UPDATE goodsyard.job SET deadline = now()")
    async with saga.yard.sessions.begin() as tx:
        await sweeper.return_overdue(tx, [SendWebhook], {})
    await deliver(saga)
    assert [received.id for received in receiver.received] == [job, job]
    assert await states(endpoint) == {"succeeded": 1}


async def test_an_event_is_replayed_under_its_id_whatever_became_of_it(
    saga: Saga, endpoint: Endpoint, receiver: Receiver
) -> None:
    (delivered,) = await tell(endpoint)
    await deliver(saga)
    (dead,) = await tell(endpoint)
    await saga.yard.sql("UPDATE goodsyard.job SET attempts = max_attempts - 1")
    receiver.reply = answer(400)
    await deliver(saga)
    receiver.reply = answer(200)
    (waiting,) = await tell(endpoint)
    ann = Actor(saga.tenant, "ann")
    for event in (delivered, dead):
        async with saga.yard.sessions.begin() as tx:
            assert (await replay_one(tx, ann, endpoint.id, event)).ids == [event]
        async with saga.yard.sessions.begin() as tx:
            with pytest.raises(UnderWayError):
                await replay_one(tx, ann, endpoint.id, event)
    async with saga.yard.sessions.begin() as tx:
        with pytest.raises(UnderWayError):
            await replay_one(tx, ann, endpoint.id, waiting)
        for stranger in (Actor(saga.tenant + 1, "eve"), ann):
            with pytest.raises(UnknownEventError):
                await replay_one(tx, stranger, new_id() if stranger == ann else endpoint.id, dead)
    receiver.received.clear()
    await deliver(saga)
    assert Counter(r.id for r in receiver.received) == Counter([delivered, dead, waiting])
    for received in receiver.received:
        received.verify(endpoint.secret())


async def test_all_events_since_a_time_are_replayed_page_by_page(
    saga: Saga, endpoint: Endpoint, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.replays.MOST_AT_ONCE", 3)
    other = await register(saga, receiver.url)
    await tell(other, 2)
    events = await tell(endpoint, 7)
    await deliver(saga)
    receiver.received.clear()
    ann, before, pages = Actor(saga.tenant, "ann"), None, []
    while True:
        async with saga.yard.sessions.begin() as tx:
            since = datetime.now(UTC) - timedelta(minutes=5)
            page = await replay_since(tx, ann, endpoint.id, since, before)
        pages.append(len(page.ids))
        before = page.before
        if before is None:
            break
    assert pages == [3, 3, 1]
    async with saga.yard.sessions.begin() as tx:
        later = datetime.now(UTC) + timedelta(minutes=5)
        assert (await replay_since(tx, ann, endpoint.id, later)).ids == []
    await deliver(saga)
    assert sorted(received.id for received in receiver.received) == events


async def test_no_proxy_of_the_environment_is_used(
    saga: Saga, endpoint: Endpoint, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    await tell(endpoint)
    await deliver(saga)
    assert len(receiver.received) == 1


async def test_an_outage_of_postgres_costs_no_attempt(saga: Saga, endpoint: Endpoint) -> None:
    nowhere = "postgresql+psycopg://nobody@127.0.0.1:1/x"
    away = open_engine(nowhere, pool_size=1, application_name="tests")
    (job,) = await tell(endpoint)
    sender = Postman(WebhookSettings(secret_key=SecretStr(SECRET_KEY)))
    executor = Executor(
        Flow([SendWebhook], [Webhook(sender, session_factory(away))]),
        saga.yard.sessions, saga.yard.bell, saga.worker,
    )  # fmt: skip
    await executor.run(SendWebhook.kind, await saga.yard.dispatch(SendWebhook.kind))
    await executor.drain()
    assert await saga.yard.attempts(job) == []
    assert await states(endpoint) == {"waiting": 1}
    await sender.close()
    await away.dispose()


async def test_the_attempts_and_the_answer_are_in_the_job(
    saga: Saga, endpoint: Endpoint, receiver: Receiver
) -> None:
    (job,) = await tell(endpoint)
    receiver.reply = answer(202)
    await deliver(saga)
    async with saga.yard.sessions.begin() as tx:
        view = await read_job(tx, saga.tenant, job)
    assert view is not None
    assert view.result == {"status": 202}
