"""How one run of a job ends, as a value the handler returns; anything it raises is a ``Retry``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from pydantic import JsonValue

from goodsyard.contracts import Contract

BUSY_SECONDS = 1.0
"""How long a provider is left alone that is asked too often and doesn't say for how long."""

UNCERTAIN = "uncertain"
"""Reason of a dead job whose call may have happened, and that nothing can tell or make harmless."""


@dataclass(frozen=True, slots=True)
class Done:
    """It took effect; ``next`` is staged in the same commit."""

    result: Mapping[str, JsonValue] | None = None
    next: Sequence[Contract] = ()


@dataclass(frozen=True, slots=True)
class Retry:
    """It failed and may succeed later: spends an attempt, waits at least ``after`` seconds.

    With ``busy`` the provider said that it is asked too often (a 429): until then, or for
    ``BUSY_SECONDS`` if it didn't say, no other job starts that would ask it, either.
    """

    error: str
    after: float | None = None
    busy: bool = False


@dataclass(frozen=True, slots=True)
class Snooze:
    """It can't run yet and that is nobody's failure: waits until then, spends nothing.

    Args:
        until: a time, or how long from now on, by the database's clock.
    """

    until: datetime | timedelta


@dataclass(frozen=True, slots=True)
class Refused:
    """The other side said no for good (an unknown mailbox, say): dead, reason ``refused``."""

    detail: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """It was called off before it took effect, or before it did so again; never to be replayed."""

    detail: str


@dataclass(frozen=True, slots=True)
class Dead:
    """Nothing automatic may touch it again (``uncertain``: it may have happened): for a person."""

    reason: str
    detail: str


Outcome: TypeAlias = Done | Retry | Snooze | Refused | Cancelled | Dead
