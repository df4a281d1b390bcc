"""Compares the gateway's charges with our books, both ways, and only reports: a person repairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import ClassVar

from pydantic import JsonValue
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

MOST_REPORTED = 100
"""Differences of a kind that a report lists; beyond them it only counts."""


@dataclass(frozen=True, slots=True)
class Charge:
    """A captured charge, as one of the two sides has it."""

    payment_id: str
    gateway_id: str
    amount: int
    currency: str
    created: datetime = field(compare=False)


@dataclass(frozen=True, slots=True)
class Period:
    """From ``since`` until before ``until``, best an hour ago: what is under way differs.

    A charge belongs to the period by either side's clock; its other half may lie up to a day off.
    """

    since: datetime
    until: datetime

    MARGIN: ClassVar[timedelta] = timedelta(days=1)

    def __contains__(self, charge: Charge) -> bool:
        return self.since <= charge.created < self.until


@dataclass(frozen=True, slots=True)
class Differences:
    """What one side has and the other hasn't, or has otherwise."""

    gateway_only: Sequence[Charge]
    books_only: Sequence[Charge]
    otherwise: Sequence[tuple[Charge, Charge]]

    def report(self) -> dict[str, JsonValue]:
        """Return them as a job's result."""
        return {
            "balanced": not (self.gateway_only or self.books_only or self.otherwise),
            "gateway_only": _listed(self.gateway_only),
            "books_only": _listed(self.books_only),
            "otherwise": [
                {"gateway": _shown(theirs), "books": _shown(ours)}
                for theirs, ours in self.otherwise[:MOST_REPORTED]
            ],
            "counts": {
                "gateway_only": len(self.gateway_only),
                "books_only": len(self.books_only),
                "otherwise": len(self.otherwise),
            },
        }


def _listed(charges: Sequence[Charge]) -> list[JsonValue]:
    return [_shown(charge) for charge in charges[:MOST_REPORTED]]


def _shown(charge: Charge) -> dict[str, JsonValue]:
    return asdict(charge) | {"created": charge.created.isoformat()}


def compare(gateway: Iterable[Charge], books: Iterable[Charge], period: Period) -> Differences:
    """Match charges by the gateway's id, and by nothing else: it is the one name both sides share.

    Both sides are given with the period's margins; only what lies inside can differ.
    """
    theirs = {charge.gateway_id: charge for charge in gateway}
    ours = {charge.gateway_id: charge for charge in books}
    return Differences(
        gateway_only=[c for key, c in theirs.items() if key not in ours and c in period],
        books_only=[c for key, c in ours.items() if key not in theirs and c in period],
        otherwise=[
            (charge, ours[key])
            for key, charge in theirs.items()
            if key in ours and charge != ours[key] and charge in period
        ],
    )


# What counts is the ledger: a payment that says it succeeded and was never booked is a difference.
_BOOKED = text("""
    SELECT p.id::text, coalesce(p.gateway_id, ''), t.amount, t.currency, p.created_at
      FROM commerce.transfer t
      JOIN commerce.payment p ON p.id = t.payment_id
     WHERE t.tenant = :tenant AND t.code = 'capture'
       AND p.created_at >= :since AND p.created_at < :until
""")

_KNOWN = text("""
    SELECT id::text FROM commerce.payment
     WHERE tenant <> :tenant AND id = ANY(CAST(:ids AS uuid[]))
""")


async def booked(tx: AsyncSession, tenant: int, period: Period) -> list[Charge]:
    """Return what the ledger has captured of payments created in the period or its margins."""
    rows = await tx.execute(
        _BOOKED,
        {
            "tenant": tenant,
            "since": period.since - Period.MARGIN,
            "until": period.until + Period.MARGIN,
        },
    )
    return [Charge(*row) for row in rows]


async def of_other_tenants(tx: AsyncSession, tenant: int, payment_ids: Sequence[str]) -> set[str]:
    """Return which of the payments are other tenants': the gateway's account is shared by all."""
    return set(await tx.scalars(_KNOWN, {"tenant": tenant, "ids": list(payment_ids)}))
