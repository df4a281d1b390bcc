"""The ledger: append-only, one row a transfer: debits and credits balance by construction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

GATEWAY = "gateway"
"""Account: money that the payment provider holds for us."""
SALES = "sales"
"""Account: what customers paid for goods."""

SYSTEM = frozenset({GATEWAY, SALES})
"""The accounts that the flow books on; none of them keeps a balance."""

CAPTURE = "capture"
"""Transfer code of a captured charge."""
REFUND = "refund"
"""Transfer code of money given back, followed by a colon and the refund's name."""
MOVE = "transfer"
"""Transfer code of funds moved between a tenant's own accounts."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """An amount in minor units from one account (credit) to another (debit), for a payment."""

    tenant: int
    debit: str
    credit: str
    amount: int
    currency: str
    code: str
    payment_id: UUID


_OPEN_ACCOUNTS = text("""
    INSERT INTO commerce.account (tenant, code, currency)
    SELECT DISTINCT a.tenant, a.code, a.currency
      FROM unnest(CAST(:tenants AS int[]), CAST(:codes AS text[]), CAST(:currencies AS text[]))
        AS a(tenant, code, currency)
     WHERE NOT EXISTS (SELECT FROM commerce.account x
                        WHERE (x.tenant, x.code, x.currency) = (a.tenant, a.code, a.currency))
     ORDER BY 1, 2, 3
    ON CONFLICT DO NOTHING
""")

# No ON CONFLICT: the same transfer twice must fail loudly, or another amount would pass for it.
_BOOK = text("""
    INSERT INTO commerce.transfer (tenant, debit, credit, amount, currency, code, payment_id)
    SELECT t.tenant, d.id, c.id, t.amount, t.currency, t.code, t.payment_id
      FROM unnest(CAST(:tenants AS int[]), CAST(:debits AS text[]), CAST(:credits AS text[]),
                  CAST(:amounts AS bigint[]), CAST(:currencies AS text[]), CAST(:codes AS text[]),
                  CAST(:payments AS uuid[]))
        AS t(tenant, debit, credit, amount, currency, code, payment_id)
      JOIN commerce.account d ON (d.tenant, d.code, d.currency) = (t.tenant, t.debit, t.currency)
      JOIN commerce.account c ON (c.tenant, c.code, c.currency) = (t.tenant, t.credit, t.currency)
""")

_REFUNDS = text("""
    SELECT payment_id, split_part(code, ':', 2) FROM commerce.transfer
     WHERE tenant = :tenant AND payment_id = ANY(CAST(:payments AS uuid[]))
       AND starts_with(code, 'refund:')
""")


async def refunds_booked(
    tx: AsyncSession, tenant: int, payments: Sequence[UUID]
) -> set[tuple[UUID, str]]:
    """Return the payments' refunds that are booked: each payment with the refund's name."""
    rows = await tx.execute(_REFUNDS, {"tenant": tenant, "payments": list(payments)})
    return {(payment, name) for payment, name in rows}


async def book(tx: AsyncSession, transfers: Sequence[Transfer]) -> None:
    """Append transfers, opening accounts that don't exist yet.

    Raises:
        sqlalchemy.exc.IntegrityError: one was booked before. The transaction is over, and somebody
            has to look: no correct run books twice.
    """
    if not transfers:
        return
    accounts = {(t.tenant, code, t.currency) for t in transfers for code in (t.debit, t.credit)}
    tenants, codes, currencies = zip(*accounts, strict=True)
    await tx.execute(
        _OPEN_ACCOUNTS,
        {"tenants": list(tenants), "codes": list(codes), "currencies": list(currencies)},
    )
    await tx.execute(
        _BOOK,
        {
            "tenants": [t.tenant for t in transfers],
            "debits": [t.debit for t in transfers],
            "credits": [t.credit for t in transfers],
            "amounts": [t.amount for t in transfers],
            "currencies": [t.currency for t in transfers],
            "codes": [t.code for t in transfers],
            "payments": [t.payment_id for t in transfers],
        },
    )
