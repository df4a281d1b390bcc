"""``/v1/stock``: what is on the shelf."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from commerce.stock.shelf import BelowReservedError, get_shelf, set_on_hand
from producers import problems
from producers.answers import JsonAnswer
from producers.authentication import Principal, needs
from producers.bodies import JsonRoute
from producers.order_shapes import Sku
from producers.problems import ProblemError, not_found
from producers.services import Use

router = APIRouter(prefix="/v1/stock", tags=["stock"], route_class=JsonRoute)

Writer = Annotated[Principal, needs("stock:write")]
Reader = Annotated[Principal, needs("stock:read")]

_MOST = 10**12  # a reservation on top of it still fits a bigint a million times over


class CountIn(BaseModel):
    """What somebody counted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    on_hand: Annotated[int, Field(strict=True, ge=0, le=_MOST)]


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
            return JsonAnswer(await set_on_hand(tx, principal.tenant, sku, body.on_hand))
    except BelowReservedError as error:
        shelf = error.shelf
        raise ProblemError(
            problems.BELOW_RESERVED,
            f"{shelf.reserved} pieces of {sku} are reserved for orders, more than the "
            f"{body.on_hand} counted. Nothing was changed.",
            members={"on_hand": shelf.on_hand, "reserved": shelf.reserved},
        ) from error


@router.get("/{sku}", response_model=ShelfOut)
async def read(sku: Sku, principal: Reader, use: Use) -> Response:
    """Read what is on the shelf."""
    async with use.sessions.begin() as tx:
        shelf = await get_shelf(tx, principal.tenant, sku)
    if shelf is None:
        raise not_found(f"stock of {sku}: it was never counted")
    return JsonAnswer(shelf)
