"""A message costs nothing but itself: whatever is wrong with it or its connection, no worker ends.

Celery 5.7 lets some errors that a message causes (a body that is no list, a task's name that is no
text) end the worker, which puts the message back on its way out: whoever starts next ends as well,
for ever (celery/celery#7975, open). Here a message has no authority. If it was one of ours, its
jobs' deadline replaces it.

Nothing is acknowledged. The queues are consumed with ``no_ack``, so Redis keeps no copy of what a
worker holds, and kombu none to put back: doing that over a broken connection ends Celery's worker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import structlog
from celery.worker.consumer import Consumer as CeleryConsumer
from kombu import Message, compression
from kombu.exceptions import DecodeError
from redis import RedisError

from goodsyard.dropped import Reason
from workers import tally

MOST_BYTES = 1_000_000
"""The longest message that is looked into: twenty times what the largest chunk's takes."""

_log = structlog.get_logger(__name__)


class Consumer(CeleryConsumer):
    """Celery's consumer, but for what it does about errors in the handling of a message."""

    def create_task_handler(
        self,
        *arguments: Any,  # noqa: ANN401 - Celery's own
    ) -> Callable[[Message], None]:
        """Return what is called with each message."""
        handle = super().create_task_handler(*arguments)

        def handle_or_drop(message: Message) -> None:
            # Celery says both even so, perhaps when the message's connection is long gone, and
            # kombu's answer is then an error that ends the worker.
            message.ack_log_error = _say_nothing  # type: ignore[method-assign]  # see above
            message.reject_log_error = _say_nothing  # type: ignore[method-assign]  # see above
            try:
                _read(message)
                handle(message)
            except (OSError, RedisError):
                raise  # it is the connection: Celery makes it anew
            except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it is dropped
                _drop(error)

        return handle_or_drop

    def on_decode_error(self, _message: Message, exc: Exception) -> None:
        """Drop what couldn't be decoded."""
        _drop(exc)


# Where a message may say what else is to be run, once its task has ended or failed.
_STEPS = ("callbacks", "errbacks", "chain", "chord")
# And when, or how long it may take: a time of a millisecond kills a process for each message.
_TIMES = ("eta", "timelimit")


def _read(message: Message) -> None:
    """See that the message has a task's form, before it costs one of the processes anything.

    It may ask for nothing but its task: what comes next, and when, is told by rows.

    Raises:
        kombu.exceptions.KombuError, TypeError, ValueError: it hasn't, or asks for more.
    """
    size = len(message.body or "")
    if size > MOST_BYTES:
        raise DecodeError(f"a message of {size} bytes")
    arguments, keywords, steps = message.decode()
    forms = isinstance(arguments, list), isinstance(keywords, dict), isinstance(steps, dict | None)
    if not all(forms):
        raise TypeError("a message whose body holds no arguments")
    headers = message.headers or {}
    if any((steps or {}).values()) or any(map(headers.get, _STEPS)):
        raise DecodeError("a message that asks for further tasks")
    if any(_given(headers.get(name)) for name in _TIMES):
        raise DecodeError("a message that sets its own times")


def _given(time: object) -> bool:
    return any(time) if isinstance(time, list) else time is not None


def _drop(error: Exception) -> None:
    tally.note(Reason.UNREADABLE)
    _log.warning("message.dropped", error=f"{type(error).__name__}: {error!s:.200}")


def _pack_nothing(_body: object) -> NoReturn:
    raise DecodeError("a packed message: nobody of ours packs any, and a small one may be a bomb")


# kombu unpacks a message as it receives it, of any size and before anybody is asked.
for _packing in compression.encoders():
    compression.register(_pack_nothing, _pack_nothing, _packing)


def _say_nothing(*_arguments: object, **_options: object) -> None:
    """Stand in for what Celery would tell the broker about a message."""
