"""A job's contract: its stable name, its payload and the policy it runs under; no behaviour."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, TypeAlias
from uuid import UUID

from pydantic import BaseModel, ConfigDict, JsonValue

_RATE = re.compile(r"(?P<count>\d+(\.\d+)?)/(?P<unit>second|minute|hour|day)")
_SECONDS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}


class Effect(StrEnum):
    """Where a job takes effect, which decides how it is run."""

    DATABASE = "database"
    """In our Postgres: the effect and the job's end are one commit."""
    EXTERNAL = "external"
    """Elsewhere: claimed in one commit, called with none open, settled in another."""


class Submitted(Protocol):
    """A job as it is submitted: what its keys and its cost are read from, once and for all."""

    @property
    def tenant(self) -> int:
        """Whose it is."""
        ...

    @property
    def payload(self) -> Any:  # noqa: ANN401 - the contract's own class, whose fields are read
        """What to do."""
        ...


Key: TypeAlias = Callable[[Submitted], object]
"""Reads from a job what it is counted by; its text is stored, so equal texts are one key."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How often jobs may start, over the whole cluster.

    Args:
        rate: a count and a unit, as in ``"100/minute"``; units: second, minute, hour, day.
        burst: jobs that may start at once after a pause; by default a tenth of a second's worth,
            at least one, which is what a relay needs to keep the rate between two of its rounds.
        key: gives each key the whole rate for itself, as ``lambda job: job.tenant`` each tenant;
            without it all jobs of the kind share one.
        cost: how many of the rate's starts a job is worth, more than 0; without it 1. One that is
            worth more than the burst starts when there is a whole burst, and others wait longer.

    Raises:
        ValueError: the rate is not of that form, or not positive.
    """

    rate: str
    burst: float | None = None
    key: Key | None = None
    cost: Callable[[Submitted], float] | None = None

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
class Concurrency:
    """How many jobs may be under way at a time, over the whole cluster.

    A job is under way from its dispatch to its end, or until it is taken back from a worker that
    died or fell silent: that frees its place, and no effect is doubled by it, but its last call may
    be out still.

    Args:
        most: so many.
        key: counts each key by itself, as ``lambda job: job.payload.order_id`` each order.

    Raises:
        ValueError: none may be.
    """

    most: int
    key: Key | None = None

    def __post_init__(self) -> None:
        """Refuse what would never let a job start."""
        if self.most < 1:
            message = f"a concurrency of {self.most} would let no job start"
            raise ValueError(message)


@dataclass(frozen=True, slots=True)
class Cache:
    """Equal requests share one run; later ones get its result, until it has expired.

    Args:
        ttl: seconds for which a result stands for equal requests, from the end of its run.
        key: what makes requests equal, within a tenant; without it, the whole payload.
        negative_ttl: the same of a run that was refused.
        stale_while_revalidate: seconds after ``ttl`` in which an expired result is still given out,
            while one run makes the next.

    Raises:
        ValueError: a time is negative, or a result would stand for nothing.
    """

    ttl: float
    key: Key | None = None
    negative_ttl: float = 0.0
    stale_while_revalidate: float = 0.0

    def __post_init__(self) -> None:
        """Refuse times that mean nothing."""
        if self.ttl <= 0 or self.negative_ttl < 0 or self.stale_while_revalidate < 0:
            message = "a cache's ttl is more than 0 seconds, its other times are not negative"
            raise ValueError(message)


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
            Its key and cost stay the code's.
        concurrency: how many jobs of the kind may be under way; likewise.
        cache: lets equal requests share a run and its result.
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
    concurrency: Concurrency | None = None
    cache: Cache | None = None
    repeatable: bool = True


UpCaster: TypeAlias = Callable[[Mapping[str, JsonValue]], Mapping[str, JsonValue]]
"""Makes a payload of one version one of the next."""


class Contract(BaseModel):
    """What a job carries; a subclass adds the payload's fields and sets the class variables.

    ``kind`` is written into rows and messages for ever: rename the class freely, never the kind.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    """Grows with each change that an older payload doesn't fit, or an older worker misreads."""
    upcasters: ClassVar[Mapping[int, UpCaster]] = MappingProxyType({})
    """From each older version, what makes its payload one of the next: none may be missing."""
    effect: ClassVar[Effect]
    public: ClassVar[bool] = False
    """Whether other services may submit it themselves, with the scope ``jobs:submit:KIND``."""
    policy: ClassVar[Policy]

    @property
    def subject(self) -> UUID | None:
        """The order or payment the job works on, by which it is found again."""
        return None
