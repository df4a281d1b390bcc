"""Customers who order at a steady pace, note every 202 on disk, and ask again where none came."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID, uuid4

import httpx

_PATIENCE_SECONDS = 2.0
_ASK_AGAIN = frozenset({409, 429, 500, 502, 503, 504})

# How an order must end, its one line, and the card: one in ten is declined, free, or not to be had.
_MIX = (
    ("payment_failed", "CD", 1, 1_999, "pm_card_chargeDeclined"),
    ("paid", "CD", 1, 0, "pm_card_visa"),
    ("rejected", "sold-out", 1, 1_999, "pm_card_visa"),
    *7 * (("paid", "CD", 2, 1_499, "pm_card_visa"),),
)


@dataclass
class Customers:
    """A thread that submits orders, first to one API and then, where that fails, to the next.

    Args:
        urls: where the APIs answer.
        key: the shop's API key.
        user: who orders.
        rate: orders a second.
        log: every 202 is written there, and flushed to disk, before the next order.
    """

    urls: list[str]
    key: str
    user: UUID
    rate: float
    log: Path
    chance: random.Random
    accepted: dict[UUID, str] = field(default_factory=dict)
    """What every accepted order must end as."""
    asked_again: int = 0
    refused: list[str] = field(default_factory=list)
    """Answers that no customer should get."""

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._order_on, name="customers", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Order no more; the one that is under way is seen to its 202."""
        self._stopping.set()
        self._thread.join()

    def _order_on(self) -> None:
        headers = {"Authorization": f"Bearer {self.key}"}
        with (
            self.log.open("a") as log,
            httpx.Client(timeout=_PATIENCE_SECONDS, headers=headers) as client,
        ):
            while not self._stopping.wait(self.chance.expovariate(self.rate)):
                end, sku, quantity, amount, card = self.chance.choice(_MIX)
                line = {"sku": sku, "quantity": quantity, "unit_amount": amount}
                body: dict[str, object] = {
                    "user_id": str(self.user),
                    "currency": "EUR",
                    "payment_method": card,
                    "lines": [line],
                }
                order = self._submit(client, body)
                if order is not None:
                    log.write(f"{order} {end}\n")
                    log.flush()
                    os.fsync(log.fileno())
                    self.accepted[order] = end

    def _submit(self, client: httpx.Client, body: Mapping[str, object]) -> UUID | None:
        """Submit under one key until there is a clear answer; return the order, if there is one."""
        headers = {"Idempotency-Key": str(uuid4())}
        while True:
            url = self.chance.choice(self.urls)
            try:
                answer = client.post(f"{url}/v1/orders", json=body, headers=headers)
            except httpx.TransportError:
                self.asked_again += 1
                self._stopping.wait(0.05)
                continue
            if answer.status_code == httpx.codes.ACCEPTED:
                return UUID(answer.json()["order"]["id"])
            if answer.status_code not in _ASK_AGAIN:
                self.refused.append(f"{answer.status_code}: {answer.text[:200]}")
                return None
            self.asked_again += 1
            self._stopping.wait(0.05)
