"""Orders as a customer's program sends them: two lines each, of the shop's users and goods."""

from __future__ import annotations

import random
from collections.abc import Sequence
from uuid import UUID

from benchmarks.yard import SKUS

MAX_BULK = 1_000
"""Orders the API takes in one request."""

_SEED = 4  # any: it makes each run's orders the same
_CARD = "pm_card_visa"


def orders(users: Sequence[UUID], number: int) -> list[dict[str, object]]:
    """Return the bodies of so many orders, the same ones at every call."""
    choose = random.Random(_SEED)  # noqa: S311 - protects nothing
    return [
        {
            "user_id": str(choose.choice(users)),
            "currency": "EUR",
            "lines": [
                {
                    "sku": f"sku-{sku}",
                    "quantity": 1,
                    "unit_amount": choose.randrange(100, 10_000),
                }
                for sku in choose.sample(range(1, SKUS + 1), 2)
            ],
            "payment_method": _CARD,
        }
        for _ in range(number)
    ]


def bulks(users: Sequence[UUID], number: int) -> list[dict[str, object]]:
    """Return the bodies of the bulks that hold so many orders, each under a key of its own."""
    keyed = [
        {**order, "idempotency_key": f"order-{n}"} for n, order in enumerate(orders(users, number))
    ]
    return [{"orders": keyed[at : at + MAX_BULK]} for at in range(0, number, MAX_BULK)]
