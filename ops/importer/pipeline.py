"""From a file to the API in constant memory: every entry ends accepted, replayed or refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Generic, TypeVar

from ops.importer.client import IN_FLIGHT, Client, Document, RefusedError, reason_of
from ops.importer.reading import Draft, Entry, Refusal

BATCH = 500  # orders a request: half of what the API takes, so that a repeat costs less
BATCH_BYTES = 1024 * 1024  # of the file; as JSON it is at most thrice that, and the API reads 4 MiB
REQUESTS_IN_FLIGHT = 3  # keeps the API busy while answers are on their way
REMEMBERED = 100_000  # users and SKUs known to exist; the oldest beyond that are asked for again

# For orders that another import hands in at this very moment.
_TRIES = 30
_PAUSE = 1.0  # seconds

T = TypeVar("T")


@dataclass(slots=True)
class Counts:
    """What became of the orders so far, and how many bytes of the file they were."""

    accepted: int = 0
    replayed: int = 0
    refused: int = 0
    bytes: int = 0

    @property
    def orders(self) -> int:
        """All that are done with."""
        return self.accepted + self.replayed + self.refused


class Import:
    """One run over one file.

    Args:
        client: an open client of the API.
        ensure_stock: what an unknown SKU gets on hand; None leaves it unknown.
        on_refusal: told of everything that is refused.
        on_progress: told whenever ``counts`` has changed.
    """

    def __init__(
        self,
        client: Client,
        *,
        ensure_stock: int | None,
        on_refusal: Callable[[Refusal], None],
        on_progress: Callable[[Counts], None],
    ) -> None:
        self.counts = Counts()
        self._client = client
        self._ensure_stock = ensure_stock
        self._on_refusal = on_refusal
        self._on_progress = on_progress
        self._users: dict[str, str | RefusedError] = {}
        self._stock = _Remembered(self._fill_shelf)

    async def run(self, entries: Iterable[Entry], stop: asyncio.Event) -> None:
        """Hand everything in; once ``stop`` is set, finish what is under way and return.

        Raises:
            ImportStoppedError: the API is gone for good or doesn't take the key.
            FormatError, OSError: from reading the entries.
        """
        batches: asyncio.Queue[list[Entry] | None] = asyncio.Queue(maxsize=1)
        try:
            async with asyncio.TaskGroup() as senders:
                for _ in range(REQUESTS_IN_FLIGHT):
                    senders.create_task(self._hand_in_all(batches))
                for batch in _batches(entries):
                    if stop.is_set():
                        break
                    await batches.put(batch)
                for _ in range(REQUESTS_IN_FLIGHT):
                    await batches.put(None)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors  # the first ended the others

    async def _hand_in_all(self, batches: asyncio.Queue[list[Entry] | None]) -> None:
        while (batch := await batches.get()) is not None:
            drafts = []
            for entry in batch:
                if isinstance(entry, Draft):
                    drafts.append(entry)
                else:
                    self._refuse(entry)
            await self._stock_up(drafts)
            await self._submit(await self._with_users(drafts))
            self._on_progress(self.counts)

    async def _stock_up(self, drafts: list[Draft]) -> None:
        if self._ensure_stock is None:
            return
        skus = {sku for draft in drafts for sku in _skus(draft.body)}
        await asyncio.gather(*map(self._stock.get, skus))

    async def _with_users(self, drafts: list[Draft]) -> list[Draft]:
        """Put the user's id into each order; refuse those whose user can't be had."""
        users = await self._users_of({d.email for d in drafts if d.email is not None})
        ready = []
        for draft in drafts:
            if draft.email is not None:
                user = users[draft.email]
                if isinstance(user, RefusedError):
                    self._refuse(Refusal(draft.rows, f"{draft.email}: {user}"))
                    continue
                draft.body["user_id"] = user
            ready.append(draft)
        return ready

    async def _users_of(self, emails: set[str]) -> dict[str, str | RefusedError]:
        unknown = sorted(emails - self._users.keys())
        if unknown:
            self._users |= await self._client.users(unknown)
        known = {email: self._users[email] for email in emails}
        for email in list(self._users)[:-REMEMBERED]:
            del self._users[email]
        return known

    async def _submit(self, drafts: list[Draft]) -> None:
        for _ in range(_TRIES):
            if not drafts:
                return
            results = await self._client.submit([draft.body for draft in drafts])
            verdicts = zip(drafts, results, strict=True)
            drafts = [draft for draft, result in verdicts if not self._settle(draft, result)]
            if drafts:
                await asyncio.sleep(_PAUSE)
        for draft in drafts:
            self._refuse(Refusal(draft.rows, "another request with its key is still under way"))

    def _settle(self, draft: Draft, result: Document) -> bool:
        """Count what became of an order; return False where that isn't known yet."""
        if result["status"] == HTTPStatus.ACCEPTED:
            if result.get("replayed"):
                self.counts.replayed += 1
            else:
                self.counts.accepted += 1
            self.counts.bytes += draft.rows.size
            return True
        if result["problem"].get("type") == IN_FLIGHT:
            return False
        self._refuse(Refusal(draft.rows, reason_of(result["problem"])))
        return True

    def _refuse(self, refusal: Refusal) -> None:
        self.counts.refused += 1
        self.counts.bytes += refusal.rows.size
        self._on_refusal(refusal)

    async def _fill_shelf(self, sku: str) -> None:
        await self._client.ensure_stock(sku, self._ensure_stock or 0)


class _Remembered(Generic[T]):
    """Answers by name, each asked for once as long as it is remembered."""

    def __init__(self, ask: Callable[[str], Coroutine[None, None, T]]) -> None:
        self._ask = ask
        self._answers: dict[str, asyncio.Task[T]] = {}

    async def get(self, name: str) -> T:
        """Return the answer, asking for it unless somebody already has."""
        answer = self._answers.get(name)
        if answer is None:
            answer = self._answers[name] = asyncio.create_task(self._ask(name))
            if len(self._answers) > REMEMBERED:
                del self._answers[next(iter(self._answers))]
        return await answer


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        batch.append(entry)
        size += entry.rows.size
        if len(batch) == BATCH or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _skus(body: Mapping[str, object]) -> Iterator[str]:
    """Yield the SKUs of an order that may have any form: the API will say what is wrong with it."""
    lines = body.get("lines")
    for line in lines if isinstance(lines, list) else []:
        if isinstance(line, dict) and isinstance(line.get("sku"), str):
            yield line["sku"]
