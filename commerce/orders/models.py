"""The tables of orders and their lines."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy import BigInteger, Enum, FetchedValue, ForeignKey
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from commerce.models import Base
from commerce.orders.rules import OrderStatus
from goodsyard.job import new_id

_STATUS = Enum(OrderStatus, name="order_status", values_callable=lambda e: [s.value for s in e])


class Order(Base, kw_only=True):
    """An order; what it reserved follows from its lines and its status."""

    __tablename__ = "orders"

    id: Mapped[UUID] = mapped_column(primary_key=True, default_factory=new_id)
    tenant: Mapped[int]
    user_id: Mapped[UUID]
    currency: Mapped[str]
    total: Mapped[int] = mapped_column(BigInteger)
    payment_method: Mapped[str]
    details: Mapped[dict[str, JsonValue]] = mapped_column("metadata", JSONB)
    status: Mapped[OrderStatus] = mapped_column(_STATUS, default=OrderStatus.PENDING)
    reason: Mapped[str | None] = mapped_column(default=None)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    amount_refunded: Mapped[int] = mapped_column(BigInteger, default=0)
    created_at: Mapped[datetime] = mapped_column(FetchedValue(), init=False)
    updated_at: Mapped[datetime] = mapped_column(FetchedValue(), init=False)
    listed_as: Mapped[OrderStatus] = mapped_column(
        _STATUS, FetchedValue(), init=False, deferred=True
    )
    """See ``rules.listed_as``; only to look for, by index."""


class OrderLine(Base, kw_only=True):
    """A line of an order, numbered from 1."""

    __tablename__ = "order_line"

    order_id: Mapped[UUID] = mapped_column(ForeignKey("commerce.orders.id"), primary_key=True)
    line_no: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[int]
    sku: Mapped[str]
    quantity: Mapped[int]
    unit_amount: Mapped[int] = mapped_column(BigInteger)
