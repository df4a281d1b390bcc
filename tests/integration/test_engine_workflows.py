"""A step runs once all it waits for have succeeded, once, whoever finishes them and however."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard import claims, settlement, sweeper, workflows
from goodsyard.contracts import Backoff
from goodsyard.flow import DatabaseHandler
from goodsyard.job import Job, new_id
from goodsyard.outcomes import Dead, Done, Outcome, Retry
from goodsyard.settlement import Ended
from goodsyard.submit import Staged
from goodsyard.workflows import ParentBusyError, ParentError, Step, WorkflowError
from tests.askers import Slow, called
from tests.flows import add, run_due, start, step, waits_for, waits_for_a_lock
from tests.integration.test_costs import counted_costs
from tests.yard import NOTES, TENANT, Ask, Note, Yard, note_all, until


async def test_a_chain_runs_in_its_order(yard: Yard) -> None:
    flow = await start(yard, step("c", "b"), step("b", "a"), step("a"))
    assert await yard.states([flow.jobs[name] for name in "abc"]) == ["waiting"] * 3
    assert await run_due(yard) == ["a", "b", "c"]


async def test_a_fan_out_is_due_at_once_when_its_parent_has_succeeded(yard: Yard) -> None:
    flow = await start(yard, step("a"), *(step(f"b{n:03}", "a") for n in range(100)))
    await yard.run(NOTES, await yard.dispatch())
    deliveries = await yard.dispatch()
    assert {job for job, _ in deliveries} == set(flow.jobs.values()) - {flow.jobs["a"]}


async def test_a_fan_in_is_released_once_by_parents_that_end_in_many_chunks_at_once(
    yard: Yard,
) -> None:
    """In each round other chunks, so that children would be locked in every order."""
    for number in range(4):
        parents = [f"{number} p{n:03}" for n in range(100)]
        children = [step(f"{number} c{n}", *parents[n:]) for n in range(8)]
        random.shuffle(children)
        flow = await start(yard, *children, *map(step, parents))
        deliveries = await yard.dispatch()
        random.shuffle(deliveries)
        chunks = [deliveries[at : at + 7] for at in range(0, 100, 7)]
        await asyncio.gather(*(yard.run(NOTES, chunk) for chunk in chunks))
        assert [await waits_for(yard, flow.jobs[child.name]) for child in children] == [0] * 8
        released = await yard.dispatch()
        assert {job for job, _ in released} == {flow.jobs[child.name] for child in children}
        await yard.run(NOTES, released)
    notes = await yard.notes()
    assert len(notes) == len(set(notes)) == 4 * 108


async def test_parents_that_are_delivered_twice_are_counted_once(yard: Yard) -> None:
    flow = await start(yard, step("a"), step("b"), step("c", "a", "b"))
    deliveries = await yard.dispatch()
    first = [one for one in deliveries if one[0] == flow.jobs["a"]]
    await asyncio.gather(*(yard.run(NOTES, first) for _ in range(4)))
    await yard.run(NOTES, first)
    assert await waits_for(yard, flow.jobs["c"]) == 1


async def test_a_parent_whose_chunk_is_rolled_back_is_not_counted(yard: Yard) -> None:
    flow = await start(yard, step("a"), step("b"), step("c", "a", "b"))

    async def fail_late(chunk: Sequence[Job[Note]], tx: AsyncSession) -> Sequence[Outcome]:
        outcomes = await note_all(chunk, tx)
        if any(job.payload.line == "b" for job in chunk):
            raise ValueError
        return outcomes

    await yard.run(DatabaseHandler(Note, fail_late), await yard.dispatch())
    assert await yard.notes() == ["a"]
    assert await waits_for(yard, flow.jobs["c"]) == 1


async def test_a_commit_that_dies_with_its_process_counts_nothing(yard: Yard) -> None:
    """Between the effect and its commit the connection is gone, as when the process is killed."""
    flow = await start(yard, step("a"), step("c", "a"))
    struck = asyncio.Event()

    async def run(chunk: Sequence[Job[Note]], tx: AsyncSession) -> Sequence[Outcome]:
        outcomes = await note_all(chunk, tx)
        if not struck.is_set():
            struck.set()
            backend = await tx.scalar(text("SELECT pg_backend_pid()"))
            await yard.sql("SELECT pg_terminate_backend(:pid, 5000)", pid=backend)
        return outcomes

    await yard.run(DatabaseHandler(Note, run), await yard.dispatch())
    assert await waits_for(yard, flow.jobs["c"]) == 0
    assert await run_due(yard) == ["c"]
    assert await yard.notes() == ["a", "c"]


@pytest.mark.parametrize("outcome", [Retry("no"), Dead("uncertain", "who knows")])
async def test_what_has_not_succeeded_releases_nobody(yard: Yard, outcome: Outcome) -> None:
    flow = await start(yard, step("a"), step("b", "a"))

    async def run(chunk: Sequence[Job[Note]], _: AsyncSession) -> Sequence[Outcome]:
        return [outcome] * len(chunk)

    await yard.run(DatabaseHandler(Note, run), await yard.dispatch())
    assert await waits_for(yard, flow.jobs["b"]) == 1
    assert await yard.dispatch() == []


async def test_an_external_step_releases_with_its_settlement(yard: Yard) -> None:
    slow = Slow()
    flow = await start(yard, Step("a", Ask(line="a")), step("b", "a"))
    running = asyncio.create_task(yard.run(slow, await yard.dispatch(Ask.kind)))
    await until(lambda: called(slow), "the call")
    assert await waits_for(yard, flow.jobs["b"]) == 1
    slow.may_answer.set()
    await running
    assert await run_due(yard) == ["b"]


async def test_a_step_that_lost_its_worker_blocks_and_its_replay_goes_on(yard: Yard) -> None:
    flow = await start(yard, step("a"), step("b", "a"))
    await yard.dispatch()
    await yard.sql(
        "UPDATE goodsyard.job SET lost = :n, deadline = now() WHERE waits_for = 0",
        n=sweeper.CRASH_BUDGET - 1,
    )
    async with yard.sessions.begin() as tx:
        await sweeper.return_overdue(tx, [Note], {})
    assert await yard.states([flow.jobs[name] for name in "ab"]) == ["dead", "waiting"]
    assert await run_due(yard) == []
    await yard.sql("UPDATE goodsyard.job SET state = 'waiting', reason = NULL WHERE lost > 0")
    assert await run_due(yard) == ["a", "b"]


async def test_jobs_without_a_workflow_cost_nothing_more_and_steps_two_statements(
    yard: Yard,
) -> None:
    await start(yard, *(step(f"a{n}") for n in range(50)), step("b", *(f"a{n}" for n in range(50))))
    deliveries = await yard.dispatch()
    with counted_costs() as costs:
        await yard.run(NOTES, deliveries)
    assert (len(costs.statements), costs.commits) == (3 + 2, 1)


async def test_a_child_reads_what_its_parents_have_left(yard: Yard) -> None:
    flow = await start(yard, step("a"), step("b"), step("c", "b", "a"))
    late = await add(yard, flow.jobs["a"], flow.jobs["c"])
    await run_due(yard)
    async with yard.sessions.begin() as tx:
        read = await workflows.results_of_parents(tx, [flow.jobs["c"], late])
    left = {child: [(one.name, one.result) for one in results] for child, results in read.items()}
    assert left == {
        flow.jobs["c"]: [("a", {"noted": "a"}), ("b", {"noted": "b"})],
        late: [("a", {"noted": "a"}), ("c", {"noted": "c"})],
    }


# Added by id


async def test_a_job_waits_for_others_by_their_ids(yard: Yard) -> None:
    a, b = await yard.stage(Note(line="a"), Note(line="b"))
    child = await add(yard, a, b)
    grandchild = await add(yard, child, line="last")
    jobs = [await yard.job(job) for job in (a, b, child, grandchild)]
    assert len({job.workflow for job in jobs}) == 1
    assert jobs[0].workflow is not None
    assert [job.waits_for for job in jobs] == [0, 0, 2, 1]
    assert await run_due(yard) == ["a", "b", "added", "last"]


async def test_a_parent_that_has_succeeded_counts_as_such(yard: Yard) -> None:
    deliveries = await yard.deliver(Note(line="a"))
    await yard.run(NOTES, deliveries)
    (waiting,) = await yard.stage(Note(line="b"))
    done = deliveries[0][0]
    assert await waits_for(yard, await add(yard, done)) == 0
    assert await waits_for(yard, await add(yard, done, waiting)) == 1


async def test_a_dead_parent_is_waited_for_since_it_may_be_replayed(yard: Yard) -> None:
    (dead,) = await yard.stage(Note(line="a"))
    await yard.sql("UPDATE goodsyard.job SET state = 'dead', reason = 'attempts'")
    child = await add(yard, dead)
    assert await waits_for(yard, child) == 1


async def test_what_can_not_be_waited_for_is_refused_and_nothing_is_staged(yard: Yard) -> None:
    one, two = await start(yard, step("a")), await start(yard, step("b"))
    cancelled, theirs, mine = await yard.stage(Note(), Note(), Note())
    await yard.sql("UPDATE goodsyard.job SET tenant = 2 WHERE id = :id", id=theirs)
    await yard.sql(
        "WITH gone AS (DELETE FROM goodsyard.job WHERE id = :id RETURNING *) INSERT INTO"
        " goodsyard.job_done (id, tenant, kind, state, max_attempts, payload)"
        " SELECT id, tenant, kind, 'cancelled', max_attempts, payload FROM gone",
        id=cancelled,
    )
    before = await yard.sql("SELECT id, workflow FROM goodsyard.job ORDER BY id")
    for parents, why in (
        ([new_id()], "is not there"),
        ([mine, theirs], "is not there"),
        ([cancelled], "cancelled"),
        ([one.jobs["a"], two.jobs["b"]], "another workflow"),
    ):
        with pytest.raises(ParentError, match=why):
            await add(yard, *parents)
    with pytest.raises(ParentError, match="kind"):
        async with yard.sessions.begin() as tx:
            await workflows.stage_after(tx, Staged(TENANT, Note()), [mine], kinds=[Ask.kind])
    assert await yard.sql("SELECT id, workflow FROM goodsyard.job ORDER BY id") == before


async def test_a_parent_that_a_worker_has_in_hand_is_over_at_the_next_try(yard: Yard) -> None:
    started, may_end = asyncio.Event(), asyncio.Event()

    async def run(chunk: Sequence[Job[Note]], tx: AsyncSession) -> Sequence[Outcome]:
        started.set()
        await may_end.wait()
        return [Done()] * len(chunk)

    deliveries = await yard.deliver(Note(line="a"))
    running = asyncio.create_task(yard.run(DatabaseHandler(Note, run), deliveries))
    await started.wait()
    with pytest.raises(ParentBusyError):
        await add(yard, deliveries[0][0])
    may_end.set()
    await running
    assert await waits_for(yard, await add(yard, deliveries[0][0])) == 0


async def test_a_step_that_ends_while_a_child_is_added_counts_it(yard: Yard) -> None:
    """It waits for the workflow, which is held alone by who adds; a row of its own isn't needed."""
    flow = await start(yard, step("a"))
    deliveries = await yard.dispatch()
    staged = Staged(TENANT, Note(line="added"))
    async with yard.sessions.begin() as tx:
        await workflows.stage_after(tx, staged, [flow.jobs["a"]])
        running = asyncio.create_task(yard.run(NOTES, deliveries))
        await until(lambda: waits_for_a_lock(yard), "the parent to wait for us")
    await running
    assert await waits_for(yard, staged.id) == 0
    assert await run_due(yard) == ["added"]


async def test_a_child_that_is_added_while_a_step_ends_finds_it_done(yard: Yard) -> None:
    flow = await start(yard, step("a"), step("other"))
    deliveries = [one for one in await yard.dispatch() if one[0] == flow.jobs["a"]]
    async with yard.sessions.begin() as tx:
        held = await claims.lock_dispatched(tx, Note.kind, deliveries)
        ended = [Ended(row.id, TENANT, 0, None, None, Done(), row.workflow) for row in held]
        await settlement.settle(tx, ended, backoff=Backoff(), worker=new_id())
        adding = asyncio.create_task(add(yard, flow.jobs["a"]))
        await until(lambda: waits_for_a_lock(yard), "the child to wait for the parent")
    assert await waits_for(yard, await adding) == 0


async def test_a_job_that_runs_elsewhere_becomes_a_parent_before_its_answer_is_booked(
    yard: Yard,
) -> None:
    slow = Slow()
    deliveries = await yard.deliver(Ask(line="a"))
    running = asyncio.create_task(yard.run(slow, deliveries))
    await until(lambda: called(slow), "the call")
    child = await add(yard, deliveries[0][0])
    slow.may_answer.set()
    await running
    assert await waits_for(yard, child) == 0


async def test_children_that_are_added_by_many_while_their_parents_end_are_all_released(
    yard: Yard,
) -> None:
    for _ in range(5):
        parents = [job for job, _ in await yard.deliver(*[Note(line="p")] * 20)]
        deliveries = [(job, 1) for job in parents]
        random.shuffle(deliveries)

        async def patiently_add(parent: UUID) -> None:
            while True:
                with suppress(ParentBusyError):
                    await add(yard, parent)
                    return

        chunks = [deliveries[at : at + 3] for at in range(0, 20, 3)]
        await asyncio.gather(
            *(yard.run(NOTES, chunk) for chunk in chunks),
            *(patiently_add(job) for job, _ in deliveries[:15]),
        )
        # A parent may have been passed over by its chunk while it was made a step.
        await yard.sql("UPDATE goodsyard.job SET state = 'waiting' WHERE state = 'dispatched'")
        await run_due(yard)
    assert await yard.sql("SELECT FROM goodsyard.job") == []
    notes = await yard.notes()
    assert (notes.count("p"), notes.count("added")) == (100, 75)


async def test_steps_that_make_no_workflow_stage_nothing(yard: Yard) -> None:
    with pytest.raises(WorkflowError, match="circle"):
        await start(yard, step("a", "b"), step("b", "a"))
    assert await yard.sql("SELECT FROM goodsyard.job") == []
