"""The load of `poll` and `mixed`: its own process, one keep-alive connection a device, one request outstanding on each.

Reads a `Phones` as JSON from stdin, prints an `Answered` as JSON. Exits 1 at the first answer that is not of the 200s.
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
import time
from typing import Final, cast

import msgspec
import uvloop

from ops.bench.children.held_sockets import quantile
from ops.bench.rig.wire import stamps

POLL: Final = "poll"
ACK: Final = "ack"
STREAM: Final = "stream"
KINDS: Final = (POLL, ACK, STREAM)
_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_LAST_CHUNK: Final = b"0\r\n\r\n"
_DONE_S: Final = 30.0


class Phone(msgspec.Struct, frozen=True):
    """What one device sends: a poll that finds nothing, an ack without its time, a stream that finds something.

    Polls and acks are of one session, the stream is another's of the same user: else the acks would end its rows.
    """

    poll: bytes
    ack: tuple[bytes, bytes] = (b"", b"")
    stream: bytes = b""


class Phones(msgspec.Struct, frozen=True):
    """What to send: of each kind (`KINDS`) as its weight says, by a seed, for so many `seconds`.

    With a `rate` (requests a second of all devices) each has its moment, from which its answer is timed; without one a
    device sends again as soon as it was answered. Acks move on from `first_us`, at most `acks` of a device.
    """

    port: int
    phones: tuple[Phone, ...]
    weights: tuple[int, int, int] = (1, 0, 0)
    seconds: float = 1.0
    rate: float = 0.0
    seed: int = 1
    first_us: int = 0
    acks: int = 0


class Took(msgspec.Struct, frozen=True):
    """How many answers of a kind came, and within how many ms half of them, 99 of 100, and all."""

    count: int
    p50_ms: float
    p99_ms: float
    most_ms: float

    @classmethod
    def of(cls, took_ms: list[float]) -> Took:
        """Sum up; needs at least one."""
        took_ms.sort()
        return cls(len(took_ms), quantile(took_ms, 0.5), quantile(took_ms, 0.99), took_ms[-1])


class Answered(msgspec.Struct, frozen=True):
    """What came back, by kind; `furthest` counts the acks of the device that sent most."""

    kinds: dict[str, Took]
    seconds: float
    furthest: int

    @property
    def count(self) -> int:
        """All answers."""
        return sum(took.count for took in self.kinds.values())


class _Connection(asyncio.Protocol):
    """One device: sends a request and tells when its answer is whole."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._whole: asyncio.Future[int] | None = None
        self._size = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    async def ask(self, request: bytes) -> int:
        """Send a request and return the status of its answer, once all of that is here."""
        self._held.clear()
        self._size = -1
        self._whole = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._whole

    def data_received(self, data: bytes) -> None:
        held, whole = self._held, self._whole
        held += data
        if whole is None or whole.done():
            return
        if self._size < 0:
            end = held.find(_HEAD_END)
            if end < 0:
                return
            end += len(_HEAD_END)
            found = _LENGTH.search(held, 0, end)
            bodiless = held.startswith(b"HTTP/1.1 204")
            self._size = end + int(found[1]) if found else end if bodiless else 0
        if len(held) >= self._size if self._size else held.endswith(_LAST_CHUNK):
            whole.set_result(int(held[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._whole is not None and not self._whole.done():
            self._whole.set_exception(ConnectionError(f"a connection was closed: {exc}"))


class _Run:
    def __init__(self, job: Phones) -> None:
        self.job = job
        self.took_ms: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.times = stamps(job.first_us, job.acks)
        self.furthest = 0

    async def drive(self, number: int, connection: _Connection, begin_s: float) -> None:
        """Send one device's requests until the time is over."""
        job, clock = self.job, time.perf_counter
        phone, chosen, acks = job.phones[number], random.Random(f"{job.seed} {number}"), 0  # noqa: S311
        every_s = len(job.phones) / job.rate if job.rate else 0.0
        due_s = begin_s + every_s * number / len(job.phones)
        while (now_s := clock()) < begin_s + job.seconds and due_s < begin_s + job.seconds:
            if due_s > now_s:
                await asyncio.sleep(due_s - now_s)
            asked_s = due_s if job.rate else now_s
            (kind,) = chosen.choices(KINDS, job.weights)
            if kind == ACK:
                if acks == len(self.times):
                    raise RuntimeError("the acks ran out: raise their limit")
                request, acks = phone.ack[0] + self.times[acks] + phone.ack[1], acks + 1
            else:
                request = phone.poll if kind == POLL else phone.stream
            status = await connection.ask(request)
            if not 200 <= status < 300:
                raise RuntimeError(f"a request of kind {kind!r} was answered {status}")
            self.took_ms[kind].append((clock() - asked_s) * 1000)
            due_s += every_s
        self.furthest = max(self.furthest, acks)


async def drive(job: Phones) -> Answered:
    """Send the load and wait for the last answer."""
    loop = asyncio.get_running_loop()
    connections = []
    for _ in job.phones:
        _, connection = await loop.create_connection(_Connection, "127.0.0.1", job.port)
        connections.append(connection)
        await asyncio.sleep(0.002)  # connections that arrive in one burst would all go to the same worker
    run, begin_s = _Run(job), time.perf_counter()
    async with asyncio.timeout(job.seconds + _DONE_S):
        await asyncio.gather(*(run.drive(number, each, begin_s) for number, each in enumerate(connections)))
    kinds = {kind: Took.of(took) for kind, took in run.took_ms.items() if took}
    return Answered(kinds, time.perf_counter() - begin_s, run.furthest)


def main() -> None:
    """Serve one load from stdin."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Phones)
    try:
        answered = uvloop.run(drive(job))
    except (RuntimeError, OSError) as error:
        sys.exit(str(error))
    sys.stdout.write(msgspec.json.encode(answered).decode())


if __name__ == "__main__":
    main()
