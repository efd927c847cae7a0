"""A stand-in for a photo backend behind a proxy: it keeps what it is asked, takes uploads, echoes on web sockets."""

from __future__ import annotations

import base64
import hashlib
import struct
import threading
from typing import Final

from tests.support.processes.http_server import HttpServer, QuietHandler

PIECE_BYTES: Final = 1 << 20
ANSWER: Final = b"the photo backend"
_WEB_SOCKET_ID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class PhotoBackend(HttpServer):
    """Answers everything: `ANSWER`, or how many bytes an upload had."""

    def __init__(self) -> None:
        super().__init__(_handler(self))
        self.port = int(self.url.rpartition(":")[2])
        self.answers: dict[str, tuple[int, bytes]] = {}
        """What is answered instead, by path as it came."""
        self.targets: list[str] = []
        """Each request's target as it came, in order."""
        self.headers: list[dict[str, str]] = []
        self.upload_began = threading.Event()
        """Set when the first bytes of a body have come."""

    def forget(self) -> None:
        """Forget what was asked so far."""
        self.answers.clear()
        self.targets.clear()
        self.headers.clear()
        self.upload_began.clear()


def _handler(backend: PhotoBackend) -> type[QuietHandler]:
    class Handler(QuietHandler):
        def handle_any(self) -> None:
            # `path` has had slashes at its beginning made one; what came is wanted.
            backend.targets.append(self.requestline.split()[1])
            backend.headers.append(self.named_headers)
            if self.headers.get("upgrade", "").lower() == "websocket":
                self.echo()
                return
            taken = self.take_body()
            status, body = backend.answers.get(backend.targets[-1], (200, str(taken).encode() if taken else ANSWER))
            self.reply(body, status)

        do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815

        def take_body(self) -> int:
            if self.headers.get("transfer-encoding") == "chunked":
                taken = 0
                while (size := int(self.rfile.readline(), 16)) > 0:
                    taken += self.take(size)
                    self.rfile.readline()
                self.rfile.readline()
                return taken
            return self.take(int(self.headers.get("content-length", 0)))

        def take(self, size: int) -> int:
            left = size
            while left:
                piece = self.rfile.read1(min(left, PIECE_BYTES))
                if not piece:
                    self.close_connection = True
                    break
                backend.upload_began.set()
                left -= len(piece)
            return size - left

        def reply(self, body: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def echo(self) -> None:
            key = self.headers["sec-websocket-key"].encode()
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.send_header(
                "Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key + _WEB_SOCKET_ID).digest()).decode()
            )
            self.end_headers()
            while head := self.rfile.read(2):
                size = head[1] & 0x7F
                mask = self.rfile.read(4)
                text = bytes(byte ^ mask[place % 4] for place, byte in enumerate(self.rfile.read(size)))
                self.wfile.write(struct.pack("BB", head[0], size) + text)
            self.close_connection = True

    return Handler
