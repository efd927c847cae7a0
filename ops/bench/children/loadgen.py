"""The load of `acks`: its own process, one keep-alive connection a device, one request outstanding on each.

Reads a `Load` as JSON from stdin, prints a `Loaded` as JSON. Exits 1 at the first answer that is not 204.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import cast

import msgspec
import uvloop

from ops.bench.rig.wire import stamps

_OK = b"HTTP/1.1 204 "
_END = b"\r\n\r\n"


class Load(msgspec.Struct, frozen=True):
    """What to send: requests of device n are `heads[n] + time + tails[n]`, the times growing from `first_us`.

    It ends after `seconds`, or when one device has sent `limit` requests.
    """

    port: int
    heads: tuple[bytes, ...]
    tails: tuple[bytes, ...]
    first_us: int
    limit: int
    seconds: float
    warmup_s: float = 0.3


class Loaded(msgspec.Struct, frozen=True):
    """What came back: `answered` in all, of which `measured` within `seconds`; `cpu_s` is the generator's own time."""

    answered: int
    measured: int
    seconds: float
    cpu_s: float
    furthest: int

    @property
    def rate(self) -> float:
        """Answers per second inside the measured time."""
        return self.measured / self.seconds


class _Run:
    """The counters that all devices share."""

    def __init__(self, load: Load) -> None:
        self.times = stamps(load.first_us, load.limit)
        self.answered = 0
        self.busy = len(load.heads)
        self.stopping = False
        self.stopped_at = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def stop(self) -> None:
        if not self.stopping:
            self.stopping = True
            self.stopped_at = time.perf_counter()
            self.answered_at_stop = self.answered

    def leave(self) -> None:
        self.busy -= 1
        if not self.busy and not self.done.done():
            self.done.set_result(None)

    def fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(why))


class _Device(asyncio.Protocol):
    def __init__(self, run: _Run, head: bytes, tail: bytes) -> None:
        self.run, self.head, self.tail = run, head, tail
        self.sent = 0
        self.held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = cast(asyncio.Transport, transport).write

    def send(self) -> None:
        self.write(self.head + self.run.times[self.sent] + self.tail)
        self.sent += 1

    def data_received(self, data: bytes) -> None:
        run = self.run
        if self.held:
            data, self.held = self.held + data, b""
        if not data.startswith(_OK):
            run.fail(f"an ack was answered {data[:600].decode('latin-1')!r}")
            return
        if not data.endswith(_END):
            self.held = data
            return
        run.answered += 1
        if self.sent == len(run.times):
            run.stop()
        if run.stopping:
            run.leave()
        else:
            self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        self.run.fail(f"a connection was closed: {exc}")


async def drive(load: Load) -> Loaded:
    """Send the load and wait for the last answer."""
    run = _Run(load)
    loop = asyncio.get_running_loop()
    devices = []
    for head, tail in zip(load.heads, load.tails, strict=True):
        _, device = await loop.create_connection(lambda h=head, t=tail: _Device(run, h, t), "127.0.0.1", load.port)  # type: ignore[misc]
        devices.append(device)
        await asyncio.sleep(0.002)  # connections that arrive in one burst would all go to the same worker
    for device in devices:
        device.send()
    await asyncio.wait([run.done], timeout=load.warmup_s)
    before, started, cpu = run.answered, time.perf_counter(), time.process_time()
    await asyncio.wait([run.done], timeout=load.seconds)
    run.stop()
    cpu = time.process_time() - cpu
    await asyncio.wait_for(run.done, timeout=30)
    if run.answered_at_stop == before:
        raise RuntimeError("the requests ran out before the measurement began: raise the limit")
    return Loaded(
        answered=run.answered,
        measured=run.answered_at_stop - before,
        seconds=run.stopped_at - started,
        cpu_s=cpu,
        furthest=max(device.sent for device in devices),
    )


def main() -> None:
    """Serve one load from stdin."""
    load = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    try:
        loaded = uvloop.run(drive(load))
    except (RuntimeError, OSError) as error:
        sys.exit(str(error))
    sys.stdout.write(msgspec.json.encode(loaded).decode())


if __name__ == "__main__":
    main()
