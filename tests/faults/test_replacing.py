"""A service that is replaced while it serves: no request fails, no row is lost, and the store stays up."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import psutil
import pytest

from tests.support.phones.load import Load
from tests.support.phones.raw_stream import RawStream
from tests.support.processes.running import RunningService
from tests.support.sources.samples import USER_ID, sample
from tests.support.stores.servers import wait_until

ROWS = 300
"""Of a library that a slow reader streams; more than the kernel keeps for one."""


OWNER = {"type": "UserV1", "id": USER_ID, "data": sample("UserV1")}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with rows to stream, that is replaced and goes on."""
    with RunningService(tmp_path_factory.mktemp("replaced"), workers=2) as service:
        service.put("slow", [OWNER])
        service.put("slow", (big_row(number) for number in range(ROWS)))
        yield service
        assert service.faults() == []


def big_row(number: int) -> dict[str, object]:
    return {
        "type": "AssetV2",
        "data": sample("AssetV2", id=f"b{number}", checksum=f"{number:027}=", thumbhash="x" * 9000),
    }


def said(service: RunningService, text: str) -> int:
    return service.log.read_text().count(text)


def hang_up(service: RunningService) -> None:
    """Replace the arbiter and its workers."""
    before = said(service, "msg=replaced")
    service.signal(signal.SIGHUP)
    wait_until(lambda: said(service, "msg=replaced") > before, "a replacement", 60)


def store_of(service: RunningService) -> psutil.Process:
    (store,) = [process for process in service.processes() if process.name() == "valkey-server"]
    return store


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.soak)])
def test_no_request_fails_and_no_row_is_lost(service: RunningService, times: int) -> None:
    library = f"lib{times}"
    tokens = service.sign_in_many(3, library=library)
    service.put(library, [OWNER])
    slow = service.sign_in("bob", "slow")
    store = store_of(service)
    before = []
    with RawStream(service.port, slow, ["AssetsV2"], receive_buffer_bytes=4096) as stream:
        stream.read_until(1000)
        with Load(service.port, tokens, service.entities_key, library) as load:
            for _ in range(times):
                hang_up(service)
                before.append(service.replace())
                served = sum(load.done.values())
                wait_until(lambda: load.failures or sum(load.done.values()) > served + 20, "requests")  # noqa: B023
        assert load.failures == []
        assert all(process.poll() is None for process in before[:1]), "the stream is still being read"
        stream.read_to_end()
        assert stream.clean
        assert sum(line["type"] == "AssetV2" for line in stream.lines) == ROWS
    for process in before:
        assert process.wait(60) == 0
    last = Load(service.port, tokens, service.entities_key, library)
    last.sync_once()
    for token in tokens:
        assert sorted(load.synced[token] + last.synced[token]) == sorted(load.written)
    assert store_of(service) == store
    assert service.verify()["different"] == 0
