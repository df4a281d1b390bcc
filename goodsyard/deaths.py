"""Whoever has to know that a job is dead is told in the commit that gives it up.

However it died: out of attempts, refused, uncertain, or lost too often with its workers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeAlias
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession


class Death(NamedTuple):
    """A job that nothing automatic will touch again."""

    id: UUID
    tenant: int
    kind: str
    subject: UUID | None
    reason: str


OnDeath: TypeAlias = Callable[[AsyncSession, Sequence[Death]], Awaitable[None]]
"""Writes what follows from deaths, in their transaction; if it fails, nobody has died."""


async def unmourned(tx: AsyncSession, deaths: Sequence[Death]) -> None:
    """Let nothing follow from deaths."""
