"""A process that is killed between two statements leaves nothing, or everything."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from goodsyard import sweeper
from goodsyard.claims import Delivery
from goodsyard.contracts import Contract
from goodsyard.flow import Handler
from tests.yard import NOTES, Ask, Asker, Note, Yard

ROOT = Path(__file__).parents[2]


async def run_and_die(
    failpoint: str, database_url: str, redis_url: str, kind: str, delivery: Delivery
) -> None:
    """Run a chunk in a process that kills itself at ``failpoint``."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.mortal", database_url, redis_url, kind, str(delivery[0]), str(delivery[1])),
        cwd=ROOT,
        env=os.environ | {"GOODSYARD_FAILPOINT": failpoint},
    )
    assert await process.wait() == -signal.SIGKILL


async def bring_back(yard: Yard, contract: type[Contract]) -> list[Delivery]:
    """Let all deadlines pass, sweep, and dispatch again."""
    await yard.sql("UPDATE goodsyard.job SET deadline = now()")
    async with yard.sessions.begin() as tx:
        await sweeper.return_overdue(tx, [contract], {})
    return await yard.dispatch(contract.kind)


@pytest.mark.parametrize(
    ("failpoint", "state"),
    [
        ("after_claim", "dispatched"),
        ("before_commit", "dispatched"),
        ("after_commit", "succeeded"),
    ],
)
async def test_a_database_chunk_takes_effect_as_a_whole_or_not_at_all(
    yard: Yard, database_url: str, redis_url: str, failpoint: str, state: str
) -> None:
    (delivery,) = await yard.deliver(Note(line="x"))
    await run_and_die(failpoint, database_url, redis_url, Note.kind, delivery)
    assert await yard.notes() == (["x"] if state == "succeeded" else [])
    assert await yard.states([delivery[0]]) == [state]
    await comes_to_its_end(yard, NOTES, delivery)


@pytest.mark.parametrize(
    ("failpoint", "state"),
    [
        ("after_claim", "running"),
        ("before_settle", "running"),
        ("before_commit", "running"),
        ("after_commit", "succeeded"),
    ],
)
async def test_an_external_chunk_is_settled_as_a_whole_or_not_at_all(
    yard: Yard, database_url: str, redis_url: str, failpoint: str, state: str
) -> None:
    (delivery,) = await yard.deliver(Ask(line="x"))
    await run_and_die(failpoint, database_url, redis_url, Ask.kind, delivery)
    assert await yard.notes() == (["x"] if state == "succeeded" else [])
    assert await yard.states([delivery[0]]) == [state]
    await comes_to_its_end(yard, Asker(), delivery)


async def comes_to_its_end(yard: Yard, handler: Handler, delivery: Delivery) -> None:
    """Check that whoever gets the job next carries it out, once."""
    for again in ([delivery], await bring_back(yard, handler.contract)):
        await yard.run(handler, again)
    assert await yard.notes() == ["x"]
    assert await yard.states([delivery[0]]) == ["succeeded"]
