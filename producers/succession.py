"""Takes in a job that waits for others, under its request's key."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

from goodsyard.job import JobState
from goodsyard.jobs import states_of
from goodsyard.submit import Staged
from goodsyard.workflows import ParentBusyError, ParentError, stage_after
from producers import problems
from producers.idempotency import RequestKey, claim
from producers.job_shapes import PUBLIC
from producers.problems import ProblemError
from producers.services import Services

TRIES = 20
"""How often a parent may be found in a worker's hands, or in another request's."""
PAUSE_SECONDS = 0.05
"""A chunk takes some 20 ms."""


async def stage_behind(
    use: Services, key: RequestKey, staged: Staged, parents: Sequence[UUID]
) -> tuple[UUID, JobState, bool]:
    """Stage a job that waits for ``parents``, or find the one that an equal request staged.

    Returns:
        Its id, its state, and whether the request is repeated.

    Raises:
        KeyInFlightError: an equal request hasn't ended yet.
        ProblemError: it can't wait for one of them, or one was busy all the time.
    """
    for _ in range(TRIES):
        try:
            return await _stage(use, key, staged, parents)
        except ParentBusyError:
            await asyncio.sleep(PAUSE_SECONDS)
        except ParentError as error:
            place = f"#/after/{parents.index(error.parent)}"
            raise problems.validation([{"pointer": place, "detail": str(error)}]) from error
    raise ProblemError(problems.BUSY, headers={"Retry-After": "1"})


async def _stage(
    use: Services, key: RequestKey, staged: Staged, parents: Sequence[UUID]
) -> tuple[UUID, JobState, bool]:
    async with use.sessions.begin() as tx:
        holder = await claim(tx, staged.tenant, key, {"job": str(staged.id)})
        if holder.won:
            await stage_after(tx, staged, parents, kinds=PUBLIC)
            return staged.id, JobState.WAITING, False
        job_id = UUID(str(holder.resource["job"]))
        state = (await states_of(tx, staged.tenant, [job_id])).get(job_id, JobState.SUCCEEDED)
        return job_id, state, True
