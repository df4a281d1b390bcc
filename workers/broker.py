"""What Redis holds of the queues, read without taking anything from it."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import redis.asyncio

from goodsyard.publisher import urgent_list

EPOCH_KEY = "goodsyard:epoch"
"""Its absence says that Redis was emptied since it was set: flushed, restarted or failed over."""


@dataclass(frozen=True, slots=True)
class BrokerView:
    """What Redis holds.

    Args:
        lengths: messages a queue.
        urgent: messages that overtake those.
        remembers: whether Redis remembers us.
    """

    lengths: Mapping[str, int]
    urgent: Mapping[str, int]
    remembers: bool

    @property
    def holds_any(self) -> bool:
        """Whether there is any message."""
        return any(self.lengths.values()) or any(self.urgent.values())


async def look(client: redis.asyncio.Redis, queues: Sequence[str]) -> BrokerView:
    """Return the lengths of all queues, in one round trip.

    Raises:
        redis.RedisError: Redis is away.
    """
    async with client.pipeline(transaction=False) as pipe:
        for queue in queues:
            await pipe.llen(queue)
            await pipe.llen(urgent_list(queue))
        await pipe.exists(EPOCH_KEY)
        *lengths, remembers = await pipe.execute()
    return BrokerView(
        dict(zip(queues, lengths[::2], strict=True)),
        dict(zip(queues, lengths[1::2], strict=True)),
        bool(remembers),
    )


async def set_epoch(client: redis.asyncio.Redis, epoch: str) -> None:
    """Make Redis remember us from now on."""
    await client.set(EPOCH_KEY, epoch)


async def oldest_sent_at(client: redis.asyncio.Redis, queue: str) -> float | None:
    """Return when the message next in line was sent, in seconds since 1970, or ``None``.

    ``None`` means that the queue is empty or that its next message isn't one of ours.
    """
    # The client decodes what it reads: bytes that are no text raise here, as a ValueError.
    with suppress(ValueError, KeyError, TypeError):
        raw = await client.lindex(queue, -1)
        _, kwargs, _ = json.loads(base64.b64decode(json.loads(raw or "")["body"]))
        sent_at = float(kwargs["at"])
        return sent_at if math.isfinite(sent_at) else None
    return None
