"""Lists are read page by page, newest first, by a cursor that stays right while rows are added."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Protocol, TypeVar
from uuid import UUID

from pydantic import BaseModel, Field

MAX_LIMIT = 200


class _Row(Protocol):
    @property
    def id(self) -> UUID: ...


R = TypeVar("R", bound=_Row)


class PageQuery(BaseModel):
    """Which page of a list is asked for."""

    # Sixteen bytes in base64url: whatever matches can be decoded.
    cursor: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{21}[AQgw]$")] | None = Field(
        default=None, description="`next_cursor` of the page before."
    )
    limit: int = Field(default=50, ge=1, le=MAX_LIMIT, description="Rows on a page at the most.")

    @property
    def before(self) -> UUID | None:
        """The row behind which the page begins; ``None`` for the first page."""
        if self.cursor is None:
            return None
        return UUID(bytes=base64.urlsafe_b64decode(self.cursor + "=="))

    def cut(self, rows: Sequence[R]) -> tuple[Sequence[R], str | None]:
        """Return the page's rows and the cursor of the next one, ``None`` if this is the last.

        Args:
            rows: ``limit`` + 1 were asked for, to see whether there are more.
        """
        if len(rows) <= self.limit:
            return rows, None
        last = rows[self.limit - 1].id
        return rows[: self.limit], base64.urlsafe_b64encode(last.bytes).rstrip(b"=").decode()


def page(data: Sequence[Any], next_cursor: str | None) -> dict[str, Any]:
    """Return a page as it is answered."""
    return {"data": data, "next_cursor": next_cursor}
