"""What Postgres doesn't answer may have happened: the rows say, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard import database
from goodsyard.database import open_engine, send_ahead, session_factory
from goodsyard.flow import DatabaseHandler
from goodsyard.job import Job, JobState
from goodsyard.outcomes import Outcome
from goodsyard.patience import is_outage
from tests.askers import Slow, called
from tests.harness.proxy import Proxy
from tests.yard import NOTES, Ask, Asker, AskOnce, Note, Yard, note_all, until


class OnceAsker(Asker):
    """Counts its calls."""

    contract = AskOnce


async def note_ahead(chunk: Sequence[Job[Note]], tx: AsyncSession) -> Sequence[Outcome]:
    await send_ahead(tx)
    return await note_all(chunk, tx)


NOTES_AHEAD = DatabaseHandler(Note, note_ahead)


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    """The way to Postgres."""
    port = make_url(database_url).port
    assert port is not None
    with Proxy(port) as opened:
        yield opened


@pytest.fixture
async def far_yard(yard: Yard, database_url: str, proxy: Proxy) -> AsyncIterator[Yard]:
    """The engine, at the other end of the proxy."""
    engine = open_engine(proxy.url(database_url), pool_size=4, application_name="tests")
    yield Yard(session_factory(engine), yard.bell)
    await engine.dispose()


async def test_a_lease_whose_commit_was_not_answered_is_called_once_and_at_once(
    yard: Yard, far_yard: Yard, proxy: Proxy
) -> None:
    asker = OnceAsker()
    ((job, fence),) = await yard.deliver(AskOnce())
    await asyncio.to_thread(proxy.cut_instead_of)
    async with asyncio.timeout(AskOnce.policy.lease / 4):
        await far_yard.run(asker, [(job, fence)])
    assert proxy.cuts == 1
    assert asker.calls == [job]
    assert (await yard.job(job)).state is JobState.SUCCEEDED


async def test_a_job_that_somebody_calls_for_already_is_not_called_for_again(
    yard: Yard, far_yard: Yard, proxy: Proxy
) -> None:
    """A copy of the message, whose claim of nothing isn't answered either."""
    slow, worker = Slow(), uuid4()
    deliveries = await yard.deliver(Ask())
    executor = far_yard.executor(slow, worker=worker)
    running = asyncio.create_task(executor.run(Ask.kind, deliveries))
    await until(lambda: called(slow), "the call")
    await asyncio.to_thread(proxy.cut_instead_of)
    copy = asyncio.create_task(executor.run(Ask.kind, deliveries))
    await asyncio.to_thread(proxy.until_cut, 1)
    slow.may_answer.set()
    await asyncio.gather(running, copy)
    await executor.drain()
    assert len(slow.calls) == 1
    assert await yard.states([job for job, _ in deliveries]) == ["succeeded"]


@pytest.mark.parametrize("handler", [NOTES, NOTES_AHEAD], ids=["waited for", "sent ahead"])
@pytest.mark.parametrize(
    "cut", [Proxy.cut_instead_of, Proxy.cut_before], ids=["was not answered", "never arrived"]
)
async def test_an_effect_whose_commit_was_lost_is_there_once(
    yard: Yard,
    far_yard: Yard,
    proxy: Proxy,
    cut: Callable[[Proxy], None],
    handler: DatabaseHandler[Note],
) -> None:
    deliveries = await yard.deliver(Note(line="once"), Note(line="each"))
    await asyncio.to_thread(cut, proxy)
    await far_yard.run(handler, deliveries)
    assert proxy.cuts == 1
    assert await yard.notes() == ["each", "once"]
    assert [await yard.attempts(job) for job, _ in deliveries] == [[], []]


async def test_a_connection_that_says_nothing_any_more_is_given_up_as_an_outage(
    far_yard: Yard, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "TRANSACTION_SECONDS", 0.5)

    async def ask_into_the_void() -> None:
        async with far_yard.sessions.begin() as tx:
            await asyncio.to_thread(proxy.fall_silent)
            await tx.execute(text("SELECT 1"))

    with proxy.trouble(), pytest.raises(OperationalError, match="silent") as given_up:
        await ask_into_the_void()
    assert is_outage(given_up.value)
    monkeypatch.undo()
    assert await far_yard.notes() == [], "the next has a connection that answers"
