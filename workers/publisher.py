"""Puts chunks on Celery's queues, all of a round in one pipelined write to Redis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from celery import Celery

from goodsyard.dispatch import Chunk
from workers import messages


@dataclass(frozen=True, slots=True)
class Envelope:
    """A chunk of one kind on its way to a queue."""

    kind: str
    queue: str
    chunk: Chunk


def publish(app: Celery, envelopes: Sequence[Envelope], sent_at: float) -> None:
    """Send the chunks.

    Args:
        app: the Celery app whose broker is used.
        envelopes: what to send.
        sent_at: the database's time of their dispatch, in seconds since 1970; the sweeper reads it
            off the oldest message to tell a long queue from a lost message.

    Raises:
        kombu.exceptions.KombuError, OSError: some or all may not have been sent. Sending again is
            harmless.
    """
    with app.producer_or_acquire() as producer, producer.batch():
        for envelope in envelopes:
            deliveries = envelope.chunk.deliveries
            app.send_task(
                envelope.kind,
                kwargs=messages.compose(deliveries, sent_at),
                queue=envelope.queue,
                producer=producer,
                ignore_result=True,
                argsrepr="()",
                kwargsrepr=f"{len(deliveries)} jobs",  # what Flower shows
            )
