"""Old payloads are read by new workers, new ones wait for them: a rollout fails no job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import ClassVar
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard.claims import NEWER_VERSION
from goodsyard.contracts import UpCaster
from goodsyard.flow import DatabaseHandler
from goodsyard.job import Job, JobState
from goodsyard.outcomes import Outcome, Snooze
from tests.yard import NOTES, Ask, Asker, Note, Yard, note_all


def _named(payload: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    """From 1 to 2: the field was renamed."""
    return {"words": payload["line"]}


def _listed(payload: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    """From 2 to 3: there may be several."""
    return {"all_words": [payload["words"]]}


class NoteOfTomorrow(Note):
    """The same kind, three versions on: what was ``line`` is a list now."""

    version: ClassVar[int] = 3
    upcasters: ClassVar[Mapping[int, UpCaster]] = MappingProxyType({1: _named, 2: _listed})

    all_words: tuple[str, ...] = ()


async def note_words(chunk: Sequence[Job[NoteOfTomorrow]], tx: AsyncSession) -> Sequence[Outcome]:
    lines = [Job(j.id, j.tenant, j.age, Note(line=" ".join(j.payload.all_words))) for j in chunk]
    return await note_all(lines, tx)


TOMORROW = DatabaseHandler(NoteOfTomorrow, note_words)


async def delivered_as(yard: Yard, payload: str, version: int) -> list[tuple[UUID, int]]:
    """Have a job delivered whose row is as an older release left it."""
    deliveries = await yard.deliver(Note())
    await yard.sql(
        "UPDATE goodsyard.job SET version = :v, payload = CAST(:p AS jsonb)", v=version, p=payload
    )
    return deliveries


async def test_an_old_payload_goes_through_each_version_up_to_todays(yard: Yard) -> None:
    await yard.run(TOMORROW, await delivered_as(yard, '{"line": "from 1"}', 1))
    await yard.run(TOMORROW, await delivered_as(yard, '{"words": "from 2"}', 2))
    await yard.run(TOMORROW, await delivered_as(yard, '{"all_words": ["from", "3"]}', 3))
    assert await yard.notes() == ["from 1", "from 2", "from 3"]


async def test_what_cannot_be_brought_up_is_refused_and_says_between_which_versions(
    yard: Yard,
) -> None:
    deliveries = await delivered_as(yard, '{"lines": "none such"}', 1)
    await yard.run(TOMORROW, deliveries)
    dead = await yard.job(deliveries[0][0])
    assert (dead.state, dead.reason) == (JobState.DEAD, "refused")
    assert "no version 2 from 1: KeyError('line')" in (dead.error or "")
    assert await yard.notes() == []


async def test_a_newer_version_waits_for_a_worker_that_knows_it_and_spends_nothing(
    yard: Yard,
) -> None:
    ((job, fence),) = await yard.deliver(NoteOfTomorrow(all_words=("new",)))
    await yard.run(NOTES, [(job, fence)])
    waiting = await yard.job(job)
    assert (waiting.state, waiting.attempts, waiting.lost) == (JobState.WAITING, 0, 0)
    ((wait,),) = await yard.sql("SELECT run_at - now() FROM goodsyard.job")
    assert timedelta(0) < wait <= NEWER_VERSION

    await yard.sql("UPDATE goodsyard.job SET run_at = now()")
    await yard.run(TOMORROW, await yard.dispatch())
    assert await yard.notes() == ["new"]


class AskOfTomorrow(Ask):
    """A call whose contract grew."""

    version: ClassVar[int] = 2
    upcasters: ClassVar[Mapping[int, UpCaster]] = MappingProxyType({1: lambda payload: payload})


async def test_a_newer_call_is_not_made_by_an_old_worker(yard: Yard) -> None:
    ((job, fence),) = await yard.deliver(AskOfTomorrow(line="new"))
    asker = Asker()
    await yard.run(asker, [(job, fence)])
    assert asker.calls == []
    assert (await yard.job(job)).state is JobState.WAITING


async def test_during_a_rollout_each_job_takes_effect_once_and_none_spends_an_attempt(
    yard: Yard,
) -> None:
    old = await yard.stage(*(Note(line=f"old {n}") for n in range(10)))
    new = await yard.stage(*(NoteOfTomorrow(all_words=(f"new {n}",)) for n in range(10)))
    # Old and new workers take turns at whatever is there, as long as there is anything.
    for handler in (NOTES, TOMORROW) * 10:
        await yard.run(handler, await yard.dispatch(most=3))
        await yard.sql("UPDATE goodsyard.job SET run_at = now()")
    assert await yard.states([*old, *new]) == ["succeeded"] * 20
    assert len(await yard.notes()) == len(set(await yard.notes())) == 20
    for job in new:
        assert (await yard.job(job)).attempts == 0
        assert await yard.attempts(job) == []


async def test_a_snooze_for_a_while_is_counted_by_the_databases_clock(yard: Yard) -> None:
    async def later(chunk: Sequence[Job[Note]], _: AsyncSession) -> Sequence[Outcome]:
        return [Snooze(timedelta(hours=1)) for _ in chunk]

    ((job, fence),) = await yard.deliver(Note())
    await yard.run(DatabaseHandler(Note, later), [(job, fence)])
    waiting = await yard.job(job)
    assert (waiting.state, waiting.attempts) == (JobState.WAITING, 0)
    ((wait,),) = await yard.sql("SELECT run_at - now() FROM goodsyard.job")
    assert timedelta(minutes=59) < wait <= timedelta(hours=1)
