"""What is counted of a stream, and told of its end."""

from __future__ import annotations

import logging
from typing import Any

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
    return StreamAccount(service.ledger, state, "corr-1", 0.0, route="/api/sync/stream")


def told_of(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    """Give what the one line has beside its message."""
    (record,) = caplog.records
    names = ("session", "user", "route", "status", "how", "rows", "bytes", "correlation_id", "last", "why")
    assert vars(record)["seconds"] > 0
    return {"message": record.getMessage(), **{name: vars(record)[name] for name in names if name in vars(record)}}


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
    assert told_of(caplog) == {
        "message": "stream over: completed [corr-1]",
        "session": SID[:12],
        "user": "ann",
        "route": "/api/sync/stream",
        "status": 200,
        "how": "completed",
        "rows": 3,
        "bytes": sum(map(len, chunks)),
        "correlation_id": "corr-1",
    }


async def test_a_stream_that_breaks_off_names_its_last_line(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    told = await account(service)
    with caplog.at_level(logging.INFO, "endpoints"):
        told.add(row(b"a"))
        told.add(row(b'{"ack":"x"}'.replace(b'"', b'\\"')) + row(b"z"))
        await told.close("broken", "the store is away")
    (sent,) = await kept(service)
    assert (sent.stream.how, sent.stream.rows, sent.stream.last[-2:]) == ("broken", 3, "|z")
    line = told_of(caplog)
    assert (line["last"], line["why"]) == ("AssetV1|2025-01-01T00:00:00.000000Z|z", "the store is away")


@pytest.mark.parametrize("how", ["completed", "gone"])
async def test_an_idle_poll_has_a_line_and_is_kept_nowhere(
    service: Service, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    told = await account(service)
    with caplog.at_level(logging.INFO, "endpoints"):
        told.add(COMPLETE)
        await told.close(how)
    line = told_of(caplog)
    assert (line["how"], line["rows"], line["bytes"]) == ("completed", 0, len(COMPLETE))
    assert await kept(service) == []


async def test_a_stream_that_never_began_has_a_line_with_its_status(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    told = await account(service)
    with caplog.at_level(logging.INFO, "endpoints"):
        told.over("refused", "too many streams begin")
    line = told_of(caplog)
    assert (line["how"], line["status"], line["rows"], line["why"]) == ("refused", 503, 0, "too many streams begin")


async def test_lines_that_nobody_wants_are_not_made(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    told = await account(service)
    with caplog.at_level(logging.WARNING, "endpoints"):
        await told.close("completed")
    assert caplog.records == []


async def test_whoever_leaves_behind_the_last_line_has_it_all(service: Service) -> None:
    told = await account(service)
    told.add(row(b"a") + COMPLETE)
    await told.close("gone")
    assert [sent.stream.how for sent in await kept(service)] == ["completed"]
