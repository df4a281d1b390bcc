"""Schedules over HTTP: what there is, when it ticks, and a hand on it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.integration.conftest import Api

HREF = "/v1/schedules/payments.reconcile-daily"


async def shown(api: Api) -> dict[str, Any]:
    (one,) = (await api.http.get("/v1/schedules")).json()["data"]
    document: dict[str, Any] = one
    return document


async def test_schedules_are_listed_with_their_next_ticks(api: Api) -> None:
    daily = await shown(api)
    assert (daily["name"], daily["cron"], daily["zone"]) == (
        "payments.reconcile-daily",
        "0 3 * * *",
        "UTC",
    )
    assert (daily["paused"], daily["last"], daily["last_jobs"]) == (False, None, None)
    ticks = [datetime.fromisoformat(tick) for tick in daily["next"]]
    assert [tick - ticks[0] for tick in ticks] == [timedelta(days=n) for n in range(3)]
    assert ticks[0].hour == 3
    assert timedelta(0) < ticks[0] - datetime.now(UTC) <= timedelta(days=1, minutes=1)


async def test_a_schedule_is_paused_and_resumed(api: Api) -> None:
    paused = (await api.http.post(f"{HREF}/pause")).json()
    assert (paused["paused"], paused["next"]) == (True, [])
    assert await shown(api) == paused
    resumed = (await api.http.post(f"{HREF}/resume")).json()
    assert resumed["paused"] is False
    assert resumed["next"]


async def test_a_schedule_there_is_none_of_is_not_found(api: Api) -> None:
    for verb in ("pause", "resume"):
        assert (await api.http.post(f"/v1/schedules/no.such/{verb}")).status_code == 404


async def test_only_who_may_do_everything_stops_one_and_reading_takes_its_scope(api: Api) -> None:
    reader = await api.caller("queues:read", tenant="reader")
    assert (await api.http.get("/v1/schedules", headers=reader)).status_code == 200
    assert (await api.http.post(f"{HREF}/pause", headers=reader)).status_code == 403
    writer = await api.caller("orders:write", tenant="writer")
    assert (await api.http.get("/v1/schedules", headers=writer)).status_code == 403
