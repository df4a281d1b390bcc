"""Whatever is killed, lost, doubled, late or called off, and when: the shop's laws hold.

hypothesis thinks up what happens and makes of a failure the shortest story that fails the same way.
``make fuzz EXAMPLES=20000`` tells many more stories than ``make test``.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any, ClassVar, NoReturn

import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.conftest import Servers, fresh_database
from tests.property.machine.boundaries import AT_ONCE, Fate
from tests.property.machine.laws import Laws
from tests.property.machine.providers import DECLINED, GATEWAY_FAULTS, GOOD, MAIL_FAULTS
from tests.property.machine.shop import PROCESSES, Shop

EXAMPLES = int(os.environ.get("EXAMPLES", "200"))
STEPS = 20

ROUNDS = 30
"""Rounds after which everything must be quiet; the longest wait between two tries is one round."""

# Half of all actors go to their end at once, the others stop early.
ahead = st.sampled_from([AT_ONCE, AT_ONCE, AT_ONCE, AT_ONCE, 0, 1, 2, 3, 5, 6])
on_the_way = st.integers(0, 7)
"""Boundaries passed: from a charge's claim to the commit that books it there are seven."""
some = st.integers(0, 7)
"""Picks one of the things there are, modulo their number."""

lines = st.lists(
    st.builds(
        lambda sku, quantity, price: {"sku": sku, "quantity": quantity, "unit_amount": price},
        st.sampled_from("AAB"),
        st.integers(1, 3),
        st.sampled_from([500, 500, 0]),
    ),
    min_size=1,
    max_size=2,
)
bodies = st.builds(
    lambda lines, card: {"lines": lines, "payment_method": card},
    lines,
    st.sampled_from([GOOD, GOOD, DECLINED]),
)
DAY = 86_400
seconds = st.sampled_from([0.1, 1, 6, 50, 50, 400, DAY, DAY])


class Story(RuleBasedStateMachine):
    """Everything that may happen to a shop, in any order."""

    shop: ClassVar[Shop]

    def __init__(self) -> None:
        super().__init__()
        self.shop.reset()
        self.asked: dict[str, dict[str, Any]] = {}  # any JSON

    @initialize(
        shelves=st.fixed_dictionaries({"A": st.integers(2, 3), "B": st.integers(3, 6)}),
        orders=st.lists(bodies, min_size=1, max_size=2) | st.lists(bodies, min_size=2, max_size=2),
        stages=st.integers(0, 3),
    )
    def open(self, shelves: dict[str, int], orders: list[dict[str, Any]], stages: int) -> None:
        """Some orders are on their way already."""
        self.shop.books.fill(shelves)
        self.laws = Laws(self.shop, shelves)
        for key, order in zip("ab", orders, strict=False):
            self.submit(key, order, AT_ONCE)
        for _ in range(stages):
            self.next_stage(0, AT_ONCE)

    @invariant()
    def laws_hold(self) -> None:
        self.laws.check()

    # Requests

    @rule(key=st.sampled_from("abcd"), body=bodies | st.none(), ahead=ahead)
    def submit(self, key: str, body: dict[str, Any] | None, ahead: int) -> None:
        """Hand an order in; without a body, the one that came first under the key."""
        if body is not None:
            self.asked.setdefault(key, body)
        if key in self.asked:
            self.shop.submit(key, body or self.asked[key], ahead)

    @precondition(lambda self: self.orders)
    @rule(which=some, amount=st.sampled_from([0, 0, 1, 700]), ahead=ahead)
    def call_off(self, which: int, amount: int, ahead: int) -> None:
        order = self.orders[which % len(self.orders)]
        if amount:
            self.shop.refund(order, amount, ahead)
        else:
            self.shop.cancel(order, ahead)

    @precondition(lambda self: self.laws.dead)
    @rule(ahead=ahead)
    def revive(self, ahead: int) -> None:
        self.shop.revive(ahead)

    @property
    def orders(self) -> list[str]:
        return list(self.shop.answers.cards)

    # The cluster at work

    @rule(most=st.sampled_from([200, 1, 2]), ahead=ahead)
    def relay(self, most: int, ahead: int) -> None:
        self.shop.relay(most, ahead)

    @rule(ahead=ahead)
    def sweep(self, ahead: int) -> None:
        self.shop.sweep(ahead)

    @precondition(lambda self: self.shop.broker)
    @rule(which=some, process=st.integers(0, PROCESSES - 1), keep=st.booleans(), ahead=ahead)
    def deliver(self, which: int, process: int, keep: bool, ahead: int) -> None:  # noqa: FBT001 - hypothesis gives names
        shop = self.shop
        number = which % len(shop.broker)
        shop.deliver(number, shop.processes[process], keep=keep, ahead=ahead)

    @rule(process=st.integers(0, PROCESSES - 1), ahead=ahead)
    def next_stage(self, process: int, ahead: int) -> None:
        """Whatever is due is carried out; only the last message may take its time."""
        shop = self.shop
        shop.relay()
        while shop.broker:
            how_far = AT_ONCE if len(shop.broker) > 1 else ahead
            shop.deliver(0, shop.processes[process], keep=False, ahead=how_far)

    @rule(ahead=st.integers(0, 1), copies=st.booleans())
    def two_at_once(self, ahead: int, copies: bool) -> None:  # noqa: FBT001 - hypothesis gives names
        """A message is carried out while another is, or its own copy, which goes on after it."""
        shop = self.shop
        shop.relay(most=1)
        standing = shop.stops()
        if shop.broker:
            shop.deliver(0, shop.processes[0], keep=copies, ahead=ahead)
        if shop.broker:
            shop.deliver(0, shop.processes[1], keep=False)
        self.laws.check()
        for stop in shop.stops():
            if stop not in standing:
                shop.boundaries.let_go(stop, ahead=AT_ONCE)

    @rule(slow=on_the_way, ahead=on_the_way)
    def overtake(self, slow: int, ahead: int) -> None:
        """A process falls silent at its work, another takes it up, and both are there again."""
        self.next_stage(0, slow)
        self.shop.fall_silent(self.shop.processes[0])
        self.laws.check()  # before a job that failed is dispatched again, under its next fence
        self.next_stage(1, ahead)

    @precondition(lambda self: self.shop.stops())
    @rule(which=some, ahead=ahead)
    def step(self, which: int, ahead: int) -> None:
        stops = self.shop.stops()
        self.shop.boundaries.let_go(stops[which % len(stops)], ahead=ahead)

    @rule(by=seconds)
    def time_passes(self, by: float) -> None:
        self.shop.advance(by)

    # What goes wrong

    @precondition(lambda self: self.shop.stops())
    @rule(which=some, fate=st.sampled_from([Fate.LOSE, Fate.CUT]))
    def connection_breaks(self, which: int, fate: Fate) -> None:
        stops = self.shop.stops()
        self.shop.boundaries.let_go(stops[which % len(stops)], fate)

    @precondition(lambda self: self.shop.boundaries.stops)
    @rule(which=some)
    def kill(self, which: int) -> None:
        stops = self.shop.boundaries.stops
        self.shop.kill(stops[which % len(stops)].actor)

    @rule(after=on_the_way, fate=st.sampled_from([None, None, Fate.LOSE, Fate.CUT]))
    def next_stage_fails(self, after: int, fate: Fate | None) -> None:
        """A process dies at its work, or its connection does."""
        shop = self.shop
        standing = shop.stops()
        self.next_stage(2, after)
        for stop in shop.stops():
            if stop not in standing:
                if fate is None:
                    shop.kill(stop.actor)
                else:
                    shop.boundaries.let_go(stop, fate, ahead=AT_ONCE)

    @precondition(lambda self: self.shop.stops())
    @rule(process=st.integers(0, PROCESSES - 1))
    def fall_silent(self, process: int) -> None:
        self.shop.fall_silent(self.shop.processes[process])

    @rule(process=st.integers(0, PROCESSES - 1))
    def freeze_or_thaw(self, process: int) -> None:
        shop = self.shop
        if shop.processes[process].frozen:
            shop.thaw(shop.processes[process])
        else:
            shop.freeze(shop.processes[process])

    @rule(fault=st.sampled_from([*GATEWAY_FAULTS, *MAIL_FAULTS]))
    def provider_fails(self, fault: str) -> None:
        if fault in GATEWAY_FAULTS:
            self.shop.gateway.faults.append(fault)
        else:
            self.shop.mailer.faults.append(fault)

    @precondition(lambda self: self.shop.gateway.late)
    @rule(which=some)
    def late_request_arrives(self, which: int) -> None:
        late = self.shop.gateway.late
        self.shop.gateway.arrive(which % len(late))

    @precondition(lambda self: self.shop.broker)
    @rule(which=some)
    def message_is_lost(self, which: int) -> None:
        self.shop.broker.pop(which % len(self.shop.broker))

    @precondition(lambda self: self.shop.broker)
    @rule(ahead=ahead)
    def broker_forgets(self, ahead: int) -> None:
        self.shop.broker.clear()
        self.shop.find_out(ahead)

    @rule()
    def broker_restores_old_messages(self) -> None:
        """All has been sent again by the time they are back."""
        self.shop.relay()
        self.shop.find_out()
        self.shop.relay()

    def teardown(self) -> None:
        if sys.exc_info()[0] is None:  # else it failed, or hypothesis gave it up: it has no end
            self._come_to_rest()

    def _come_to_rest(self) -> None:
        shop = self.shop
        for _ in shop.calm_down():
            self.laws.check()
        for _ in range(ROUNDS):
            shop.round()
            self.laws.check()
            if self.laws.is_quiet():
                break
            shop.advance(400.0)
            if self.laws.dead:
                shop.revive()
        if shop.gateway.charges:
            shop.reconcile()
            shop.round()
        self.laws.check_the_end()


@pytest.fixture
def shop(servers: Servers, postgres_url: str) -> Iterator[Shop]:
    """A shop in a database of its own; it logs nothing, since failing is its daily business."""
    ours = structlog.get_config()
    structlog.configure(processors=[_drop], cache_logger_on_first_use=False)
    logging.disable()
    # To shorten the story of a failure takes up to five minutes; the loop itself tells of a hang.
    faulthandler.cancel_dump_traceback_later()
    with fresh_database(servers) as url:
        opened = Shop(url)
        yield opened
        opened.close()
    logging.disable(logging.NOTSET)
    structlog.configure(**ours)


def _drop(*_: object) -> NoReturn:
    raise structlog.DropEvent


@pytest.mark.slow
def test_the_laws_hold_whatever_happens(shop: Shop) -> None:
    Story.shop = shop
    run_state_machine_as_test(
        Story,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=set(Phase) - {Phase.explain},
        ),
    )
