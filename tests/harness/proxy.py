"""A network that misbehaves on demand: a TCP proxy between one process of a test and one server."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeVar

from sqlalchemy.engine import make_url

from ops.embedded.ports import LOOPBACK
from tests.processes import wait_until

T = TypeVar("T")

_READ = 65_536

COMMITTED = b"COMMIT\x00"
"""What Postgres answers, as the tag of CommandComplete, once a transaction is durable."""

COMMIT = b"COMMIT"
"""What a client sends to end a transaction well."""


@dataclass(eq=False)
class _Link:
    """One connection of a client, and the one to the server that belongs to it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    answered: int = 0
    """Bytes of the server's that the client has got."""
    forgotten: bool = False
    """Whether it leads nowhere any more."""

    def reset(self) -> None:
        """End both with an RST: whoever reads or writes next gets an error, not an end of file."""
        for writer in (self.client, self.server):
            with suppress(OSError):
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            writer.transport.abort()


@dataclass
class _Weather:
    """How the network behaves at present."""

    delay: float = 0.0
    rate: float | None = None
    silent: bool = False
    silent_from: bytes | None = None
    refusing: bool = False
    cut_question: bytes | None = None
    cut_answer: bytes | None = None
    cut_after: int | None = None
    cuts_left: int = 0


@dataclass
class Proxy:
    """Passes bytes on to a server of this machine, as well or as badly as it is told to.

    Args:
        target: the server's port.

    Attributes:
        port: where clients connect instead.
        cuts: how many connections were cut at a point that a test had named.
    """

    target: int
    port: int = field(default=0, init=False)
    cuts: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._weather = _Weather()
        self._speaks = asyncio.Event()
        self._speaks.set()

    def url(self, url: str) -> str:
        """Return the server's address with this proxy's port in it."""
        return make_url(url).set(port=self.port).render_as_string(hide_password=False)

    # What may happen to a network. Each holds until ``heal``, for open connections and new ones.

    def slow(self, *, delay: float = 0.0, rate: float | None = None) -> None:
        """Delay what passes by ``delay`` seconds, and pass ``rate`` bytes a second at the most."""
        self._change(_Weather(delay=delay, rate=rate))

    def fall_silent(self) -> None:
        """Pass nothing on, in either direction; connections stay, and are still accepted."""
        self._change(_Weather(silent=True))

    def fall_silent_at(self, question: bytes) -> None:
        """Fall silent once a client says ``question``, before the server hears it."""
        self._change(_Weather(silent_from=question))

    def refuse(self) -> None:
        """End all connections with an RST, and new ones as soon as they are made."""
        self._change(_Weather(refusing=True))
        self.reset()

    def cut_before(self, question: bytes = COMMIT, *, times: int = 1) -> None:
        """End the connection that says ``question`` before the server hears it."""
        self._change(_Weather(cut_question=question, cuts_left=times))

    def cut_instead_of(self, answer: bytes = COMMITTED, *, times: int = 1) -> None:
        """End the connection on which the server says ``answer`` before the client hears it."""
        self._change(_Weather(cut_answer=answer, cuts_left=times))

    def cut_after(self, count: int, *, times: int = 1) -> None:
        """End a connection once the client has got ``count`` bytes of the server's."""
        self._change(_Weather(cut_after=count, cuts_left=times))

    def reset(self) -> int:
        """End all connections there are with an RST; return how many."""

        def reset() -> int:
            links = [*self._links]
            for link in links:
                link.reset()
            return len(links)

        return self._on_loop(reset)

    def forget(self) -> None:
        """Pass nothing on over the connections there are, ever, as a firewall that lost its table.

        Neither end is told; new connections are as good as any.
        """

        def forget() -> None:
            for link in self._links:
                link.forgotten = True

        self._on_loop(forget)

    def half_close(self) -> int:
        """Tell the server that its clients will say no more, while they go on; return how many."""

        def close() -> int:
            open_ones = [link for link in self._links if link.server.can_write_eof()]
            for link in open_ones:
                link.server.write_eof()
            return len(open_ones)

        return self._on_loop(close)

    def heal(self) -> None:
        """Pass on everything from now on, at once; what was held back goes first."""
        self._change(_Weather())

    @contextmanager
    def trouble(self) -> Iterator[Self]:
        """Have the network healed at the end, whatever is done to it meanwhile."""
        try:
            yield self
        finally:
            self.heal()

    def until_silent(self, seconds: float = 60.0) -> None:
        """Wait until nothing is passed on any more."""
        wait_until(lambda: self._weather.silent, "the line to fall silent", seconds)

    def until_cut(self, count: int, seconds: float = 60.0) -> None:
        """Wait until ``count`` connections were cut at a named point, since the beginning."""
        wait_until(lambda: self.cuts >= count, f"{count} connections to be cut", seconds)

    def __enter__(self) -> Self:
        self._thread.start()
        starting = asyncio.start_server(self._accept, LOOPBACK, 0)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a connection is served by a task"
        self._tasks.add(task)
        try:
            answers, server = await asyncio.open_connection(LOOPBACK, self.target)
        except OSError:
            client.transport.abort()
            return
        else:
            link = _Link(client, server)
            if self._weather.refusing:
                link.reset()
                return
            self._links.add(link)
            try:
                # Cancelled when the proxy closes; Python 3.11 would report that as an error.
                with suppress(asyncio.CancelledError):
                    await asyncio.gather(
                        self._pass_on(link, reader, server, self._hears),
                        self._pass_on(link, answers, client, self._answers),
                    )
            finally:
                self._links.discard(link)
                link.client.transport.abort()
                link.server.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _pass_on(
        self,
        link: _Link,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        passes: Callable[[_Link, bytes], bool],
    ) -> None:
        try:
            while data := await source.read(_READ):
                weather = self._weather
                if weather.delay:
                    await asyncio.sleep(weather.delay)
                if weather.silent_from is not None and weather.silent_from in data:
                    self._become(_Weather(silent=True))
                await self._speaks.wait()
                if link.forgotten:
                    continue
                if not passes(link, data):
                    link.reset()
                    return
                sink.write(data)
                await sink.drain()
                if weather.rate:
                    await asyncio.sleep(len(data) / weather.rate)
            await self._speaks.wait()
            if sink.can_write_eof():
                sink.write_eof()
        except OSError:
            link.reset()  # what was reset on one side must not go on waiting on the other

    def _hears(self, _link: _Link, data: bytes) -> bool:
        """Tell whether the server may hear what a client says."""
        marker = self._weather.cut_question
        return not (marker is not None and marker in data and self._cut())

    def _answers(self, link: _Link, data: bytes) -> bool:
        """Tell whether a client may hear what the server answers."""
        weather = self._weather
        link.answered += len(data)
        spent = weather.cut_after is not None and link.answered > weather.cut_after
        said = weather.cut_answer is not None and weather.cut_answer in data
        return not ((spent or said) and self._cut())

    def _cut(self) -> bool:
        """Use up one of the cuts that were asked for; tell whether there was one."""
        if self._weather.cuts_left == 0:
            return False
        self._weather.cuts_left -= 1
        self.cuts += 1
        return True

    def _change(self, weather: _Weather) -> None:
        self._on_loop(lambda: self._become(weather))

    def _become(self, weather: _Weather) -> None:
        self._weather = weather
        (self._speaks.clear if weather.silent else self._speaks.set)()

    def _on_loop(self, work: Callable[[], T]) -> T:
        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()
