"""The probe of what lies between: only for its scope, bounded, and with nothing of anybody in it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from endpoints.http.request import OWN, OWN_HEADER
from endpoints.sync.probe import AT_ONCE, BULK_BYTES, PATH, SCOPE
from tests.support.phones.http import Live, Service
from tests.support.stores.servers import wait_until


@pytest.fixture
def live(valkey_url: str) -> Iterator[Live]:
    with Live(valkey_url) as live:
        yield live


def key_of(live: Live, *scopes: str) -> str:
    key, _ = live.run(live.service.api_keys.create(scopes, name="", now_us=1))
    return key


async def test_only_a_key_of_its_scope_opens_it(service: Service) -> None:
    phone = await service.sign_in()
    other, _ = await service.api_keys.create(["audit.read", "metrics.read"], name="", now_us=1)
    assert (await service.ask("GET", PATH)).status_code == 401
    assert (await service.ask("GET", PATH, phone.token)).status_code == 403
    assert (await service.ask("GET", PATH, headers={"x-api-key": other})).status_code == 403
    key, _ = await service.api_keys.create([SCOPE], name="", now_us=1)
    answer = await service.ask("GET", f"{PATH}?answer=unavailable", headers={"x-api-key": key})
    assert (answer.status_code, int(answer.headers["retry-after"]) > 0) == (503, True)
    for wrong in ("answer=all", "pauseS=901", "pauseS=-1", "pauseS=soon", "pauseS=nan"):
        answer = await service.ask("GET", f"{PATH}?{wrong}", headers={"x-api-key": key})
        assert (answer.status_code, answer.json["errors"][0]["path"]) == (400, [wrong.partition("=")[0]])


async def test_each_answer_tells_who_made_it(service: Service) -> None:
    for path in ("/api/sync/ack", "/ledger/whoami", "/nowhere", "/healthz"):
        assert (await service.ask("GET", path)).headers[OWN_HEADER] == OWN


def test_two_lines_come_with_the_pause_between_them(live: Live) -> None:
    with httpx.Client(base_url=live.url, headers={"x-api-key": key_of(live, SCOPE)}, trust_env=False) as client:
        with client.stream("GET", PATH, params={"pauseS": "0.4"}) as answer:
            assert answer.headers["cache-control"] == "no-store"
            lines = answer.iter_lines()
            assert json.loads(next(lines)) == {"client": "127.0.0.1", "scheme": "http"}
            first_s = time.monotonic()
            assert list(lines) == ["{}"]
            assert time.monotonic() - first_s > 0.2
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(PATH, params={"answer": "nothing"})


def test_so_many_at_once_and_no_more(live: Live) -> None:
    headers = {"x-api-key": key_of(live, SCOPE)}
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(base_url=live.url, headers=headers, limits=limits, trust_env=False) as client:
        with ExitStack() as streams:
            pieces = []
            for _ in range(AT_ONCE):
                answer = streams.enter_context(client.stream("GET", PATH, params={"pauseS": "60"}))
                pieces.append(answer.iter_raw())  # kept, for httpx hangs up behind one that is dropped
                assert next(pieces[-1])
            for wanted in ({"pauseS": "0"}, {"answer": "bulk"}):
                refused = client.get(PATH, params=wanted)
                assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
            assert client.get(PATH, params={"answer": "unavailable"}).status_code == 503
        wait_until(lambda: client.get(PATH).status_code == 200, "who left to be forgotten")


def test_the_bulk_waits_for_its_reader(live: Live) -> None:
    headers = {"x-api-key": key_of(live, SCOPE)}
    with httpx.Client(base_url=live.url, headers=headers, trust_env=False) as client:
        with client.stream("GET", PATH, params={"answer": "bulk"}) as answer:
            time.sleep(0.5)
            lines = [json.loads(line) for line in answer.iter_lines()]
    assert {len(line["padding"]) for line in lines} == {BULK_BYTES}
    assert lines[-1]["sentS"] > 0.4 > lines[0]["sentS"]
