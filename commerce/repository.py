"""Reads and adds single rows of a tenant; another tenant's row is as good as absent.

Whatever is looked at, listed or added by itself goes through here. What locks, changes or compares
is a statement of its own beside the rule it carries out, and for chunks of jobs there are set-wise
ones in each ``rows`` module: an object a row would cost more there than the business it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from commerce.models import Base

T = TypeVar("T")


class Repository(Protocol[T]):
    """Rows of one table, seen by one tenant."""

    async def get(self, key: object) -> T | None:
        """Return the row with this primary key, or ``None``, also if it's another tenant's."""
        ...

    async def add(self, row: T) -> None:
        """Insert the row; its defaults are filled in on return.

        Raises:
            sqlalchemy.exc.IntegrityError: a constraint refused it. The transaction is over.
        """
        ...

    async def page(
        self, *where: ColumnElement[bool], before: UUID | None = None, limit: int = 50
    ) -> Sequence[T]:
        """Return up to ``limit`` rows, newest first, those older than the row ``before``."""
        ...


M = TypeVar("M", bound=Base)


class SqlRepository(Repository[M]):
    """The rows of a mapped table, through the caller's transaction.

    Args:
        tx: the transaction; the caller commits.
        model: the table.
        tenant: whose rows.
        key: the primary key besides the tenant.
    """

    def __init__(
        self, tx: AsyncSession, model: type[M], tenant: int, key: InstrumentedAttribute[Any]
    ) -> None:
        """See the class."""
        self._tx = tx
        self._model = model
        self._key = key  # its type is the table's matter: a UUID, or a SKU
        self._mine: ColumnElement[bool] = model.__table__.c.tenant == tenant

    async def get(self, key: object) -> M | None:
        """See ``Repository.get``."""
        statement = select(self._model).where(self._mine, self._key == key)
        return (await self._tx.scalars(statement)).one_or_none()

    async def add(self, row: M) -> None:
        """See ``Repository.add``."""
        self._tx.add(row)
        await self._tx.flush()

    async def page(
        self, *where: ColumnElement[bool], before: UUID | None = None, limit: int = 50
    ) -> Sequence[M]:
        """See ``Repository.page``."""
        statement = select(self._model).where(self._mine, *where)
        if before is not None:
            statement = statement.where(self._key < before)
        statement = statement.order_by(self._key.desc()).limit(limit)
        return (await self._tx.scalars(statement)).all()
