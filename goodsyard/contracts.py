"""A job's contract: its stable name, its payload and the policy it runs under; no behaviour."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict

_RATE = re.compile(r"(?P<count>\d+(\.\d+)?)/(?P<unit>second|minute|hour|day)")
_SECONDS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}


class Effect(StrEnum):
    """Where a job takes effect, which decides how it is run."""

    DATABASE = "database"
    """In our Postgres: the effect and the job's end are one commit."""
    EXTERNAL = "external"
    """Elsewhere: claimed in one commit, called with none open, settled in another."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How often jobs may start, over the whole cluster.

    Args:
        rate: a count and a unit, as in ``"100/minute"``; units: second, minute, hour, day.
        burst: jobs that may start at once after a pause; by default a tenth of a second's worth,
            at least one, which is what a relay needs to keep the rate between two of its rounds.

    Raises:
        ValueError: the rate is not of that form, or not positive.
    """

    rate: str
    burst: float | None = None

    def __post_init__(self) -> None:
        """Refuse a bad rate where it is written, not where it is used."""
        if self.per_second <= 0 or self.capacity < 1:
            message = f"rate {self.rate!r} and burst {self.burst!r} must let at least one job start"
            raise ValueError(message)

    @property
    def per_second(self) -> float:
        """Jobs a second."""
        match = _RATE.fullmatch(self.rate)
        if match is None:
            message = f"rate {self.rate!r} is not of the form '100/minute'"
            raise ValueError(message)
        return float(match["count"]) / _SECONDS[match["unit"]]

    @property
    def capacity(self) -> float:
        """Tokens the bucket holds at the most."""
        return self.burst if self.burst is not None else max(1.0, self.per_second / 10)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter, in seconds: ``random(0, min(cap, base * 2**n))``.

    Full jitter spreads the retries of jobs that failed together; see Brooker, "Exponential Backoff
    And Jitter", AWS Architecture Blog, 2015.
    """

    base: float = 1.0
    cap: float = 300.0

    def ceiling(self, failures: int) -> float:
        """Return the longest wait in seconds after ``failures`` failures (1 for the first)."""
        # 2**32 s is far above any cap; the bound keeps the power from overflowing a float.
        return min(self.cap, self.base * 2.0 ** min(failures - 1, 32))


@dataclass(frozen=True, slots=True)
class Policy:
    """How jobs of a kind are run.

    Args:
        queue: the Celery queue, and so the workers, that run them.
        chunk: jobs a message and a transaction carry at the most when there is a backlog.
        max_attempts: reported failures (not lost deliveries) after which a job is dead.
        backoff: the wait between attempts.
        lease: seconds after which an external job whose worker went silent is run again; longer
            than its turn, its call and its settlement may take, so that the first run is over by
            then.
        abreast: calls of a kind that one process may have out at a time, where the provider takes
            so many and no more; ``None`` for as many as a process has claimed.
        limit: the rate the kind starts with; it is changed live by the API and kept from then on.
        repeatable: whether a call that may have happened may be made again. Only a provider that
            honours a key of ours, or a recipient that can tell copies apart, makes it so; without
            either a job that was called and not answered is dead, reason ``uncertain``.
    """

    queue: str
    chunk: int = 200
    max_attempts: int = 10
    backoff: Backoff = Backoff()
    lease: float = 60.0
    abreast: int | None = None
    limit: Rate | None = None
    repeatable: bool = True


class Contract(BaseModel):
    """What a job carries; a subclass adds the payload's fields and sets the class variables.

    ``kind`` is written into rows and messages for ever: rename the class freely, never the kind.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    effect: ClassVar[Effect]
    public: ClassVar[bool] = False
    """Whether other services may submit it themselves, with the scope ``jobs:submit:KIND``."""
    policy: ClassVar[Policy]

    @property
    def subject(self) -> UUID | None:
        """The order or payment the job works on, by which it is found again."""
        return None
