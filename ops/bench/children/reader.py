"""The fast reader of `stream`: its own process, takes one stream as fast as the socket gives it.

Reads a `Read` as JSON from stdin, prints a `Taken` as JSON. What came is looked at only after the clock has stopped.
Exits 1 if it is not one whole, well-formed answer.
"""

from __future__ import annotations

import socket
import sys
import time

import msgspec

_PIECE: int = 1024 * 1024
_LAST_CHUNK = b"\r\n0\r\n\r\n"


class Read(msgspec.Struct, frozen=True):
    """One request to send, and at most how many bytes its answer may have."""

    port: int
    request: bytes
    at_most_bytes: int
    timeout_s: float = 60.0


class Taken(msgspec.Struct, frozen=True):
    """The lines of the answer, its bytes, the time from the request to the last byte, the reader's own CPU time."""

    lines: int
    bytes: int
    seconds: float
    cpu_s: float
    last_line: str


def take(read: Read) -> Taken:
    """Send the request and take the whole answer; raises ValueError for a short, long or broken one."""
    buffer = bytearray(read.at_most_bytes)
    for page in range(0, len(buffer), 4096):
        buffer[page] = 1  # so that no page is faulted in while the clock runs
    view, size = memoryview(buffer), 0
    with socket.create_connection(("127.0.0.1", read.port), timeout=read.timeout_s) as connection:
        started, cpu = time.perf_counter(), time.process_time()
        connection.sendall(read.request)
        while size < len(buffer):
            got = connection.recv_into(view[size : size + _PIECE])
            size += got
            if not got or bytes(view[max(0, size - len(_LAST_CHUNK)) : size]) == _LAST_CHUNK:
                break
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    body = unchunk(bytes(view[:size]))
    lines = body.count(b"\n")
    if not body.endswith(b"\n"):
        raise ValueError("the last line is not whole")
    return Taken(lines, size, seconds, cpu, body[body.rfind(b"\n", 0, -1) + 1 :].decode())


def unchunk(answer: bytes) -> bytes:
    """The body of a chunked 200 answer; raises ValueError for any other, or one that is cut short."""
    head, found, rest = answer.partition(b"\r\n\r\n")
    if not found or not head.startswith(b"HTTP/1.1 200 "):
        raise ValueError(f"not a whole 200 answer: {answer[:300]!r}")
    if b"transfer-encoding: chunked" not in head.lower():
        raise ValueError("the answer is not chunked")
    body, at = [], 0
    while True:
        end = rest.find(b"\r\n", at)
        if end < 0:
            raise ValueError(f"the answer was cut short after {len(answer):,} bytes")
        size = int(rest[at:end], 16)
        body.append(rest[end + 2 : end + 2 + size])
        at = end + 4 + size
        if rest[at - 2 : at] != b"\r\n":
            raise ValueError(f"the answer was cut short after {len(answer):,} bytes")
        if not size:
            return b"".join(body)


def main() -> None:
    """Take one stream as stdin says."""
    try:
        taken = take(msgspec.json.decode(sys.stdin.buffer.read(), type=Read))
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    sys.stdout.write(msgspec.json.encode(taken).decode())


if __name__ == "__main__":
    main()
