"""What a message says: ids and fences. Whoever can write to Redis can say nothing more."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from goodsyard.claims import Delivery

VERSION = 1

MOST_FENCE = 2**31 - 1
"""What the column holds. A larger one would be an error in Postgres for the whole chunk."""


class MalformedMessageError(Exception):
    """The message isn't one of our relay's. It carried no authority, so nothing is lost with it."""


def compose(deliveries: Iterable[Delivery], sent_at: float) -> dict[str, object]:
    """Return the keyword arguments of the task that carries the deliveries.

    Args:
        deliveries: what to carry out.
        sent_at: the database's time of their dispatch, in seconds since 1970.
    """
    return {"v": VERSION, "at": sent_at, "jobs": [(str(job), fence) for job, fence in deliveries]}


def parse(v: object, jobs: object) -> list[Delivery]:
    """Return the deliveries of a message.

    Raises:
        MalformedMessageError: it is of another version, or not made of ids and fences.
    """
    if v != VERSION or not isinstance(jobs, list):
        message = f"a message of version {v!r} with {type(jobs).__name__} for jobs"
        raise MalformedMessageError(message)
    try:
        return [_delivery(job, fence) for job, fence in jobs]
    except (TypeError, ValueError) as error:
        message = f"a message with something else than ids and fences: {error}"
        raise MalformedMessageError(message) from error


def _delivery(job: object, fence: object) -> Delivery:
    if not isinstance(job, str) or not isinstance(fence, int) or not 0 <= fence <= MOST_FENCE:
        raise ValueError(f"{job!r:.50}, {fence!r:.50}")
    return UUID(job), fence
