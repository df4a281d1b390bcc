"""Once a second: brings lost jobs back, tells the relay how things stand, and tidies up at times.

Apart from the relay's rounds, so that a slow sweep delays no dispatch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import uuid4

import redis.asyncio
import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard import dispatch, heartbeat, limits, maintenance, shared_runs, sweeper
from goodsyard.contracts import Contract
from goodsyard.database import Sessions
from goodsyard.deaths import OnDeath, unmourned
from goodsyard.doorbell import Doorbell
from goodsyard.job import JobState
from goodsyard.schedules import Schedule, Timetable, forget_ticks
from goodsyard.sweeper import SILENT_SECONDS, Returned
from workers import broker

SWEEP_SECONDS = 1.0
EPOCH_SECONDS = 0.2
"""How often Redis is asked whether it still remembers us: a flush is made good within a second."""
CLAIM_SECONDS = 2.0
"""How long a worker may take from a message to its claim: who has just taken one has a job in hand
that is neither in the queue nor claimed, and in an overloaded system is overdue as well."""
TIDY_SECONDS = 3_600.0
CHORE_SECONDS = 10.0
"""How often the flow is asked what it would have done from time to time."""

Chore = Callable[[AsyncSession], Awaitable[Iterable[str]]]
"""Stages what is due to be done in the flow by now, and returns the kinds of which it did."""

_NOW = text("SELECT statement_timestamp()")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Situation:
    """What decides whether a due job may be dispatched, a second old at the most.

    Args:
        workers: live worker processes a queue.
        limited: kinds that a limit holds back.
        paused: queues on hold.
    """

    workers: Mapping[str, int]
    limited: AbstractSet[str]
    paused: AbstractSet[str]


class Informed(Protocol):
    """Whoever wants to know how things stand."""

    situation: Situation | None

    def wake(self, kinds: Iterable[str]) -> None:
        """Hear that jobs of ``kinds`` may be due."""
        ...


class Sweep:
    """Sweeps, round after round."""

    def __init__(  # noqa: PLR0913 - it looks after all of them
        self,
        sessions: Sessions,
        client: redis.asyncio.Redis,
        bell: Doorbell,
        kinds: Iterable[type[Contract]],
        informed: Informed,
        *,
        chores: Sequence[Chore] = (),
        schedules: Sequence[Schedule] = (),
        on_death: OnDeath = unmourned,
    ) -> None:
        """Sweep jobs of ``kinds``, see to ``chores`` and ``schedules``; ``client`` is the broker's.

        Raises:
            ValueError: two schedules have the same name.
        """
        self._sessions = sessions
        self._redis = client
        self._bell = bell
        self._contracts = list(kinds)
        self._informed = informed
        self._chores = chores
        self._timetable = Timetable(schedules)
        self._on_death = on_death
        self._chores_done = float("-inf")
        self._tidied = float("-inf")
        self._heads: deque[tuple[float, Mapping[str, float]]] = deque()
        # While Postgres was away nobody could claim or beat: what looks overdue right afterwards
        # is given the time in which a live worker would answer.
        self._trusted_from = 0.0

    async def run(self, stopping: asyncio.Event) -> None:
        """Sweep until ``stopping``; an outage of Postgres or Redis is waited out."""
        async with self._sessions.begin() as tx:
            await limits.declare(tx, self._contracts)
        loop = asyncio.get_running_loop()
        swept = float("-inf")
        self._trusted_from = loop.time() + SILENT_SECONDS
        while not stopping.is_set():
            try:
                await self.restore_epoch()
                if loop.time() - swept >= SWEEP_SECONDS:
                    swept = loop.time()
                    await self.run_once()
            except (SQLAlchemyError, redis.RedisError, OSError) as error:
                _log.warning("sweep.away", error=f"{type(error).__name__}: {error}")
                self._trusted_from = loop.time() + SILENT_SECONDS
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), EPOCH_SECONDS)

    async def run_once(self) -> None:
        """Look around, bring back what nobody answers for; at times do chores and tidy up."""
        live, at = await self._look_around()
        now = asyncio.get_running_loop().time()
        await self._look_at_queues(live, now)
        if now >= self._trusted_from:
            await self._return_overdue(live)
        self._informed.wake(await self._timetable.carry_out(self._sessions, at))
        if now - self._chores_done >= CHORE_SECONDS:
            self._chores_done = now
            await self._see_to_chores()
        if now - self._tidied >= TIDY_SECONDS:
            self._tidied = now
            await self._tidy()

    async def restore_epoch(self) -> None:
        """After Redis lost its queues, return all that was dispatched; only then is it trusted.

        Dies it on the way, the next one starts over: nothing is counted, nothing done twice.
        """
        if (await broker.look(self._redis, ())).remembers:
            return
        returned = 0
        while True:
            async with self._sessions.begin() as tx:
                batch = await sweeper.reset_dispatched(tx)
            returned += batch
            if batch == 0:
                break
        await broker.set_epoch(self._redis, uuid4().hex)
        self._informed.wake(contract.kind for contract in self._contracts)
        _log.warning("redis.forgot", returned=returned)

    async def _look_around(self) -> tuple[set[str], datetime]:
        """Tell the relay about workers, limits and pauses.

        Returns:
            The queues with a live worker, and the database's time.
        """
        async with self._sessions.begin() as tx:
            at: datetime = (await tx.execute(_NOW)).scalar_one()
            workers = await sweeper.live_queues(tx)
            await limits.pardon(tx)
            limited = {limit.name for limit in await limits.list_limits(tx)}
            paused = await dispatch.paused_queues(tx)
        self._informed.situation = Situation(workers, limited, paused)
        return set(workers), at

    async def _look_at_queues(self, live: set[str], now: float) -> None:
        sent = {queue: await broker.oldest_sent_at(self._redis, queue) for queue in live}
        self._heads.append((now, {queue: at for queue, at in sent.items() if at is not None}))
        while self._heads[0][0] < now - CLAIM_SECONDS:
            self._heads.popleft()

    async def _return_overdue(self, live: set[str]) -> None:
        reachable = [c for c in self._contracts if c.policy.queue in live]
        queued_since: dict[str, float] = {}
        for _, heads in self._heads:
            for queue, at in heads.items():
                queued_since[queue] = min(at, queued_since.get(queue, at))
        while True:
            async with self._sessions.begin() as tx:
                returned = await sweeper.return_overdue(tx, reachable, queued_since, self._on_death)
            self._tell(returned)
            if len(returned) < sweeper.BATCH:
                return

    def _tell(self, returned: Sequence[Returned]) -> None:
        if returned:
            _log.warning("jobs.lost", jobs=len(returned), kinds=sorted({r.kind for r in returned}))
            self._informed.wake(r.kind for r in returned)
        dead = [r for r in returned if r.state is JobState.DEAD]
        self._bell.ring(changed=[i for r in dead for i in (r.id, r.subject) if i is not None])

    async def _see_to_chores(self) -> None:
        for chore in self._chores:
            async with self._sessions.begin() as tx:
                kinds = await chore(tx)
            self._informed.wake(kinds)

    async def _tidy(self) -> None:
        async with self._sessions.begin() as tx:
            await heartbeat.forget_silent(tx)
            await maintenance.forget_expired_keys(tx)
            await limits.forget_full(tx)
            await forget_ticks(tx)
            await shared_runs.forget_expired(tx)
        async with self._sessions.begin() as tx:
            await maintenance.forget_workflows(tx)
        async with self._sessions.begin() as tx:
            await maintenance.make_partitions(tx)
