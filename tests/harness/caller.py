"""Somebody who hands orders in over HTTP all the time, and remembers what was answered."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from uuid import UUID, uuid4

import httpx

from tests.harness.cluster import Api
from tests.harness.shop import Shop

_SECONDS_BETWEEN = 0.05


@dataclass
class Caller:
    """Hands one paid order after the other in until it leaves; each must end as ``paid``.

    Args:
        api: where.
        shop: whose orders they are.

    Attributes:
        took: seconds that each answer took.
        refused: the answers that weren't a 202, and the errors in an answer's place.
    """

    api: Api
    shop: Shop
    took: list[float] = field(default_factory=list, init=False)
    refused: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._leaving = threading.Event()
        self._accepted: list[UUID] = []
        headers = {"Authorization": f"Bearer {self.shop.api_key()}"}
        self._client = httpx.Client(base_url=self.api.url, headers=headers, timeout=30)
        self._thread = threading.Thread(target=self._hand_in, name="caller", daemon=True)

    @property
    def accepted(self) -> int:
        """How many orders were accepted so far."""
        return len(self._accepted)

    def until_accepted(self, more: int) -> None:
        """Wait until that many more orders were accepted."""
        aim = self.accepted + more
        self.shop.until(lambda: self.accepted >= aim, f"{more} more orders to be accepted")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leaving.set()
        self._thread.join()
        self._client.close()
        self.shop.expected |= dict.fromkeys(self._accepted, "paid")

    def _hand_in(self) -> None:
        order = {
            "user_id": str(self.shop.user),
            "currency": "EUR",
            "lines": [{"sku": "CD", "quantity": 1, "unit_amount": 1_999}],
            "payment_method": "pm_card_visa",
        }
        while not self._leaving.wait(_SECONDS_BETWEEN):
            key = {"Idempotency-Key": str(uuid4())}
            began = time.monotonic()
            try:
                answer = self._client.post("/v1/orders", json=order, headers=key)
            except httpx.HTTPError as error:
                self.refused.append(repr(error))
                continue
            finally:
                self.took.append(time.monotonic() - began)
            if answer.status_code == httpx.codes.ACCEPTED:
                self._accepted.append(UUID(answer.json()["order"]["id"]))
            else:
                self.refused.append(answer.text)
