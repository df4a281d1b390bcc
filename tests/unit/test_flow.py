"""A flow whose contracts and handlers don't match is refused, by name, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard.contracts import Contract, Effect, Policy, UpCaster
from goodsyard.flow import DatabaseHandler, Flow, FlowError, each
from goodsyard.job import Job, new_id
from goodsyard.outcomes import Done, Outcome


class Local(Contract):
    """Takes effect in our database."""

    kind: ClassVar[str] = "test.local"
    effect: ClassVar[Effect] = Effect.DATABASE
    policy: ClassVar[Policy] = Policy(queue="orders")


class LocalAgain(Local):
    """Another contract that took the first one's name."""


class Remote(Contract):
    """Takes effect elsewhere."""

    kind: ClassVar[str] = "test.remote"
    effect: ClassVar[Effect] = Effect.EXTERNAL
    policy: ClassVar[Policy] = Policy(queue="payments")


async def run(jobs: Sequence[Job[Local]], tx: AsyncSession) -> Sequence[Outcome]:
    return [Done()] * len(jobs)


class Call:
    """Always gets a yes."""

    contract = Remote

    async def call(self, _job: Job[Remote]) -> str:
        return "yes"

    async def settle(
        self, _tx: AsyncSession, answered: Sequence[tuple[Job[Remote], str]]
    ) -> Sequence[Outcome]:
        return [Done()] * len(answered)


class CallForLocal(Call):
    """Would call a provider for what is ours."""

    contract = Local  # type: ignore[assignment]  # the mistake that the flow finds


def test_a_complete_flow_knows_the_handler_of_each_kind() -> None:
    local, remote = DatabaseHandler(Local, run), Call()
    flow = Flow([Local, Remote], [local, remote])
    assert flow.handler("test.local") is local
    assert flow.handler("test.remote") is remote


def test_a_forgotten_handler_is_named() -> None:
    with pytest.raises(FlowError, match=r"no handler for test\.remote"):
        Flow([Local, Remote], [DatabaseHandler(Local, run)])


def test_two_handlers_of_one_kind_are_refused() -> None:
    with pytest.raises(FlowError, match=r"test\.local has two handlers"):
        Flow([Local], [DatabaseHandler(Local, run), DatabaseHandler(Local, run)])


def test_a_handler_of_a_contract_outside_the_flow_is_refused() -> None:
    with pytest.raises(FlowError, match=r"test\.remote has a contract that isn't in the flow"):
        Flow([Local], [DatabaseHandler(Local, run), Call()])


def test_a_handler_of_a_namesake_is_refused() -> None:
    with pytest.raises(FlowError, match="isn't in the flow"):
        Flow([Local], [DatabaseHandler(LocalAgain, run)])


def test_a_database_handler_of_an_external_kind_is_refused() -> None:
    with pytest.raises(FlowError, match=r"test\.remote is external and its handler is not"):
        Flow([Remote], [DatabaseHandler(Remote, run)])


def test_an_external_handler_of_a_database_kind_is_refused() -> None:
    with pytest.raises(FlowError, match=r"test\.local is database and its handler is not"):
        Flow([Local], [CallForLocal()])


async def test_a_handler_of_one_job_is_asked_about_each_in_turn() -> None:
    seen: list[Job[Local]] = []

    async def run_one(job: Job[Local], tx: AsyncSession) -> Outcome:
        seen.append(job)
        return Done({"place": len(seen)})

    jobs = [Job(new_id(), 1, 0.0, Local()) for _ in range(3)]
    async with AsyncSession() as tx:  # bound to nothing: it is only passed on
        outcomes = await each(run_one)(jobs, tx)
    assert seen == jobs
    assert outcomes == [Done({"place": place}) for place in (1, 2, 3)]


def test_a_contract_that_older_payloads_find_no_way_to_is_named() -> None:
    class Grown(Local):
        """Has had two versions before."""

        version: ClassVar[int] = 3
        upcasters: ClassVar[Mapping[int, UpCaster]] = MappingProxyType({1: lambda payload: payload})

    with pytest.raises(FlowError, match=r"test\.local 3 has no up-caster from version \[2\]"):
        Flow([Grown], [DatabaseHandler(Grown, run)])
