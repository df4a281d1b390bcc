"""Compares what the gateway took and gave back with our books, both ways, and only reports.

Which side is right, and what has to be mended, is a person's question.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import ClassVar, Generic, TypeVar

from pydantic import JsonValue
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from commerce.payments.rules import GatewayAnswer
from goodsyard.job import first_id_at

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

    @property
    def name(self) -> str:
        """What both sides know it by: an id of the gateway's that our books keep."""
        return self.gateway_id


@dataclass(frozen=True, slots=True)
class Refund:
    """Money given back, as one of the two sides has it; ``gateway_id`` is not in our books."""

    refund_id: str
    charge_id: str
    gateway_id: str = field(compare=False)
    amount: int
    currency: str
    created: datetime = field(compare=False)

    @property
    def name(self) -> str:
        """What both sides know it by: our id, or the gateway's of one that was made there."""
        return self.refund_id


Movement = TypeVar("Movement", Charge, Refund)


@dataclass(frozen=True, slots=True)
class Statement:
    """The money that moved in a period and its margins, as one of the two sides has it."""

    charges: Sequence[Charge]
    refunds: Sequence[Refund]


@dataclass(frozen=True, slots=True)
class Sight:
    """How one charge stands at the gateway."""

    answer: GatewayAnswer
    charge: Charge
    refunds: Sequence[Refund]
    fallen_through: Sequence[Refund]
    """Refunds that the card's bank sent back: the money is ours again."""
    dispute: str | None
    """What the card's holder says against it, and how far that is."""


@dataclass(frozen=True, slots=True)
class Period:
    """From ``since`` until before ``until``, best an hour ago: what is under way differs.

    What moved belongs to the period by either side's clock; its other half may lie up to a day off.
    """

    since: datetime
    until: datetime

    MARGIN: ClassVar[timedelta] = timedelta(days=1)

    def __contains__(self, moved: Charge | Refund) -> bool:
        return self.since <= moved.created < self.until


@dataclass(frozen=True, slots=True)
class Differences(Generic[Movement]):
    """What one side has and the other hasn't, or has otherwise."""

    gateway_only: Sequence[Movement]
    books_only: Sequence[Movement]
    otherwise: Sequence[tuple[Movement, Movement]]

    def __bool__(self) -> bool:
        return bool(self.gateway_only or self.books_only or self.otherwise)

    def report(self) -> dict[str, JsonValue]:
        """Return them as a part of a job's result."""
        return {
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


def _listed(moved: Sequence[Charge] | Sequence[Refund]) -> list[JsonValue]:
    return [_shown(one) for one in moved[:MOST_REPORTED]]


def _shown(moved: Charge | Refund) -> dict[str, JsonValue]:
    return asdict(moved) | {"created": moved.created.isoformat()}


def report(gateway: Statement, books: Statement, period: Period) -> dict[str, JsonValue]:
    """Return what differs as a job's result: whether anything does, and what, of either kind."""
    charges = compare(gateway.charges, books.charges, period)
    refunds = compare(gateway.refunds, books.refunds, period)
    return {
        "balanced": not charges and not refunds,
        "charges": charges.report()
        | {"captured": len(gateway.charges), "booked": len(books.charges)},
        "refunds": refunds.report()
        | {"given_back": len(gateway.refunds), "booked": len(books.refunds)},
    }


def compare(
    gateway: Iterable[Movement], books: Iterable[Movement], period: Period
) -> Differences[Movement]:
    """Match by the one name that both sides share, and by nothing else.

    Both sides are given with the period's margins; only what lies inside can differ. What the
    gateway did twice under one name is in our books once: the second is the gateway's alone.
    """
    ours = {moved.name: moved for moved in books}
    theirs: dict[str, Movement] = {}
    again = [moved for moved in gateway if theirs.setdefault(moved.name, moved) is not moved]
    alone = [moved for name, moved in theirs.items() if name not in ours]
    return Differences(
        gateway_only=[moved for moved in alone + again if moved in period],
        books_only=[m for name, m in ours.items() if name not in theirs and m in period],
        otherwise=[
            (moved, ours[name])
            for name, moved in theirs.items()
            if name in ours and moved != ours[name] and moved in period
        ],
    )


# What counts is the ledger: a payment that says it succeeded and was never booked is a difference.
_CAPTURED = text("""
    SELECT p.id::text, coalesce(p.gateway_id, ''), t.amount, t.currency, p.created_at
      FROM commerce.transfer t
      JOIN commerce.payment p ON p.id = t.payment_id
     WHERE t.tenant = :tenant AND t.code = 'capture'
       AND p.created_at >= :since AND p.created_at < :until
""")

_GIVEN_BACK = text("""
    SELECT split_part(t.code, ':', 2), coalesce(p.gateway_id, ''), '', t.amount, t.currency,
           t.created_at
      FROM commerce.transfer t
      JOIN commerce.payment p ON p.id = t.payment_id
     WHERE t.tenant = :tenant AND starts_with(t.code, 'refund:')
       AND t.created_at >= :since AND t.created_at < :until
""")

# By either name: a charge that was never booked has no gateway's id in our rows. A payment of
# somebody who shares the gateway's account with us may be named in any form.
_OTHERS = text("""
    SELECT id::text AS payment_id, gateway_id FROM commerce.payment
     WHERE tenant <> :tenant
       AND (gateway_id = ANY(CAST(:charges AS text[]))
            OR id = ANY(ARRAY(SELECT CAST(given AS uuid)
                                FROM unnest(CAST(:payments AS text[])) AS given
                               WHERE pg_input_is_valid(given, 'uuid'))))
""")


# Ids begin with their time: a day's payments lie together in the primary key.
_WHO_PAID = text("""
    SELECT DISTINCT tenant FROM commerce.payment WHERE id >= :since AND id < :until ORDER BY tenant
""")


async def who_paid(tx: AsyncSession, since: datetime, until: datetime) -> list[int]:
    """Return the tenants that had payments made in a period."""
    period = {"since": first_id_at(since), "until": first_id_at(until)}
    return list(await tx.scalars(_WHO_PAID, period))


async def booked(tx: AsyncSession, tenant: int, period: Period) -> Statement:
    """Return what the ledger has of payments and refunds made in the period or its margins."""
    parameters = {
        "tenant": tenant,
        "since": period.since - Period.MARGIN,
        "until": period.until + Period.MARGIN,
    }
    charges = await tx.execute(_CAPTURED, parameters)
    refunds = await tx.execute(_GIVEN_BACK, parameters)
    return Statement([Charge(*row) for row in charges], [Refund(*row) for row in refunds])


async def without_other_tenants(tx: AsyncSession, tenant: int, gateway: Statement) -> Statement:
    """Leave out what is known to be other tenants': the gateway's account is shared by all."""
    parameters = {
        "tenant": tenant,
        "payments": [charge.payment_id for charge in gateway.charges],
        "charges": [charge.gateway_id for charge in gateway.charges]
        + [refund.charge_id for refund in gateway.refunds],
    }
    others = (await tx.execute(_OTHERS, parameters)).all()
    payments = {row.payment_id for row in others}
    charges = {row.gateway_id for row in others} | {
        charge.gateway_id for charge in gateway.charges if charge.payment_id in payments
    }
    return Statement(
        [charge for charge in gateway.charges if charge.gateway_id not in charges],
        [refund for refund in gateway.refunds if refund.charge_id not in charges],
    )
