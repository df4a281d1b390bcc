"""What a message says: ids and fences. Whoever can write to Redis can say nothing more."""

from __future__ import annotations

import struct
from base64 import b64decode, b64encode
from collections.abc import Iterable
from uuid import UUID

from goodsyard.claims import Delivery

VERSION = 2

MOST_FENCE = 2**31 - 1
"""What the column holds. A larger one would be an error in Postgres for the whole chunk."""

_DELIVERY = struct.Struct("!16si")
"""An id and a fence. Packed: as JSON, a chunk's ids and fences are a thousand values that are made
and read again three times on their way, most of it in a worker node's one parent process."""


class MalformedMessageError(Exception):
    """The message isn't one of ours. It carried no authority, so nothing is lost with it."""


def compose(deliveries: Iterable[Delivery], sent_at: float) -> dict[str, object]:
    """Return the keyword arguments of the task that carries the deliveries.

    Args:
        deliveries: what to carry out.
        sent_at: the database's time of their dispatch, in seconds since 1970.
    """
    packed = b"".join([_DELIVERY.pack(job.bytes, fence) for job, fence in deliveries])
    return {"v": VERSION, "at": sent_at, "jobs": b64encode(packed).decode()}


def parse(v: object, jobs: object) -> list[Delivery]:
    """Return the deliveries of a message, ours or one of the version before.

    Raises:
        MalformedMessageError: it is of another version, or not made of ids and fences.
    """
    try:
        match v, jobs:
            case 2, str(packed):
                return list(map(_checked, _DELIVERY.iter_unpack(b64decode(packed, validate=True))))
            case 1, list(listed):
                return [_checked((UUID(job).bytes, fence)) for job, fence in listed]
    except (TypeError, ValueError, AttributeError, struct.error) as error:
        message = f"a message with something else than ids and fences: {error}"
        raise MalformedMessageError(message) from error
    message = f"a message of version {v!r:.50} with {type(jobs).__name__} for jobs"
    raise MalformedMessageError(message)


def _checked(delivery: tuple[bytes, object]) -> Delivery:
    job, fence = delivery
    if not isinstance(fence, int) or not 0 <= fence <= MOST_FENCE:
        raise ValueError(f"a fence of {fence!r:.50}")
    return UUID(bytes=job), fence
