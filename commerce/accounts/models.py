"""The table of users."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import FetchedValue
from sqlalchemy.orm import Mapped, mapped_column

from commerce.accounts.roles import Role
from commerce.models import Base
from goodsyard.job import new_id


class User(Base, kw_only=True):
    """Who buys; once erased, a number that orders and the ledger point to and nothing more."""

    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True, default_factory=new_id)
    tenant: Mapped[int]
    email: Mapped[str | None]
    username: Mapped[str | None]
    full_name: Mapped[str | None] = mapped_column(default=None)
    password_hash: Mapped[str | None] = mapped_column(default=None)
    role: Mapped[str] = mapped_column(default=Role.CUSTOMER.value)
    created_at: Mapped[datetime] = mapped_column(FetchedValue(), init=False)
    erased_at: Mapped[datetime | None] = mapped_column(default=None)
