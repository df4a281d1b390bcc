"""The ways the sandbox can be told to misbehave, each for the next so many calls it applies to.

=================  ==============================================================================
``429``            the call is refused with ``Retry-After: seconds`` (1), whoever makes it
``409``            the call is refused as if an earlier one with its key were under way
``500``            the call fails before it begins, so its key stays unused
``latency``        a call that takes effect does so ``seconds`` (0.5) after it arrived
``hang``           the call is held ``seconds`` (30) with its key in use, then the connection drops;
                   nothing is charged
``requires_action``  the card wants its holder, although the call says that nobody is there: nothing
                   is charged, and the intent waits to be confirmed
``decline``        the card is declined, whichever it is
``stored_500``     the call does nothing and is answered 500; its key remembers that answer
``charge_then_500``   money moves, the answer is 500, and its key remembers that answer
``charge_then_drop``  money moves, then the connection drops; its key remembers the answer
``forget_keys``    all idempotency keys are forgotten, at once
``mail_latency``   a message is taken ``seconds`` (1) after it came
``mail_450``       a message is refused for now
``mail_550``       a message is refused for good
``mail_drop_after_data``  a message is taken and logged, then the connection drops
=================  ==============================================================================

The gateway's faults meet calls that create, cancel or refund; one whose key is already answered is
replayed and meets only ``409``, ``429`` and ``500``. Money moves with a charge, declined ones
included, and with a refund.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Fault = Literal[
    "409",
    "429",
    "500",
    "latency",
    "hang",
    "requires_action",
    "decline",
    "stored_500",
    "charge_then_500",
    "charge_then_drop",
    "forget_keys",
    "mail_latency",
    "mail_450",
    "mail_550",
    "mail_drop_after_data",
]

DEFAULT_SECONDS: dict[Fault, float] = {
    "429": 1.0,
    "latency": 0.5,
    "hang": 30.0,
    "mail_latency": 1.0,
}


@dataclass(slots=True)
class Armed:
    """How often a fault will still happen, and how many seconds it takes where it takes any."""

    count: int
    seconds: float


class Faults:
    """The faults waiting for a call to happen to."""

    def __init__(self) -> None:
        self._armed: dict[Fault, Armed] = {}

    def arm(self, fault: Fault, count: int, seconds: float | None) -> None:
        """Let ``fault`` happen to the next ``count`` calls; replaces what was armed of it."""
        duration = DEFAULT_SECONDS.get(fault, 0.0) if seconds is None else seconds
        self._armed[fault] = Armed(count, duration)

    def clear(self) -> None:
        """Behave from now on."""
        self._armed.clear()

    def take(self, fault: Fault) -> float | None:
        """Use up one occurrence: its seconds, or None where the fault is not armed."""
        armed = self._armed.get(fault)
        if armed is None:
            return None
        armed.count -= 1
        if armed.count <= 0:
            del self._armed[fault]
        return armed.seconds

    def as_json(self) -> list[dict[str, object]]:
        """Return what is still armed."""
        return [
            {"fault": fault, "count": armed.count, "seconds": armed.seconds}
            for fault, armed in self._armed.items()
        ]
