"""The whole of Goodsyard in one terminal: it all comes up, stays up and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from functools import partial

import aiohttp
from rich.console import Console

from ops.admin import admin_key, database_time, nodes_since
from ops.embedded import Server
from ops.plan import Options, Plan, sole_use
from ops.private_files import write_private
from ops.servers import require_servers
from ops.supervisor import Supervisor

# The slowest, the workers, import for some seconds where two cores start everything at once.
_SECONDS_TO_COME_UP = 90.0

_console = Console(stderr=True, highlight=False)


def up(options: Options, *, as_json: bool) -> None:
    """Run everything until SIGINT, SIGTERM or SIGHUP; a second one ends it at once.

    Args:
        options: what was asked for.
        as_json: print the ready file's content when ready, instead of a table.

    Raises:
        PlanError: a port or the data folder is in use. Nothing was started.
        ServerError: an embedded server can't run here.
        StartError: something doesn't come up. What had started was stopped again.
    """
    with sole_use(options.data_dir):
        plan = Plan(options)
        plan.ready_file.unlink(missing_ok=True)
        _say("Starting; the first time takes some seconds longer.")
        for server in plan.servers:
            server.prepare()
        asyncio.run(_run(plan, as_json=as_json))


async def _run(plan: Plan, *, as_json: bool) -> None:
    await _Run(plan, as_json=as_json).until_told()


class _Run:
    """One run of everything, from the first process to the last."""

    def __init__(self, plan: Plan, *, as_json: bool) -> None:
        self._plan = plan
        self._as_json = as_json
        self._supervisor = Supervisor(plan.logs, _say, self._write_ready_file)
        self._is_ready = False

    async def until_told(self) -> None:
        told = self._watch_signals()
        coming_up = asyncio.create_task(self._come_up())
        telling = asyncio.create_task(told.wait())
        try:
            await asyncio.wait({coming_up, telling}, return_when=asyncio.FIRST_COMPLETED)
            if not told.is_set():
                await coming_up
                await told.wait()
        finally:
            coming_up.cancel()
            telling.cancel()
            self._is_ready = False
            self._plan.ready_file.unlink(missing_ok=True)
            _say("Stopping: work in hand is finished first. Ctrl-C again: at once.")
            await asyncio.gather(coming_up, telling, return_exceptions=True)
            await self._supervisor.stop()
            _say("Stopped.")

    def _watch_signals(self) -> asyncio.Event:
        told = asyncio.Event()

        def notice() -> None:
            if told.is_set():
                self._supervisor.hasten()
            told.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, notice)
        return told

    async def _come_up(self) -> None:
        plan, supervisor = self._plan, self._supervisor
        for server in plan.servers:
            await self._bring_up(server)
        require_servers(plan.database_url, plan.redis_url)
        await supervisor.run(plan.migration)
        plan.admin_key = await admin_key(plan.database_url, plan.admin_key)
        _say("The database has the newest schema")
        workers_start = await database_time(plan.database_url)
        # Stopped in the opposite order: first what takes work in, last what the work needs.
        supervisor.start(*plan.sandbox)
        supervisor.start(*plan.workers)
        supervisor.start(plan.relay)
        supervisor.start(plan.api)
        await self._until(partial(_answers, f"{plan.api_url}/readyz"), "The API")
        await self._until(partial(self._workers_live, workers_start), "The workers")
        # It asks the workers once, as it starts, for what its pages show of them.
        supervisor.start(*plan.flower)
        if plan.flower:
            await self._until(partial(_answers, f"{plan.flower_url}/healthcheck"), "Flower")
        self._is_ready = True
        self._write_ready_file()
        self._show_addresses()

    async def _bring_up(self, server: Server) -> None:
        self._supervisor.start(server.program)

        async def answers() -> bool:
            return server.answers()

        await self._until(answers, server.name)
        server.complete()
        _say(f"{server.name} is up on port {server.port}")

    async def _until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        await self._supervisor.until(condition, what, _SECONDS_TO_COME_UP)

    async def _workers_live(self, since: datetime) -> bool:
        nodes = await nodes_since(self._plan.database_url, since)
        return nodes >= {program.name for program in self._plan.workers}

    def _write_ready_file(self) -> None:
        """Say where everything is, now that it is up, and again when a process was replaced."""
        if self._is_ready:
            write_private(self._plan.ready_file, json.dumps(self._ready(), indent=2) + "\n")

    def _ready(self) -> dict[str, object]:
        plan, pids = self._plan, self._supervisor.pids
        return {
            "api": plan.api_url,
            "flower": plan.flower_url,
            "flower_auth": plan.flower_auth,
            "database_url": plan.database_url,
            "redis_url": plan.redis_url,
            "gateway": plan.gateway_url,
            "smtp": plan.smtp_url,
            "admin_api_key": plan.admin_key,
            "pids": {
                "api": pids("api"),
                "relay": pids("relay"),
                "worker": pids(*(worker.name for worker in plan.workers)),
                "flower": pids("flower"),
                "postgres": pids("postgres"),
                "redis": pids("valkey"),
            },
        }

    def _show_addresses(self) -> None:
        if self._as_json:
            sys.stdout.write(json.dumps(self._ready()) + "\n")
            sys.stdout.flush()
            return
        plan = self._plan
        _say(f"API      {plan.api_url}/docs")
        if plan.flower:
            _say(f"Flower   {plan.flower_url}  {plan.flower_auth}")
        if plan.sandbox:
            _say(f"Charges  {plan.gateway_url}/sandbox/charges")
            _say(f"Mails    {plan.gateway_url}/sandbox/mails")
        _say(f"Logs     {plan.logs}")
        _say(f"export GOODSYARD_API_URL={plan.api_url} GOODSYARD_API_KEY={plan.admin_key}")


def _say(what: str) -> None:
    with suppress(OSError):  # the terminal may be gone, which is no reason to leave children
        _console.print(what, soft_wrap=True, markup=False)


async def _answers(url: str) -> bool:
    async with aiohttp.ClientSession() as session:
        with suppress(aiohttp.ClientError, TimeoutError):
            async with session.get(url) as answer:
                return answer.ok
    return False
