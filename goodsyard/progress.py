"""How far running jobs are: the latest word of each, in Redis alone and never in Postgres.

It is told for people to see, and nothing is decided by it: without Redis nobody hears it, and the
jobs run as ever. A word carries the fence of its run, so that an earlier attempt's is not taken for
the present one's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias
from uuid import UUID

import redis.asyncio
from pydantic import TypeAdapter, ValidationError

from goodsyard.breaker import Breaker
from goodsyard.scrub import scrub

PROGRESS = "goodsyard:progress"
"""Channel: the latest words of a process's running jobs, as JSON."""

TEXT_LENGTH = 200
"""Characters of a word's text that are kept: a line on a screen."""

TTL_SECONDS = 600
"""How long a word is kept: longer than any run, which ends with its lease if not before."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A running job's word on how far it is.

    Args:
        fence: of the run that says it.
        fraction: how much is done, from 0 to 1.
        text: what it is at.
        at: when it was said, by the clock of the worker's machine.
    """

    fence: int
    fraction: float
    text: str
    at: datetime


Word: TypeAlias = tuple[UUID, Progress]
"""A job and its progress."""

_word = TypeAdapter(Progress)
_words = TypeAdapter(list[Word])


def heard(message: str) -> list[Word]:
    """Return the words of a message on the channel; of one that isn't ours, none."""
    try:
        return _words.validate_json(message)
    except ValidationError:
        return []


async def say(client: redis.asyncio.Redis, words: Sequence[Word]) -> None:
    """Keep the words for who looks later, and tell them to who listens, in one round trip.

    Raises:
        redis.RedisError: Redis is away.
        OSError: likewise.
    """
    said = [(job, _presentable(progress)) for job, progress in words]
    async with client.pipeline(transaction=False) as pipe:
        for job, progress in said:
            await pipe.set(_key(job), _word.dump_json(progress), ex=TTL_SECONDS)
        await pipe.publish(PROGRESS, _words.dump_json(said))
        await pipe.execute()


def _presentable(progress: Progress) -> Progress:
    """Return a word without secrets, and without half a surrogate pair, which no JSON can hold."""
    text = scrub(progress.text).encode(errors="replace").decode()
    return Progress(progress.fence, progress.fraction, text, progress.at)


def _key(job: UUID) -> str:
    return f"goodsyard:progress:{job}"


class ProgressReader:
    """Reads the latest words of jobs."""

    def __init__(self, client: redis.asyncio.Redis, breaker: Breaker) -> None:
        """Read through ``client``."""
        self._redis = client
        self._breaker = breaker

    async def read(self, job: UUID, fence: int) -> Progress | None:
        """Return the word of the run of ``job`` under ``fence``, if it said any and Redis knows."""
        kept = await self._breaker.ask(lambda: self._redis.get(_key(job)), None)
        if kept is None:
            return None
        progress = _word.validate_json(kept)
        return progress if progress.fence == fence else None
