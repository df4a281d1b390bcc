"""``/v1/limits``: what holds the jobs of a kind back, changed while they run."""

from __future__ import annotations

from typing import Annotated, Self

from fastapi import APIRouter
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from goodsyard.contracts import Rate
from goodsyard.interventions import record
from goodsyard.limits import set_concurrency, set_limit, set_penalty
from producers.answers import JsonAnswer
from producers.authentication import Principal, require_admin, require_scope
from producers.bodies import JsonRoute
from producers.job_shapes import QUEUE_OF, Kind
from producers.limit_shapes import LimitOut, limits_by_name, no_limit
from producers.problems import not_found
from producers.services import Use

router = APIRouter(prefix="/v1/limits", tags=["limits"], route_class=JsonRoute)

reader = require_scope("limits:read")
# Limits hold for all tenants together.
Admin = Annotated[Principal, require_admin]


class LimitIn(BaseModel):
    """A limit to set: what isn't there stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rate: (
        Annotated[
            str,
            StringConstraints(pattern=r"^[1-9][0-9]{0,6}(\.[0-9]{1,3})?/(second|minute|hour|day)$"),
        ]
        | None
    ) = Field(default=None, description="`null` lifts the rate.", examples=["100/minute"])
    burst: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] | None = Field(
        default=None,
        description="Jobs that may start at once; a tenth of a second's, if not given.",
    )
    concurrency: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] | None = Field(
        default=None, description="Jobs that may be under way at a time; `null` lifts that."
    )

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise PydanticCustomError("nothing", "Give a rate, a concurrency or both")
        if self.burst is not None and self.rate is None:
            raise PydanticCustomError("no_rate", "A burst goes with a rate")
        return self


class PenaltyIn(BaseModel):
    """How long no job may start."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seconds: Annotated[float, Field(strict=True, ge=0, le=86_400)] = Field(
        description="From now on; 0 pardons."
    )


class LimitsOut(BaseModel):
    """All limits in force."""

    data: list[LimitOut]
    next_cursor: None = None


@router.get("", response_model=LimitsOut, dependencies=[reader])
async def list_all(use: Use) -> Response:
    """List the limits in force; a kind that isn't there is not limited."""
    async with use.sessions.begin() as tx:
        limits = await limits_by_name(tx)
    return JsonAnswer({"data": list(limits.values()), "next_cursor": None})


@router.get("/{name}", response_model=LimitOut, dependencies=[reader])
async def read(name: Kind, use: Use) -> Response:
    """Read the limit of a kind."""
    if name not in QUEUE_OF:
        raise not_found(f"kind {name}")
    async with use.sessions.begin() as tx:
        limits = await limits_by_name(tx)
    return JsonAnswer(limits.get(name) or no_limit(name))


@router.put("/{name}", response_model=LimitOut)
async def change(name: Kind, body: LimitIn, principal: Admin, use: Use) -> Response:
    """Set or lift the limit of a kind; relays follow within a second or two."""
    if name not in QUEUE_OF:
        raise not_found(f"kind {name}")
    async with use.sessions.begin() as tx:
        if "rate" in body.model_fields_set:
            rate = None if body.rate is None else Rate(body.rate, body.burst)
            await set_limit(tx, name, rate)
        if "concurrency" in body.model_fields_set:
            await set_concurrency(tx, name, body.concurrency)
        detail: dict[str, JsonValue] = body.model_dump(exclude_unset=True)
        await record(tx, principal.actor, "limit.set", [name], detail)
        limits = await limits_by_name(tx)
    return JsonAnswer(limits.get(name) or no_limit(name))


@router.post("/{name}/penalise", response_model=LimitOut)
async def penalise(name: Kind, body: PenaltyIn, principal: Admin, use: Use) -> Response:
    """Let no job of a kind start for a while, as if its provider had asked for it."""
    if name not in QUEUE_OF:
        raise not_found(f"kind {name}")
    async with use.sessions.begin() as tx:
        await set_penalty(tx, name, body.seconds)
        await record(tx, principal.actor, "limit.penalise", [name], {"seconds": body.seconds})
        limits = await limits_by_name(tx)
    return JsonAnswer(limits.get(name) or no_limit(name))
