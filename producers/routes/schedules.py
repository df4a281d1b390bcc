"""``/v1/schedules``: what is done by the clock, and a hand on it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field, StringConstraints
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from goodsyard.interventions import record
from goodsyard.schedules import (
    Misfire,
    Schedule,
    Standing,
    next_ticks,
    pause_schedule,
    standings,
)
from producers.answers import JsonAnswer
from producers.authentication import Principal, require_admin, require_scope
from producers.bodies import JsonRoute
from producers.order_shapes import Document
from producers.problems import not_found
from producers.services import Services, Use
from tasks import schedules

router = APIRouter(prefix="/v1/schedules", tags=["schedules"], route_class=JsonRoute)

reader = require_scope("queues:read")
# They work for all tenants together.
Admin = Annotated[Principal, require_admin]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_.-]{1,100}$")]

_BY_NAME: Mapping[str, Schedule] = {schedule.name: schedule for schedule in schedules.ALL}
_SHOWN = 3  # ticks to come

_NOW = text("SELECT now()")


class ScheduleOut(BaseModel):
    """A schedule, over all tenants."""

    name: str
    cron: str = Field(examples=["0 3 * * *"])
    zone: str = Field(description="In which the expression is meant.", examples=["Europe/Berlin"])
    misfire: Misfire = Field(description="What becomes of ticks that nobody was there for.")
    overlap: bool = Field(description="Whether it ticks while its last job isn't over.")
    paused: bool
    next: list[datetime] = Field(description="The ticks to come, if it isn't paused.")
    last: datetime | None = Field(description="The last tick that was carried out.")
    last_jobs: int | None = Field(description="How many jobs were staged then.")


class SchedulesOut(BaseModel):
    """All schedules."""

    data: list[ScheduleOut]
    next_cursor: None = None


@router.get("", response_model=SchedulesOut, dependencies=[reader])
async def list_all(use: Use) -> Response:
    """List the schedules with their last tick and the next."""
    async with use.sessions.begin() as tx:
        documents = await _documents(tx)
    return JsonAnswer({"data": list(documents.values()), "next_cursor": None})


@router.post("/{name}/pause", response_model=ScheduleOut)
async def pause(name: Name, principal: Admin, use: Use) -> Response:
    """Hold a schedule back: no tick is carried out until it is resumed."""
    return await _pause(use, principal, name, paused=True)


@router.post("/{name}/resume", response_model=ScheduleOut)
async def resume(name: Name, principal: Admin, use: Use) -> Response:
    """Let a schedule go on; ticks in between count as missed."""
    return await _pause(use, principal, name, paused=False)


async def _pause(use: Services, principal: Principal, name: str, *, paused: bool) -> Response:
    if name not in _BY_NAME:
        raise not_found(f"schedule {name}")
    async with use.sessions.begin() as tx:
        await pause_schedule(tx, name, paused=paused)
        action = "schedule.pause" if paused else "schedule.resume"
        await record(tx, principal.actor, action, [name])
        documents = await _documents(tx)
    return JsonAnswer(documents[name])


async def _documents(tx: AsyncSession) -> dict[str, Document]:
    now: datetime = (await tx.execute(_NOW)).scalar_one()
    kept = await standings(tx, list(_BY_NAME))
    return {
        name: _document(schedule, kept.get(name, Standing()), now)
        for name, schedule in _BY_NAME.items()
    }


def _document(schedule: Schedule, standing: Standing, now: datetime) -> Document:
    return {
        "name": schedule.name,
        "cron": schedule.cron,
        "zone": schedule.zone,
        "misfire": schedule.misfire,
        "overlap": schedule.overlap,
        "paused": standing.paused,
        "next": [] if standing.paused else next_ticks(schedule, now, _SHOWN),
        "last": standing.last_tick,
        "last_jobs": standing.last_jobs,
    }
