"""Stops whoever is at work at each boundary where a process may die, until it is let go on.

A boundary is where something is held or about to be seen: the first rows locked, a commit, a call
to a provider and its answer. The product's code knows nothing of it: the database's boundaries are
events of its SQLAlchemy engine and statements of its connections (which the engine's own go to past
SQLAlchemy), the others belong to the providers' models.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from contextlib import suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import psycopg
from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only

from goodsyard.claims import Delivery
from tests.property.machine.stillness import StillLoop

AT_ONCE = 1_000
"""Boundaries ahead that nobody stops at: to the very end."""

_BROKEN = "server closed the connection unexpectedly"

_HOLDS = re.compile(r"\bFOR (NO KEY )?UPDATE\b|\b(INSERT|UPDATE|DELETE)\b")


class Fate(StrEnum):
    """What happens at a boundary."""

    GO_ON = "go on"
    LOSE = "lose"
    """The connection breaks before: nothing happens."""
    CUT = "cut"
    """It happens, and the answer is lost."""


@dataclass(eq=False)
class Actor:
    """Somebody at work: a chunk, a relay's round, a sweep, a request."""

    name: str
    process: object | None = None
    """The worker process that it lives and dies with."""
    deliveries: frozenset[Delivery] = frozenset()
    ahead: int = 0
    """Boundaries that it passes before it stops."""
    passed: int = 0
    asking: bool = False
    """Whether Postgres owes it an answer."""
    dead: bool = False
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)  # Any: whatever they return


@dataclass(eq=False)
class Stop:
    """An actor at a boundary."""

    actor: Actor
    where: str
    go: asyncio.Future[Fate]
    backend: int | None = None
    """The Postgres process that has its transaction open."""


_actor: ContextVar[Actor | None] = ContextVar("actor", default=None)


class Boundaries:
    """All actors, and the boundaries where they stand."""

    def __init__(self, loop: StillLoop) -> None:
        """Follow the tasks of ``loop`` to their actors."""
        self.loop = loop
        self.stops: list[Stop] = []
        self.actors: list[Actor] = []
        self.commits = 0
        self.committed: set[Delivery] = set()
        """What was delivered to those who committed since this was last forgotten."""
        self._committing_now: dict[int, set[Delivery]] = {}
        self.raised: list[str] = []
        self.shift = 0.0
        """Seconds by which the shop's clock is ahead of Postgres's."""
        loop.set_task_factory(self._adopt)

    def reset(self) -> None:
        """Forget what has been; nobody is at work."""
        self.stops, self.actors = [], []
        self.commits, self.committed, self.raised = 0, set(), []
        self._committing_now = {}
        self.shift = 0.0

    def forget_commits(self) -> None:
        """Forget who has committed; who waits for a lock with all of it sent is about to."""
        self.committed = set().union(*self._committing_now.values())

    # Any: a task may be of any type
    def _adopt(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Any,  # noqa: ANN401 - as asyncio hands it over
        **how: Any,  # noqa: ANN401 - the same
    ) -> asyncio.Task[Any]:
        """Make a task that belongs to whoever started it."""
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **how)
        context = how.get("context")
        actor = _actor.get() if context is None else context.get(_actor)
        if actor is not None:
            actor.tasks.add(task)
            task.add_done_callback(actor.tasks.discard)
        return task

    def start(self, actor: Actor, work: Coroutine[Any, Any, None]) -> None:
        """Let an actor begin, and go as far as it may."""
        self.actors = [one for one in self.actors if one.tasks] + [actor]
        context = copy_context()
        context.run(_actor.set, actor)
        task = self.loop.create_task(self._work(actor, work), context=context)
        task.set_name(actor.name)
        self.loop.until_still()

    async def _work(self, actor: Actor, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except DBAPIError:
            pass  # a process would say that Postgres was away; the rows say what remains to do
        except Exception as error:  # noqa: BLE001 - a law will fail of it
            if not actor.dead:
                self.raised.append(f"{actor.name}: {type(error).__name__}: {error}")

    def let_go(self, stop: Stop, fate: Fate = Fate.GO_ON, ahead: int = 0) -> None:
        """Let an actor go on from a boundary, and pass so many more."""
        stop.actor.ahead = max(stop.actor.ahead, ahead)
        if not stop.go.done():
            stop.go.set_result(fate)
        self.loop.until_still()

    def kill(self, actors: list[Actor]) -> None:
        """Let actors die where they stand: what they hold is rolled back, nothing more is done."""
        for actor in actors:
            actor.dead = True
        for _ in range(10):  # one cancellation may be swallowed on the way out
            left = [task for actor in actors for task in actor.tasks]
            for task in left:
                task.cancel()
            if not left:
                return
            self.loop.until_still()
        raise AssertionError(f"they would not die: {[actor.name for actor in actors]}")

    def held_up_at_once(self) -> list[str]:
        """Return who was handed a message and waits for a lock to claim it."""
        return [
            actor.name
            for actor in self.actors
            if actor.deliveries and actor.asking and not actor.passed and not actor.dead
        ]

    async def stop(self, where: str, backend: int | None = None) -> Fate:
        """Stand at a boundary until it is decided what happens there."""
        actor = _actor.get()
        if actor is None:
            return Fate.GO_ON
        if actor.dead:
            raise asyncio.CancelledError
        actor.passed += 1
        if actor.ahead > 0:
            actor.ahead -= 1
            return Fate.GO_ON
        stop = Stop(actor, where, self.loop.create_future(), backend)
        self.stops.append(stop)
        try:
            return await stop.go
        finally:
            self.stops.remove(stop)

    def watch(self, engine: AsyncEngine) -> None:
        """Stop transactions of ``engine`` where they hold something, and where they commit."""
        event.listen(engine.sync_engine, "connect", self._connected)
        event.listen(engine.sync_engine, "begin", self._begun)
        event.listen(engine.sync_engine, "before_cursor_execute", self._executing)
        event.listen(engine.sync_engine, "after_cursor_execute", self._executed)
        event.listen(engine.sync_engine, "commit", self._committing)
        event.listen(engine.sync_engine, "rollback", self._rolled_back)
        event.listen(engine.sync_engine, "checkin", self._over)

    def _connected(self, adapter: Any, entry: ConnectionPoolEntry) -> None:  # noqa: ANN401 - SQLAlchemy's adapter says no more
        """Stop at what goes to the connection itself; SQLAlchemy's own goes to its cursors."""
        driver = adapter.driver_connection
        execute = driver.execute

        async def executed(statement: bytes, parameters: object) -> object:
            self._executing()
            cursor = await execute(statement, parameters)
            if await self._hold(entry.info, statement.decode(), driver) is not Fate.GO_ON:
                raise psycopg.OperationalError(_BROKEN)
            return cursor

        driver.execute = executed

    def _begun(self, connection: Connection) -> None:
        connection.info["holds"] = False
        if connection.info.get("shift", 0.0) != self.shift:
            cursor = connection.connection.cursor()
            cursor.execute("SELECT set_config('clock.shift', %s, false)", (str(self.shift),))
            cursor.close()
            connection.info["shift"] = self.shift
        actor = _actor.get()
        # To stop before the first claim would be to deliver later.
        if actor is not None and actor.deliveries and actor.passed:
            await_only(self.stop("begin"))

    def _rolled_back(self, connection: Connection) -> None:
        if not connection.invalidated:
            # What was set is undone as well, unless the statement committed itself.
            connection.info["shift"] = None
        actor = _actor.get()
        if actor is not None:
            actor.asking = False

    def _executing(self, *_: object) -> None:
        actor = _actor.get()
        if actor is not None:
            actor.asking = True

    def _executed(
        self,
        connection: Connection,
        cursor: object,
        statement: str,
        *_: object,
    ) -> None:
        driver = _driver(connection)
        if await_only(self._hold(connection.info, statement, driver)) is not Fate.GO_ON:
            raise _broken()

    async def _hold(
        self, info: dict[Any, Any], statement: str, driver: psycopg.AsyncConnection[Any]
    ) -> Fate:  # Any: SQLAlchemy's notes on a connection; rows
        """Stop where a transaction has its first rows."""
        actor = _actor.get()
        if actor is not None:
            actor.asking = False
        if info["holds"] or not _HOLDS.search(statement):
            return Fate.GO_ON
        info["holds"] = True
        return await self.stop("locked", driver.info.backend_pid)

    def _committing(self, connection: Connection) -> None:
        if not connection.info["holds"]:
            return
        fate = await_only(self.stop("commit", _driver(connection).info.backend_pid))
        if fate is Fate.LOSE:
            raise _broken()
        self.commits += 1
        actor = _actor.get()
        if actor is not None:
            self.committed |= actor.deliveries
            self._committing_now[id(connection.info)] = set(actor.deliveries)
        if fate is Fate.CUT:
            driver = connection.connection.dbapi_connection
            assert driver is not None
            with suppress(psycopg.Error):  # it was broken already
                driver.commit()
            raise _broken()

    def _over(self, _: object, entry: ConnectionPoolEntry) -> None:
        self._committing_now.pop(id(entry.info), None)


def _driver(connection: Connection) -> psycopg.AsyncConnection[Any]:  # of any rows
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.AsyncConnection)
    return driver


def _broken() -> DBAPIError:
    return OperationalError(None, None, psycopg.OperationalError(_BROKEN))
