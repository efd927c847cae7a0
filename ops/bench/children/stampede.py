"""The load of `stampede`: its own process, many devices open their streams in one moment while one acknowledges.

The worker stands still while they ask, and while the first ack is sent behind them all: what a moment is would else
depend on how busy the machine is, and each request would be done before the next one came.

Reads `Rush` as JSON from stdin, prints `Rushed` as JSON. Exits 1 at the first answer that is not what it should be.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import cast

import msgspec
import uvloop

from ops.bench.rig.cpu import cpu_s
from ops.bench.rig.wire import request, stamps

_OK = b"HTTP/1.1 204 "
_STREAM = b"HTTP/1.1 200 "
_LATER = b"HTTP/1.1 503 "
_END = b"0\r\n\r\n"


class Rush(msgspec.Struct, frozen=True):
    """The streams to open at once, and the acks of one more device: `head + time + tail`, one after the other.

    A stream says how long it is by the size of its chunks; it is over with the empty one. `connected`: whether their
    connections are there before. `worker` is the process that stands still meanwhile, `pids` are those of which it is
    told how much they worked while an ack was waited for.
    """

    port: int
    streams: tuple[bytes, ...]
    head: bytes
    tail: bytes
    first_us: int
    alone_s: float
    pause_s: float
    limit: int
    at_most_s: float
    connected: bool
    worker: int
    pids: tuple[int, ...]


class Rushed(msgspec.Struct, frozen=True):
    """Seconds that acks took alone and during the rush, and from the request to a stream's first bytes and to its end.

    Streams are in the order in which they were asked for; `refused` of them were told to come again, as their turn did
    not come in time. `places` tells of those that were not as which one their first bytes came. `sent` counts the acks.
    `worked_s` is the CPU time that the processes used during each ack of the rush: how long it takes where nobody else
    wants the machine.
    """

    alone_s: tuple[float, ...]
    during_s: tuple[float, ...]
    first_s: tuple[float, ...]
    places: tuple[int, ...]
    whole_s: tuple[float, ...]
    worked_s: tuple[float, ...]
    refused: int
    sent: int


class _Stream(asyncio.Protocol):
    """Reads one stream to its end; what it says is counted elsewhere."""

    def __init__(self, run: _Run) -> None:
        self.run = run
        self.asked_s = self.first_s = self.whole_s = 0.0
        self.place = 0
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes) -> None:
        self.asked_s = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        now_s = time.perf_counter()
        if not self.first_s:
            if data.startswith(_LATER):
                self.run.refused += 1
                self.whole_s = now_s - self.asked_s
                self.run.end()
                return
            if not data.startswith(_STREAM):
                self.run.fail(f"a stream was answered {data[:600].decode('latin-1')!r}")
                return
            self.first_s, self.place = now_s - self.asked_s, self.run.begun
            self.run.begun += 1
        self._tail = (self._tail + data)[-len(_END) :] if len(data) < len(_END) else data[-len(_END) :]
        if self._tail == _END and not self.whole_s:
            self.whole_s = now_s - self.asked_s
            self.run.end()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.whole_s:
            self.run.fail(f"a stream was closed: {exc}")


class _Acks(asyncio.Protocol):
    """Answers each ack with how long it took."""

    def __init__(self, run: _Run) -> None:
        self.run = run
        self.answered: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    async def ack(self, request: bytes) -> float:
        self.answered = asyncio.get_running_loop().create_future()
        began_s = time.perf_counter()
        self.transport.write(request)
        await self.answered
        return time.perf_counter() - began_s

    def data_received(self, data: bytes) -> None:
        if not data.startswith(_OK):
            self.run.fail(f"an ack was answered {data[:600].decode('latin-1')!r}")
        elif self.answered is not None and not self.answered.done():
            self.answered.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.run.fail(f"the connection of the acks was closed: {exc}")


class _Run:
    def __init__(self, streams: int) -> None:
        self.left = streams
        self.begun = self.refused = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(self) -> None:
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(None)

    def fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(why))


async def drive(rush: Rush) -> Rushed:
    """Send acks alone, then during the rush; return when all streams have ended."""
    run, loop = _Run(len(rush.streams)), asyncio.get_running_loop()
    times = iter(stamps(rush.first_us, rush.limit))
    _, acks = await loop.create_connection(lambda: _Acks(run), "127.0.0.1", rush.port)
    sent = 0
    worked: list[float] = []

    async def until(over: Callable[[], bool]) -> list[float]:
        nonlocal sent
        took = []
        worked.clear()
        while not over():
            sent += 1
            before_s = cpu_s(rush.pids)
            took.append(await asyncio.wait_for(acks.ack(rush.head + next(times) + rush.tail), rush.at_most_s))
            worked.append(cpu_s(rush.pids) - before_s)
            await asyncio.sleep(rush.pause_s)
        return took

    async def connected() -> _Stream:
        return (await loop.create_connection(lambda: _Stream(run), "127.0.0.1", rush.port))[1]

    until_s = time.perf_counter() + rush.alone_s
    alone = await until(lambda: time.perf_counter() > until_s)
    before = [await connected() for _ in rush.streams] if rush.connected else []
    await _answered(rush.port)  # a connection is accepted behind those that were there before
    with _standing_still(rush.worker):
        streams = before or [await connected() for _ in rush.streams]
        for stream, request in zip(streams, rush.streams, strict=True):
            stream.ask(request)
        during = asyncio.ensure_future(until(run.done.done))
        await asyncio.sleep(0)  # the first one is sent
    await asyncio.wait_for(run.done, rush.at_most_s)
    answered = [stream for stream in streams if stream.first_s]
    return Rushed(
        tuple(alone),
        tuple(await during),
        tuple(stream.first_s for stream in answered),
        tuple(stream.place for stream in answered),
        tuple(stream.whole_s for stream in streams),
        tuple(worked),
        run.refused,
        sent,
    )


async def _answered(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request("GET", "/api/server/ping"))
    if not (await reader.readline()).startswith(b"HTTP/1.1 200 "):
        raise RuntimeError("the service does not answer")
    writer.close()


@contextlib.contextmanager
def _standing_still(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def main() -> None:
    """Serve one rush from stdin."""
    rush = msgspec.json.decode(sys.stdin.buffer.read(), type=Rush)
    try:
        rushed = uvloop.run(drive(rush))
    except TimeoutError:
        sys.exit(f"the streams or an ack were not done after {rush.at_most_s:.0f} s")
    except (RuntimeError, OSError, StopIteration) as error:
        sys.exit(str(error) or type(error).__name__)
    sys.stdout.buffer.write(msgspec.json.encode(rushed))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
