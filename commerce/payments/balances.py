"""The trial balance: what the ledger's rows come to, at the cost of a day's rows, not of all.

Transfers older than a day are summed up once, account by account, and only those after the mark are
read again. The day is for the clock: a transfer's id has the time at which it was written, and a
row that is written below the mark is in no sum. Only a database's clock that falls back by a day
does that.
"""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard.database import Sessions

BATCH = 100_000
"""Transfers summed up in a transaction: about a second."""

_FIRST = text("""
    INSERT INTO commerce.summed_up (upto) VALUES ('00000000-0000-0000-0000-000000000000')
    ON CONFLICT DO NOTHING
""")

# Who comes second waits for the mark and goes on from where it was set: what lies behind the mark
# never changes.
_SUM_UP = text("""
    WITH mark AS MATERIALIZED (SELECT upto FROM commerce.summed_up FOR UPDATE),
    batch AS MATERIALIZED (
        SELECT t.id, t.tenant, t.debit, t.credit, t.amount
          FROM mark CROSS JOIN LATERAL (
               SELECT * FROM commerce.transfer x
                WHERE x.id > mark.upto AND x.id < uuidv7(-interval '1 day')
                ORDER BY x.id LIMIT :most) AS t),
    added AS (
        INSERT INTO commerce.account_sum AS s (account, tenant, debits, credits)
        SELECT account, tenant, sum(debits), sum(credits)
          FROM (SELECT debit AS account, tenant, amount AS debits, 0 AS credits FROM batch
                UNION ALL SELECT credit, tenant, 0, amount FROM batch) AS sides
         GROUP BY account, tenant
        ON CONFLICT (account) DO UPDATE
           SET debits = s.debits + excluded.debits, credits = s.credits + excluded.credits),
    moved AS (
        UPDATE commerce.summed_up SET upto = last.id
          FROM (SELECT id FROM batch ORDER BY id DESC LIMIT 1) AS last)
    SELECT count(*) FROM batch
""")

_SHEET = """
    WITH recent AS MATERIALIZED (
        SELECT debit, credit, amount FROM commerce.transfer
         WHERE id > coalesce((SELECT upto FROM commerce.summed_up),
                             '00000000-0000-0000-0000-000000000000')
           AND tenant = :tenant),
    since AS MATERIALIZED (
        SELECT account, sum(debits) AS debits, sum(credits) AS credits
          FROM (SELECT debit AS account, amount AS debits, 0 AS credits FROM recent
                UNION ALL SELECT credit, 0, amount FROM recent) AS sides
         GROUP BY account),
    sheet AS (
        SELECT a.id, a.code, a.currency, a.balance,
               coalesce(s.debits, 0) + coalesce(n.debits, 0) AS debits,
               coalesce(s.credits, 0) + coalesce(n.credits, 0) AS credits
          FROM commerce.account a
          LEFT JOIN commerce.account_sum s ON s.account = a.id
          LEFT JOIN since n ON n.account = a.id
         WHERE a.tenant = :tenant)
"""

_TOTALS = text(f"""{_SHEET}
    SELECT currency, sum(debits)::bigint, sum(credits)::bigint, count(*),
           count(*) FILTER (WHERE balance <> debits - credits)
      FROM sheet GROUP BY currency ORDER BY currency
""")  # noqa: S608 - what is put in is the constant above

_ACCOUNTS = text(f"""{_SHEET}
    SELECT id, code, currency, debits::bigint, credits::bigint
      FROM sheet ORDER BY balance IS NOT NULL, code, currency LIMIT :most
""")  # noqa: S608 - what is put in is the constant above

_ONE = text(f"""{_SHEET}
    SELECT debits::bigint - credits::bigint FROM sheet WHERE id = :account
""")  # noqa: S608 - what is put in is the constant above


class Totals(NamedTuple):
    """All accounts of one currency; sums are in minor units."""

    currency: str
    debits: int
    credits: int
    accounts: int
    astray: int
    """Accounts whose kept balance is not what their transfers come to: none, or somebody's bug."""

    @property
    def balanced(self) -> bool:
        """Whether the books are in order."""
        return self.debits == self.credits and not self.astray


class Sums(NamedTuple):
    """One account; sums are in minor units."""

    account: UUID
    code: str
    currency: str
    debits: int
    credits: int


async def sum_up(sessions: Sessions, most: int = BATCH) -> None:
    """Sum transfers older than a day up, as far as they aren't; commits after every ``most``."""
    summed: int | None = most
    while summed == most:
        async with sessions.begin() as tx:
            await tx.execute(_FIRST)
            summed = await tx.scalar(_SUM_UP, {"most": most})


async def totals(tx: AsyncSession, tenant: int) -> list[Totals]:
    """Return a line a currency."""
    return [Totals(*row) for row in await tx.execute(_TOTALS, {"tenant": tenant})]


async def sums(tx: AsyncSession, tenant: int, most: int) -> list[Sums]:
    """Return a line an account, the flow's accounts first, ``most`` of them."""
    rows = await tx.execute(_ACCOUNTS, {"tenant": tenant, "most": most})
    return [Sums(*row) for row in rows]


async def balance_of(tx: AsyncSession, tenant: int, account: UUID) -> int:
    """Return what the transfers of one account come to: debits less credits, in minor units."""
    balance: int = (await tx.execute(_ONE, {"tenant": tenant, "account": account})).scalar_one()
    return balance
