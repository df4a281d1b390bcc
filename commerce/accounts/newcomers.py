"""Many users added in one statement, each whose address and username are free; the others are told.

An address is its own idempotency key: whoever adds the same people again is told who has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

from commerce.accounts.profiles import Profile
from goodsyard.job import new_id


@dataclass(frozen=True, slots=True)
class Newcomer:
    """Somebody to be added."""

    email: str
    username: str
    full_name: str | None


@dataclass(frozen=True, slots=True)
class Taken:
    """A user who has the ``field`` that a newcomer wanted."""

    field: Literal["email", "username"]
    holder: UUID


# Sorted, so that two callers with people in common queue for each other and never in a circle.
_ADD = text("""
    INSERT INTO commerce.users (id, tenant, email, username, full_name)
    SELECT n.id, :tenant, n.email, n.username, n.full_name
      FROM unnest(CAST(:ids AS uuid[]), CAST(:emails AS text[]), CAST(:usernames AS text[]),
                  CAST(:full_names AS text[])) AS n(id, email, username, full_name)
     ORDER BY lower(n.email)
    ON CONFLICT DO NOTHING
    RETURNING id, email, username, full_name, created_at
""")

# Compared in Postgres alone: its lower() and Python's differ in some letters, as in the Turkish İ.
_BY_EMAIL = text("""
    SELECT w.wanted AS name, u.id
      FROM unnest(CAST(:wanted AS text[])) AS w(wanted)
      JOIN commerce.users u ON u.tenant = :tenant AND lower(u.email) = lower(w.wanted)
""")

_BY_USERNAME = text("""
    SELECT username AS name, id FROM commerce.users
     WHERE tenant = :tenant AND username = ANY(CAST(:wanted AS text[]))
""")


async def add_users(
    tx: AsyncSession, tenant: int, newcomers: Sequence[Newcomer]
) -> list[Profile | Taken]:
    """Add those who can be, and return for each, in their order, the user or who is in the way."""
    if not newcomers:
        return []
    ids = [new_id() for _ in newcomers]
    rows = await tx.execute(
        _ADD,
        {
            "tenant": tenant,
            "ids": ids,
            "emails": [n.email for n in newcomers],
            "usernames": [n.username for n in newcomers],
            "full_names": [n.full_name for n in newcomers],
        },
    )
    added = {row.id: Profile(*row) for row in rows}
    late = [n for id_, n in zip(ids, newcomers, strict=True) if id_ not in added]
    emails = await _holders(tx, _BY_EMAIL, tenant, [n.email for n in late])
    usernames = await _holders(tx, _BY_USERNAME, tenant, [n.username for n in late])
    verdicts: list[Profile | Taken] = []
    for id_, newcomer in zip(ids, newcomers, strict=True):
        if id_ in added:
            verdicts.append(added[id_])
        elif newcomer.email in emails:
            verdicts.append(Taken("email", emails[newcomer.email]))
        elif newcomer.username in usernames:
            verdicts.append(Taken("username", usernames[newcomer.username]))
        else:  # who was in the way was erased this moment
            verdicts += await add_users(tx, tenant, [newcomer])
    return verdicts


async def _holders(
    tx: AsyncSession, statement: TextClause, tenant: int, wanted: Sequence[str]
) -> dict[str, UUID]:
    if not wanted:
        return {}
    rows = await tx.execute(statement, {"tenant": tenant, "wanted": list(wanted)})
    return {row.name: row.id for row in rows}
