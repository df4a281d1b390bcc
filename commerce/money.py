"""Money is an integer number of minor units and a currency; nothing here knows a fraction."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_AMOUNT = 99_999_999_999
"""The most one order or payment may come to, in minor units: far above any order, far below 2**63,
so that no sum of a hundred lines or a year's ledger can overflow a bigint."""

Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
"""An ISO 4217 code in capitals, as in EUR."""

Amount = Annotated[int, Field(strict=True, ge=0, le=MAX_AMOUNT)]
"""Minor units (cents); a float, a string or a boolean is refused, not converted."""


class Money(BaseModel):
    """An amount as the API shows it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    amount: Amount
    currency: Currency
