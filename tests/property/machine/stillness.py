"""An event loop that runs until nothing moves by itself, and whose time passes only when told.

Nothing moves when no callback is ready and every connection that waits for Postgres waits for a
lock: then somebody has to let somebody go on, or let time pass.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selectors import SelectorKey

LOOK_SECONDS = 0.004
"""How long Postgres may take before it is asked whether it waits for a lock."""

PATIENCE_SECONDS = 30.0
"""How long an answer may take in all; past it, something hangs."""


class _Selector(selectors.DefaultSelector):
    """Tells the loop to stop once nothing is on its way any more."""

    def __init__(self, held_up: Callable[[], int], still: Callable[[], None]) -> None:
        super().__init__()
        self._held_up = held_up
        self._still = still
        self._moved = time.monotonic()

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        if timeout == 0:  # something is ready to run
            self._moved = time.monotonic()
            return super().select(0)
        on_the_way = len(self.get_map()) - 1  # but for the loop's own wake-up
        events = super().select(LOOK_SECONDS) if on_the_way else []
        if events:
            self._moved = time.monotonic()
        elif on_the_way == 0 or self._held_up() >= on_the_way:
            self._still()
        elif time.monotonic() - self._moved > PATIENCE_SECONDS:
            message = f"{on_the_way} connections got no answer for {PATIENCE_SECONDS} s"
            raise TimeoutError(message)
        return events


class StillLoop(asyncio.SelectorEventLoop):
    """Runs tasks as far as they go, and no further."""

    def __init__(self, held_up: Callable[[], int]) -> None:
        """Ask ``held_up`` how many connections wait for a lock."""
        self.now = 0.0
        """Seconds, as the loop counts them: timers fire by it."""
        super().__init__(_Selector(held_up, self.stop))

    def time(self) -> float:
        """Return the time that was set, not the one that passes."""
        return self.now

    def until_still(self) -> None:
        """Run until nothing moves any more."""
        self.run_forever()
