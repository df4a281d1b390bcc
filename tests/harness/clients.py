"""Clients that hand in orders over HTTP all the time, and keep each 202 whatever dies meanwhile.

What was accepted is what their file says: it is written and flushed to disk before the next order.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from uuid import UUID

import httpx

from tests.harness.programs import PATIENCE
from tests.harness.shop import Shop

T = TypeVar("T")

CD = {"sku": "CD", "quantity": 1, "unit_amount": 1_499}
"""What everybody buys."""

_TRIES = 50

_PAUSE_SECONDS = 0.02
"""Between two orders of one client: a load that two cores carry while they start processes."""


def order_of(shop: Shop, *lines: Mapping[str, object]) -> dict[str, object]:
    """Return an order of the shop's customer, as the API takes it: a CD if nothing is named."""
    return {
        "user_id": str(shop.user),
        "currency": "EUR",
        "lines": lines or [CD],
        "payment_method": "pm_card_visa",
    }


def caller(shop: Shop, url: str = "") -> httpx.Client:
    """Return an HTTP client that the API takes for the shop's administrator."""
    headers = {"Authorization": f"Bearer {shop.api_key()}"}
    return httpx.Client(base_url=url, headers=headers, timeout=PATIENCE)


def at_once(works: Sequence[Callable[[], T]]) -> list[T]:
    """Do all of it at the same moment, and return what each came to."""
    start = threading.Barrier(len(works))

    def run(work: Callable[[], T]) -> T:
        start.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works))


class Record:
    """The orders that were accepted, one a line, each on disk before its client goes on."""

    def __init__(self, path: Path) -> None:
        """Write to ``path``, which doesn't exist yet."""
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)

    def accepted(self, order: str) -> None:
        """Keep an order for good."""
        os.write(self._file, f"{order}\n".encode())
        os.fsync(self._file)

    def read(self) -> list[UUID]:
        """Return all orders that were accepted, in their order."""
        return [UUID(line) for line in self._path.read_text().splitlines()]

    def close(self) -> None:
        """Write no more."""
        os.close(self._file)


@dataclass
class Clients:
    """Some clients at work, from the beginning of the block to its end.

    Args:
        shop: whose orders they are.
        urls: the APIs.
        record: where what was accepted is kept.
        number: how many clients there are.
        balanced: whether a client does as a load balancer would: where no answer begins (refused,
            reset), it tries the other API, under the same key. The others take one API in turn, on
            a connection of its own for each order, and try nothing again.
    """

    shop: Shop
    urls: Sequence[str]
    record: Record
    number: int = 3
    balanced: bool = True
    failed: list[str] = field(default_factory=list, init=False)
    """What an order got instead of a 202."""
    unheard: Counter[str] = field(default_factory=Counter, init=False)
    """Calls that got no answer, by the error."""

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._numbers = count(1)
        self._headers = {"Authorization": f"Bearer {self.shop.api_key()}"}
        self._order = order_of(self.shop)
        self._pool = ThreadPoolExecutor(self.number, thread_name_prefix="client")
        self._work: list[Future[None]] = []

    def __enter__(self) -> Self:
        self._work = [self._pool.submit(self._run) for _ in range(self.number)]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._pool.shutdown()
        for order in self.record.read():
            self.shop.expected[order] = "paid"
        for work in self._work:
            work.result()

    def _run(self) -> None:
        hand_in: Callable[[httpx.Client, int], None] = (
            self._insist if self.balanced else self._try_once
        )
        limits = None if self.balanced else httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(
            headers=self._headers, timeout=PATIENCE, limits=limits or httpx.Limits()
        ) as http:
            while not self._stop.wait(_PAUSE_SECONDS):
                hand_in(http, next(self._numbers))

    def _try_once(self, http: httpx.Client, number: int) -> None:
        try:
            answer = self._submit(http, number, self.urls[number % len(self.urls)])
        except httpx.ConnectError:
            self.unheard["ConnectError"] += 1  # the balancer's business
        except httpx.TransportError as error:
            self.failed.append(f"{type(error).__name__}: {error}")
        else:
            self._take(answer)

    def _insist(self, http: httpx.Client, number: int) -> None:
        for turn in range(number, number + _TRIES):
            try:
                answer = self._submit(http, number, self.urls[turn % len(self.urls)])
            except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
                self.unheard[type(error).__name__] += 1
                continue
            if answer.status_code != httpx.codes.CONFLICT:  # the first try is being carried out
                self._take(answer)
                return
        self.failed.append(f"no answer to order {number}")

    def _submit(self, http: httpx.Client, number: int, url: str) -> httpx.Response:
        key = {"Idempotency-Key": f"{id(self)}-{number}"}
        return http.post(f"{url}/v1/orders", json=self._order, headers=key)

    def _take(self, answer: httpx.Response) -> None:
        if answer.status_code == httpx.codes.ACCEPTED:
            self.record.accepted(answer.json()["order"]["id"])
        else:
            self.failed.append(f"{answer.status_code}: {answer.text[:200]}")
