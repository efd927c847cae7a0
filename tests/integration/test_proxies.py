"""Whose word on a client's address and scheme is taken: real services, asked as a proxy would."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ops.settings.settings import Settings
from tests.support.processes.services import Service
from tests.support.stores.servers import RedisServer, valkey_binary

HINT = "LEDGER_TRUSTED_PROXIES"
FORWARDED = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}


def create(settings: Settings, redis_url: str, ledger_id: str) -> Any:
    """Build an application that tells who it believes its client to be."""

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        told = json.dumps([scope["client"][0], scope["scheme"]]).encode()
        await send({"type": "http.response.body", "body": told})

    return app


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(valkey_binary(), tmp_path_factory.mktemp("store")) as server:
        yield server


@contextmanager
def serving(tmp_path: Path, store: RedisServer, **settings: str) -> Iterator[Service]:
    with Service(tmp_path / "data", f"{__name__}:create", redis=store.url, **settings) as service:
        yield service


def told(service: Service, headers: dict[str, str] | list[tuple[str, str]]) -> list[str]:
    """Return the client's address and the scheme as the application sees them."""
    answer: list[str] = httpx.get(service.url, headers=headers).json()
    return answer


def hints(service: Service) -> list[str]:
    return [line for line in service.log.read_text().splitlines() if HINT in line]


def test_nobodys_word_is_taken_by_default_and_that_is_said_once_per_process(tmp_path: Path, store: RedisServer) -> None:
    # What uvicorn and gunicorn would believe by themselves.
    with serving(tmp_path, store, workers="2", FORWARDED_ALLOW_IPS="*") as service:
        assert told(service, {}) == ["127.0.0.1", "http"]
        assert hints(service) == []
        for _ in range(4):  # on new connections, which the workers share evenly
            with httpx.Client() as one, httpx.Client() as other:
                for client in (one, other):
                    assert client.get(service.url, headers=FORWARDED).json() == ["127.0.0.1", "http"]
        said = hints(service)
        assert len(said) == len({line.split("pid=")[1].split()[0] for line in said}) == 2
        assert all("level=warning" in line and "127.0.0.1" in line for line in said)
        assert "203.0.113.7" not in service.log.read_text()


@pytest.mark.parametrize(
    "trusted",
    [
        "10.0.0.0/8, 127.0.0.0/8",
        *(pytest.param(more, marks=pytest.mark.soak) for more in ("127.0.0.1", "::1 127.0.0.1")),
    ],
)
def test_the_word_of_a_trusted_proxy_is_taken(tmp_path: Path, store: RedisServer, trusted: str) -> None:
    with serving(tmp_path, store, trusted_proxies=trusted) as service:
        assert told(service, FORWARDED) == ["203.0.113.7", "https"]
        assert told(service, {}) == ["127.0.0.1", "http"]
        assert told(service, {"X-Forwarded-Proto": "javascript"}) == ["127.0.0.1", "http"]
        # What a client wrote itself comes before what the proxy appended.
        assert told(service, {"X-Forwarded-For": "198.51.100.1, 203.0.113.7"})[0] == "203.0.113.7"
        assert told(service, [("X-Forwarded-For", "198.51.100.1"), ("X-Forwarded-For", "2001:db8::7")])[0] == (
            "2001:db8::7"
        )
        assert hints(service) == []


def test_a_chain_is_followed_through_trusted_proxies_only(tmp_path: Path, store: RedisServer) -> None:
    with serving(tmp_path, store, trusted_proxies="127.0.0.1,10.0.0.0/8") as service:
        assert told(service, {"X-Forwarded-For": "198.51.100.1, 203.0.113.7, 10.1.2.3"})[0] == "203.0.113.7"


def test_a_peer_that_is_not_named_is_not_believed_where_others_are(tmp_path: Path, store: RedisServer) -> None:
    with serving(tmp_path, store, trusted_proxies="10.0.0.0/8") as service:
        assert told(service, FORWARDED) == ["127.0.0.1", "http"]
        assert len(hints(service)) == 1
