"""Calls outside ``/v1``: is it alive, is it ready, its figures, and what a problem means."""

from __future__ import annotations

import asyncio
from typing import Any

import redis
from fastapi import APIRouter
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from goodsyard import dropped
from goodsyard.queues import depths
from producers import problems
from producers.answers import JsonAnswer
from producers.problems import ProblemError, not_found
from producers.services import Use

router = APIRouter(tags=["health"])

PATIENCE_SECONDS = 2.0

_MIGRATED = text("SELECT to_regclass('goodsyard.job') IS NOT NULL")


class Health(BaseModel):
    """How the process is."""

    status: str
    postgres: str | None = None
    redis: str | None = None


class ProblemTypeOut(BaseModel):
    """What a problem's type means."""

    type: str
    status: int
    title: str
    help: str


@router.get("/healthz", response_model=Health, response_model_exclude_none=True)
async def alive() -> Response:
    """Tell that the process answers; restart it if it doesn't."""
    return JsonAnswer({"status": "ok"})


@router.get("/readyz", response_model=Health)
async def ready(use: Use) -> Response:
    """Tell whether work can be accepted: that takes Postgres, and goes slower without Redis."""
    postgres, cache = await asyncio.gather(_postgres(use), _redis(use))
    if postgres != "ok":
        raise ProblemError(
            problems.UNAVAILABLE,
            f"Postgres: {postgres}.",
            headers={"Retry-After": "2"},
            members={"postgres": postgres, "redis": cache},
        )
    return JsonAnswer({"status": "ok", "postgres": postgres, "redis": cache})


async def _postgres(use: Use) -> str:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS), use.sessions.begin() as tx:
            return "ok" if await tx.scalar(_MIGRATED) else "not migrated: run goodsyard migrate"
    except (SQLAlchemyError, OSError):
        return "no answer"


async def _redis(use: Use) -> str:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await use.redis.ping()
    except (redis.RedisError, OSError):
        return "no answer"
    return "ok"


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(use: Use) -> Response:
    """Give Prometheus this process's figures, the shared backlog and what all workers dropped."""
    async with use.sessions.begin() as tx:
        backlog, counts = await depths(tx), await dropped.read(tx)
    return Response(use.metrics.render(backlog, counts), media_type=CONTENT_TYPE_LATEST)


@router.get("/problems/{name}", response_model=ProblemTypeOut)
async def explain(name: str) -> Response:
    """Explain a problem's type."""
    kind = problems.TYPES.get(name)
    if kind is None:
        raise not_found(f"problem called {name}")
    document: dict[str, Any] = {
        "type": kind.uri,
        "status": kind.status,
        "title": kind.title,
        "help": kind.help,
    }
    return JsonAnswer(document)
