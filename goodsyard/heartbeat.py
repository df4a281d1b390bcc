"""Keeps a worker process's row fresh: its claims are safe while it lives, and soon due after."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

BEAT_SECONDS = 1.0

_BEAT = text("""
    INSERT INTO goodsyard.worker (id, node, pid, queues) VALUES (:id, :node, :pid, :queues)
    ON CONFLICT (id) DO UPDATE SET beat_at = now()
""")

_LEAVE = text("DELETE FROM goodsyard.worker WHERE id = :id")

_FORGET = text("DELETE FROM goodsyard.worker WHERE beat_at < now() - interval '1 hour'")


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process."""

    id: UUID
    node: str
    queues: Sequence[str]


async def beat(tx: AsyncSession, worker: Worker) -> None:
    """Say that the process lives; the first beat registers it."""
    await tx.execute(
        _BEAT,
        {
            "id": worker.id,
            "node": worker.node,
            "pid": os.getpid(),
            "queues": list(worker.queues),
        },
    )


async def leave(tx: AsyncSession, worker: UUID) -> None:
    """Say that the process ends by its own will."""
    await tx.execute(_LEAVE, {"id": worker})


async def forget_silent(tx: AsyncSession) -> None:
    """Delete the rows of processes that have been silent for an hour."""
    await tx.execute(_FORGET)
