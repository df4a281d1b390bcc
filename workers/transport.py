"""kombu's Redis transport, but for what is in a queue and is no message: it costs only itself.

kombu 5.7 lets it end the worker (JSONDecodeError, RecursionError) or its connection (KeyError). The
errors of a message that can be taken for one are ``workers.consumer``'s.
"""

from __future__ import annotations

from queue import Empty
from typing import Any

import structlog
from kombu.transport import TRANSPORT_ALIASES, redis
from redis import Redis, RedisError

from goodsyard.dropped import Reason
from workers import tally

_log = structlog.get_logger(__name__)


class Channel(redis.Channel):
    """kombu's channel, but for what it does with what it can't read, and how it sends events."""

    _sender: Redis | None = None

    def _create_client(self, asynchronous: bool = False) -> Redis:  # noqa: FBT001, FBT002 - kombu's own
        # kombu makes a new client, half a millisecond's work on the same pool, for every event that
        # a worker node's parent sends, and so several for every message that it passes on.
        if asynchronous:
            return super()._create_client(asynchronous=True)  # type: ignore[misc, no-any-return]  # not in kombu's stubs
        if self._sender is None or self._sender.connection_pool is not self.pool:
            self._sender = super()._create_client()  # type: ignore[misc]  # as above
        return self._sender

    def _brpop_read(self, **options: Any) -> Any:  # noqa: ANN401 - kombu's own
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # not in kombu's stubs
        except (Empty, OSError, RedisError):
            raise  # nothing came, or it is the connection: Celery makes it anew
        except Exception as error:
            tally.note(Reason.UNREADABLE)
            _log.warning("message.dropped", error=f"{type(error).__name__}: {error!s:.200}")
            raise Empty from error  # as if nothing had come


class Transport(redis.Transport):
    """kombu's transport, with channels of ours."""

    Channel = Channel


def install() -> None:
    """Take the place of kombu's, for connections to come.

    By name, so that the scheme of the broker's URL goes on to say whether the link is encrypted.
    """
    ours = f"{Transport.__module__}:{Transport.__qualname__}"
    TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), ours))
