"""Workflows on a yard: staged, run step by step, and looked at."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from goodsyard import workflows
from goodsyard.flow import Handler
from goodsyard.submit import Staged
from goodsyard.workflows import Step, Workflow
from tests.yard import NOTES, TENANT, Note, Yard


def step(name: str, *after: str, undo: str | None = None) -> Step:
    """Return a step that notes its name, and another line if it has to be undone."""
    compensation = None if undo is None else Note(line=undo)
    return Step(name, Note(line=name), after=after, compensation=compensation)


async def start(yard: Yard, *steps: Step) -> Workflow:
    """Stage a workflow."""
    async with yard.sessions.begin() as tx:
        return await workflows.stage_workflow(tx, TENANT, steps)


async def add(yard: Yard, *parents: UUID, line: str = "added") -> UUID:
    """Stage a job that waits for others."""
    staged = Staged(TENANT, Note(line=line))
    async with yard.sessions.begin() as tx:
        await workflows.stage_after(tx, staged, parents)
    return staged.id


async def run_due(yard: Yard, *handlers: Handler) -> list[str]:
    """Run all that is due, chunk by chunk, until nothing is; return the lines in their order."""
    lines: list[str] = []
    while True:
        ran = False
        for handler in handlers or (NOTES,):
            deliveries = await yard.dispatch(handler.contract.kind)
            if deliveries:
                ran = True
                await yard.run(handler, deliveries)
                lines += sorted(await lines_of(yard, [job for job, _ in deliveries]))
        if not ran:
            return lines


async def lines_of(yard: Yard, jobs: Sequence[UUID]) -> list[str]:
    """Return what jobs are to write."""
    rows = await yard.sql(
        "SELECT payload ->> 'line' FROM goodsyard.job WHERE id = ANY(:ids)"
        " UNION ALL SELECT payload ->> 'line' FROM goodsyard.job_done WHERE id = ANY(:ids)",
        ids=list(jobs),
    )
    return [line for (line,) in rows]


async def waits_for(yard: Yard, job: UUID) -> int:
    """Return how many others a job waits for still."""
    return (await yard.job(job)).waits_for


async def waits_for_a_lock(yard: Yard) -> bool:
    """Whether somebody waits for what somebody else has locked."""
    return bool(
        await yard.sql(
            "SELECT FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
    )
