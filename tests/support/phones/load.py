"""Clients that keep a service busy over connections that stay open, and take nothing amiss but count it.

A connection is given up only where an answer says so, as a proxy's or a phone's would: a request that is answered by
its end is a failure, and is not sent again.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

from tests.support.sources.samples import sample

TYPES: Final = ("AssetsV2",)
PAUSE_S: Final = 0.02

Json = dict[str, Any]


class Client:
    """One connection at a time."""

    def __init__(self, port: int, **headers: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers = headers
        self.told_to_close = 0

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Send a request, once, and return status and body."""
        content = {"Content-Type": "application/json"} if body is not None else {}
        self._connection.request(method, path, body, self._headers | content)
        answer = self._connection.getresponse()
        data = answer.read()
        self.told_to_close += answer.will_close
        return answer.status, data


class Load:
    """Devices that stream and acknowledge, one that asks for its sessions, one that idles, and a backend that writes.

    All in threads, from the block's beginning to its end; `failures` names what went wrong, `done` counts what went.
    """

    def __init__(self, port: int, tokens: Sequence[str], key: str, library: str = "lib") -> None:
        self.failures: list[str] = []
        self.done: Counter[str] = Counter()
        self.written: list[str] = []
        self.synced: dict[str, list[str]] = {token: [] for token in tokens}
        """The ids of the rows that each device got, as often as it got them."""
        self._stopped = threading.Event()
        self._port = port
        work = [(f"device {number}", self._device(token)) for number, token in enumerate(tokens)]
        asked = Client(port, Authorization=f"Bearer {tokens[0]}")
        seldom = Client(port, Authorization=f"Bearer {tokens[0]}")
        work.append(("asks", lambda: self._get(asked, PAUSE_S)))
        work.append(("asks seldom", lambda: self._get(seldom, 1.0)))
        work.append(("writes", self._writer(key, library)))
        self._threads = [threading.Thread(target=self._again, args=each, name=each[0]) for each in work]

    def sync_once(self) -> None:
        """Have each device sync once, without load; raises what goes wrong."""
        for token in self.synced:
            self._device(token)()

    def _again(self, name: str, work: Callable[[], None]) -> None:
        while not self._stopped.is_set():
            try:
                work()
                self.done[name] += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what is counted
                self.failures.append(f"{name}: {error!r}")
                return
            time.sleep(PAUSE_S)

    def _get(self, client: Client, pause_s: float) -> None:
        status, data = client.ask("GET", "/api/sessions")
        assert status == 200, (status, data[:200])
        self._stopped.wait(pause_s)

    def _device(self, token: str) -> Callable[[], None]:
        client = Client(self._port, Authorization=f"Bearer {token}")

        def sync() -> None:
            status, data = client.ask("POST", "/api/sync/stream", json.dumps({"types": TYPES}).encode())
            assert status == 200, (status, data[:200])
            lines: list[Json] = [json.loads(line) for line in data.splitlines()]
            assert lines[-1]["type"] == "SyncCompleteV1", lines[-1]
            rows: list[Json] = [line for line in lines if line["type"] == "AssetV2"]
            acks = [line["ack"] for line in (*rows[-1:], lines[-1])]
            status, data = client.ask("POST", "/api/sync/ack", json.dumps({"acks": acks}).encode())
            assert status == 204, (status, data[:200])
            self.synced[token] += [row["data"]["id"] for row in rows]

        return sync

    def _writer(self, key: str, library: str) -> Callable[[], None]:
        client = Client(self._port, **{"x-api-key": key})

        def write() -> None:
            number = len(self.written)
            row_id = f"a{number}"
            row = {"type": "AssetV2", "data": sample("AssetV2", id=row_id, checksum=f"{number:027}=")}
            path = f"/ledger/libraries/{library}/entities"
            status, data = client.ask("POST", path, json.dumps(row).encode() + b"\n")
            assert status == 200, (status, data[:200])
            assert json.loads(data)["taken"] == 1, data
            self.written.append(row_id)

        return write

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """End all clients behind their requests. May be called twice."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        for thread in self._threads:
            thread.join()
