"""Rate limits as they are sent in and shown: a count and a unit, as in ``100/minute``."""

from __future__ import annotations

import math
from datetime import datetime

from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard.limits import Limit, list_limits
from producers.order_shapes import Document

_UNITS = (("second", 1), ("minute", 60), ("hour", 3_600), ("day", 86_400))
_ROUNDING = 1e-9  # of a count that went through a float of jobs a second


class LimitOut(BaseModel):
    """How often jobs of a kind may start, over the whole cluster."""

    name: str
    rate: str | None = Field(description="`null`: not limited.", examples=["100/minute"])
    burst: float | None = Field(description="Jobs that may start at once after a pause.")
    concurrency: int | None = Field(description="Jobs that may be under way at a time.")
    penalised_until: datetime | None = Field(
        description="None starts before: a provider asked for it."
    )
    free_at: datetime | None = Field(
        description="When the next job may start, if not now, as far as the rate goes."
    )


def rate_text(per_second: float) -> str:
    """Return a rate in the shortest unit that makes its count whole, else a fraction a second."""
    for unit, seconds in _UNITS:
        count = per_second * seconds
        if round(count) >= 1 and math.isclose(count, round(count), rel_tol=_ROUNDING):
            return f"{round(count)}/{unit}"
    return f"{per_second:.12f}".rstrip("0") + "/second"


def limit(limit: Limit) -> Document:
    """Return a limit in force."""
    return {
        "name": limit.name,
        "rate": None if limit.per_second is None else rate_text(limit.per_second),
        "burst": limit.burst,
        "concurrency": limit.concurrency,
        "penalised_until": limit.penalised_until,
        "free_at": limit.free_at,
    }


def no_limit(name: str) -> Document:
    """Return what is said of a kind that nothing holds back."""
    nothing = dict.fromkeys(LimitOut.model_fields)
    return nothing | {"name": name}


async def limits_by_name(tx: AsyncSession) -> dict[str, Document]:
    """Return all limits in force, by name."""
    return {one.name: limit(one) for one in await list_limits(tx)}
