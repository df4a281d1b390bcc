"""What every request may use, opened once a process and closed in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Annotated

import redis.asyncio
from fastapi import Depends, Request

from commerce.accounts.passwords import Passwords
from commerce.accounts.profiles import Profiles
from commerce.accounts.tokens import Tokens
from commerce.notifications.channels import Channels
from commerce.notifications.signing import WebhookSettings
from commerce.orders.top_customers import TopCustomers
from commerce.payments.events import EventSettings
from goodsyard import doorbell
from goodsyard.breaker import Breaker
from goodsyard.cache import CacheService
from goodsyard.database import Sessions, open_engine, session_factory
from goodsyard.doorbell import Doorbell
from goodsyard.express import Express
from goodsyard.progress import ProgressReader
from goodsyard.results import Results
from producers.authentication import KeyRing
from producers.intake import Intake
from producers.metrics import Metrics
from producers.rate_limit import Rate, RateLimit
from producers.settings import ApiSettings, Group
from producers.submission import Submission
from producers.waiting import News

POOL_SIZE = 10
"""Connections a process has: more transactions at once than that make two cores no faster."""

ACCEPTING = 4
"""Connections besides, for statements that accept a job each and are planned once."""


@dataclass(frozen=True, slots=True)
class Services:
    """What every request may use."""

    sessions: Sessions
    accepting: Sessions
    redis: redis.asyncio.Redis
    doorbell: Doorbell
    lane: Express
    submission: Submission
    intake: Intake
    news: News
    results: Results
    progress: ProgressReader
    cache: CacheService
    profiles: Profiles
    top_customers: TopCustomers
    passwords: Passwords
    keys: KeyRing
    tokens: Tokens
    rates: Mapping[tuple[str, Group], RateLimit]
    failures_rate: RateLimit
    sign_in_rate: RateLimit
    webhooks: WebhookSettings
    events: EventSettings
    metrics: Metrics
    channels: Channels


@asynccontextmanager
async def open_services(settings: ApiSettings) -> AsyncIterator[Services]:
    """Open everything; none of it needs Postgres or Redis to be there yet."""
    engine = open_engine(
        str(settings.database_url), pool_size=POOL_SIZE, application_name="goodsyard-api"
    )
    accepting = open_engine(
        str(settings.database_url),
        pool_size=ACCEPTING,
        application_name="goodsyard-api accepting",
        keep_plans=True,
    )
    client, queues = doorbell.connect(str(settings.redis_url)), doorbell.connect(settings.broker)
    sessions, bell = session_factory(engine), Doorbell(client)
    submission = Submission(sessions, bell)
    tokens = Tokens(settings.secret_key)
    limits, results, caching = Breaker("rate limit"), Breaker("results"), Breaker("cache")
    progress = Breaker("progress")
    cache = CacheService(client, caching)
    services = Services(
        sessions=sessions,
        accepting=session_factory(accepting),
        redis=client,
        doorbell=bell,
        lane=Express(sessions, queues),
        submission=submission,
        intake=Intake(submission),
        news=News(client, sessions),
        results=Results(sessions, client, results),
        progress=ProgressReader(client, progress),
        cache=cache,
        profiles=Profiles(sessions, cache),
        top_customers=TopCustomers(sessions, cache),
        passwords=Passwords(),
        keys=KeyRing(sessions, tokens),
        tokens=tokens,
        rates={
            (plan, group): RateLimit(client, f"{plan}:{group}", rate, limits)
            for (plan, group), rate in settings.rates.items()
        },
        webhooks=settings,
        events=settings,
        failures_rate=RateLimit(client, "failures", Rate.parse(settings.api_failures_rate), limits),
        sign_in_rate=RateLimit(client, "sign-in", Rate.parse(settings.api_sign_in_rate), limits),
        metrics=Metrics([limits, results, caching, progress]),
        channels=Channels(settings),
    )
    listening = asyncio.gather(services.news.run(), services.lane.run())
    try:
        yield services
    finally:
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening
        await services.intake.close()
        await services.lane.close()
        await services.doorbell.close()
        await client.aclose()
        await queues.aclose()
        await accepting.dispose()
        await engine.dispose()


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Use = Annotated[Services, Depends(_services)]
"""A parameter of calls: what they work with."""
