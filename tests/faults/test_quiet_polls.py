"""Polls of a PostgreSQL source in which nothing was written since: answered by one short question, and never too long.

The database is as devices share it: transactions that are open, that end late, rows that are stamped ahead.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar, cast
from uuid import UUID

import asyncpg
import httpx
import pytest

from endpoints.sync.idle_polls import IdlePolls
from ledger.store.interface import open_store
from projections.entities.postgres.mapping.from_toml import read_mapping
from projections.entities.postgres.pool import Postgres
from projections.entities.postgres.source import PostgresSource
from projections.entities.registry import entity_types_for
from tests.support.phones.http import Service, serving
from tests.support.sources.late_commits import LIBRARY, SCHEMA, TYPES, mapping_text
from tests.support.stores.postgres_server import PostgresServer

T = TypeVar("T")
ADD = "INSERT INTO item SELECT gen_random_uuid(), '{0}', '{0}', 1, {1} RETURNING id::text"
OTHER = UUID(int=LIBRARY.int + 1)
QUIET_S = 10.0
"""How long a database may take until it is known to be quiet: a second, and what else the machine does."""


class Counting:
    """Counts how often the database is asked."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._ask = postgres.ask
        self.asked = 0

    async def __call__(self, work: Callable[[Any], Awaitable[T]]) -> T:
        self.asked += 1
        return await self._ask(work)


class Quiet:
    """Counts how often a poll heard that nothing was written since the last one, and how often it asked in vain."""

    def __init__(self, source: PostgresSource) -> None:
        self._is_quiet_since = source.is_quiet_since
        self.heard = self.in_vain = 0

    async def __call__(self, moment: object) -> bool:
        is_so = await self._is_quiet_since(moment)
        self.heard += is_so
        self.in_vain += not is_so
        return is_so


class Scene:
    """A phone that has all there is, before a service that reads a database, and somebody who writes to that."""

    def __init__(self, service: Service, token: str, asked: Counting, quiet: Quiet, writer: asyncpg.Connection) -> None:
        self.service, self.token, self.asked, self.quiet, self.writer = service, token, asked, quiet, writer

    async def poll(self) -> list[str]:
        """Poll; return the ids of what was sent, which is acknowledged."""
        lines = await self.service.stream(self.token, *TYPES)
        acks = list({line["type"]: line["ack"] for line in lines}.values())
        if len(lines) > 1:
            assert (await self.service.ask("POST", "/api/sync/ack", self.token, json={"acks": acks})).status_code == 204
        return [line["data"]["id"] for line in lines if line["type"] == "StackV1"]

    async def until_quiet(self) -> None:
        """Poll until a poll is answered by one question."""
        before = self.quiet.heard
        async with asyncio.timeout(QUIET_S):
            while True:
                assert await self.poll() == []
                if self.quiet.heard > before:
                    return
                await asyncio.sleep(0.1)


@pytest.fixture
async def scene(valkey_url: str, postgres: PostgresServer, postgres_url: str) -> AsyncIterator[Scene]:
    postgres.psql(f"{SCHEMA}; ANALYZE", postgres_url.rpartition("/")[2])
    pool = await Postgres.open(postgres_url, size=4, wait_s=10, statement_timeout_s=10)
    asked = Counting(pool)
    pool.ask = asked  # type: ignore[method-assign]
    source = PostgresSource(pool, read_mapping(mapping_text("clock"), "late commits"))
    quiet = Quiet(source)
    source.is_quiet_since = quiet  # type: ignore[method-assign]
    writer = await asyncpg.connect(postgres_url, server_settings={"application_name": "writer"})
    store = await open_store(valkey_url)
    try:
        async with serving(store, source=source) as service:
            issued = await service.sign_in(user=str(LIBRARY), library=str(LIBRARY))
            await writer.execute(f"INSERT INTO owner VALUES ('{OTHER}', '{OTHER}', now() - interval '1 day')")
            found = Scene(service, issued.token, asked, quiet, writer)
            await found.poll()
            yield found
    finally:
        writer.terminate()
        await store.close()
        await pool.close()


async def test_a_quiet_poll_is_answered_by_one_question_as_the_plain_path_answers_it(scene: Scene) -> None:
    plainly = await scene.service.stream(scene.token, *TYPES)
    await scene.until_quiet()
    appended = await scene.service.store.command("DBSIZE", key=b"any")
    before, heard = scene.asked.asked, scene.quiet.heard
    for _ in range(3):
        assert await scene.service.stream(scene.token, *TYPES) == plainly
    assert (scene.asked.asked, scene.quiet.heard) == (before + 3, heard + 3)
    assert await scene.service.store.command("DBSIZE", key=b"any") == appended


async def test_polls_of_one_moment_share_their_question(scene: Scene) -> None:
    await scene.until_quiet()
    before = scene.asked.asked
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(cast(Any, scene.service.app)),
        base_url="http://test",
    ) as client:
        headers = {"authorization": f"Bearer {scene.token}"}
        asks = [client.post("/api/sync/stream", json={"types": TYPES}, headers=headers) for _ in range(40)]
        answers = await asyncio.gather(*asks)
    assert len({answer.content for answer in answers}) == 1
    assert 1 <= scene.asked.asked - before < 20


async def test_what_is_committed_late_is_sent_with_the_next_poll(scene: Scene) -> None:
    await scene.writer.execute("BEGIN")
    late = await scene.writer.fetchval(ADD.format(LIBRARY, "clock_timestamp()"))
    await scene.until_quiet()  # while it is open
    await scene.writer.execute("COMMIT")
    assert await scene.poll() == [late], "what was told before the poll is sent in it"
    await scene.until_quiet()


async def test_a_row_that_is_stamped_ahead_is_sent_when_its_time_comes(scene: Scene) -> None:
    ahead = await scene.writer.fetchval(ADD.format(LIBRARY, "clock_timestamp() + interval '4 seconds'"))
    async with asyncio.timeout(20):
        while not (sent := await scene.poll()):  # noqa: ASYNC110 - by what time brings
            await asyncio.sleep(0.2)
    assert sent == [ahead]


async def test_a_database_that_is_written_to_between_polls_is_asked_in_vain_but_once(scene: Scene) -> None:
    await scene.until_quiet()
    for _ in range(3):
        await scene.writer.execute(ADD.format(OTHER, "clock_timestamp()"))
        assert await scene.poll() == []  # it waits for the horizon: what was written is long ago as it ends
    assert scene.quiet.in_vain == 1, "by the first poll, before which all was quiet"
    await scene.until_quiet()


async def test_what_a_look_has_shown_to_be_written_is_not_asked(scene: Scene) -> None:
    await scene.until_quiet()
    source = cast(PostgresSource, scene.service.services.source)
    moment = source.moment
    assert await source.is_quiet_since(moment)
    await scene.writer.execute(ADD.format(OTHER, "clock_timestamp()"))
    assert await scene.poll() == []
    before = scene.asked.asked
    assert not await source.is_quiet_since(moment)
    assert scene.asked.asked == before


async def test_another_device_is_answered_for_itself(scene: Scene) -> None:
    await scene.until_quiet()
    item = await scene.writer.fetchval(ADD.format(LIBRARY, "clock_timestamp()"))
    assert await scene.poll() == [item]
    await scene.until_quiet()
    other = await scene.service.sign_in(user=str(LIBRARY), library=str(LIBRARY))
    lines = await scene.service.stream(other.token, *TYPES)
    assert [line["data"]["id"] for line in lines if line["type"] == "StackV1"] == [item]


async def test_a_day_later_the_plain_path_is_gone_again(scene: Scene) -> None:
    await scene.until_quiet()
    scene.service.clock.now_us += 86_400_000_000
    heard = scene.quiet.heard
    assert await scene.poll() == []
    assert scene.quiet.heard == heard


async def test_what_is_remembered_of_polls_is_bounded(scene: Scene) -> None:
    ledger, source = scene.service.ledger, scene.service.services.source
    polls, rows = IdlePolls(ledger, source, most=2), entity_types_for(TYPES)
    await scene.until_quiet()
    for _ in range(5):
        issued = await scene.service.sign_in(user=str(LIBRARY), library=str(LIBRARY))
        polls.keep(await ledger.load(str(LIBRARY), issued.sid), rows, b"", await source.horizon(""), 1_000_000)
    assert len(polls) == 2
