"""One event loop a worker process, in a thread of its own, opened after the fork, closed in order.

Celery's task is a thin shell: it hands its chunk to the loop and waits. Engine, Redis, gateway and
mail connections belong to the loop, so nothing that was opened before a fork is ever shared. The
heartbeat has a second thread: a busy loop must not look dead, a stopped process must.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import uuid4

import structlog
import uvloop
from sqlalchemy.exc import SQLAlchemyError

from commerce.notifications.channels import Channels, ChannelSettings
from commerce.notifications.mailer import Mailer, MailSettings
from commerce.notifications.postman import Postman
from commerce.notifications.signing import WebhookSettings
from commerce.payments.gateway import Gateway, GatewaySettings
from goodsyard import doorbell, dropped, garbage, heartbeat
from goodsyard.claims import Delivery
from goodsyard.database import Sessions, open_engine, session_factory
from goodsyard.dropped import Reason
from goodsyard.execution import Executor
from goodsyard.flow import FlowError
from goodsyard.heartbeat import BEAT_SECONDS, Worker
from goodsyard.settings import EngineSettings, load
from tasks.flow import build_flow
from tasks.webhooks import Webhook
from workers import tally

T = TypeVar("T")
_log = structlog.get_logger(__name__)


REGISTRATION_SECONDS = 20.0
"""How long a first chunk waits for the first heartbeat; under the hard time limit."""


class NotRegisteredError(Exception):
    """The process couldn't say that it lives, so it must not claim anything."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """All that a process needs to start its loop, put together before the fork."""

    settings: EngineSettings
    gateway: GatewaySettings
    mail: MailSettings
    webhooks: WebhookSettings
    channels: Channels
    node: str
    queues: Sequence[str]


class _Process:
    """The loop and the heartbeat of one worker process."""

    def __init__(self, plan: _Plan) -> None:
        self._plan = plan
        self._worker = Worker(uuid4(), plan.node, plan.queues)
        self._loop = uvloop.new_event_loop()
        self._registered = threading.Event()
        self._ended = threading.Event()
        self._dropped: Counter[Reason] = Counter()
        chunks = threading.Thread(target=self._loop.run_forever, name="chunks", daemon=True)
        chunks.start()
        self._executor = self._on_loop(self._open())
        beats = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)
        beats.start()
        self._threads = [chunks, beats]

    def run(self, kind: str, deliveries: Sequence[Delivery]) -> None:
        # A claim by a process that nobody knows would be taken for a dead one's, and taken away.
        if not self._registered.wait(REGISTRATION_SECONDS):
            message = "Postgres didn't answer in time to register this worker: its jobs come back"
            raise NotRegisteredError(message)
        self._on_loop(self._executor.run(kind, deliveries))

    def close(self) -> None:
        self._on_loop(self._shut())
        self._ended.set()
        self._loop.call_soon_threadsafe(self._loop.stop)
        for thread in self._threads:
            thread.join(timeout=5)

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _open(self) -> Executor:
        settings = self._plan.settings
        self._gateway, self._mailer = Gateway(self._plan.gateway), Mailer(self._plan.mail)
        self._postman = Postman(self._plan.webhooks)
        self._engine = open_engine(
            str(settings.database_url),
            pool_size=4,
            application_name="goodsyard worker",
            keep_plans=True,
        )
        sessions = session_factory(self._engine)
        self._redis = doorbell.connect(str(settings.redis_url))
        self._doorbell = doorbell.Doorbell(self._redis)
        return Executor(
            build_flow(
                self._gateway,
                self._mailer,
                Webhook(self._postman, sessions),
                self._plan.channels,
            ),
            sessions,
            self._doorbell,
            self._worker.id,
        )

    async def _shut(self) -> None:
        await self._executor.drain()
        await self._doorbell.close()
        await self._redis.aclose()
        await self._gateway.close()
        await self._mailer.close()
        await self._postman.close()
        await self._engine.dispose()

    def _keep_beating(self) -> None:
        try:
            asyncio.run(self._beat())
        except Exception:  # noqa: BLE001 - whatever ended it
            # Whoever is not known to live must not go on claiming. A new process takes its place.
            _log.critical("heartbeat.ended", exc_info=True)
            os._exit(os.EX_SOFTWARE)

    async def _beat(self) -> None:
        engine = open_engine(
            str(self._plan.settings.database_url),
            pool_size=1,
            application_name="goodsyard heartbeat",
        )
        sessions = session_factory(engine)
        try:
            while not self._ended.is_set():
                try:
                    async with sessions.begin() as tx:
                        await heartbeat.beat(tx, self._worker)
                    self._registered.set()
                except (SQLAlchemyError, OSError) as error:
                    _log.warning("heartbeat.missed", error=str(error))
                await self._count_dropped(sessions)
                await asyncio.to_thread(self._ended.wait, BEAT_SECONDS)
            await self._count_dropped(sessions)
            with suppress(SQLAlchemyError, OSError):
                async with sessions.begin() as tx:
                    await heartbeat.leave(tx, self._worker.id)
        finally:
            await engine.dispose()

    async def _count_dropped(self, sessions: Sessions) -> None:
        """Write down what was dropped since the last time; what can't be now is kept for later."""
        self._dropped += tally.take()
        self._dropped[Reason.STALE] += self._executor.take_stale()
        with suppress(SQLAlchemyError, OSError):
            if self._dropped.total():
                async with sessions.begin() as tx:
                    await dropped.add(tx, self._dropped)
                self._dropped.clear()


_plan: _Plan | None = None
_process: _Process | None = None


def prepare(node: str, queues: Sequence[str]) -> None:
    """Read the settings and check the flow in the parent, before any process is forked.

    Exits with a message that names the setting, or the kind of job without a handler.
    """
    global _plan  # noqa: PLW0603 - Celery's hooks are functions: the process is what they share
    plan = _Plan(
        load(EngineSettings),
        load(GatewaySettings),
        load(MailSettings),
        load(WebhookSettings),
        Channels(load(ChannelSettings)),
        node,
        queues,
    )
    # Nothing here connects; each process opens its own after the fork.
    engine = open_engine(str(plan.settings.database_url), pool_size=1, application_name="goodsyard")
    webhook = Webhook(Postman(plan.webhooks), session_factory(engine))
    try:
        build_flow(Gateway(plan.gateway), Mailer(plan.mail), webhook, plan.channels)
    except FlowError as error:
        # Celery logs what a hook raises and goes on, unless it is an exit.
        sys.exit(f"the flow is not complete: {error}")
    _plan = plan
    garbage.look_seldom()


def start() -> None:
    """Open the loop of this process; it connects at its first use.

    Raises:
        RuntimeError: ``prepare`` has not run.
    """
    global _process  # noqa: PLW0603 - as above
    if _plan is None:
        message = "a worker process starts only after its parent has prepared"
        raise RuntimeError(message)
    _process = _Process(_plan)


def run(kind: str, deliveries: Sequence[Delivery]) -> None:
    """Run a chunk on this process's loop and wait for its end."""
    if _process is None:
        start()  # the solo and threads pools fork nothing, so nobody has started it
    assert _process is not None  # noqa: S101 - for the type checker: start has set it
    try:
        _process.run(kind, deliveries)
    except MemoryError:
        # Celery 5.7 passes this one error on to the worker's parent process, which ends of it with
        # all its children. Only this one is out of memory: it ends, and a new one takes its place.
        os._exit(os.EX_OSERR)


def stop() -> None:
    """Close what this process opened."""
    global _process  # noqa: PLW0603 - as above
    if _process is not None:
        _process.close()
        _process = None
