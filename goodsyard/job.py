"""A job as a handler sees it, and the states its row goes through."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Generic, TypeVar
from uuid import UUID

import uuid_utils.compat

from goodsyard.contracts import Contract
from goodsyard.run import Run

C_co = TypeVar("C_co", bound=Contract, covariant=True)


class JobState(StrEnum):
    """Where a job is; ``job`` holds the first three and ``dead``, ``job_done`` the others."""

    WAITING = "waiting"
    """In Postgres only, due at ``run_at``. Left by a relay (dispatched) or a cancel."""
    DISPATCHED = "dispatched"
    """A message with its id and fence is in Redis or in a worker. Left by the worker that claims
    it, or, when its deadline passes with no answer, by the sweeper (waiting, ``lost`` + 1)."""
    RUNNING = "running"
    """External kinds only: a worker calls the provider. Left by its settlement, or, when its lease
    ends or its process falls silent, by the sweeper. A cancel only asks the run to end."""
    SUCCEEDED = "succeeded"
    """It took effect, in the commit that says so."""
    DEAD = "dead"
    """Out of attempts, lost too often, refused or uncertain. Left by a replay."""
    CANCELLED = "cancelled"
    """Called off before it took effect."""


TERMINAL = frozenset({JobState.SUCCEEDED, JobState.DEAD, JobState.CANCELLED})


@dataclass(frozen=True, slots=True)
class Job(Generic[C_co]):
    """One claimed job, as its handler needs it.

    Args:
        id: the row; stable over all attempts.
        tenant: whose it is.
        age: seconds since it was first started, by the database's clock; 0 at the first start.
        payload: what to do.
        run: says how far the job is, and hears when it is called off.
    """

    id: UUID
    tenant: int
    age: float
    payload: C_co
    run: Run = field(default_factory=Run, compare=False, repr=False)


def new_id() -> UUID:
    """Return a UUID version 7 (RFC 9562).

    Its leading timestamp keeps index pages hot and picks the day's partition; nothing else is read
    from it, so a wrong clock harms nothing.
    """
    return uuid_utils.compat.uuid7()


MOST_IN_BATCH = 2**14
"""Ids that ``id_in_batch`` tells apart."""


def id_in_batch(batch: UUID, number: int) -> UUID:
    """Return an id that follows from a batch's and a place in it: a batch needs no list of ids.

    It is a UUID version 7, too (RFC 9562): of the batch's time, then the place, then a hash.

    Args:
        batch: an id of its own, from ``new_id``.
        number: the place, below ``MOST_IN_BATCH``.
    """
    hashed = sha256(batch.bytes + number.to_bytes(2)).digest()
    moment = batch.int >> 80 << 80
    place = (number >> 2) << 64 | (number & 0b11) << 60
    return UUID(int=moment | 7 << 76 | 0b10 << 62 | place | int.from_bytes(hashed[:8]) >> 4)


def first_id_at(moment: datetime) -> UUID:
    """Return what all ids made at ``moment`` or later are not below, by the clocks that made them.

    Their first 48 bits are milliseconds since 1970 (RFC 9562, 5.7).
    """
    return UUID(int=int(moment.timestamp() * 1_000) << 80)
