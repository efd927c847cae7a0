"""The slow readers of `rss`: its own process, many streams at once, each taken at a few KB a second.

Reads `Slow` as JSON from stdin, prints `Dripped` as JSON when the time is up. The sockets' receive buffers are small,
so that what the reader does not take waits in the server and not in the kernel.
"""

from __future__ import annotations

import socket
import sys
import time

import msgspec

_TICKS_PER_S = 4
_RECEIVE_BUFFER_BYTES = 4096


class Slow(msgspec.Struct, frozen=True):
    """Which streams to open, one a request, and how fast and how long to take each."""

    port: int
    requests: tuple[bytes, ...]
    bytes_per_s: int
    seconds: float


class Dripped(msgspec.Struct, frozen=True):
    """How many streams were still open at the end, and what the slowest and fastest of them took."""

    open: int
    least_bytes: int
    most_bytes: int


def drip(slow: Slow) -> Dripped:
    """Open the streams, take from each in turn until the time is up, and leave."""
    sockets, taken = [], []
    try:
        for request in slow.requests:
            connection = socket.socket()
            sockets.append(connection)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
            connection.settimeout(10)
            connection.connect(("127.0.0.1", slow.port))
            connection.sendall(request)
            first = connection.recv(1024)
            if not first.startswith(b"HTTP/1.1 200 "):
                raise ValueError(f"a stream was answered {first[:300]!r}")
            connection.setblocking(False)
            taken.append(len(first))
        until = time.monotonic() + slow.seconds
        while (tick := time.monotonic()) < until:
            for number, connection in enumerate(sockets):
                try:
                    got = len(connection.recv(slow.bytes_per_s // _TICKS_PER_S))
                except BlockingIOError:
                    continue
                if not got:
                    raise ValueError(f"stream {number} ended after {taken[number]:,} bytes")
                taken[number] += got
            time.sleep(max(0.0, tick + 1 / _TICKS_PER_S - time.monotonic()))
    finally:
        for connection in sockets:
            connection.close()
    return Dripped(len(taken), min(taken), max(taken))


def main() -> None:
    """Take the streams that stdin names."""
    try:
        dripped = drip(msgspec.json.decode(sys.stdin.buffer.read(), type=Slow))
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    sys.stdout.write(msgspec.json.encode(dripped).decode())


if __name__ == "__main__":
    main()
