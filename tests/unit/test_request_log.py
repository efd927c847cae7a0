"""One line for each request where that is wanted: which fields it has, and what is in none."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from endpoints.accounts.auth import Auth
from endpoints.sync.stream_over import log_it
from ops.opening.observing import Observing
from ops.settings.settings import Settings
from tests.support.phones.http import Service, serving
from tests.support.stores.fake_store import FakeStore

ACK: Final = "/api/sync/ack"
LOGGER: Final = "endpoints.http.request_log"


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """A service that writes a line for each request."""
    async with serving(FakeStore(), observing=Observing(Settings(log_requests=True))) as service:
        yield service


def told(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    """Give the fields of the last line."""
    names = ("method", "route", "status", "correlation_id", "session", "user", "claimed_session", "claimed_user")
    record = [record for record in caplog.records if record.name == LOGGER][-1]
    assert record.getMessage() == "request"
    assert 0 <= vars(record)["seconds"] < 60
    return {name: vars(record)[name] for name in names if name in vars(record)}


async def test_an_admitted_request_names_route_and_session(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    token, sid, _ = await service.sign_in()
    answer = await service.ask("GET", ACK, token, headers={"X-Correlation-ID": "mine"}, params={"key_": "value"})
    assert answer.status_code == 200
    assert told(caplog) == {
        "method": "GET",
        "route": ACK,
        "status": 200,
        "correlation_id": "mine",
        "session": sid[:12],
        "user": "ann",
    }


async def test_the_route_is_a_template_and_what_is_none_is_not_told(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await service.ask("DELETE", "/api/sessions/ann-at-home")
    assert (told(caplog)["route"], told(caplog)["status"]) == ("/api/sessions/{session_id}", 401)
    await service.ask("GET", "/ann-at-home/token")
    assert (told(caplog)["route"], told(caplog)["status"]) == ("other", 404)
    lines = [record for record in caplog.records if record.name == LOGGER]
    assert len(lines) == 2
    assert "ann-at-home" not in str([vars(line) for line in lines])


async def test_who_was_not_admitted_is_only_claimed_to_be_somebody(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """A token says what its maker likes; before it is looked up a body that does not fit is refused, too."""
    caplog.set_level(logging.INFO)
    forged, sid, _ = service.tokens.issue("bob", service.clock())
    await service.ask("POST", ACK, forged, json={"acks": 1})
    expected = {"status": 400, "claimed_session": sid[:12], "claimed_user": "bob"}
    assert expected.items() <= told(caplog).items()
    await service.ask("POST", ACK, forged, json={"acks": []})
    assert {**expected, "status": 401}.items() <= told(caplog).items()
    assert not {"session", "user"} & told(caplog).keys()
    await service.ask("GET", "/api/server/ping", forged)  # nobody asks there who it is
    assert not {"session", "user", "claimed_session", "claimed_user"} & told(caplog).keys()


async def test_nothing_watches_where_nothing_is_wanted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    off = Observing(Settings())
    assert (off.middleware, off.auth, off.stream_over) == ([], Auth, log_it)
    async with serving(FakeStore()) as service:
        app = service.app
        assert off.around(app) is app
        token, _, _ = await service.sign_in()
        await service.ask("GET", ACK, token)
    assert [record for record in caplog.records if record.name == LOGGER] == []
