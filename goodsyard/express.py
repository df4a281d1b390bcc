"""The express lane: a lone job is dispatched by the statement that accepts it, and by no relay.

A relay that has nothing to do says so, and of which kinds nothing is held back; for a moment,
whoever accepts a job that comes alone may then do the relay's work for it, which spares the job a
wake-up and a commit. Its row is the same as if a relay had dispatched it: if the message is never
sent, or lost, the job comes back by its deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

import redis.asyncio
import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from goodsyard.database import Sessions, fetch, in_time
from goodsyard.dispatch import DISPATCH_SECONDS, Chunk, take_back
from goodsyard.publisher import Envelope, publish
from goodsyard.submit import Besides, Staged, as_columns, staging

CLEAR = "goodsyard:clear"
"""Channel: kinds of which nothing is due or held back, and whose queues are empty and consumed,
separated by spaces."""

SAY_SECONDS = 0.1
"""The least between two times that an idle relay says so."""

HEED_SECONDS = 0.6
"""How long a relay is taken at its word: one that is idle says it every quarter of a second."""

GAP_SECONDS = 0.005
"""The least between two jobs that a process sends itself: those that come faster go in chunks."""

RECONNECT_SECONDS = 1.0

_FENCE = 1  # of a job's first dispatch

# A pause and a limit hold from their commit on, whatever a relay has said just before.
IF_CLEAR = Besides(
    columns=", state, fence, deadline",
    values="""
           , CAST(CASE WHEN lane.clear THEN 'dispatched' ELSE 'waiting' END AS goodsyard.job_state),
           CAST(lane.clear AS int),
           CASE WHEN lane.clear THEN now() + make_interval(secs => :dispatch_seconds) END""",
    source="""
     CROSS JOIN LATERAL (
           SELECT NOT EXISTS (SELECT FROM goodsyard.queue WHERE name = :queue AND paused)
              AND NOT EXISTS (SELECT FROM goodsyard.job_limit
                               WHERE name = s.kind AND holds)) AS lane(clear)""",
    returning=", CASE WHEN fence = 1 THEN extract(epoch FROM now())::float8 END AS sent_at",
)
"""For ``staging``: dispatches the job unless it is held back; ``sent_at`` is when, or null."""

_STAGE = text(staging(besides=IF_CLEAR))
_log = structlog.get_logger(__name__)


def clearance_of(job: Staged) -> dict[str, object]:
    """Return the parameters of ``IF_CLEAR``, besides those of ``staging``."""
    return {"queue": job.contract.policy.queue, "dispatch_seconds": DISPATCH_SECONDS}


async def say_clear(client: redis.asyncio.Redis, kinds: Iterable[str]) -> None:
    """Say that jobs of ``kinds`` needn't wait for a relay.

    Raises:
        redis.RedisError: Redis is away.
    """
    await client.publish(CLEAR, " ".join(kinds))


class Express:
    """The lane of one process that accepts jobs, on one event loop."""

    def __init__(self, sessions: Sessions, queues: redis.asyncio.Redis) -> None:
        """Insert through ``sessions``; ``queues`` is the broker's Redis, where relays are heard."""
        self._sessions = sessions
        self._queues = queues
        self._clear: frozenset[str] = frozenset()
        self._until = self._next = float("-inf")
        self._sending: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Listen to relays until cancelled; while Redis is away, nothing takes the lane."""
        while True:
            with suppress(redis.RedisError, OSError):
                async with self._queues.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(CLEAR)
                    async for message in channel.listen():
                        self.heed(message["data"].split())
            await asyncio.sleep(RECONNECT_SECONDS)

    def heed(self, kinds: Iterable[str]) -> None:
        """Take a relay's word for it that jobs of ``kinds`` needn't wait for one."""
        self._clear = frozenset(kinds)
        self._until = asyncio.get_running_loop().time() + HEED_SECONDS

    def takes(self, job: Staged) -> bool:
        """Whether a job may take the lane, right now; the next one a moment later."""
        now = asyncio.get_running_loop().time()
        if job.run_at is not None or job.waits_for or job.contract.kind not in self._clear:
            return False
        if not self._next <= now < self._until:
            return False
        self._next = now + GAP_SECONDS
        return True

    async def accept(self, job: Staged) -> bool:
        """Insert a job that ``takes`` let pass, by one statement that commits itself, and send it.

        Returns:
            Whether it was sent. If not, it waits for a relay, which has to be told.

        Raises:
            sqlalchemy.exc.DBAPIError: Postgres is away; the job was not accepted, unless it was
                the answer that was lost.
        """
        async with in_time(), self._sessions.committing() as connection:
            ((_, sent_at),) = await fetch(connection, _STAGE, as_columns([job]) | clearance_of(job))
        return self.send(job, sent_at)

    def send(self, job: Staged, sent_at: float | None) -> bool:
        """Send a job that was just inserted; returns at once.

        Args:
            job: as it was inserted, and committed.
            sent_at: what the statement with ``IF_CLEAR`` returned.

        Returns:
            Whether it was dispatched, so that there is something to send.
        """
        if sent_at is None:
            return False
        sending = asyncio.create_task(self._send(job, sent_at))
        self._sending.add(sending)
        sending.add_done_callback(self._sending.discard)
        return True

    async def close(self) -> None:
        """Let the last jobs go out."""
        await asyncio.gather(*self._sending)

    async def _send(self, job: Staged, sent_at: float) -> None:
        contract, delivery = job.contract, (job.id, _FENCE)
        envelope = Envelope(contract.kind, contract.policy.queue, Chunk((delivery,)))
        try:
            await publish(self._queues, [envelope], sent_at)
        except (redis.RedisError, OSError) as error:
            self._until = float("-inf")
            _log.info("express.unsent", error=f"{type(error).__name__}: {error}")
            with suppress(SQLAlchemyError, OSError):  # then its deadline brings it back
                async with self._sessions.begin() as tx:
                    await take_back(tx, [delivery])
