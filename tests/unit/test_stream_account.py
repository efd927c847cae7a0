"""What is counted of a stream, and told of its end."""

from __future__ import annotations

import logging

import pytest

from endpoints.sync.stream_account import StreamAccount
from ledger.commands import CreateSession
from ledger.state import State
from projections.sent import record
from projections.sent.record import Sent
from tests.support.ledger.ledgers import sid_of
from tests.support.phones.http import Service
from tests.support.stores.fake_store import FakeStore

SID = sid_of("phone")
ROW = b'{"type":"AssetV1","data":{"id":"%b"},"ack":"AssetV1|2025-01-01T00:00:00.000000Z|%b"}\n'
COMPLETE = (
    b'{"type":"SyncCompleteV1","data":{},"ack":"SyncCompleteV1|2025-01-01T00:00:01.000000Z|2",'
    b'"ids":["2025-01-01T00:00:01.000000Z"]}\n'
)


def row(name: bytes) -> bytes:
    return ROW % (name, name)


@pytest.fixture
async def service() -> Service:
    return Service(FakeStore())


async def account(service: Service) -> StreamAccount:
    state: State = await service.ledger.execute("ann", SID, CreateSession("ann", "lib"))
    return StreamAccount(service.ledger, state, "corr-1", 0.0)


async def kept(service: Service) -> list[Sent]:
    return list(await record.newest(service.ledger, service.ledger.partition_of("ann"), SID))


async def test_rows_bytes_and_both_ends_are_counted(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    told, chunks = await account(service), (row(b"a") + row(b"b"), row(b"c") + COMPLETE)
    with caplog.at_level(logging.INFO, "endpoints"):
        for chunk in chunks:
            told.add(chunk)
        await told.close("completed")
    (sent,) = await kept(service)
    assert (sent.stream.how, sent.stream.rows, sent.stream.size) == ("completed", 3, sum(map(len, chunks)))
    assert (sent.stream.first, sent.stream.last) == (
        "AssetV1|2025-01-01T00:00:00.000000Z|a", "AssetV1|2025-01-01T00:00:00.000000Z|c",
    )  # fmt: skip
    (line,) = [entry.getMessage() for entry in caplog.records]
    assert line.startswith(f"stream over: completed [corr-1] session {SID[:12]} of ann, rows 3, bytes ")
    assert "seconds" in line


async def test_a_stream_that_breaks_off_names_its_last_line(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    told = await account(service)
    with caplog.at_level(logging.INFO, "endpoints"):
        told.add(row(b"a"))
        told.add(row(b'{"ack":"x"}'.replace(b'"', b'\\"')) + row(b"z"))
        await told.close("broken", "the store is away")
    (sent,) = await kept(service)
    assert (sent.stream.how, sent.stream.rows, sent.stream.last[-2:]) == ("broken", 3, "|z")
    assert caplog.records[-1].getMessage().endswith("up to AssetV1|2025-01-01T00:00:00.000000Z|z: the store is away")


async def test_an_idle_poll_leaves_no_trace(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "endpoints"):
        told = await account(service)
        told.add(COMPLETE)
        for how in ("completed", "gone"):
            await told.close(how)
    assert await kept(service) == []
    assert caplog.records == []


async def test_whoever_leaves_behind_the_last_line_has_it_all(service: Service) -> None:
    told = await account(service)
    told.add(row(b"a") + COMPLETE)
    await told.close("gone")
    assert [sent.stream.how for sent in await kept(service)] == ["completed"]
