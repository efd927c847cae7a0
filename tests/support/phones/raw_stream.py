"""A sync stream read over a bare socket: what arrives, in which chunks, how fast it is taken, and how it ends."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

PIECE_BYTES: Final = 64 * 1024


class RawStream:
    """One POST /api/sync/stream, sent at once; nothing is read before it is asked for.

    `clean` tells how it ended: True after the last chunk, False when the connection broke, None while it is open.
    `receive_buffer_bytes` makes the kernel hold little for a slow reader.
    """

    def __init__(
        self,
        port: int,
        token: str,
        types: Sequence[str],
        *,
        receive_buffer_bytes: int | None = None,
        path: str = "/api/sync/stream",
        accept_encoding: str = "identity",
        **body: Any,
    ) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.chunk_bytes: list[int] = []
        self.body = bytearray()
        self.clean: bool | None = None
        self._unparsed = bytearray()
        self._left = 0
        content = json.dumps({"types": list(types), **body}).encode()
        self._socket = socket.socket()
        if receive_buffer_bytes is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self._socket.settimeout(30)
        self._socket.connect(("127.0.0.1", port))
        self.local_port: int = self._socket.getsockname()[1]
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
            f"Accept-Encoding: {accept_encoding}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        self._socket.sendall(head.encode() + content)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The whole lines that came so far."""
        return [json.loads(line) for line in self.body.split(b"\n")[:-1]]

    def read(self, most_bytes: int = PIECE_BYTES, timeout_s: float = 30.0) -> int:
        """Take what has arrived, waiting for it; returns how many bytes that were, 0 at the end.

        Raises TimeoutError when nothing comes.
        """
        if self.clean is not None:
            return 0
        self._socket.settimeout(timeout_s)
        try:
            piece = self._socket.recv(most_bytes)
        except ConnectionError:
            piece = b""
        if not piece:
            self.clean = False
        self._unparsed += piece
        self._parse()
        return len(piece)

    def read_until(self, body_bytes: int) -> Self:
        """Read until so much of the body has come or the stream is over."""
        while self.clean is None and len(self.body) < body_bytes:
            self.read()
        return self

    def read_to_end(self, timeout_s: float = 60.0) -> Self:
        """Read until the stream is over; raises TimeoutError if it takes too long."""
        deadline = time.monotonic() + timeout_s
        while self.clean is None:
            self.read(timeout_s=max(0.001, deadline - time.monotonic()))
        return self

    def close(self) -> None:
        """Leave."""
        self._socket.close()

    def _parse(self) -> None:
        if not self.status:
            head, found, rest = bytes(self._unparsed).partition(b"\r\n\r\n")
            if not found:
                return
            first, *fields = head.decode("latin-1").split("\r\n")
            self.status = int(first.split()[1])
            self.headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
            self._unparsed = bytearray(rest)
            if "content-length" in self.headers:
                self._left = int(self.headers["content-length"])
        if "content-length" in self.headers:
            self.body += self._unparsed
            self._unparsed.clear()
            if len(self.body) >= self._left:
                self.clean = True
            return
        self._parse_chunks()

    def _parse_chunks(self) -> None:
        held = self._unparsed
        while held:
            if self._left == 0:
                size, found, rest = held.partition(b"\r\n")
                if not found:
                    return
                self._left = int(size, 16) + 2  # with the CRLF behind it
                held[:] = rest
                if self._left == 2:
                    self.clean = True
                    return
                self.chunk_bytes.append(self._left - 2)
            taken = held[: self._left]
            del held[: len(taken)]
            ending = max(0, 2 - (self._left - len(taken)))  # how much of the CRLF is in what was taken
            self.body += taken[: len(taken) - min(ending, len(taken))]
            self._left -= len(taken)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
