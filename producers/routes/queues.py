"""``/v1/queues``: how full they are, and a hand on the tap."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field, StringConstraints
from starlette.responses import Response

from goodsyard.interventions import pause_queue
from goodsyard.queues import QueueView, list_queues
from producers.answers import JsonAnswer
from producers.authentication import Principal, require_admin, require_scope
from producers.bodies import JsonRoute
from producers.job_shapes import QUEUE_OF, kinds_of
from producers.limit_shapes import LimitOut, limits_by_name
from producers.order_shapes import Document
from producers.problems import not_found
from producers.services import Services, Use

router = APIRouter(prefix="/v1/queues", tags=["queues"], route_class=JsonRoute)

reader = require_scope("queues:read")
# Queues are all tenants' together: only who may do everything may stop one.
Admin = Annotated[Principal, require_admin]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,50}$")]


class DepthOut(BaseModel):
    """Jobs of a queue, by state."""

    waiting: int
    dispatched: int
    running: int
    dead: int


class QueueOut(BaseModel):
    """A queue, over all tenants."""

    name: str
    paused: bool
    workers: int = Field(description="Live worker processes that consume it.")
    depth: DepthOut
    oldest_seconds: float = Field(description="How long the oldest waiting job has been due.")
    kinds: list[str]
    limits: list[LimitOut]


class QueuesOut(BaseModel):
    """All queues."""

    data: list[QueueOut]
    next_cursor: None = None


@router.get("", response_model=QueuesOut, dependencies=[reader])
async def list_all(use: Use) -> Response:
    """List the queues with their depth, their oldest job and their kinds' limits."""
    return JsonAnswer({"data": await _documents(use), "next_cursor": None})


@router.post("/{name}/pause", response_model=QueueOut)
async def pause(name: Name, principal: Admin, use: Use) -> Response:
    """Hold a queue's jobs back; what was dispatched still runs."""
    return await _pause(use, principal, name, paused=True)


@router.post("/{name}/resume", response_model=QueueOut)
async def resume(name: Name, principal: Admin, use: Use) -> Response:
    """Let a queue's jobs go again."""
    return await _pause(use, principal, name, paused=False)


async def _pause(use: Services, principal: Principal, name: str, *, paused: bool) -> Response:
    async with use.sessions.begin() as tx:
        known = await pause_queue(tx, principal.actor, name, paused=paused)
    if not known:
        raise not_found(f"queue {name}")
    use.doorbell.ring(due=kinds_of(name))
    document = next(queue for queue in await _documents(use) if queue["name"] == name)
    return JsonAnswer(document)


async def _documents(use: Services) -> list[Document]:
    async with use.sessions.begin() as tx:
        queues = await list_queues(tx, QUEUE_OF)
        limits = await limits_by_name(tx)
    return [_document(queue, limits) for queue in queues]


def _document(queue: QueueView, limits: dict[str, Document]) -> Document:
    kinds = kinds_of(queue.name)
    return {
        "name": queue.name,
        "paused": queue.paused,
        "workers": queue.workers,
        "depth": {state.value: jobs for state, jobs in queue.depth.items()},
        "oldest_seconds": round(queue.oldest_seconds, 3),
        "kinds": kinds,
        "limits": [limits[kind] for kind in kinds if kind in limits],
    }
