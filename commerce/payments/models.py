"""The tables of payments and of the ledger, for reads and writes of single rows."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, Enum, FetchedValue
from sqlalchemy.orm import Mapped, mapped_column

from commerce.models import Base
from commerce.payments.rules import PaymentState
from goodsyard.job import new_id


class Payment(Base, kw_only=True):
    """A charge, of an order or of its own."""

    __tablename__ = "payment"

    id: Mapped[UUID] = mapped_column(primary_key=True, default_factory=new_id)
    tenant: Mapped[int]
    order_id: Mapped[UUID | None] = mapped_column(default=None)
    user_id: Mapped[UUID]
    amount: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str]
    payment_method: Mapped[str]
    description: Mapped[str | None] = mapped_column(default=None)
    state: Mapped[PaymentState] = mapped_column(
        Enum(PaymentState, name="payment_state", values_callable=lambda e: [s.value for s in e]),
        default=PaymentState.PENDING,
    )
    gateway_id: Mapped[str | None] = mapped_column(default=None)
    failure: Mapped[str | None] = mapped_column(default=None)
    amount_refunded: Mapped[int] = mapped_column(BigInteger, default=0)
    dispute: Mapped[str | None] = mapped_column(default=None)
    created_at: Mapped[datetime] = mapped_column(FetchedValue(), init=False)
    updated_at: Mapped[datetime] = mapped_column(FetchedValue(), init=False)


class Account(Base, kw_only=True):
    """An account of the ledger; one with a balance is a tenant's own, the others are the flow's."""

    __tablename__ = "account"

    id: Mapped[UUID] = mapped_column(primary_key=True, default_factory=new_id)
    tenant: Mapped[int]
    code: Mapped[str]
    currency: Mapped[str]
    balance: Mapped[int | None] = mapped_column(BigInteger, default=0)
    may_overdraw: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(FetchedValue(), init=False)


class Transfer(Base, kw_only=True):
    """A row of the ledger; never changed, never deleted."""

    __tablename__ = "transfer"

    id: Mapped[UUID] = mapped_column(primary_key=True, default_factory=new_id)
    tenant: Mapped[int]
    debit: Mapped[UUID]
    credit: Mapped[UUID]
    amount: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str]
    code: Mapped[str]
    payment_id: Mapped[UUID | None] = mapped_column(default=None)
    created_at: Mapped[datetime] = mapped_column(FetchedValue(), init=False)
