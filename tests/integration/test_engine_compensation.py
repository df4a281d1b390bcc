"""A workflow that is abandoned is undone: what took effect, in reverse order, once, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard import claims, interventions, settlement, steps
from goodsyard.claims import Delivery
from goodsyard.contracts import Backoff
from goodsyard.flow import DatabaseHandler
from goodsyard.interventions import Actor, NotNowError
from goodsyard.job import Job, new_id
from goodsyard.outcomes import Dead, Done, Outcome, Refused, Retry
from goodsyard.settlement import Ended
from goodsyard.steps import Followed
from goodsyard.workflows import ParentError, Step, Workflow
from tests.askers import Slow, called
from tests.flows import add, run_due, start, step, waits_for_a_lock
from tests.yard import NOTES, TENANT, Ask, Asker, Note, Yard, note_all, until

ANN = Actor(TENANT, "ann")


def ending(line: str, outcome: Outcome) -> DatabaseHandler[Note]:
    """Return a handler that notes lines, and ends one of them so, without effect."""

    async def run(chunk: Sequence[Job[Note]], tx: AsyncSession) -> Sequence[Outcome]:
        noted = await note_all([job for job in chunk if job.payload.line != line], tx)
        following = iter(noted)
        return [outcome if job.payload.line == line else next(following) for job in chunk]

    return DatabaseHandler(Note, run)


async def cancel(yard: Yard, flow: Workflow) -> None:
    async with yard.sessions.begin() as tx:
        assert await interventions.cancel_workflow(tx, ANN, flow.id) is not None


async def states(yard: Yard, flow: Workflow) -> dict[str, str]:
    return dict(zip(flow.jobs, await yard.states([*flow.jobs.values()]), strict=True))


async def test_a_refused_step_undoes_what_was_done_in_reverse_and_once(yard: Yard) -> None:
    flow = await start(
        yard,
        step("a", undo="undo a"),
        step("b", "a", undo="undo b"),
        step("c", "b"),
        step("d", "c", undo="undo d"),
        step("e", "d", undo="undo e"),
    )
    assert await run_due(yard, ending("d", Refused("never"))) == [
        *("a", "b", "c", "d"), "undo b", "undo a",
    ]  # fmt: skip
    assert await states(yard, flow) == {
        **dict.fromkeys("abc", "succeeded"), "d": "dead", "e": "cancelled",
    }  # fmt: skip
    assert await yard.notes() == ["a", "b", "c", "undo a", "undo b"]


async def test_what_a_step_is_undone_by_names_it_and_waits_for_those_before(yard: Yard) -> None:
    flow = await start(yard, step("a", undo="undo a"), step("b", "a", undo="undo b"), step("c"))
    await yard.sql("UPDATE goodsyard.job SET run_at = run_at + interval '1 h' WHERE id = :id",
                   id=flow.jobs["c"])  # fmt: skip
    await run_due(yard)
    await cancel(yard, flow)
    rows = await yard.sql(
        "SELECT payload ->> 'line', parent_id, waits_for FROM goodsyard.job ORDER BY waits_for"
    )
    assert [tuple(row) for row in rows] == [
        ("undo b", flow.jobs["b"], 0),
        ("undo a", flow.jobs["a"], 1),
    ]


async def test_steps_that_were_refused_and_done_in_one_chunk_are_undone(yard: Yard) -> None:
    await start(
        yard, *(step(f"a{n}", undo=f"undo a{n}") for n in range(3)), step("no"), step("z", "a0")
    )
    lines = await run_due(yard, ending("no", Refused("never")))
    assert sorted(lines) == ["a0", "a1", "a2", "no", "undo a0", "undo a1", "undo a2"]


@pytest.mark.parametrize(
    "outcome", [Dead("uncertain", "who knows"), Dead("lost", "gone"), Retry("no")]
)
async def test_a_death_that_is_no_definite_no_undoes_nothing(yard: Yard, outcome: Outcome) -> None:
    flow = await start(yard, step("a", undo="undo a"), step("b", "a"), step("c", "b"))
    await yard.sql("UPDATE goodsyard.job SET max_attempts = 1")
    await run_due(yard, ending("b", outcome))
    assert await states(yard, flow) == {"a": "succeeded", "b": "dead", "c": "waiting"}
    async with yard.sessions.begin() as tx:
        await interventions.retry_job(tx, ANN, flow.jobs["b"])
    assert await run_due(yard) == ["b", "c"]


async def test_a_cancel_calls_off_what_has_not_begun_and_undoes_the_rest(yard: Yard) -> None:
    flow = await start(yard, step("a", undo="undo a"), step("b", "a", undo="undo b"))
    await yard.run(NOTES, await yard.dispatch())
    dispatched = await yard.dispatch()
    await cancel(yard, flow)
    await cancel(yard, flow)
    await yard.run(NOTES, dispatched)
    assert await states(yard, flow) == {"a": "succeeded", "b": "cancelled"}
    assert await run_due(yard) == ["undo a"]
    assert await yard.notes() == ["a", "undo a"]
    audit = await yard.sql("SELECT action, target FROM goodsyard.audit")
    assert [tuple(row) for row in audit] == [("workflow.cancel", str(flow.id))]


async def test_a_workflow_that_is_over_or_undoes_another_is_not_cancelled(yard: Yard) -> None:
    done = await start(yard, step("a"))
    await run_due(yard)
    with pytest.raises(NotNowError, match="succeeded"):
        await cancel(yard, done)
    gone = await start(yard, step("a", undo="undo a"), step("b", "a"))
    await yard.run(NOTES, await yard.dispatch())
    await cancel(yard, gone)
    ((undoing,),) = await yard.sql("SELECT id FROM goodsyard.workflow WHERE undoes IS NOT NULL")
    with pytest.raises(NotNowError, match="half undone"):
        await cancel(yard, Workflow(undoing, {}))
    async with yard.sessions.begin() as tx:
        assert await interventions.cancel_workflow(tx, Actor(2, "bob"), gone.id) is None


async def test_a_step_is_not_cancelled_alone(yard: Yard) -> None:
    flow = await start(yard, step("a"), step("b", "a"))
    for job in flow.jobs.values():
        with pytest.raises(NotNowError, match="cancel the workflow"):
            async with yard.sessions.begin() as tx:
                await interventions.cancel_job(tx, ANN, job, contracts={Note.kind: Note})


async def test_a_chunk_that_ends_after_the_cancel_is_undone_at_once(yard: Yard) -> None:
    started, may_end = asyncio.Event(), asyncio.Event()

    async def run(chunk: Sequence[Job[Note]], tx: AsyncSession) -> Sequence[Outcome]:
        started.set()
        await may_end.wait()
        return await note_all(chunk, tx)

    flow = await start(yard, step("a", undo="undo a"), step("b", "a"))
    running = asyncio.create_task(yard.run(DatabaseHandler(Note, run), await yard.dispatch()))
    await started.wait()
    await cancel(yard, flow)
    may_end.set()
    await running
    assert await states(yard, flow) == {"a": "succeeded", "b": "cancelled"}
    assert await run_due(yard) == ["undo a"]


async def test_a_cancel_that_comes_while_a_step_is_booked_undoes_it(yard: Yard) -> None:
    """The other order: the step holds its workflow until its commit, and is seen then."""
    flow = await start(yard, step("a", undo="undo a"), step("b", "a"))
    deliveries = await yard.dispatch()
    async with yard.sessions.begin() as tx:
        held = await claims.lock_dispatched(tx, Note.kind, deliveries)
        ended = [Ended(row.id, TENANT, 0, None, None, Done(), row.workflow) for row in held]
        await settlement.settle(tx, ended, backoff=Backoff(), worker=new_id())
        cancelling = asyncio.create_task(cancel(yard, flow))
        await until(lambda: waits_for_a_lock(yard), "the cancel to wait for the step")
    await cancelling
    assert await states(yard, flow) == {"a": "succeeded", "b": "cancelled"}
    assert await run_due(yard) == ["undo a"]


async def test_a_call_that_is_answered_after_the_cancel_is_undone(yard: Yard) -> None:
    slow = Slow()
    flow = await start(
        yard, Step("a", Ask(line="a"), compensation=Note(line="undo a")), step("b", "a")
    )
    running = asyncio.create_task(yard.run(slow, await yard.dispatch(Ask.kind)))
    await until(lambda: called(slow), "the call")
    await cancel(yard, flow)
    slow.may_answer.set()
    await running
    assert await states(yard, flow) == {"a": "succeeded", "b": "cancelled"}
    assert await run_due(yard) == ["undo a"]


class Vague(Asker):
    """Gives no answer to the first call: it may or may not have happened."""

    async def call(self, job: Job[Ask]) -> str:
        answer = await super().call(job)
        if len(self.calls) == 1:
            raise TimeoutError
        return answer


async def test_what_may_have_happened_is_asked_for_until_it_is_known_and_undone_then(
    yard: Yard,
) -> None:
    vague = Vague()
    flow = await start(
        yard,
        Step("a", Ask(line="a"), compensation=Note(line="undo a")),
        Step("b", Ask(line="b")),
    )
    deliveries = await yard.dispatch(Ask.kind)
    await yard.run(vague, [one for one in deliveries if one[0] == flow.jobs["a"]])
    await cancel(yard, flow)
    assert await states(yard, flow) == {"a": "waiting", "b": "cancelled"}
    assert await run_due(yard) == []
    await yard.sql("UPDATE goodsyard.job SET run_at = now()")
    ((job, fence),) = await yard.dispatch(Ask.kind)
    await yard.run(vague, [(job, fence)])
    assert await run_due(yard) == ["undo a"]


async def test_what_may_have_happened_and_can_not_be_undone_is_called_off(yard: Yard) -> None:
    vague = Vague()
    flow = await start(yard, Step("a", Ask(line="a")), step("b", "a"))
    await yard.run(vague, await yard.dispatch(Ask.kind))
    await cancel(yard, flow)
    assert await states(yard, flow) == {"a": "cancelled", "b": "cancelled"}


async def test_a_call_that_fails_after_the_cancel_is_not_made_again(yard: Yard) -> None:
    """It has nothing to undo; while it runs it is asked to stop."""

    class Failing(Slow):
        async def call(self, job: Job[Ask]) -> str:
            await super().call(job)
            raise TimeoutError

    failing = Failing()
    flow = await start(yard, Step("a", Ask(line="a")), step("b", "a"))
    running = asyncio.create_task(yard.run(failing, await yard.dispatch(Ask.kind)))
    await until(lambda: called(failing), "the call")
    await cancel(yard, flow)
    ((asked,),) = await yard.sql("SELECT cancel_requested FROM goodsyard.job")
    assert asked
    failing.may_answer.set()
    await running
    assert await states(yard, flow) == {"a": "cancelled", "b": "cancelled"}


async def test_a_step_that_was_being_dispatched_at_the_cancel_is_not_to_be_run(
    yard: Yard,
) -> None:
    flow = await start(yard, step("a"))
    async with yard.sessions.begin() as relay:
        dispatching = "UPDATE goodsyard.job SET state = 'dispatched', fence = 1 WHERE true"
        await relay.execute(text(dispatching))
        await cancel(yard, flow)
    await yard.run(NOTES, [(flow.jobs["a"], 1)])
    assert await states(yard, flow) == {"a": "cancelled"}
    assert await yard.notes() == []


@pytest.mark.parametrize("outcome", [Refused("no mailbox"), Dead("attempts", "no")])
async def test_what_undoes_waits_for_a_person_whatever_it_dies_of(
    yard: Yard, outcome: Outcome
) -> None:
    flow = await start(yard, step("a", undo="undo a"), step("b", "a", undo="undo b"), step("no"))
    await yard.sql("UPDATE goodsyard.job SET run_at = run_at + interval '1 h' WHERE id = :id",
                   id=flow.jobs["no"])  # fmt: skip
    await run_due(yard)
    await cancel(yard, flow)
    assert await run_due(yard, ending("undo b", outcome)) == ["undo b"]
    ((dead,),) = await yard.sql("SELECT id FROM goodsyard.job WHERE state = 'dead'")
    async with yard.sessions.begin() as tx:
        await interventions.retry_job(tx, ANN, dead)
    assert await run_due(yard) == ["undo b", "undo a"]


async def test_nothing_of_an_abandoned_workflow_is_replayed_or_waited_for(yard: Yard) -> None:
    flow = await start(yard, step("a"), step("b", "a"))
    await run_due(yard, ending("a", Refused("never")))
    with pytest.raises(NotNowError, match="abandoned"):
        async with yard.sessions.begin() as tx:
            await interventions.retry_job(tx, ANN, flow.jobs["a"])
    with pytest.raises(ParentError, match="abandoned"):
        await add(yard, flow.jobs["a"])


async def test_a_dead_call_that_can_be_undone_is_replayed_even_so_and_undone_then(
    yard: Yard,
) -> None:
    vague = Vague()
    flow = await start(yard, Step("a", Ask(line="a"), compensation=Note(line="undo a")))
    await yard.sql("UPDATE goodsyard.job SET max_attempts = 1")
    await yard.run(vague, await yard.dispatch(Ask.kind))
    await cancel(yard, flow)
    assert await states(yard, flow) == {"a": "dead"}
    async with yard.sessions.begin() as tx:
        await interventions.retry_job(tx, ANN, flow.jobs["a"])
    await yard.run(vague, await yard.dispatch(Ask.kind))
    assert await run_due(yard) == ["undo a"]


async def test_a_step_whose_day_was_dropped_is_undone_all_the_same(yard: Yard) -> None:
    flow = await start(
        yard, step("a", undo="undo a"), step("b", "a", undo="undo b"), step("c", "b")
    )
    await yard.run(NOTES, await yard.dispatch())
    await yard.sql("DELETE FROM goodsyard.job_done")  # as retention does
    await yard.run(NOTES, await yard.dispatch())
    await cancel(yard, flow)
    assert await run_due(yard) == ["undo b", "undo a"]


async def test_a_call_that_was_called_off_before_it_became_a_step_abandons_its_workflow(
    yard: Yard,
) -> None:
    class Heeding(Slow):
        async def call(self, job: Job[Ask]) -> str:
            await super().call(job)
            raise TimeoutError

    asker = Heeding()
    deliveries = await yard.deliver(Ask(line="a"))
    parent = deliveries[0][0]
    running = asyncio.create_task(yard.run(asker, deliveries))
    await until(lambda: called(asker), "the call")
    async with yard.sessions.begin() as tx:
        await interventions.cancel_job(tx, ANN, parent, contracts={Ask.kind: Ask})
    child = await add(yard, parent)
    asker.may_answer.set()
    await running
    assert await yard.states([parent, child]) == ["cancelled", "cancelled"]
    ((reason,),) = await yard.sql("SELECT reason FROM goodsyard.workflow")
    assert reason == "cancelled"


async def test_a_workflow_is_abandoned_once(yard: Yard) -> None:
    flow = await start(yard, step("a", undo="undo a"), step("b", "a"))
    await yard.run(NOTES, await yard.dispatch())
    await cancel(yard, flow)
    async with yard.sessions.begin() as tx:
        await steps.hold(tx, [flow.id], alone=True)
        assert await steps.abandon(tx, [flow.id], steps.REFUSED) == Followed(frozenset())
    assert await run_due(yard) == ["undo a"]


async def test_steps_that_are_refused_at_once_abandon_their_workflow_once(yard: Yard) -> None:
    for _ in range(5):
        flow = await start(yard, step("a", undo="undo a"), *(step(f"b{n}", "a") for n in range(12)))
        await yard.run(NOTES, await yard.dispatch())

        async def refuse(chunk: Sequence[Job[Note]], _: AsyncSession) -> Sequence[Outcome]:
            return [Refused("never")] * len(chunk)

        deliveries = await yard.dispatch()
        chunks: list[Sequence[Delivery]] = [deliveries[at : at + 2] for at in range(0, 12, 2)]
        await asyncio.gather(*(yard.run(DatabaseHandler(Note, refuse), chunk) for chunk in chunks))
        assert await run_due(yard) == ["undo a"]
        left = await yard.states([*flow.jobs.values()])
        assert left[0] == "succeeded"
        assert set(left[1:]) <= {"dead", "cancelled"}


async def test_cancels_among_chunks_of_many_workflows_leave_no_step_half_done(yard: Yard) -> None:
    """Everything at once, some rounds: each workflow is done as a whole, or undone as a whole."""
    for number in range(4):
        flows = [
            await start(
                yard,
                *(step(f"{number}.{n} a{m}", undo=f"{number}.{n} a{m} undone") for m in range(4)),
                step(f"{number}.{n} b", *(f"{number}.{n} a{m}" for m in range(4))),
            )
            for n in range(6)
        ]
        deliveries = await yard.dispatch()
        chunks = [deliveries[at::5] for at in range(5)]
        await asyncio.gather(
            *(yard.run(NOTES, chunk) for chunk in chunks), *(cancel(yard, flow) for flow in flows)
        )
        await run_due(yard)
    assert await yard.sql("SELECT state, kind FROM goodsyard.job") == []
    notes = await yard.notes()
    assert len(set(notes)) == len(notes)
    effects = {note for note in notes if not note.endswith("undone")}
    undone = {note.removesuffix(" undone") for note in notes if note.endswith("undone")}
    assert effects == undone
