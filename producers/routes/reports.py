"""``/v1/reports``: what a tenant's orders come to."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from commerce.money import Currency
from commerce.orders.top_customers import MOST
from producers.answers import JsonAnswer
from producers.authentication import Principal, require_scope
from producers.bodies import JsonRoute
from producers.services import Use

router = APIRouter(prefix="/v1/reports", tags=["reports"], route_class=JsonRoute)

Reader = Annotated[Principal, require_scope("reports:read")]


class TopCustomersQuery(BaseModel):
    """How much of the report is asked for."""

    limit: int = Field(default=10, ge=1, le=MOST, description="Rows at the most.")
    currency: Currency | None = Field(
        default=None, description="Only what was spent in it: amounts of others don't compare."
    )


class TopCustomerOut(BaseModel):
    """What one customer spent in one currency."""

    user_id: UUID
    email: str | None = Field(description="Nothing of a user who was erased.")
    currency: Currency
    order_count: int = Field(description="Paid orders that weren't given back entirely.")
    total_spent: int = Field(description="Minor units, less what was given back.")


class TopCustomersOut(BaseModel):
    """The customers who spent most, the greatest amount first."""

    data: list[TopCustomerOut]
    next_cursor: None
    as_of: datetime | None = Field(
        description="When it was computed, a minute ago at the most; `null` if nobody ever paid."
    )


@router.get("/top-customers", response_model=TopCustomersOut)
async def top_customers(
    query: Annotated[TopCustomersQuery, Query()], principal: Reader, use: Use
) -> Response:
    """Read which customers spent most, as of a minute ago at the most; a row a currency each."""
    report = await use.top_customers.read(principal.tenant)
    customers = [c for c in report.customers if query.currency in {None, c.currency}]
    return JsonAnswer(
        {"data": customers[: query.limit], "next_cursor": None, "as_of": report.as_of}
    )
