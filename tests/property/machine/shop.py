"""A shop with its whole cluster in one process: the product's code, a list for a broker, one clock.

Each worker process is an ``Executor`` that can be killed or frozen; each relay round, sweep and
request is an actor of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from pydantic import SecretStr

from commerce.notifications.postman import Postman
from commerce.notifications.signing import WebhookSettings
from goodsyard import dispatch, interventions, sweeper
from goodsyard.claims import Delivery
from goodsyard.database import open_engine, session_factory
from goodsyard.doorbell import Doorbell
from goodsyard.execution import Executor
from goodsyard.submit import Staged, stage
from producers.acceptance import Wish
from producers.idempotency import RequestKey
from producers.order_shapes import OrderIn
from producers.submission import PATH, Accepted, Submission
from tasks import cancellation, contracts
from tasks.contracts import ReconcilePayments
from tasks.flow import build_flow
from tasks.webhooks import Webhook
from tests.property.machine.books import TENANT, Books
from tests.property.machine.boundaries import AT_ONCE, Actor, Boundaries, Fate, Stop
from tests.property.machine.providers import GatewayModel, MailerModel, ModelledGateway
from tests.property.machine.stillness import StillLoop

KINDS = [contract.kind for contract in contracts.ALL]
QUEUES = list(contracts.QUEUES)
PROCESSES = 3

IDLE_SECONDS = 5.0
"""How long Postgres lets a session idle in a transaction: ``goodsyard.database`` asks for it."""

WIRE_SECONDS = 60.0
"""How long a request may be on its way; far less than a key is remembered."""


@dataclass(frozen=True)
class Message:
    """What is in a queue."""

    queue: str
    kind: str
    deliveries: tuple[Delivery, ...]
    sent_at: float


@dataclass(eq=False)
class Process:
    """A worker process."""

    id: UUID
    executor: Executor
    frozen: bool = False


@dataclass
class Answers:
    """What callers were told."""

    bodies: dict[str, str] = field(default_factory=dict)
    """By key: the first body that was accepted."""
    orders: dict[str, str] = field(default_factory=dict)
    """By key: the order that was accepted."""
    cards: dict[str, str] = field(default_factory=dict)
    """By order: the card it is to be charged to."""
    cancelled: set[str] = field(default_factory=set)
    """Orders whose cancellation was accepted."""


class _Unheard(Doorbell):
    """A doorbell that nobody hears: nothing may depend on it."""

    def __init__(self) -> None:
        pass

    def ring(self, **_: object) -> None:
        pass


class Shop:
    """Everything there is, and everything that can happen to it."""

    def __init__(self, url: str) -> None:
        """Open a shop in a database that is migrated and empty."""
        self.books = Books(url)
        self.loop = StillLoop(self.books.waiting_for_a_lock)
        self.boundaries = Boundaries(self.loop)
        self._engine = open_engine(url, pool_size=30, application_name="machine", durable=False)
        self.boundaries.watch(self._engine)
        self.sessions = session_factory(self._engine)
        self.bell = _Unheard()
        self._submission = Submission(self.sessions, self.bell)
        self.reset()

    def close(self) -> None:
        """Let everybody die and close the connections."""
        self.boundaries.kill(self.boundaries.actors)
        closing = self.loop.create_task(self._engine.dispose())
        self.loop.until_still()
        assert closing.done()
        self.loop.close()
        self.books.close()

    def reset(self) -> None:
        """Be as on the first day."""
        self.boundaries.kill(self.boundaries.actors)
        self.boundaries.reset()
        self.loop.now = 0.0
        self.books.empty()
        self.gateway = GatewayModel(self.boundaries, self.time)
        self.mailer = MailerModel(self.boundaries)
        # No shop of the machine has an endpoint: the postman is never called.
        settings = WebhookSettings(secret_key=SecretStr("known to the machine, and to nobody else"))
        webhook = Webhook(Postman(settings), self.sessions)
        self._flow = build_flow(ModelledGateway(self.gateway), self.mailer, webhook)
        self.broker: list[Message] = []
        self.dispatched: set[Delivery] = set()
        self.answers = Answers()
        self.elapsed = 0.0
        self.processes = [self._begin() for _ in range(PROCESSES)]
        self._beat()

    def time(self) -> float:
        """Return what everybody's clock says, in seconds since 1970."""
        return time.time() + self.boundaries.shift

    # Requests

    def submit(self, key: str, order: dict[str, Any], ahead: int = AT_ONCE) -> None:
        """Hand an order in."""
        self._ask(f"submit {key}", self._submit(key, order), ahead)

    async def _submit(self, key: str, order: dict[str, Any]) -> None:
        body = {"user_id": str(self.books.user), "currency": "EUR"} | order
        asked = Wish(RequestKey(key, "POST", PATH, body), OrderIn.model_validate(body).order())
        verdict = (await self._submission.accept(TENANT, [asked]))[key]
        await self.boundaries.stop("reply")
        fingerprint = json.dumps(body, sort_keys=True)
        if isinstance(verdict, Accepted):
            accepted = str(verdict.order["id"])
            known = self.answers.orders.setdefault(key, accepted)
            assert known == accepted, f"key {key} made order {known} and order {accepted}"
            same = self.answers.bodies.setdefault(key, fingerprint)
            assert same == fingerprint, f"key {key} was accepted with {same} and {fingerprint}"
            self.answers.cards[accepted] = order["payment_method"]
        elif verdict.kind.status == 422:
            known = self.answers.bodies.get(key, "")
            assert known != fingerprint, f"key {key} was refused with its own body"
        else:
            assert verdict.kind.status == 409, verdict

    def cancel(self, order: str, ahead: int = AT_ONCE) -> None:
        """Call an order off."""
        self._ask(f"cancel {order}", self._cancel(order), ahead)

    async def _cancel(self, order: str) -> None:
        try:
            async with self.sessions.begin() as tx:
                await cancellation.cancel_order(tx, TENANT, UUID(order))
        except cancellation.OrderStateError:
            return
        self.answers.cancelled.add(order)

    def refund(self, order: str, amount: int | None, ahead: int = AT_ONCE) -> None:
        """Ask for money back."""
        self._ask(f"refund {order}", self._refund(order, amount), ahead)

    async def _refund(self, order: str, amount: int | None) -> None:
        try:
            async with self.sessions.begin() as tx:
                await cancellation.refund_order(tx, TENANT, UUID(order), amount)
        except cancellation.OrderStateError:
            return

    def revive(self, ahead: int = AT_ONCE) -> None:
        """Let all dead jobs run again."""
        self._ask("revive", self._revive(), ahead)

    async def _revive(self) -> None:
        async with self.sessions.begin() as tx:
            dead = await interventions.find_dead(tx, TENANT)
            await interventions.retry_jobs(tx, interventions.Actor(TENANT, "ann"), dead)

    def reconcile(self, ahead: int = AT_ONCE) -> None:
        """Ask for a comparison of the gateway with the ledger, up to now."""
        self._ask("reconcile", self._reconcile(), ahead)

    async def _reconcile(self) -> None:
        asked = ReconcilePayments.model_validate(
            {"since": "2000-01-01T00:00:00Z", "until": self.time()}
        )
        async with self.sessions.begin() as tx:
            await stage(tx, [Staged(TENANT, asked)])

    def _ask(self, name: str, work: Coroutine[Any, Any, None], ahead: int) -> None:
        self.boundaries.start(Actor(name, ahead=ahead), work)

    # Relay and sweeper

    def relay(self, most: int = dispatch.BATCH, ahead: int = AT_ONCE) -> None:
        """Let a relay do a round, ``most`` jobs a kind and a message."""
        self.boundaries.start(Actor("relay", ahead=ahead), self._relay(most))

    async def _relay(self, most: int) -> None:
        async with self.sessions.begin() as tx:
            kinds = await dispatch.due_kinds(tx, KINDS)
        for kind in sorted(kinds):
            async with self.sessions.begin() as tx:
                batch = (await dispatch.dispatch(tx, kind, dispatch.BATCH)).jobs
                fresh = {job.delivery for job in batch}
                assert not fresh & self.dispatched, f"dispatched again: {fresh & self.dispatched}"
            self.dispatched |= fresh
            if await self.boundaries.stop("publish") is Fate.GO_ON:
                for chunk in dispatch.chunks(batch, most=most, workers=PROCESSES):
                    queue = self._flow.contracts[kind].policy.queue
                    aside = dispatch.QUARANTINE if chunk.quarantined else queue
                    self.broker.append(Message(aside, kind, chunk.deliveries, batch[0].sent_at))
            else:
                async with self.sessions.begin() as tx:
                    await dispatch.take_back(tx, [job.delivery for job in batch])

    def sweep(self, ahead: int = AT_ONCE) -> None:
        """Let a relay sweep once."""
        self.boundaries.start(Actor("sweep", ahead=ahead), self._sweep())

    async def _sweep(self) -> None:
        async with self.sessions.begin() as tx:
            live = await sweeper.live_queues(tx)
            reachable = [c for c in contracts.ALL if c.policy.queue in live]
            await sweeper.return_overdue(tx, reachable, self._queued_since())

    def _queued_since(self) -> dict[str, float]:
        since: dict[str, float] = {}
        for message in self.broker:
            oldest = since.get(message.queue, message.sent_at)
            since[message.queue] = min(oldest, message.sent_at)
        return since

    def find_out(self, ahead: int = AT_ONCE) -> None:
        """Let a relay find out that the broker forgot."""
        self.boundaries.start(Actor("reset", ahead=ahead), self._reset_dispatched())

    async def _reset_dispatched(self) -> None:
        while True:
            async with self.sessions.begin() as tx:
                if await sweeper.reset_dispatched(tx) == 0:
                    return

    # Workers

    def deliver(self, number: int, process: Process, *, keep: bool, ahead: int = AT_ONCE) -> None:
        """Hand a message to a worker process; ``keep`` leaves a copy of it in the queue."""
        message = self.broker[number] if keep else self.broker.pop(number)
        actor = Actor(message.kind, process, frozenset(message.deliveries), ahead)
        self.boundaries.start(actor, process.executor.run(message.kind, message.deliveries))

    def _begin(self) -> Process:
        worker = uuid4()
        return Process(worker, Executor(self._flow, self.sessions, self.bell, worker))

    def _beat(self) -> None:
        alive = [process.id for process in self.processes if not process.frozen]
        self.books.beat(alive, QUEUES, self.boundaries.shift)

    def freeze(self, process: Process) -> None:
        """Stop a process where it is: SIGSTOP."""
        process.frozen = True
        for actor in self.boundaries.actors:
            if actor.process is process:
                actor.ahead = 0

    def fall_silent(self, process: Process) -> None:
        """Be stopped for long enough to lose all claims, and go on without a notion of it."""
        self.freeze(process)
        self.advance(sweeper.SILENT_SECONDS + 1)
        self.sweep()
        self.thaw(process)

    def thaw(self, process: Process) -> None:
        """Let it go on as if nothing had been."""
        process.frozen = False
        self._beat()

    def stops(self) -> list[Stop]:
        """Return the boundaries where somebody stands who can go on."""
        return [
            stop
            for stop in self.boundaries.stops
            if not (isinstance(stop.actor.process, Process) and stop.actor.process.frozen)
        ]

    def kill(self, actor: Actor) -> None:
        """Kill an actor with all of its process, and start another in its place."""
        process = actor.process
        if process is None:
            self.boundaries.kill([actor])
        elif process in self.processes:
            self.processes = [self._begin() if p is process else p for p in self.processes]
            self._beat()
            self.boundaries.kill([one for one in self.boundaries.actors if one.process is process])

    # Time

    def advance(self, seconds: float) -> None:
        """Let time pass for everybody; processes that aren't frozen beat all the while."""
        if seconds >= IDLE_SECONDS:
            idle = [stop.backend for stop in self.boundaries.stops if stop.backend is not None]
            if idle:
                self.books.end(idle)
        self.elapsed += seconds
        self.boundaries.shift += seconds
        self.loop.now += seconds
        self._beat()
        self.loop.until_still()
        if seconds >= WIRE_SECONDS:
            self.gateway.late.clear()

    # The end

    def calm_down(self) -> Iterator[None]:
        """Let nothing go wrong any more, and everybody finish what they are at, one by one."""
        self.gateway.faults.clear()
        self.mailer.faults.clear()
        for process in self.processes:
            process.frozen = False
        self._beat()
        for actor in self.boundaries.actors:
            actor.ahead = AT_ONCE
        while self.boundaries.stops:
            self.boundaries.let_go(self.boundaries.stops[0])
            yield
        while self.gateway.late:
            self.gateway.arrive(0)
            yield
        self.advance(2.0)  # what waits for its neighbours, or for its next try
        yield

    def round(self) -> None:
        """Sweep, relay, and carry everything out."""
        self.sweep()
        self.relay()
        while self.broker:
            self.deliver(0, self.processes[0], keep=False)
