"""``notifications.webhook``: one event for one endpoint, at least once under one ``webhook-id``.

An endpoint that fails or hangs is its owner's trouble alone: of one endpoint only a few calls of a
process are out at a time, and after failures in a row it is spared, at no job's expense.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias
from uuid import UUID

import orjson
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from commerce.notifications import endpoints
from commerce.notifications.endpoints import EndpointKey, Route
from commerce.notifications.health import PROBE_SECONDS, Tally
from commerce.notifications.postman import (
    Delivered,
    Delivery,
    Gone,
    Letter,
    NotDelivered,
    Postman,
)
from goodsyard import recall
from goodsyard.database import Sessions, in_time
from goodsyard.job import Job
from goodsyard.outcomes import Done, Outcome, Refused, Retry, Snooze
from goodsyard.patience import is_outage
from goodsyard.turns import Turns
from tasks.contracts import SendWebhook

ABREAST = 10
"""Calls to one endpoint that one process may have out at a time."""

TURN_SECONDS = 3.0
"""How long a job waits for its turn among them; with the call itself under the engine's limit."""

STEP_BACK_SECONDS = 5.0
"""How long a job that got no turn, or that Postgres was away for, waits until it comes again."""


@dataclass(frozen=True, slots=True)
class NotCalled:
    """Nobody was called, and nobody is to blame: the job comes again, ``until`` then at least."""

    until: datetime


@dataclass(frozen=True, slots=True)
class NoEndpoint:
    """There is nobody to call any more; why, and what to do about it."""

    why: str


@dataclass(frozen=True, slots=True)
class Called:
    """An endpoint was called."""

    delivery: Delivery
    was_probe: bool


WebhookAnswer: TypeAlias = NotCalled | NoEndpoint | Called


class Webhook:
    """Delivers events."""

    contract = SendWebhook

    def __init__(self, postman: Postman, sessions: Sessions) -> None:
        """Deliver through ``postman`` to endpoints that are looked up in ``sessions``."""
        self._postman = postman
        self._routes = _Routes(sessions)
        self._turns = Turns()

    async def call(self, job: Job[SendWebhook]) -> WebhookAnswer:
        """Call the endpoint, unless it is gone, disabled or spared."""
        try:
            route = await self._routes.find((job.tenant, job.payload.endpoint_id))
        except DBAPIError as error:
            if is_outage(error):
                return NotCalled(_soon())
            raise
        if route is None:
            return NoEndpoint(f"webhook endpoint {job.payload.endpoint_id} was deleted")
        if route.disabled_at is not None:
            return NoEndpoint(
                f"the endpoint was disabled at {route.disabled_at:%Y-%m-%d %H:%M} UTC, since "
                f"{route.disabled_reason}: enable it, then replay what it missed"
            )
        if route.spared_until is not None and not route.is_probe:
            return NotCalled(_after_the_probe(route.spared_until))
        return await self._call(job, route)

    async def _call(self, job: Job[SendWebhook], route: Route) -> WebhookAnswer:
        async with self._turns.take(str(route.id), ABREAST, TURN_SECONDS) as is_ours:
            if not is_ours:
                return NotCalled(_soon())
            letter = Letter(
                route.id,
                route.url,
                route.generations,
                job.payload.message_id or job.id,
                body_of(job.payload),
            )
            return Called(await self._postman.deliver(letter), route.is_probe)

    async def settle(
        self, tx: AsyncSession, answered: Sequence[tuple[Job[SendWebhook], WebhookAnswer]]
    ) -> Sequence[Outcome]:
        """Write down how endpoints answered; what waits for one that is disabled ends at once."""
        tallies = _tallies(answered)
        if tallies:
            disabled = await endpoints.record(tx, tallies)
            if disabled:
                await recall.hurry(tx, disabled, SendWebhook.kind)
        return [_outcome(answer) for _, answer in answered]


def body_of(webhook: SendWebhook) -> str:
    """Return the body as it is sent: the same bytes at each attempt."""
    event = {"type": webhook.event, "timestamp": webhook.occurred_at, "data": webhook.data}
    return orjson.dumps(event, option=orjson.OPT_UTC_Z).decode()


class _Routes:
    """Looks endpoints up: one statement for all that are asked for at the same moment."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._asked: dict[EndpointKey, list[asyncio.Future[Route | None]]] = defaultdict(list)
        self._looking: set[asyncio.Task[None]] = set()

    async def find(self, key: EndpointKey) -> Route | None:
        """Return how an endpoint is reached, or ``None`` if there is none.

        Raises:
            sqlalchemy.exc.DBAPIError: Postgres is away or unwilling.
        """
        answer: asyncio.Future[Route | None] = asyncio.get_running_loop().create_future()
        if not self._asked:
            looking = asyncio.create_task(self._look())
            self._looking.add(looking)
            looking.add_done_callback(self._looking.discard)
        self._asked[key].append(answer)
        return await answer

    async def _look(self) -> None:
        # This task's turn comes once all of a chunk's calls have asked.
        asked, self._asked = self._asked, defaultdict(list)
        try:
            async with in_time(), self._sessions.committing() as connection:
                routes = await endpoints.find_routes(connection, asked)
        except Exception as error:  # noqa: BLE001 - it is raised by each of those who asked
            for answers in asked.values():
                _give(answers, error)
            return
        for key, answers in asked.items():
            _give(answers, routes.get(key))


def _give(
    answers: Sequence[asyncio.Future[Route | None]], answer: Route | Exception | None
) -> None:
    for future in answers:
        if future.done():
            continue  # its call was cancelled
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
            # One may try an endpoint that is spared, not all who asked at the same moment.
            answer = answer and answer._replace(is_probe=False)


def _soon() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=random.uniform(1, STEP_BACK_SECONDS))  # noqa: S311 - jitter, no secret


def _after_the_probe(spared_until: datetime) -> datetime:
    """Return when a job comes again whose endpoint is spared: not all of them at the same moment.

    Whose pause has just ended waits for what the one that tries finds out.
    """
    now = datetime.now(UTC)
    end = max(spared_until, now + timedelta(seconds=1))
    wait = max((end - now).total_seconds(), PROBE_SECONDS / 2)
    return end + timedelta(seconds=random.uniform(0, wait))  # noqa: S311 - jitter, no secret


def _tallies(
    answered: Sequence[tuple[Job[SendWebhook], WebhookAnswer]],
) -> dict[UUID, Tally]:
    tallies: dict[UUID, Tally] = {}
    for job, answer in answered:
        if isinstance(answer, Called):
            before = tallies.get(job.payload.endpoint_id, Tally())
            tallies[job.payload.endpoint_id] = Tally(
                before.delivered + isinstance(answer.delivery, Delivered),
                before.failed + isinstance(answer.delivery, NotDelivered),
                before.gone or isinstance(answer.delivery, Gone),
                before.probed or answer.was_probe,
            )
    return tallies


def _outcome(answer: WebhookAnswer) -> Outcome:
    match answer:
        case NotCalled(until):
            return Snooze(until)
        case NoEndpoint(why):
            return Refused(why)
        case Called():
            return _outcome_of_call(answer.delivery)


def _outcome_of_call(delivery: Delivery) -> Outcome:
    match delivery:
        case Delivered(status):
            return Done({"status": status})
        case Gone(error):
            return Refused(f"{error}: the endpoint is disabled")
        case NotDelivered(error, after):
            return Retry(error, after)
