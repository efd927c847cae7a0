"""Each sync stream has one line in the log and one span, in whichever way it is answered."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from endpoints.sync.stream_over import StreamOver, log_it
from ledger.commands import RequestReset
from ledger.errors import StoreUnavailable
from ledger.personal import plain
from ledger.store.interface import open_store
from ops.opening.observing import Observing
from ops.settings.settings import Settings
from tests.support.phones.http import Service, serving


class Told(Observing):
    """Keeps what is told of streams, and logs it."""

    def __init__(self) -> None:
        super().__init__(Settings())
        self.streams: list[StreamOver] = []
        self.stream_over = self._tell

    def _tell(self, over: StreamOver) -> None:
        self.streams.append(over)
        log_it(over)


async def test_every_stream_is_told_of_once(valkey_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "endpoints.sync.stream_over")
    told = Told()
    store = await open_store(valkey_url)
    async with serving(store, observing=told) as service:
        token, sid, _ = await service.sign_in()
        (last,) = await service.stream(token, "AssetsV2")
        await service.ask("POST", "/api/sync/ack", token, json={"acks": [last["ack"]]})
        ways = await polls(service, token)
        assert ways > 0, "none was answered from what is remembered"
        state = await service.ledger.act(caller_of(service, token), RequestReset(on=True, by=plain("ann")))
        assert state.sid == sid
        (reset,) = await service.stream(token, "AssetsV2")
        assert reset["type"] == "SyncResetV1"
    await store.close()
    *streams, of_reset = told.streams
    assert [(over.how, over.status, over.rows) for over in streams] == [("completed", 200, 0)] * 6
    assert all(over.size > 100 and over.took_s > 0 for over in streams)
    assert (of_reset.how, of_reset.rows, of_reset.size > 0) == ("reset", 0, True)
    assert {(over.session, over.user, over.route) for over in told.streams} == {(sid[:12], "ann", "/api/sync/stream")}
    assert len({over.correlation for over in told.streams}) == 7
    lines = [record for record in caplog.records if record.name == "endpoints.sync.stream_over"]
    assert [vars(line)["correlation_id"] for line in lines] == [over.correlation for over in told.streams]


async def polls(service: Service, token: str) -> int:
    """Poll five times; tells how often the whole way was not gone."""
    remembered = 0
    begin = service.ledger.act

    async def counted(*given: Any, **named: Any) -> Any:
        nonlocal remembered
        remembered -= 1
        return await begin(*given, **named)

    service.ledger.act = counted  # type: ignore[method-assign]
    for _ in range(5):
        remembered += 1
        (line,) = await service.stream(token, "AssetsV2")
        assert line["type"] == "SyncCompleteV1"
    service.ledger.act = begin  # type: ignore[method-assign]
    return remembered


def caller_of(service: Service, token: str) -> Any:
    """Tell whose token it is."""
    return service.tokens.read(token)


async def test_a_stream_that_the_store_refuses_is_told_of_with_its_status(valkey_url: str) -> None:
    told = Told()
    store = await open_store(valkey_url)
    async with serving(store, observing=told) as service:
        token, _, _ = await service.sign_in()
        horizon = service.catalog.horizon

        async def away(*_: Any) -> Any:
            raise StoreUnavailable("the store is away", maybe_done=False)

        service.catalog.horizon = away  # type: ignore[assignment]
        answer = await service.ask("POST", "/api/sync/stream", token, json={"types": ["AssetsV2"]})
        service.catalog.horizon = horizon  # type: ignore[method-assign]
        assert answer.status_code == 503
    await store.close()
    (over,) = told.streams
    assert (over.how, over.status, over.rows, over.why) == ("refused", 503, 0, "the store is away")
