"""A server for tests of the device alone: it serves the lines it is given and keeps what the device sends.

It plays the server's part of the protocol in its simplest form: entities in a list, one checkpoint per type.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from tests.support.processes.http_server import HttpServer, QuietHandler

JSON = dict[str, Any]


class Seen(NamedTuple):
    """One request of the device."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class Broken(Exception):
    """Raised by a script: the connection breaks here."""


def line(entity_type: str, data: JSON, ack: str) -> bytes:
    """Make one line of a stream."""
    return json.dumps({"type": entity_type, "data": data, "ack": ack}).encode() + b"\n"


class ScriptedServer(HttpServer):
    """`rows` pairs types with data in the order of the stream; `scripts` are whole streams sent instead, one each.

    `answers` maps `"METHOD /path"` to a status and a body that is answered instead; `on_ack` sees each ack first.
    """

    def __init__(self, rows: Iterable[tuple[str, JSON]] = ()) -> None:
        super().__init__(_handler(self))
        self.rows: Iterable[tuple[str, JSON]] = rows
        self.scripts: list[Iterable[bytes]] = []
        self.answers: dict[str, tuple[int, Any]] = {}
        self.on_ack: Callable[[str], None] = lambda _ack: None
        self.pending_reset = False
        self.listing: Iterable[bytes] = ()
        self.seen: list[Seen] = []
        self.acks: list[str] = []
        self.checkpoints: dict[str, int] = {}

    def paths(self) -> list[str]:
        """Tell what was asked, in order."""
        return [f"{seen.method} {seen.path}" for seen in self.seen]

    def stream(self) -> Iterable[bytes]:
        """Return the next stream: a script if one is left."""
        if self.scripts:
            return self.scripts.pop(0)
        if self.pending_reset:
            return [line("SyncResetV1", {}, "SyncResetV1|reset")]
        return self._stream()

    def _stream(self) -> Iterator[bytes]:
        for number, (entity_type, data) in enumerate(self.rows, 1):
            if number > self.checkpoints.get(entity_type, 0):
                yield line(entity_type, data, f"{entity_type}|{number:09d}|{number}")
        yield line("SyncCompleteV1", {}, "SyncCompleteV1|now")

    def ack(self, ack: str) -> None:
        """Take an ack."""
        self.on_ack(ack)
        self.acks.append(ack)
        entity_type, place, *_ = ack.split("|")
        if entity_type == "SyncResetV1":
            self.pending_reset = False
            self.checkpoints.clear()
        elif place.isdigit():
            self.checkpoints[entity_type] = int(place)


_SERVER = {
    "GET /.well-known/immich": {"api": {"endpoint": "/api"}},
    "GET /api/server/ping": {"res": "pong"},
    "GET /api/server/version": {"major": 3, "minor": 2, "patch": 0, "prerelease": None},
    "GET /api/server/features": {},
    "GET /api/server/config": {},
    "GET /api/users/me": {"id": "u"},
    "GET /api/users/me/preferences": {},
}


def _handler(server: ScriptedServer) -> type[QuietHandler]:
    class Handler(QuietHandler):
        def handle_any(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length", 0)))
            path, _, query = self.path.partition("?")
            headers = self.named_headers | {"query": query}
            body: Any = json.loads(raw) if raw else None
            server.seen.append(Seen(self.command, path, headers, body))
            what = f"{self.command} {path}"
            if what in server.answers:
                self.reply(*server.answers[what])
            elif what == "POST /api/sync/stream":
                self.reply_chunked("application/jsonlines+json", server.stream())
            elif what == "POST /api/sync/ack":
                for ack in body["acks"]:
                    server.ack(ack)
                self.reply(204, None)
            elif what == "DELETE /api/sync/ack":
                for entity_type in list(server.checkpoints) if body is None else body["types"]:
                    server.checkpoints.pop(entity_type, None)
                self.reply(204, None)
            elif what == "GET /api/sync/ack":
                self.reply(200, [{"type": name, "ack": str(place)} for name, place in server.checkpoints.items()])
            elif what.startswith("GET /ledger/libraries/"):
                self.reply_chunked("application/x-ndjson", server.listing)
            elif what in _SERVER:
                self.reply(200, _SERVER[what])
            else:
                self.reply(404, {"message": "Not Found"})

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815

        def reply(self, status: int, body: Any) -> None:
            raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def reply_chunked(self, content_type: str, pieces: Iterable[bytes]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                for piece in pieces:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                    self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")
            except (Broken, OSError):
                self.close_connection = True
                self.connection.close()

    return Handler
