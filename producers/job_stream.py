"""A job as server-sent events: each state it goes through, and what it says while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple
from uuid import UUID

import orjson

from goodsyard.job import TERMINAL, JobState
from goodsyard.jobs import JobView
from producers import job_shapes
from producers.order_shapes import Document
from producers.waiting import News, Watch

STREAM_SECONDS = 300.0
"""How long a stream of events lasts; a browser's EventSource then asks for the next by itself."""

STILL_THERE_SECONDS = 15.0
"""How often an idle stream says that it is there: proxies close what is silent for half a minute
or a minute."""

_STILL_THERE = b": still there\n\n"


class Seen(NamedTuple):
    """A job's row, and how it is shown."""

    job: JobView
    document: Document


async def events(
    news: News, job_id: UUID, look: Callable[[], Awaitable[Seen | None]]
) -> AsyncIterator[bytes]:
    """Yield events up to the job's end, or for ``STREAM_SECONDS``.

    An idle stream asks nobody anything: it is woken. Whoever sends it notices that its client hung
    up, and closes it.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + STREAM_SECONDS
    told: tuple[JobState, bool] | None = None
    with news.watch(job_id) as watch:
        while (seen := await look()) is not None:
            job = seen.job
            watch.told = job.state
            if told != (job.state, job.cancel_requested):
                told = job.state, job.cancel_requested
                yield _event("state", seen.document, of=job.state)
            if job.state in TERMINAL:
                return
            async for event in _until_news(watch, job, until):
                yield event
            if loop.time() >= until:
                return


async def _until_news(watch: Watch, job: JobView, until: float) -> AsyncIterator[bytes]:
    """Yield what the job says until there is news of its row, or until a time of the loop."""
    loop = asyncio.get_running_loop()
    while (left := until - loop.time()) > 0:
        is_news = await watch.wait(min(left, STILL_THERE_SECONDS))
        words = watch.take_words()
        for word in words:
            if word.fence == job.fence and job.state is JobState.RUNNING:
                yield _event("progress", job_shapes.progress(word))
            elif word.fence >= job.fence:
                is_news = True  # it has begun to run, and nobody has told
        if is_news:
            return
        if not words:
            yield _STILL_THERE


def _event(name: str, data: Document, *, of: JobState | None = None) -> bytes:
    """Return an event; with a state, its id is that, by which a client that comes back names it."""
    place = b"" if of is None else b"id: %b\n" % of.value.encode()
    told = orjson.dumps(data, option=orjson.OPT_UTC_Z)
    return b"%bevent: %b\ndata: %b\n\n" % (place, name.encode(), told)
