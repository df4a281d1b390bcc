"""Accounts, transfers and the trial balance as they are asked for and shown."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from commerce.money import Amount, Currency, Money
from commerce.payments.balances import Sums, Totals
from commerce.payments.models import Account, Transfer
from producers.order_shapes import Document


class AccountIn(BaseModel):
    """An account to open."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._:-]{0,63}$")] = Field(
        description="What the tenant calls it; once a currency.", examples=["wallet:4711"]
    )
    currency: Currency
    may_overdraw: bool = Field(
        default=False,
        strict=True,
        description="Whether it may go below zero: where funds come from. Takes the scope `admin`.",
    )


class Balance(BaseModel):
    """What is on an account, which may be less than nothing."""

    amount: int = Field(description="Minor units: debits less credits.")
    currency: Currency


class AccountOut(BaseModel):
    """An account of the ledger."""

    id: UUID
    href: str
    code: str
    currency: Currency
    balance: Balance
    may_overdraw: bool
    created_at: datetime


class TransferIn(BaseModel):
    """Funds to move."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    from_account: UUID
    to_account: UUID
    amount: Annotated[Amount, Field(gt=0)] = Field(description="Minor units.")
    currency: Currency


class TransferOut(BaseModel):
    """Funds that were moved."""

    id: UUID
    href: str
    from_account: UUID
    to_account: UUID
    amount: Money
    created_at: datetime


class CurrencyOut(BaseModel):
    """All accounts of a currency together, in minor units."""

    currency: Currency
    debits: int
    credits: int
    accounts: int
    astray: int = Field(description="Accounts whose balance is not what their transfers come to.")
    balanced: bool


class SumsOut(BaseModel):
    """What an account was debited and credited, in minor units."""

    id: UUID
    href: str
    code: str
    currency: Currency
    debits: int
    credits: int
    balance: int


class TrialBalance(BaseModel):
    """The books at a glance."""

    balanced: bool
    currencies: list[CurrencyOut]
    accounts: list[SumsOut] = Field(
        description="The flow's own first, then the tenant's by code, up to `limit`."
    )


def account_href(account: UUID) -> str:
    """Return the path of an account."""
    return f"/v1/accounts/{account}"


def account(row: Account, balance: int) -> Document:
    """Return an account with what is on it."""
    return {
        "id": row.id,
        "href": account_href(row.id),
        "code": row.code,
        "currency": row.currency,
        "balance": {"amount": balance, "currency": row.currency},
        "may_overdraw": row.may_overdraw,
        "created_at": row.created_at,
    }


def transfer(row: Transfer) -> Document:
    """Return a transfer."""
    return {
        "id": row.id,
        "href": f"/v1/transfers/{row.id}",
        "from_account": row.credit,
        "to_account": row.debit,
        "amount": {"amount": row.amount, "currency": row.currency},
        "created_at": row.created_at,
    }


def trial_balance(totals: list[Totals], sums: list[Sums]) -> Document:
    """Return the books at a glance."""
    return {
        "balanced": all(line.balanced for line in totals),
        "currencies": [{**line._asdict(), "balanced": line.balanced} for line in totals],
        "accounts": [
            {
                "id": line.account,
                "href": account_href(line.account),
                "code": line.code,
                "currency": line.currency,
                "debits": line.debits,
                "credits": line.credits,
                "balance": line.debits - line.credits,
            }
            for line in sums
        ],
    }
