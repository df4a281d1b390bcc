"""Puts workflows in: jobs that wait for others, in the caller's transaction, all of them or none.

A step waits until each of its parents has succeeded; what follows from their ends is in
``goodsyard.steps``. A workflow is rows beside its jobs and nothing more: no code of it is replayed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple, Protocol
from uuid import UUID

from pydantic import JsonValue
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard import steps
from goodsyard.contracts import Contract
from goodsyard.job import JobState, new_id
from goodsyard.submit import DEFAULT_PRIORITY, Staged, stage

MOST_PARENTS = 1_000
"""Jobs that one may wait for."""

_OPEN = text("INSERT INTO goodsyard.workflow (id, tenant) VALUES (:id, :tenant)")

_DEPEND = text("""
    INSERT INTO goodsyard.dependency (workflow, parent, child)
    SELECT :workflow, d.parent, d.child
      FROM unnest(CAST(:parents AS uuid[]), CAST(:children AS uuid[])) AS d(parent, child)
""")

_DESCRIBE = text("""
    INSERT INTO goodsyard.step (job_id, workflow, tenant, name, kind, version, max_attempts,
                                subject, limit_key, slot_key, cost, payload)
    SELECT s.job_id, :workflow, :tenant, s.name, s.kind, s.version, s.max_attempts, s.subject,
           s.limit_key, s.slot_key, s.cost, s.payload
      FROM unnest(CAST(:ids AS uuid[]), CAST(:names AS text[]), CAST(:kinds AS text[]),
                  CAST(:versions AS smallint[]), CAST(:max_attempts AS smallint[]),
                  CAST(:subjects AS uuid[]), CAST(:limit_keys AS text[]),
                  CAST(:slot_keys AS text[]), CAST(:costs AS real[]), CAST(:payloads AS jsonb[]))
        AS s(job_id, name, kind, version, max_attempts, subject, limit_key, slot_key, cost,
             payload)
""")

_LOOK = text("""
    SELECT id, kind, state, workflow FROM goodsyard.job
     WHERE tenant = :tenant AND id = ANY(CAST(:ids AS uuid[]))
    UNION ALL
    SELECT id, kind, state, NULL FROM goodsyard.job_done
     WHERE tenant = :tenant AND id = ANY(CAST(:ids AS uuid[]))
""")

# SKIP LOCKED: one that a worker has in hand ends in a moment, and is over then.
_ADOPT = text("""
    UPDATE goodsyard.job SET workflow = :workflow
     WHERE id = ANY(ARRAY(
           SELECT id FROM goodsyard.job
            WHERE id = ANY(CAST(:ids AS uuid[])) AND workflow IS NULL
            ORDER BY id FOR NO KEY UPDATE SKIP LOCKED))
""")

_RESULTS = text("""
    SELECT d.child, d.parent, s.name, r.result
      FROM goodsyard.dependency d
      JOIN goodsyard.job_done r ON r.id = d.parent
      LEFT JOIN goodsyard.step s ON s.job_id = d.parent
     WHERE d.child = ANY(CAST(:children AS uuid[]))
     ORDER BY d.child, d.parent
""")


@dataclass(frozen=True, slots=True)
class Step:
    """A job of a workflow.

    Args:
        name: what others of the workflow call it.
        contract: what to do. A step may be called off before it begins: of a kind that would leave
            something half done by that, there is no step.
        after: the names of those that must have succeeded first.
        compensation: what makes up for it, if it took effect and the workflow is abandoned then.
        run_at: when it is due, if its parents have succeeded by then.
        priority: 0 is first, 9 last.
    """

    name: str
    contract: Contract
    after: Sequence[str] = ()
    compensation: Contract | None = None
    run_at: datetime | None = None
    priority: int = DEFAULT_PRIORITY


@dataclass(frozen=True, slots=True)
class Workflow:
    """What was staged: its id, and the job of each step by name."""

    id: UUID
    jobs: Mapping[str, UUID]


class Fault(NamedTuple):
    """What is wrong with a set of steps, and at which place in it, as in a JSON document."""

    place: tuple[str | int, ...]
    detail: str


class WorkflowError(Exception):
    """The steps make no workflow; nothing was staged, and the message names each fault."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(fault.detail for fault in faults))
        self.faults = faults


class ParentError(Exception):
    """A job can't wait for another; the message says why. Nothing was staged."""

    def __init__(self, parent: UUID, why: str) -> None:
        super().__init__(f"Job {parent} {why}")
        self.parent = parent


class ParentBusyError(Exception):
    """A parent is changing at this moment: roll back and try the whole transaction again."""


class ParentResult(NamedTuple):
    """What a job has left to those that waited for it."""

    job_id: UUID
    name: str | None
    result: dict[str, JsonValue] | None


class Named(Protocol):
    """A step as far as its place among the others goes."""

    @property
    def name(self) -> str:
        """What others call it."""
        ...

    @property
    def after(self) -> Sequence[str]:
        """Whom it waits for."""
        ...


def check(given: Sequence[Named]) -> None:
    """Refuse steps that could never all run.

    Raises:
        WorkflowError: there are none, two have one name, one waits for a name there isn't or for
            the same one twice, or some wait for each other in a circle.
    """
    faults = list(_faults(given))
    if faults:
        raise WorkflowError(faults)


def _faults(given: Sequence[Named]) -> Iterator[Fault]:
    if not given:
        yield Fault((), "A workflow has at least one step")
    places: dict[str, int] = {}
    for number, step in enumerate(given):
        if step.name in places:
            yield Fault((number, "name"), f"Two steps have the name {step.name!r}")
        places.setdefault(step.name, number)
    sound = True
    for number, step in enumerate(given):
        for position, name in enumerate(step.after):
            place = (number, "after", position)
            if name not in places:
                sound = False
                yield Fault(place, f"There is no step {name!r}")
            elif name in step.after[:position]:
                yield Fault(place, f"It waits for {name!r} already")
        if len(step.after) > MOST_PARENTS:
            yield Fault((number, "after"), f"A step waits for {MOST_PARENTS} others at the most")
    if sound:
        yield from _circle(given, places)


def _circle(given: Sequence[Named], places: Mapping[str, int]) -> Iterator[Fault]:
    try:
        TopologicalSorter({step.name: step.after for step in given}).prepare()
    except CycleError as error:
        names = error.args[1][::-1]  # each waits for the next, and the last is the first again
        yield Fault(
            (places[names[0]], "after"),
            "Steps wait for each other in a circle: " + " for ".join(map(repr, names)),
        )


async def stage_workflow(
    tx: AsyncSession, tenant: int, given: Sequence[Step], trace_context: str | None = None
) -> Workflow:
    """Insert a workflow; the caller commits, and then rings for the kinds without parents.

    Args:
        tx: the transaction.
        tenant: whose it is.
        given: its steps, in any order.
        trace_context: a W3C ``traceparent``, carried along by all of them.

    Raises:
        WorkflowError: see ``check``.
    """
    check(given)
    workflow = Workflow(new_id(), {step.name: new_id() for step in given})
    await tx.execute(_OPEN, {"id": workflow.id, "tenant": tenant})
    staged = [
        Staged(
            tenant,
            step.contract,
            run_at=step.run_at,
            priority=step.priority,
            trace_context=trace_context,
            workflow=workflow.id,
            waits_for=len(step.after),
            id=workflow.jobs[step.name],
        )
        for step in given
    ]
    await stage(tx, staged)
    await _describe(tx, tenant, workflow, given)
    edges = [
        (workflow.jobs[parent], workflow.jobs[step.name]) for step in given for parent in step.after
    ]
    await _depend(tx, workflow.id, edges)
    return workflow


async def _describe(
    tx: AsyncSession, tenant: int, workflow: Workflow, given: Sequence[Step]
) -> None:
    undoing = [
        None if step.compensation is None else Staged(tenant, step.compensation) for step in given
    ]
    parameters = {
        "workflow": workflow.id,
        "tenant": tenant,
        "ids": [workflow.jobs[step.name] for step in given],
        "names": [step.name for step in given],
        "kinds": [undo and undo.contract.kind for undo in undoing],
        "versions": [undo and undo.contract.version for undo in undoing],
        "max_attempts": [undo and undo.contract.policy.max_attempts for undo in undoing],
        "subjects": [undo and undo.contract.subject for undo in undoing],
        "limit_keys": [undo and undo.limit_key for undo in undoing],
        "slot_keys": [undo and undo.slot_key for undo in undoing],
        "costs": [undo and undo.cost for undo in undoing],
        "payloads": [undo and undo.contract.model_dump_json() for undo in undoing],
    }
    await tx.execute(_DESCRIBE, parameters)


async def _depend(tx: AsyncSession, workflow: UUID, edges: Iterable[tuple[UUID, UUID]]) -> None:
    pairs = list(edges)
    if pairs:
        parents, children = ([*column] for column in zip(*pairs, strict=True))
        await tx.execute(_DEPEND, {"workflow": workflow, "parents": parents, "children": children})


async def stage_after(
    tx: AsyncSession,
    staged: Staged,
    parents: Collection[UUID],
    *,
    kinds: Collection[str] | None = None,
) -> UUID:
    """Insert a job that waits until others have succeeded; return the workflow that they are now.

    Parents that were no steps become those of a new one, or of the one that another parent is a
    step of. A parent that has succeeded counts as such; a dead one is waited for, since it may be
    replayed.

    Args:
        tx: the transaction; the caller commits, and then rings.
        staged: the job, without a ``unique_key``.
        parents: its tenant's, one at least.
        kinds: those that may be waited for; all, if not given.

    Raises:
        ParentError: there is no such job, or it can't be waited for (any more).
        ParentBusyError: a worker has one in hand, or somebody makes it a step at this moment.
    """
    found = await _look(tx, staged.tenant, parents, kinds)
    known = {one.workflow for one in found.values() if one.workflow is not None}
    if len(known) > 1:
        first, second, *_ = [one for one in found.values() if one.workflow is not None]
        why = f"is a step of another workflow than job {first.id}: a job waits for steps of one"
        raise ParentError(second.id, why)
    workflow = await _held(tx, staged.tenant, next(iter(found)), *known)
    await tx.execute(_ADOPT, {"workflow": workflow, "ids": list(parents)})
    # Once more: held alone, no step of the workflow ends any more before we commit.
    found = await _look(tx, staged.tenant, parents, kinds)
    waiting = [one for one in found.values() if one.state is not JobState.SUCCEEDED]
    if any(one.workflow != workflow for one in waiting):
        raise ParentBusyError
    await stage(tx, [replace(staged, workflow=workflow, waits_for=len(waiting))])
    await _depend(tx, workflow, [(parent, staged.id) for parent in found])
    return workflow


async def _held(tx: AsyncSession, tenant: int, parent: UUID, known: UUID | None = None) -> UUID:
    """Lock the workflow that the parents are steps of, or open one."""
    if known is None:
        workflow = new_id()
        await tx.execute(_OPEN, {"id": workflow, "tenant": tenant})
        return workflow
    held = (await steps.hold(tx, [known], alone=True))[known]
    if held.abandoned or held.undoes is not None:
        raise ParentError(parent, f"is a step of workflow {known}, which is abandoned")
    return known


class _Parent(NamedTuple):
    id: UUID
    kind: str
    state: JobState
    workflow: UUID | None


async def _look(
    tx: AsyncSession, tenant: int, parents: Collection[UUID], kinds: Collection[str] | None
) -> dict[UUID, _Parent]:
    rows = await tx.execute(_LOOK, {"tenant": tenant, "ids": list(parents)})
    found = {row[0]: _Parent(row[0], row[1], JobState(row[2]), row[3]) for row in rows}
    for parent in parents:
        if parent not in found:
            raise ParentError(parent, "is not there")
        if kinds is not None and found[parent].kind not in kinds:
            raise ParentError(
                parent, f"is of the kind {found[parent].kind}, which nothing else may wait for"
            )
        if found[parent].state is JobState.CANCELLED:
            raise ParentError(parent, "was cancelled: it will never succeed")
    return found


async def results_of_parents(
    tx: AsyncSession, children: Collection[UUID]
) -> dict[UUID, list[ParentResult]]:
    """Return what the parents of each job have left to it, in the order they were staged in.

    A parent is missing if retention has dropped it.
    """
    results: dict[UUID, list[ParentResult]] = {child: [] for child in children}
    for child, *result in await tx.execute(_RESULTS, {"children": list(children)}):
        results[child].append(ParentResult(*result))
    return results
