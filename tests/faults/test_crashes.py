"""kill -9 of everything, again and again, in mid-ack, mid-stream and mid-write: what was answered is there."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from uuid import uuid4

import httpx
import msgspec
import pytest

from ledger.acks import Ack, format_ack
from ledger.entity_types import CODES
from ledger.events import AcksRecorded, StoredAck
from ledger.keys import partition_of
from ledger.positions import Position
from ops.demo_library import DemoLibrary, Entity
from ops.opening.ledger import Opened
from ops.simulate.check import check
from ops.simulate.device import Device
from ops.simulate.errors import DeviceError
from projections.checking.verify import Report, verify
from tests.support.phones.raw_stream import RawStream
from tests.support.processes.running import APP_TYPES, RunningService
from tests.support.stores.servers import RedisServer, valkey_binary, wait_until

ACKERS = 3
ASSETS = 1200
LIBRARY = "lib"
LARGE = "large"
ALBUMS = 100
ALBUM_BYTES = 150_000
"""A stream of all of them is more than the sockets between service and reader hold."""
FIRST_ACK_US = 1_500_000_000_000_000
MAX_MID_S = 0.6
"""The longest a round goes on before everything is killed."""


class Acker:
    """A session that acknowledges one position after the other, and knows which were answered."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.sid = sha256(token.encode()).hexdigest()
        self.answered = 0
        self.statuses: set[int] = set()

    def work(self, url: str, stopped: threading.Event | None = None) -> None:
        """Acknowledge until the service is gone; an ack without an answer is sent again by the next round."""
        headers = {"Authorization": f"Bearer {self.token}"}
        with httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False) as client:
            if not self.answered:
                while client.post("/api/sync/stream", json={"types": ["UserMetadataV1"]}).status_code != 200:
                    time.sleep(0.01)
            while stopped is None or not stopped.is_set():
                ack = format_ack(Ack("UserMetadataV1", position(self.answered + 1), 1))
                answer = client.post("/api/sync/ack", json={"acks": [ack]})
                assert answer.status_code in (204, 503), answer.text
                self.statuses.add(answer.status_code)
                self.answered += answer.status_code == 204


class Guest:
    """Makes sessions and ends them, and knows what was answered."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.made: list[str] = []
        self.ended: set[str] = set()
        self.ending: set[str] = set()

    def work(self, url: str) -> None:
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            while True:
                mine = {"Authorization": f"Bearer {self.token}"}
                answer = client.post("/api/sessions", json={}, headers=mine)
                if answer.status_code == 201:
                    self.made.append(answer.json()["token"])
                if len(self.made) % 2:
                    token = self.made[-1]
                    self.ending.add(token)
                    gone = client.post("/api/auth/logout", headers={"Authorization": f"Bearer {token}"})
                    if gone.status_code == 200:
                        self.ended.add(token)


class Filler:
    """Writes the library in slices, again from the last one that was answered."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.left: list[list[Entity]] = []
        entities = iter(DemoLibrary(user="ann", name="Ann", assets=ASSETS))
        while batch := list(islice(entities, 60)):
            self.left.append(batch)

    def work(self, url: str) -> None:
        while self.left:
            self.put(url)
            time.sleep(0.05)

    def put(self, url: str) -> None:
        if put(url, self.key, LIBRARY, self.left[0]):
            self.left.pop(0)


def put(url: str, key: str, library: str, entities: list[Entity]) -> bool:
    """Write entities; tell whether that was answered."""
    lines = [msgspec.json.encode({"type": e.type, "data": e.data, **({"id": e.id} if e.id else {})}) for e in entities]
    answer = httpx.post(
        f"{url}/ledger/libraries/{library}/entities",
        content=b"\n".join(lines), headers={"x-api-key": key}, timeout=30, trust_env=False,
    )  # fmt: skip
    if answer.status_code != 200:
        return False
    assert answer.json()["refused"] == 0, answer.text
    return True


class Phone:
    """The simulated device, with its own copy of the library; each round is a new start of the app."""

    def __init__(self, token: str, file: Path) -> None:
        self.token = token
        self.file = file
        self.starts = 0
        self.broken = 0

    def work(self, url: str) -> None:
        self.starts += 1
        rate = 400_000 if self.starts % 4 == 1 else None  # so that it is killed in mid-stream, and in mid-ack
        with Device(url, self.token, self.file, timeout_s=30, read_bytes_per_s=rate) as device:
            try:
                while True:
                    device.sync()
            except DeviceError:
                self.broken += 1


class Reader:
    """Reads a large library slowly and acknowledges nothing: each kill finds its stream open, whatever sockets hold."""

    def __init__(self, token: str, key: str) -> None:
        self.token = token
        self.key = key
        self.broken = 0
        self.reading = threading.Event()
        """Set while a stream is open and something of it has come."""
        self.killed = threading.Event()
        """Set when the service is gone: then it reads on without a pause."""

    def fill(self, url: str) -> None:
        """Write albums with long descriptions."""
        library = list(DemoLibrary(user="ann", name="Ann", assets=60))
        album = next(entity for entity in library if entity.type == "AlbumV2")
        put(url, self.key, LARGE, library)
        for _ in range(ALBUMS):
            data = {**album.data, "id": str(uuid4()), "description": "x" * ALBUM_BYTES}
            put(url, self.key, LARGE, [album._replace(id=None, data=data)])

    def work(self, url: str) -> None:
        """Read until the stream breaks. One that ends cleanly is a refusal."""
        port = int(url.rpartition(":")[2])
        self.killed.clear()
        while not self.broken_off(port):
            pass

    def broken_off(self, port: int) -> bool:
        """Read one stream; tell whether it broke."""
        with RawStream(port, self.token, APP_TYPES, receive_buffer_bytes=64 * 1024) as stream:
            while stream.read(8 * 1024):
                if stream.status == 200:
                    self.reading.set()
                self.killed.wait(0.01)
            self.reading.clear()
            if stream.clean:
                assert stream.status == 503
                return False
            self.broken += stream.status == 200
            return True


def position(number: int) -> Position:
    """The number-th position of an acker; all lie below any snapshot."""
    return Position(FIRST_ACK_US + number, f"k{number}")


def until_gone(work: Callable[[str], None], url: str, failures: list[Exception]) -> Callable[[], None]:
    """Run work that ends with the service; any other end of it is a failure."""

    def run() -> None:
        try:
            work(url)
        except httpx.TransportError:
            return
        except Exception as error:  # noqa: BLE001 - told by the test's own thread
            failures.append(error)

    return run


async def verified(found: Opened) -> Report:
    """Verify the whole ledger."""
    return await verify(found.store, found.ledger.partitions)


async def recorded_acks(found: Opened, user: str, sid: str) -> list[StoredAck]:
    """Read all acks that moved something from a session's history, oldest first."""
    acks: list[StoredAck] = []
    partition, top = partition_of(user, found.ledger.partitions), 2**53
    while top > 0:
        page = await found.past.page(partition, sid, top_seq=top, count=500)
        for entry in page.entries:
            if isinstance(entry.recorded.event, AcksRecorded):
                acks.extend(reversed(entry.recorded.event.moved))
        if not page.entries:
            break
        top = page.entries[-1].recorded.seq - 1
    return acks[::-1]


def have_answered(ackers: list[Acker], more_than: int) -> bool:
    """Tell whether so many acks were answered in all."""
    return sum(acker.answered for acker in ackers) > more_than


def are_at_work(reader: Reader, guest: Guest, ended: int) -> bool:
    """Tell whether a stream is open and more than `ended` sessions were ended."""
    return reader.reading.is_set() and len(guest.ended) > ended


def assert_recorded(service: RunningService, acker: Acker) -> None:
    """Every answered ack is in the history, once; the last one of all may be there without an answer."""
    recorded = service.inside(partial(recorded_acks, user="ann", sid=acker.sid))
    positions = [position(number) for number in range(1, acker.answered + 1)]
    answered = [StoredAck(CODES["UserMetadataV1"], one.at_us, one.id, 1) for one in positions]
    assert recorded[: len(answered)] == answered
    assert len(recorded) <= len(answered) + 1
    with service.client(acker.token) as client:
        wait_until(lambda: client.get("/api/sync/ack").status_code == 200, "the store to be back")
        (kept,) = client.get("/api/sync/ack").json()
    assert kept["ack"] == format_ack(Ack("UserMetadataV1", position(len(recorded)), 1))


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_kills_of_everything_lose_nothing_that_was_answered(tmp_path: Path, kills: int) -> None:
    dice = random.Random(20)
    failures: list[Exception] = []
    service = RunningService(tmp_path / "s", workers=2, session_limit="100000/minute")
    with service:
        tokens = service.sign_in_many(ACKERS + 1) + service.sign_in_many(1, "guest")
        ackers = [Acker(token) for token in tokens[:ACKERS]]
        phone, guest = Phone(tokens[ACKERS], tmp_path / "phone.db"), Guest(tokens[-1])
        (large,) = service.sign_in_many(1, "ann", LARGE)
        reader = Reader(large, service.entities_key)
        reader.fill(service.url)
        filler = Filler(service.entities_key)
        filler.put(service.url)
        workers = [acker.work for acker in ackers] + [phone.work, reader.work, guest.work, filler.work]
        for kill in range(kills):
            threads = [threading.Thread(target=until_gone(work, service.url, failures)) for work in workers]
            ended = len(guest.ended)
            for thread in threads:
                thread.start()
            time.sleep(dice.uniform(0.05, MAX_MID_S))
            wait_until(
                partial(are_at_work, reader, guest, ended),
                "an open stream and the end of a session, however busy the machine is",
            )
            service.kill_all(dice if kill % 2 else None)
            reader.killed.set()
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive()
            assert not failures, failures
            service.start()
            report = service.inside(verified)
            assert report.different == 0, report.differences
        assert phone.broken == kills
        assert reader.broken == kills
        while filler.left:
            filler.put(service.url)

        assert sum(acker.answered for acker in ackers) > kills * 10
        for acker in ackers:
            assert_recorded(service, acker)
        assert len(guest.ended) >= kills
        for token in guest.made:
            with service.client(token) as client:
                status = client.get("/api/users/me").status_code
            assert status in ({401} if token in guest.ended else {200, 401} if token in guest.ending else {200})

        with Device(service.url, phone.token, phone.file) as device:
            assert device.sync().complete
            assert device.sync().lines == 1
            result = check(device.copy, device.server, LIBRARY, APP_TYPES, api_key=service.entities_key)
        assert result.equal, result.differences
        assert result.compared >= len(list(DemoLibrary(user="ann", name="Ann", assets=ASSETS)))
        assert service.verify()["different"] == 0
        assert service.faults() == []


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.soak)])
def test_kills_of_the_store_alone_lose_nothing_and_write_nothing_twice(tmp_path: Path, kills: int) -> None:
    """The service goes on: acks on their way when the store dies are read back, or answered 503."""
    dice = random.Random(21)
    failures: list[Exception] = []
    with (
        RedisServer(valkey_binary(), tmp_path / "store", durable=True) as server,
        RunningService(tmp_path / "s", workers=2, redis_url=server.url) as service,
    ):
        service.put(LIBRARY, islice(DemoLibrary(user="ann", name="Ann", assets=20), 5))
        ackers = [Acker(token) for token in service.sign_in_many(2 * ACKERS)]
        stopped = threading.Event()
        threads = [
            threading.Thread(target=until_gone(partial(acker.work, stopped=stopped), service.url, failures))
            for acker in ackers
        ]
        for thread in threads:
            thread.start()
        for _ in range(kills):
            more_than = sum(acker.answered for acker in ackers) + 50
            wait_until(partial(have_answered, ackers, more_than), "acks to be answered", 30)
            time.sleep(dice.uniform(0, 0.02))
            server.kill()
            server.start()
        stopped.set()
        for thread in threads:
            thread.join(60)
        assert not failures, failures
        assert set().union(*(acker.statuses for acker in ackers)) == {204, 503}
        for acker in ackers:
            assert_recorded(service, acker)
        assert service.inside(verified).different == 0
        assert service.faults() == []
