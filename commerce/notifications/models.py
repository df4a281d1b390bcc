"""The table of webhook endpoints."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import ARRAY, FetchedValue, Text
from sqlalchemy.orm import Mapped, mapped_column

from commerce.models import Base
from goodsyard.job import new_id


class WebhookEndpoint(Base, kw_only=True):
    """Where a tenant wants to be told of events, and how it has answered lately."""

    __tablename__ = "webhook_endpoint"

    id: Mapped[UUID] = mapped_column(primary_key=True, default_factory=new_id)
    tenant: Mapped[int]
    url: Mapped[str]
    events: Mapped[list[str]] = mapped_column(ARRAY(Text))
    generation: Mapped[int] = mapped_column(default=1)
    previous_until: Mapped[datetime | None] = mapped_column(default=None)
    created_at: Mapped[datetime] = mapped_column(FetchedValue(), init=False)
    failures: Mapped[int] = mapped_column(default=0)
    failing_since: Mapped[datetime | None] = mapped_column(default=None)
    trips: Mapped[int] = mapped_column(default=0)
    spared_until: Mapped[datetime | None] = mapped_column(default=None)
    disabled_at: Mapped[datetime | None] = mapped_column(default=None)
    disabled_reason: Mapped[str | None] = mapped_column(default=None)
