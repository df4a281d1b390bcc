"""Rate limits that hold for the whole cluster, since all relays draw on one row a limit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard.contracts import Contract, Rate

# Refills by the time since ts, then takes what there is, up to what is wanted. GREATEST keeps the
# clock from going back; the row lock is held to the commit, so relays take turns.
_GRANT = text("""
    UPDATE goodsyard.rate
       SET tokens = full_to.tokens - least(:wanted, floor(full_to.tokens)),
           ts = greatest(ts, statement_timestamp())
      FROM (SELECT least(burst, tokens + per_second * greatest(
                           0, extract(epoch FROM statement_timestamp() - ts)::float8)) AS tokens
              FROM goodsyard.rate WHERE name = :name FOR UPDATE) AS full_to
     WHERE name = :name
    RETURNING least(:wanted, floor(full_to.tokens))::int
""")

_GIVE_BACK = text("""
    UPDATE goodsyard.rate SET tokens = least(burst, tokens + :unused) WHERE name = :name
""")

_DECLARE = text("""
    INSERT INTO goodsyard.rate (name, tokens, per_second, burst)
    VALUES (:name, :burst, :per_second, :burst)
    ON CONFLICT (name) DO NOTHING
""")

_SET = text("""
    INSERT INTO goodsyard.rate AS r (name, tokens, per_second, burst)
    VALUES (:name, :burst, :per_second, :burst)
    ON CONFLICT (name) DO UPDATE
       SET per_second = excluded.per_second, burst = excluded.burst,
           tokens = least(r.tokens, excluded.burst)
""")

_REMOVE = text("DELETE FROM goodsyard.rate WHERE name = :name")

_LIST = text("SELECT name, per_second, burst FROM goodsyard.rate ORDER BY name")


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit in force: jobs a second, and how many may start at once after a pause."""

    name: str
    per_second: float
    burst: float


async def declare(tx: AsyncSession, contracts: Iterable[type[Contract]]) -> None:
    """Insert the limits that policies start with; one that exists was perhaps changed: it stays."""
    for contract in contracts:
        limit = contract.policy.limit
        if limit is not None:
            await tx.execute(_DECLARE, _parameters(contract.kind, limit))


async def set_limit(tx: AsyncSession, name: str, limit: Rate | None) -> None:
    """Set the limit of ``name`` from now on, or remove it; relays follow within a second."""
    if limit is None:
        await tx.execute(_REMOVE, {"name": name})
    else:
        await tx.execute(_SET, _parameters(name, limit))


async def list_limits(tx: AsyncSession) -> list[Limit]:
    """Return all limits in force."""
    return [Limit(*row) for row in await tx.execute(_LIST)]


async def grant(tx: AsyncSession, name: str, wanted: int) -> int:
    """Take up to ``wanted`` whole tokens; 0 while there is none, all of them without a limit."""
    granted: int | None = await tx.scalar(_GRANT, {"name": name, "wanted": wanted})
    return wanted if granted is None else granted


async def give_back(tx: AsyncSession, name: str, unused: int) -> None:
    """Return tokens that no job was found for, in the transaction that took them."""
    await tx.execute(_GIVE_BACK, {"name": name, "unused": unused})


def _parameters(name: str, limit: Rate) -> dict[str, object]:
    return {"name": name, "per_second": limit.per_second, "burst": limit.capacity}
