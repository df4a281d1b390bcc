"""Puts jobs in: rows in the caller's transaction: a job exists exactly if its business rows do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from goodsyard.contracts import Contract
from goodsyard.job import new_id

DEFAULT_PRIORITY = 5

ROWS = 1_000
"""Jobs an insert takes: some 10 ms; more of them at once are no faster."""


@dataclass(frozen=True, slots=True)
class Staged:
    """A job about to be inserted.

    Args:
        tenant: whose it is.
        contract: what to do.
        run_at: when it is due; ``None`` is now, by the database's clock.
        priority: 0 is first, 9 last.
        unique_key: while a job of this tenant, kind and key is live, no second one is inserted.
        parent_id: the job that staged it.
        trace_context: a W3C ``traceparent``, carried along the whole flow.
        workflow: what it is a step of.
        waits_for: how many other jobs have to succeed first; ``goodsyard.workflows`` counts them.
    """

    tenant: int
    contract: Contract
    run_at: datetime | None = None
    priority: int = DEFAULT_PRIORITY
    unique_key: str | None = None
    parent_id: UUID | None = None
    trace_context: str | None = None
    workflow: UUID | None = None
    waits_for: int = 0
    id: UUID = field(default_factory=new_id)

    @property
    def payload(self) -> Contract:
        """What to do, as a policy's keys read it (``goodsyard.contracts.Submitted``)."""
        return self.contract

    @property
    def limit_key(self) -> str:
        """What its rate is counted by."""
        limit = self.contract.policy.limit
        return "" if limit is None or limit.key is None else str(limit.key(self))

    @property
    def slot_key(self) -> str:
        """What its concurrency is counted by."""
        concurrency = self.contract.policy.concurrency
        return "" if concurrency is None or concurrency.key is None else str(concurrency.key(self))

    @property
    def cost(self) -> float | None:
        """What it is worth of its rate, if not 1."""
        limit = self.contract.policy.limit
        return None if limit is None or limit.cost is None else float(limit.cost(self))


@dataclass(frozen=True, slots=True)
class Besides:
    """What a statement inserts besides a job's own columns.

    Args:
        columns: their names, each after a comma.
        values: of each, of the job ``s``.
        source: what ``values`` are read from, joined to ``s``.
        returning: what to return besides the id.
    """

    columns: str
    values: str
    source: str
    returning: str


_NOTHING = Besides("", "", "", "")


def staging(only: str = "true", besides: Besides = _NOTHING) -> str:
    """Return the statement that inserts any number of jobs; its parameters are ``as_columns``.

    Args:
        only: which of the jobs ``s``, as SQL.
        besides: SQL for more columns.
    """
    return f"""
    INSERT INTO goodsyard.job (id, tenant, kind, version, run_at, priority, unique_key,
                               max_attempts, subject, parent_id, trace_context, limit_key,
                               slot_key, cost, workflow, waits_for, payload
                               {besides.columns})
    SELECT s.id, s.tenant, s.kind, s.version, coalesce(s.run_at, now()), s.priority, s.unique_key,
           s.max_attempts, s.subject, s.parent_id, s.trace_context, s.limit_key, s.slot_key, s.cost,
           s.workflow, s.waits_for, s.payload
           {besides.values}
      FROM unnest(CAST(:staged_ids AS uuid[]), CAST(:tenants AS int[]), CAST(:kinds AS text[]),
                  CAST(:versions AS smallint[]), CAST(:run_ats AS timestamptz[]),
                  CAST(:priorities AS smallint[]), CAST(:unique_keys AS text[]),
                  CAST(:max_attempts AS smallint[]), CAST(:subjects AS uuid[]),
                  CAST(:parent_ids AS uuid[]), CAST(:trace_contexts AS text[]),
                  CAST(:limit_keys AS text[]), CAST(:slot_keys AS text[]), CAST(:costs AS real[]),
                  CAST(:workflows AS uuid[]), CAST(:waits_for AS smallint[]),
                  CAST(:payloads AS jsonb[]))
        AS s(id, tenant, kind, version, run_at, priority, unique_key, max_attempts, subject,
             parent_id, trace_context, limit_key, slot_key, cost, workflow, waits_for, payload)
           {besides.source}
     WHERE {only}
    ON CONFLICT (tenant, kind, unique_key)
       WHERE unique_key IS NOT NULL AND state IN ('waiting', 'dispatched', 'running') DO NOTHING
    RETURNING id {besides.returning}
"""  # noqa: S608 - no value gets in here, only SQL of our own


INSERT_STAGED = staging()
"""All of them; also the part of the settlement that stages what comes next."""

_STAGE = text(INSERT_STAGED)


def staging_from(query: str) -> str:
    """Return the statement that inserts a job of one kind for each row of a query.

    For jobs that follow from rows in a table: they are never read into the process, and where the
    query finds nothing the statement is all it costs. It returns nothing, so it can be sent ahead.
    Its parameters are those of the query and ``as_kind``.

    Args:
        query: SQL whose columns are the tenant, the subject and the payload.
    """
    return f"""
    INSERT INTO goodsyard.job (tenant, kind, version, max_attempts, subject, payload)
    SELECT q.tenant, :kind, :version, :max_attempts, q.subject, q.payload
      FROM ({query}) AS q(tenant, subject, payload)
"""  # noqa: S608 - no value gets in here, only SQL of our own


def as_kind(contract: type[Contract]) -> dict[str, object]:
    """Return the parameters of ``staging_from`` that say what kind of job it inserts."""
    return {
        "kind": contract.kind,
        "version": contract.version,
        "max_attempts": contract.policy.max_attempts,
    }


_LIVE_TWIN = text("""
    SELECT id FROM goodsyard.job
     WHERE tenant = :tenant AND kind = :kind AND unique_key = :unique_key
       AND state IN ('waiting', 'dispatched', 'running')
""")


def as_columns(staged: Sequence[Staged]) -> dict[str, list[object]]:
    """Return the parameters of ``staging``, a list a column."""
    return {
        "staged_ids": [job.id for job in staged],
        "tenants": [job.tenant for job in staged],
        "kinds": [job.contract.kind for job in staged],
        "versions": [job.contract.version for job in staged],
        "run_ats": [job.run_at for job in staged],
        "priorities": [job.priority for job in staged],
        "unique_keys": [job.unique_key for job in staged],
        "max_attempts": [job.contract.policy.max_attempts for job in staged],
        "subjects": [job.contract.subject for job in staged],
        "parent_ids": [job.parent_id for job in staged],
        "trace_contexts": [job.trace_context for job in staged],
        "limit_keys": [job.limit_key for job in staged],
        "slot_keys": [job.slot_key for job in staged],
        "costs": [job.cost for job in staged],
        "workflows": [job.workflow for job in staged],
        "waits_for": [job.waits_for for job in staged],
        "payloads": [job.contract.model_dump_json() for job in staged],
    }


async def stage(tx: AsyncSession, staged: Sequence[Staged]) -> set[UUID]:
    """Insert jobs in the caller's transaction, in one statement.

    Returns:
        The ids that were inserted; one is missing where its ``unique_key`` has a live job already.
    """
    if not staged:
        return set()
    return set(await tx.scalars(_STAGE, as_columns(staged)))


_LIVE_TWINS = text("""
    SELECT s.id AS staged, j.id AS twin
      FROM unnest(CAST(:ids AS uuid[]), CAST(:tenants AS int[]), CAST(:kinds AS text[]),
                  CAST(:unique_keys AS text[])) AS s(id, tenant, kind, unique_key)
      JOIN goodsyard.job j USING (tenant, kind, unique_key)
     WHERE j.state IN ('waiting', 'dispatched', 'running')
""")


async def stage_many(tx: AsyncSession, staged: Sequence[Staged]) -> dict[UUID, UUID]:
    """Insert any number of jobs, and say of each which job is live under its ``unique_key``.

    Returns:
        Of each job that wasn't inserted its id, and the id of the one that stands for it.
    """
    # By key: two callers with keys in common then queue for each other and never in a circle.
    left = sorted(staged, key=lambda job: (job.contract.kind, job.unique_key or ""))
    twins: dict[UUID, UUID] = {}
    while left:
        inserted: set[UUID] = set()
        for first in range(0, len(left), ROWS):
            inserted |= await stage(tx, left[first : first + ROWS])
        left = [job for job in left if job.id not in inserted]
        if left:
            columns = as_columns(left)
            found = await tx.execute(
                _LIVE_TWINS,
                {name: columns[name] for name in ("tenants", "kinds", "unique_keys")}
                | {"ids": columns["staged_ids"]},
            )
            twins |= {row.staged: row.twin for row in found}
            left = [job for job in left if job.id not in twins]  # whose twin has just ended: again
    return twins


async def stage_unique(tx: AsyncSession, staged: Staged) -> UUID:
    """Insert a job, or return the id of the live job that holds its ``unique_key``."""
    # The twin may end between the two statements; then the key is free and the insert succeeds.
    while not await stage(tx, [staged]):
        twin = await live_twin(tx, staged)
        if twin is not None:
            return twin
    return staged.id


async def live_twin(tx: AsyncSession, staged: Staged) -> UUID | None:
    """Return the live job that holds a job's ``unique_key``."""
    twin: UUID | None = await tx.scalar(
        _LIVE_TWIN,
        {
            "tenant": staged.tenant,
            "kind": staged.contract.kind,
            "unique_key": staged.unique_key,
        },
    )
    return twin
