"""``/v1/stock``: what is on the shelf, and every change of it by a person, written down.

Nothing here reserves: goods are set aside by an order, and go back by its end. What was set aside
for nobody would be nobody's to give back.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from commerce.stock.shelf import (
    MOST_ON_HAND,
    AboveMostError,
    BelowReservedError,
    Shelf,
    UnknownSkuError,
    adjust,
    get_shelf,
    set_on_hand,
)
from goodsyard import interventions
from producers import problems
from producers.answers import JsonAnswer
from producers.authentication import Principal, require_scope
from producers.bodies import JsonRoute
from producers.idempotency import RequiredKey, claim, replayed
from producers.order_shapes import Sku
from producers.problems import ProblemError, not_found
from producers.services import Use

router = APIRouter(prefix="/v1/stock", tags=["stock"], route_class=JsonRoute)

Writer = Annotated[Principal, require_scope("stock:write")]
Reader = Annotated[Principal, require_scope("stock:read")]


class CountIn(BaseModel):
    """What somebody counted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    on_hand: Annotated[int, Field(strict=True, ge=0, le=MOST_ON_HAND)]


class AdjustIn(BaseModel):
    """What came in or went out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: Annotated[int, Field(strict=True, ge=-MOST_ON_HAND, le=MOST_ON_HAND)] = Field(
        description="Pieces that came in; below zero, pieces that are gone.", examples=[-3]
    )
    reason: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")] = Field(
        description="Why, for whoever reads the audit log.", examples=["broken in transit"]
    )


class ShelfOut(BaseModel):
    """Pieces of a SKU; those reserved are among those on hand."""

    sku: str
    on_hand: int
    reserved: int


@router.put("/{sku}", response_model=ShelfOut, responses=problems.refusals(problems.BELOW_RESERVED))
async def count(sku: Sku, body: CountIn, principal: Writer, use: Use) -> Response:
    """Write down how many pieces are on hand; a SKU comes into being by its first count."""
    try:
        async with use.sessions.begin() as tx:
            shelf = await set_on_hand(tx, principal.tenant, sku, body.on_hand)
            await _note(tx, principal, "stock.count", sku, body)
    except BelowReservedError as error:
        raise _below_reserved(error.shelf, f"the {body.on_hand} counted") from error
    return JsonAnswer(shelf)


@router.post(
    "/{sku}/adjust",
    response_model=ShelfOut,
    responses=problems.refusals(problems.BELOW_RESERVED),
)
async def adjust_by(
    sku: Sku, body: AdjustIn, key: RequiredKey, principal: Writer, use: Use
) -> Response:
    """Add pieces that came in, or take away those that are gone, whatever orders take meanwhile."""
    tenant = principal.tenant
    try:
        async with use.sessions.begin() as tx:
            holder = await claim(tx, tenant, key, {"sku": sku})
            if holder.won:
                shelf: Shelf | None = await adjust(tx, tenant, sku, body.by)
                await _note(tx, principal, "stock.adjust", sku, body)
            else:
                shelf = await get_shelf(tx, tenant, sku)
    except UnknownSkuError as error:
        raise _never_counted(sku) from error
    except BelowReservedError as error:
        left = error.shelf.on_hand + body.by
        raise _below_reserved(error.shelf, f"the {left} that would be left") from error
    except AboveMostError as error:
        detail = f"More than {MOST_ON_HAND} pieces would be on hand"
        raise problems.validation([{"pointer": "#/by", "detail": detail}]) from error
    return JsonAnswer(shelf, headers=replayed(holder))


@router.get("/{sku}", response_model=ShelfOut)
async def read(sku: Sku, principal: Reader, use: Use) -> Response:
    """Read what is on the shelf."""
    async with use.sessions.begin() as tx:
        shelf = await get_shelf(tx, principal.tenant, sku)
    if shelf is None:
        raise _never_counted(sku)
    return JsonAnswer(shelf)


async def _note(
    tx: AsyncSession, principal: Principal, action: str, sku: str, body: BaseModel
) -> None:
    """Write down who said what about a SKU, in the transaction that believes it."""
    await interventions.record(tx, principal.actor, action, [sku], body.model_dump())


def _below_reserved(shelf: Shelf, what: str) -> ProblemError:
    return ProblemError(
        problems.BELOW_RESERVED,
        f"{shelf.reserved} pieces of {shelf.sku} are reserved for orders, more than {what}. "
        "Nothing was changed.",
        members={"on_hand": shelf.on_hand, "reserved": shelf.reserved},
    )


def _never_counted(sku: str) -> ProblemError:
    return not_found(f"stock of {sku}: it was never counted")
