"""The official socket client in a Node process of its own: what its sockets hear, as it comes."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.stores.servers import die_with_parent, killed_at_end

HERE = Path(__file__).parent
PATIENCE_S = 60.0


class Heard(NamedTuple):
    """What one socket heard, and when by the monotonic clock."""

    name: str
    event: str
    args: list[Any]
    at_s: float


class SocketClients:
    """Sockets by name; each is opened as the app does."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._heard: list[Heard] = []
        self._news = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def open(self, name: str, url: str, headers: dict[str, str] | None = None, **options: Any) -> None:
        """Open a socket that presents headers; does not wait for it."""
        self._say({"open": name, "url": url, "headers": headers or {}, "options": options})

    def close(self, name: str) -> None:
        """Close a socket."""
        self._say({"close": name})

    def emit(self, name: str, event: str, data: Any = None) -> None:
        """Send an event."""
        self._say({"emit": name, "event": event, "data": data})

    def heard(self, name: str, event: str) -> list[Heard]:
        """List what a socket heard of one event so far."""
        with self._news:
            return [each for each in self._heard if (each.name, each.event) == (name, event)]

    def last(self, event: str) -> float:
        """Tell when any socket heard an event last, by the monotonic clock; 0.0 for never."""
        with self._news:
            return max((each.at_s for each in self._heard if each.event == event), default=0.0)

    def wait(self, name: str, event: str, count: int = 1) -> list[Heard]:
        """Wait until a socket heard an event so often, and list it; raises AssertionError."""
        deadline = time.monotonic() + PATIENCE_S
        with self._news:
            while len(found := [each for each in self._heard if (each.name, each.event) == (name, event)]) < count:
                left = deadline - time.monotonic()
                assert left > 0, f"{name} heard {event} {len(found)} of {count} times; all it heard: {self._of(name)}"
                self._news.wait(left)
        return found

    def _of(self, name: str) -> list[tuple[str, list[Any]]]:
        return [(each.event, each.args) for each in self._heard if each.name == name]

    def _say(self, what: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            with self._news:
                self._heard.append(Heard(said["name"], said["heard"], said["args"], time.monotonic()))
                self._news.notify_all()


@contextmanager
def socket_clients() -> Iterator[SocketClients]:
    """Run the client; skips the test where Node or the installed package is missing."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    if not (HERE / "node_modules" / "socket.io-client").is_dir():
        pytest.skip("the socket client is not installed: npm is missing, or `make install` was not run")
    process = subprocess.Popen(
        [node, str(HERE / "sockets.mjs")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        preexec_fn=die_with_parent,
    )  # fmt: skip
    with killed_at_end(process):
        yield SocketClients(process)
