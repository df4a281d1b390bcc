"""``/v1/cache``: results that stand for equal requests, and how to be rid of them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from starlette.responses import Response

from goodsyard.contracts import Contract
from goodsyard.interventions import record
from goodsyard.shared_runs import invalidate
from goodsyard.submit import Staged
from producers import problems
from producers.answers import JsonAnswer
from producers.authentication import Principal, require_scope
from producers.bodies import FreeForm, JsonRoute
from producers.failures import invalid_body
from producers.job_shapes import PUBLIC, Kind
from producers.problems import not_found
from producers.services import Use

router = APIRouter(prefix="/v1/cache", tags=["jobs"], route_class=JsonRoute)

Admin = Annotated[Principal, require_scope("jobs:admin")]


class InvalidateIn(BaseModel):
    """Whose results are to be forgotten."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    payload: FreeForm | None = Field(
        default=None, description="Only what stands for this; all of the kind, if not given."
    )


class InvalidateOut(BaseModel):
    """What was forgotten."""

    kind: str
    forgotten: int = Field(description="Results, and runs under way, that no request shares now.")


@router.post(
    "/invalidate",
    response_model=InvalidateOut,
    responses=problems.refusals(problems.NOT_FOUND),
)
async def forget(body: InvalidateIn, principal: Admin, use: Use) -> Response:
    """Have the next requests for a kind run anew; a run that is under way is shared no more."""
    contract = PUBLIC.get(body.kind)
    if contract is None or contract.policy.cache is None:
        raise not_found(f"public kind {body.kind} whose requests share their runs")
    like = None
    if body.payload is not None:
        like = Staged(principal.tenant, _payload(contract, body.payload))
    detail: dict[str, JsonValue] = {"payload": body.payload is not None}
    async with use.sessions.begin() as tx:
        forgotten = await invalidate(tx, principal.tenant, body.kind, like=like)
        await record(tx, principal.actor, "cache.invalidate", [body.kind], detail)
    return JsonAnswer({"kind": body.kind, "forgotten": forgotten})


def _payload(contract: type[Contract], payload: dict[str, JsonValue]) -> Contract:
    try:
        return contract.model_validate(payload)
    except ValidationError as error:
        raise invalid_body(error, within=("payload",)) from error
