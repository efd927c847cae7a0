"""Streams that begin together: the first bytes of each leave in the order in which they were asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from endpoints.sync import turns
from ledger.positions import Position
from projections.entities.source import Page
from tests.support.phones.http import Service, serving
from tests.support.sources.memory_source import Change, MemorySource
from tests.support.stores.fake_store import FakeStore

LIBRARIES = ["slow", "quick", "empty", "another"]
"""In which order they are asked for; one has nothing to send."""


class Gated(MemorySource):
    """Makes the pages of one library only when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()
        self.asked: list[str] = []
        for library in [*LIBRARIES, "late"]:
            self.write(library, [Change("asset", "a")] if library != "empty" else [])
            self.close(library)

    async def pages(
        self, library: str, entity_type: str, after: Position | None, before: int, limit: int
    ) -> AsyncIterator[Page]:
        """Yield what the source in memory yields."""
        self.asked.append(library)
        if library == "slow":
            await self.go_on.wait()
        async for page in super().pages(library, entity_type, after, before, limit):
            yield page


class Asking:
    """Streams of devices, each of a user of its own, and in which order their answers began."""

    def __init__(self, service: Service, source: Gated) -> None:
        self.began: list[str] = []
        self.body = asyncio.Event()
        """That the body of the device of `late` has come, whose head came in its place."""
        self._service = service
        self._source = source
        self._tasks: list[asyncio.Task[None]] = []

    async def ask(self, libraries: list[str], pages: int) -> None:
        """Ask for streams in this order, and wait until the pages of so many are asked for."""
        tokens = [
            (await self._service.sign_in(f"user{number}", library)).token for number, library in enumerate(libraries)
        ]
        for library, token in zip(libraries, tokens, strict=True):
            self._tasks.append(asyncio.create_task(self._stream(library, token)))
        async with asyncio.timeout(10):
            while len(self._source.asked) < pages:  # noqa: ASYNC110 - step by step
                await asyncio.sleep(0)
        await self.rest()

    async def rest(self) -> None:
        """Let everything come as far as it may."""
        for _ in range(50):
            await asyncio.sleep(0)

    async def end(self) -> None:
        """Read all to their ends."""
        async with asyncio.timeout(10):
            await asyncio.gather(*self._tasks)

    async def _stream(self, library: str, token: str) -> None:
        whole = msgspec.json.encode({"types": ["AssetsV2"]})
        body: list[dict[str, Any]] = [{"type": "http.request", "body": whole, "more_body": False}]
        if library == "late":
            body.insert(0, {"type": "http.request", "body": b"", "more_body": True})

        async def receive() -> dict[str, Any]:
            if body:
                if library == "late" and len(body) == 1:
                    await self.body.wait()
                return body.pop(0)
            await asyncio.Event().wait()
            raise AssertionError

        async def send(event: dict[str, Any]) -> None:
            if event["type"] == "http.response.start":
                assert event["status"] == 200
                self.began.append(library)

        headers = [(b"host", b"x"), (b"authorization", f"Bearer {token}".encode())]
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
            "scheme": "http", "path": "/api/sync/stream", "raw_path": b"/api/sync/stream", "query_string": b"",
            "root_path": "", "headers": headers, "server": ("x", 80), "client": ("127.0.0.1", 1),
        }  # fmt: skip
        await self._service.app(scope, receive, send)


async def test_the_first_bytes_leave_in_order_of_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LONG_S", 600)
    source = Gated()
    async with serving(FakeStore(), source=source) as service:
        asking = Asking(service, source)
        await asking.ask(LIBRARIES, len(LIBRARIES) - 1)
        assert asking.began == [], "the pages of some are there, but it is not their turn"
        source.go_on.set()
        await asking.end()
    assert asking.began == LIBRARIES


async def test_who_arrived_first_begins_first_though_others_were_let_in_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LONG_S", 600)
    source = Gated()
    async with serving(FakeStore(), source=source) as service:
        asking = Asking(service, source)
        await asking.ask(["slow"] * turns.AT_ONCE + ["late", "quick", "another"], turns.AT_ONCE)
        asking.body.set()
        await asking.rest()
        source.go_on.set()
        await asking.end()
    assert asking.began == ["slow"] * turns.AT_ONCE + ["late", "quick", "another"]


async def test_one_that_waits_for_its_source_holds_up_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LONG_S", 0.01)
    source = Gated()
    async with serving(FakeStore(), source=source) as service:
        asking = Asking(service, source)
        await asking.ask(LIBRARIES, len(LIBRARIES) - 1)
        async with asyncio.timeout(10):
            while len(asking.began) < len(LIBRARIES) - 1:  # noqa: ASYNC110 - they go on by a timer
                await asyncio.sleep(0.001)
        assert "slow" not in asking.began
        source.go_on.set()
        await asking.end()
    assert asking.began[-1] == "slow"
