"""Merges orders that come one by one: what arrives during one transaction goes into the next.

Nothing waits for a timer: an order that finds nothing under way goes at once, and the busier the
process, the more orders share a commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy.exc import IntegrityError

from goodsyard.request_keys import KeyInFlightError
from producers.acceptance import Wish
from producers.submission import Submission, Verdict

MOST_TOGETHER = 100
"""Orders a transaction takes: with more it only gets longer, and so does everybody's wait."""

PATIENCE_MS = 25
"""How long orders wait together for a request with the key of one of them; then each goes alone,
and only that one waits on."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A wish, and where its caller waits."""

    wish: Wish
    verdict: asyncio.Future[Verdict]


class Intake:
    """Takes in the orders of one process, on one event loop."""

    def __init__(self, submission: Submission) -> None:
        """Accept orders through ``submission``."""
        self._submission = submission
        self._waiting: dict[int, list[_Asked]] = {}  # of each tenant that has orders under way
        self._under_way: set[asyncio.Task[None]] = set()

    async def accept(self, tenant: int, wish: Wish) -> Verdict:
        """Accept an order, if it can be; once begun it is carried out, whether we wait or not.

        Raises:
            sqlalchemy.exc.DBAPIError: Postgres is away or unwilling; the key tells what was kept.
        """
        asked = _Asked(wish, asyncio.get_running_loop().create_future())
        if tenant in self._waiting:
            self._waiting[tenant].append(asked)
        else:
            self._waiting[tenant] = [asked]
            self._start(self._work_off(tenant))
        return await asked.verdict

    async def close(self) -> None:
        """Wait until what was taken in is decided."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _work_off(self, tenant: int) -> None:
        while together := self._take(tenant):
            await self._decide(tenant, together)
        del self._waiting[tenant]

    def _take(self, tenant: int) -> list[_Asked]:
        """Take the first of those who wait; of equal keys one, the others learn what it became."""
        together: dict[str, _Asked] = {}
        later: list[_Asked] = []
        for asked in self._waiting[tenant]:
            key = asked.wish.key.key
            if len(together) < MOST_TOGETHER and key not in together:
                together[key] = asked
            else:
                later.append(asked)
        self._waiting[tenant] = later
        return list(together.values())

    async def _decide(self, tenant: int, together: Sequence[_Asked]) -> None:
        try:
            verdicts = await self._accept(tenant, [asked.wish for asked in together])
        except Exception as error:  # noqa: BLE001 - it is raised to every caller
            if len(together) > 1 and isinstance(error, (KeyInFlightError, IntegrityError)):
                for asked in together:
                    self._start(self._decide(tenant, [asked]))
            else:
                for asked in _awaited(together):
                    asked.verdict.set_exception(error)
            return
        for asked in _awaited(together):
            asked.verdict.set_result(verdicts[asked.wish.key.key])

    async def _accept(self, tenant: int, wishes: Sequence[Wish]) -> dict[str, Verdict]:
        if len(wishes) == 1:
            return await self._submission.accept(tenant, wishes)
        return await self._submission.accept_together(tenant, wishes, PATIENCE_MS)


def _awaited(together: Sequence[_Asked]) -> Iterator[_Asked]:
    """Yield those whose callers haven't hung up."""
    return (asked for asked in together if not asked.verdict.done())
