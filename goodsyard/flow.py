"""Which handler runs which contract; a contract without one stops the process at its start."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard.contracts import Contract, Effect
from goodsyard.deaths import OnDeath, unmourned
from goodsyard.job import Job
from goodsyard.outcomes import Outcome

C = TypeVar("C", bound=Contract)
A = TypeVar("A")


class FlowError(Exception):
    """The contracts and the handlers don't match; the message names which."""


@dataclass(frozen=True, slots=True)
class DatabaseHandler(Generic[C]):
    """Applies a chunk's effects in the engine's transaction, an outcome a job, in their order."""

    contract: type[C]
    run: Callable[[Sequence[Job[C]], AsyncSession], Awaitable[Sequence[Outcome]]]


def each(
    run: Callable[[Job[C], AsyncSession], Awaitable[Outcome]],
) -> Callable[[Sequence[Job[C]], AsyncSession], Awaitable[Sequence[Outcome]]]:
    """Turn a handler of one job into a handler of a chunk, for kinds where speed is no matter."""

    async def run_all(jobs: Sequence[Job[C]], tx: AsyncSession) -> Sequence[Outcome]:
        return [await run(job, tx) for job in jobs]

    return run_all


class ExternalHandler(Protocol[C, A]):
    """Calls a provider with no transaction open, then settles answers in one.

    ``call`` may run more than once for a job: it must give the provider a key derived from our row.
    What it raises is a failed attempt of that job alone.
    """

    contract: type[C]

    async def call(self, job: Job[C]) -> A:
        """Ask the provider; a definite no is an answer, not an exception."""
        ...

    async def settle(
        self, tx: AsyncSession, answered: Sequence[tuple[Job[C], A]]
    ) -> Sequence[Outcome]:
        """Write the answers down; an outcome a job, in their order."""
        ...


# A flow holds handlers of many contracts and answers: no one type parameter fits them all.
Handler = DatabaseHandler[Any] | ExternalHandler[Any, Any]


class Flow:
    """All contracts with their handlers."""

    def __init__(
        self,
        contracts: Iterable[type[Contract]],
        handlers: Iterable[Handler],
        on_death: OnDeath = unmourned,
    ) -> None:
        """Match handlers to contracts.

        Args:
            contracts: every kind there is.
            handlers: one for each.
            on_death: what follows when a job of any kind dies.

        Raises:
            FlowError: a contract has no handler or two, a handler's form doesn't fit its contract's
                effect, or there is no way from an older version of a contract to this one.
        """
        self.contracts = {contract.kind: contract for contract in contracts}
        self.on_death = on_death
        self._handlers: dict[str, Handler] = {}
        for handler in handlers:
            self._add(handler)
        missing = sorted(self.contracts.keys() - self._handlers.keys())
        if missing:
            message = f"no handler for {', '.join(missing)}: add it to the flow"
            raise FlowError(message)

    def _add(self, handler: Handler) -> None:
        contract: type[Contract] = handler.contract
        if self.contracts.get(contract.kind) is not contract:
            message = f"the handler of {contract.kind} has a contract that isn't in the flow"
            raise FlowError(message)
        missing = sorted(set(range(1, contract.version)) - contract.upcasters.keys())
        if missing:
            message = f"{contract.kind} {contract.version} has no up-caster from version {missing}"
            raise FlowError(message)
        if contract.kind in self._handlers:
            message = f"{contract.kind} has two handlers"
            raise FlowError(message)
        if (contract.effect is Effect.DATABASE) != isinstance(handler, DatabaseHandler):
            message = f"{contract.kind} is {contract.effect} and its handler is not"
            raise FlowError(message)
        self._handlers[contract.kind] = handler

    def handler(self, kind: str) -> Handler:
        """Return the handler of ``kind``.

        Raises:
            KeyError: no such kind.
        """
        return self._handlers[kind]
