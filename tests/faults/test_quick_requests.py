"""Requests that go a quick way, or whose head a worker knows, are answered just as on the plain way: to the byte.

Two workers serve one ledger over sockets. One does as the service does; to the other no head is known, and it has no
quick way. Two sessions live the same life, one at each. Requests are thrown by dice: acks of every kind, and what is no
ack; every credential; heads and bodies as RFC 9112 has them and as it has not, whole and in pieces, one by one and in a
pipeline; clients that leave; sessions that are reset, refreshed, forgotten or over, other writers, a store without its
scripts, a worker that drains. Whatever happened, both answer the same, put the same on record, count and log the same.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any, Final, Literal, NamedTuple

import pytest
from uvicorn.config import Config

import ops.server.http_protocol
from endpoints.figures.of_http import HttpFigures
from endpoints.http import bodies
from endpoints.http.limits import LimitRules
from endpoints.http.quick import QuickRequest
from endpoints.sync.quick_acks import QuickAcks
from ledger.acks import RESET_ACK
from ledger.commands import ClearCheckpoints, EndSession, OfferStream, RecordAcks, RequestReset
from ledger.entity_types import COMPLETE, mask_of
from ledger.log.quick_acks import APPEND_ONE
from ledger.log.reader import read_partition
from ledger.log.service import Ledger
from ledger.personal import plain
from ledger.positions import iso_from_us
from ledger.store.interface import Store, open_store
from ops.opening.observing import Observing
from ops.server.connection_balance import Load
from ops.server.http_heads import KnownHeads
from ops.server.http_protocol import LedgerHttpProtocol
from ops.server.proxies import ProxyHint
from ops.server.worker_state import WorkerState
from ops.settings.settings import Settings
from tests.support.phones.http import SECOND_US, START_US, Service, serving
from tests.support.stores.losing_proxy import LosingProxy
from tests.support.stores.servers import RedisServer

TYPES: Final = ("AssetV2", "AlbumV2")
STEPS: Final = 60
OFFERED: Final = mask_of([COMPLETE, *TYPES])
_LAST: Final = b"GET /api/server/ping HTTP/1.1\r\nhost: x\r\nx-correlation-id: last\r\n\r\n"
_LAST_ANSWER: Final = b"x-correlation-id: last\r\n"
_OVER: Final = b'{"res":"pong"}'
_GO_ON: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_AT_ONCE: Final = 16_384
"""What surely comes in one piece."""
_VARYING: Final = re.compile(rb"(?<=\r\nx-correlation-id: )[0-9a-f]{12}-[0-9a-f]+")
_NAMES: Final = re.compile(r"[0-9a-f]{12}-[0-9a-f]+|[0-9a-f]{64}")
PLENTY: Final = LimitRules(*["10000/minute"] * 5)


class Sent(NamedTuple):
    """What is written to a connection, with a pause behind each piece, and whether its client then leaves.

    Behind it comes one more request, once something was answered, or nothing was in `wait_s`.
    """

    pieces: list[bytes]
    pause_s: float = 0.0
    leaves: bool = False
    wait_s: float = 0.3


class Client(asyncio.Protocol):
    """A connection, as bytes."""

    def __init__(self) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self.received = b""
        self._came = asyncio.Event()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._came.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(None)
        self._came.set()

    def write(self, data: bytes) -> None:
        """Write, unless the connection was ended."""
        if not self.ended.done():
            self.transport.write(data)

    def is_over(self) -> bool:
        """Tell whether the last request was answered."""
        return _LAST_ANSWER in self.received and self.received.endswith(_OVER)

    async def until(self, come: Callable[[], object], within_s: float) -> None:
        """Wait until something has come, the connection was ended, or the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not (come() or self.ended.done()):
                    self._came.clear()
                    await self._came.wait()


class Worker:
    """A service over sockets, the session that lives at it, and its client's connection."""

    def __init__(self, service: Service, *, quick: bool) -> None:
        self.service = service
        app: Any = service.app
        if not quick:
            app.quick = {}
        self.config = Config(app, log_config=None, lifespan="off", ws="none", interface="asgi3", proxy_headers=False)
        self.state = WorkerState(Load(1), 0, ProxyHint(lambda host: False))
        if not quick:
            self.state.heads = KnownHeads(1)
            self.state.heads.came_before = lambda raw: False  # type: ignore[method-assign]
        self.token = self.sid = self.key = ""
        self.port = 0
        self._client: Client | None = None

    async def begin(self) -> None:
        """Listen, and sign in."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: LedgerHttpProtocol(self.config, self.state, {}), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        issued = await self.service.sign_in()
        self.token, self.sid = issued.token, issued.sid
        self.key, _ = await self.service.api_keys.create(["metrics.read"], name="", now_us=1)

    async def exchange(self, sent: Sent) -> tuple[bytes, bool]:
        """Write what is sent, for this worker's session; give what came, and whether the connection was ended."""
        client = self._client
        if client is None or client.ended.done():
            loop = asyncio.get_running_loop()
            _, client = await loop.create_connection(Client, "127.0.0.1", self.port)
        self._client = client
        for piece in sent.pieces:
            client.write(piece.replace(b"TOKEN", self.token.encode()).replace(b"KEY", self.key.encode()))
            await asyncio.sleep(sent.pause_s)
        if sent.leaves:
            self.hang_up()
            return b"", True
        await client.until(lambda: client.received.removeprefix(_GO_ON), sent.wait_s)
        client.write(_LAST)
        await client.until(client.is_over, 10)
        received, client.received = client.received, b""
        assert _LAST_ANSWER in received or client.ended.done()
        return _VARYING.sub(b"ID", received), client.ended.done()

    def hang_up(self) -> None:
        """Have the next request be the first of a connection."""
        if self._client is not None:
            self._client.transport.close()
            self._client = None

    async def idle(self) -> None:
        """Wait until nothing is being answered, and all who left are gone."""
        store: Any = self.service.store
        async with asyncio.timeout(10):
            while self.state.tasks or not store.mux.idle or len(self.state.connections) > (self._client is not None):
                if self._client is not None and self._client.ended.done():
                    self._client = None
                await asyncio.sleep(0.001)
        await asyncio.sleep(0)

    def counted(self) -> dict[Any, float]:
        """Tell what was counted of requests and of the log, but not how long things took."""
        found: dict[Any, float] = {}
        [http] = [part for part in self.service.services.figures.parts if isinstance(part, HttpFigures)]
        for part in (http, self.service.ledger.figures):
            for family in part.families:
                for labels, at in part.places(family.name).items():
                    found[family.name, labels] = sum(part.values[at : at + max(1, family.width - 1)])
        return found


class World:
    """The two workers."""

    def __init__(self, store: Store, workers: list[Worker], dice: Random, caplog: pytest.LogCaptureFixture) -> None:
        self.store, self.workers, self.dice, self.caplog = store, workers, dice, caplog
        self.number = 0

    async def both(self, what: Callable[[Worker], Coroutine[Any, Any, Any]], told: object) -> None:
        """Do the same with both, one after the other; raises AssertionError where anything differs."""
        outcomes = []
        for worker in self.workers:
            before, counters = worker.counted(), await self._counters()
            self.caplog.clear()
            result = await what(worker)
            await worker.idle()
            after = worker.counted()
            logged = [
                (record.name, record.levelno, _NAMES.sub("ID", record.getMessage())) for record in self.caplog.records
            ]
            noted = {name: count - counters.get(name, 0) for name, count in (await self._counters()).items()}
            outcomes.append((result, {name: after[name] - before[name] for name in after}, logged, noted))
        for one, other in zip(*outcomes, strict=True):
            assert one == other, f"of {told}"
        assert await self.events() == [], f"behind {told}"

    async def _counters(self) -> dict[Any, int]:
        return {one[:2]: one[2] for one in await self.workers[0].service.counters.all()}

    async def events(self) -> list[Any]:
        """Tell in what the logs of the two sessions differ, but for their ids and tokens."""
        found: dict[str, list[Any]] = {worker.sid: [] for worker in self.workers}
        ledger = self.workers[0].service.ledger
        async for entries in read_partition(self.store, ledger.partition_of("ann")):
            for entry in entries:
                found[entry.recorded.sid].append((entry.recorded.seq, type(entry.recorded.event), entry.recorded.raw))
        one, other = found.values()
        return [pair for pair in zip(one, other, strict=True) if pair[0] != pair[1]]

    # What is sent -----------------------------------------------------------------------------------------------------

    def body(self) -> bytes:
        """Write the body of an ack: most are of one position that moves a checkpoint."""
        dice = self.dice
        self.number += 1

        def ack() -> str:
            at_us = START_US - 1000 * SECOND_US + dice.randrange(self.number * 6, self.number * 6 + 8)
            entity_type, worker = dice.choice(TYPES), self.workers[0]
            state = worker.service.ledger._recent.last(worker.sid)
            epoch = dice.randrange(3) if state is None or dice.random() < 0.02 else state.epoch_of(entity_type)
            behind = "" if epoch == 1 and dice.random() < 0.9 else f"|{epoch}"
            return f"{entity_type}|{iso_from_us(at_us)}|{dice.choice(('a', 'b', 'c'))}{behind}"

        if dice.random() < 0.75:
            return json.dumps({"acks": [ack()]}).encode()
        seldom: tuple[Any, ...] = (
            {"acks": [ack(), ack()]}, {"acks": []}, {"acks": [ack()], "more": 1}, {"acks": ["AssetV2|x|"]},
            {"acks": [1]}, {"acks": [ack() + "|3|4"]}, {"acks": ["NoneV9|x|y"]}, {"acks": ["SyncResetV1|reset"]},
            {"acks": ack()}, [], {}, {"acks": [f"SyncCompleteV1|{iso_from_us(START_US - 1)}|7c"]},
            {"acks": [f"AssetV2|{iso_from_us(START_US * 2)}|a"]},
            b"", b"{", b"\xff", b'{"acks": ["\xff"]}', b"[" * 2000,
            b'{"acks": ["%b"]}' % ack().encode() + b" " * 70_000,
            b'{"acks":["' + b"x" * bodies.MAX_BODY_BYTES + b'"]}',
        )  # fmt: skip
        one = dice.choice(seldom)
        return one if isinstance(one, bytes) else json.dumps(one).encode()

    def request(self, *, rightly: bool = False) -> bytes:
        """Write a request: most are acks of a token. `rightly`: with a body as long as it says."""
        dice = self.dice
        line, version, fields = b"POST /api/sync/ack", b"1.1", [b"host: x"]
        if dice.random() < 0.2:
            line = dice.choice(
                (b"POST /sync/ack", b"POST /api/sync/ack?key=x", b"POST /api/sync/ack?", b"POST /api/sync/ack/",
                 b"GET /api/sync/ack", b"HEAD /api/sync/ack", b"PUT /api/sync/ack", b"POST //api/sync/ack",
                 b"POST http://x/api/sync/ack", b"GET /api/users/me", b"POST /api/sync/%61ck", b"DELETE /api/sync/ack",
                 b"POST /api/sync/ack#", b"GET /api/server/ping")
            )  # fmt: skip
        credential = [b"authorization: Bearer TOKEN"]
        if dice.random() < 0.25:
            credential = dice.choice(
                ([], [b"Authorization: bearer  TOKEN"], [b"x-immich-user-token: TOKEN"],
                 [b"x-immich-session-token: TOKEN"], [b"cookie: immich_access_token=TOKEN"], [b"x-api-key: KEY"],
                 [b"authorization: Bearer KEY"], [b"authorization: Bearer TOKENx"], [b"authorization: Basic TOKEN"],
                 [b"authorization: Bearer guess"], [b"authorization: Bearer TOKEN", b"authorization: Bearer guess"],
                 [b"x-immich-share-key: s", b"authorization: Bearer TOKEN"],
                 [b"cookie: a=b", b"authorization: Bearer TOKEN"], [b"authorization:", b"x-immich-user-token: TOKEN"],
                 [b"cookie: " + b"c" * 9000, b"authorization: Bearer TOKEN"])
            )  # fmt: skip
        fields += credential
        if dice.random() < 0.25:
            fields += dice.choice(
                ([b"x-correlation-id: a:1"], [b"X-Correlation-Id: \xff"],
                 [b"x-correlation-id: a", b"x-correlation-id: b"], [b"connection: close"],
                 [b"connection: keep-alive"], [b"expect: 100-continue"], [b"host: y"], [b"accept: a", b"accept: b"],
                 [b"upgrade: h2c", b"connection: Upgrade"], [b"content-encoding: gzip"], [b"n\x00: v"],
                 [b"content-type: application/json"], [b"x-forwarded-for: 1.2.3.4"], [b"long: " + b"x" * 3000])
            )  # fmt: skip
        if dice.random() < 0.05:
            version = dice.choice((b"1.0", b"1.0", b"2.0", b"0.9"))
        if dice.random() < 0.02:
            fields = fields[1:]
        body = b"" if line.startswith((b"GET", b"HEAD")) else self.body()
        if body and dice.random() < 0.1:
            half = len(body) // 2
            chunks = [b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part]
            body = b"".join(chunks) + b"0\r\n" + dice.choice((b"", b"cookie: a=b\r\n")) + b"\r\n"
            fields.append(b"transfer-encoding: chunked")
        elif body or dice.random() < 0.5:
            length = b"%d" % len(body)
            if not rightly and len(body) < _AT_ONCE and dice.random() < 0.03:
                length = dice.choice((b"+1", b"1, 1", b"%d" % (len(body) // 2)))
            fields.append(b"content-length: " + length)
        return b"%b HTTP/%b\r\n%b\r\n\r\n%b" % (line, version, b"\r\n".join(fields), body)

    def sent(self) -> Sent:
        """Write what a client sends. What is no HTTP comes in one piece with what is before it, or who knows when."""
        dice, one = self.dice, self.request()
        how = dice.random()
        if how < 0.6:
            return Sent([one])
        if how < 0.7:
            return Sent([b"".join(each for each in (one, self.request(), self.request()) if len(each) < _AT_ONCE)])
        one = self.request(rightly=True)
        if how < 0.85:
            cut = dice.randrange(1, len(one))
            return Sent([one[:cut], one[cut:]], 0.01)
        if how < 0.88:
            return Sent([one[: dice.randrange(1, len(one))]], leaves=True)
        if how < 0.91:
            return Sent([one], 0.1, leaves=True)
        if how < 0.94:
            return Sent([dice.choice((b"\r\n", b"\r\n\r\n", b"x", b"\x00", b"GET"))], leaves=dice.random() < 0.5)
        without_body = one[: one.index(b"\r\n\r\n") + 4 + dice.randrange(2)]
        return Sent([without_body], wait_s=10)

    # What happens -----------------------------------------------------------------------------------------------------

    async def happens(self) -> None:
        """Have something happen to both sessions, or both workers."""
        dice = self.dice
        what = dice.choice(
            (self._start_over, self._elsewhere, self._reset, self._forget,
             self._flush, self._drain, self._hang_up, self._clear)
        )  # fmt: skip
        await self.both(what, what)

    @property
    def is_offered(self) -> bool:
        """Whether anything was sent that may be acknowledged, as far as the worker remembers."""
        state = self.workers[0].service.ledger._recent.last(self.workers[0].sid)
        return state is not None and bool(state.offered)

    async def _offer(self, worker: Worker) -> None:
        now_us = worker.service.clock()
        await worker.service.ledger.execute("ann", worker.sid, OfferStream(now_us, OFFERED))

    async def _start_over(self, worker: Worker) -> None:
        """Take a stream, be it only a reset line, and say so."""
        await self._offer(worker)
        await worker.service.ledger.execute("ann", worker.sid, RecordAcks((RESET_ACK,)))
        await self._offer(worker)

    async def _elsewhere(self, worker: Worker) -> None:
        """Have another worker write, of which this one knows nothing."""
        other = Ledger(self.store, worker.service.ledger.partitions, worker.service.clock)
        await other.execute("ann", worker.sid, OfferStream(worker.service.clock() + 1, OFFERED))

    async def _clear(self, worker: Worker) -> None:
        await worker.service.ledger.execute("ann", worker.sid, ClearCheckpoints(mask_of(TYPES[:1]), "deleted"))

    async def _reset(self, worker: Worker) -> None:
        await worker.service.ledger.execute("ann", worker.sid, RequestReset(True, plain("admin")))

    async def _forget(self, worker: Worker) -> None:
        worker.service.ledger._recent.forget(worker.sid)

    async def _flush(self, worker: Worker) -> None:
        await self.store.each_primary("SCRIPT", "FLUSH")

    async def _drain(self, worker: Worker) -> None:
        worker.state.draining = True
        for connection in list(worker.state.connections):
            connection.close_behind_answer()  # type: ignore[union-attr]
        await worker.exchange(Sent([b""]))
        worker.state.draining = False
        worker.hang_up()

    async def _end(self, worker: Worker) -> None:
        await worker.service.ledger.execute("ann", worker.sid, EndSession("logout"))

    async def _hang_up(self, worker: Worker) -> None:
        worker.hang_up()


@asynccontextmanager
async def world(url: str, seed: int, caplog: pytest.LogCaptureFixture) -> AsyncIterator[World]:
    """Serve a ledger by two workers, with a session at each."""
    store = await open_store(url)
    async with serving(store, rules=PLENTY) as one, serving(store, rules=PLENTY, beside=one) as two:
        workers = [Worker(one, quick=True), Worker(two, quick=False)]
        for worker in workers:
            await worker.begin()
        yield World(store, workers, Random(seed), caplog)
        for worker in workers:
            worker.hang_up()
    await store.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nobody wait long for a body, or throw it away for long."""
    monkeypatch.setattr(ops.server.http_protocol, "BODY_START_S", 0.05)
    monkeypatch.setattr(ops.server.http_protocol, "DISCARD_S", 0.2)
    monkeypatch.setattr(bodies, "SILENCE_S", 0.1)


@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 40))])
async def test_quick_requests_are_answered_as_plain_ones(
    valkey_url: str, seed: int, impatient: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    taken, begin = list[bool](), QuickAcks.begin

    def noting(self: QuickAcks, request: QuickRequest) -> bool:
        taken.append(begin(self, request))
        return taken[-1]

    monkeypatch.setattr(QuickAcks, "begin", noting)
    async with world(valkey_url, seed, caplog) as found:
        for worker in found.workers:
            await found._offer(worker)
        for step in range(STEPS):
            found.workers[0].service.clock.now_us += 1000
            if not found.is_offered and found.dice.random() < 0.5:
                await found.both(found._start_over, "a stream")
            elif found.dice.random() < 0.15:
                await found.happens()
            sent = found.sent()
            await found.both(lambda worker, sent=sent: worker.exchange(sent), (step, sent))  # type: ignore[misc]
        assert STEPS / 20 < sum(taken) < len(taken), "many went the quick way, and some could not"
        assert len(found.workers[0].state.heads) > 0
        await found.both(found._end, "the end")
        again = Sent([b"POST /api/sync/ack HTTP/1.1\r\nhost: x\r\nauthorization: Bearer TOKEN\r\n\r\n"])
        await found.both(lambda worker: worker.exchange(again), again)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_ack_whose_connection_to_the_store_was_lost_is_answered_and_on_record_once(
    valkey_server: RedisServer, when: Literal["before", "after"]
) -> None:
    async with LosingProxy(valkey_server.port) as proxy:
        store = await open_store(proxy.url)
        async with serving(store) as service:
            worker = Worker(service, quick=True)
            await worker.begin()
            await service.ledger.execute("ann", worker.sid, OfferStream(START_US, OFFERED))
            acks = [b'{"acks": ["AssetV2|2023-11-14T20:00:00.00000%dZ|b"]}' % number for number in range(3)]
            head = (
                b"POST /api/sync/ack HTTP/1.1\r\nhost: x\r\nauthorization: Bearer TOKEN\r\ncontent-length: %d\r\n\r\n"
            )
            for number, ack in enumerate(acks):
                if number == 2:
                    proxy.lose(when, APPEND_ONE)
                answer, _ = await worker.exchange(Sent([head % len(ack) + ack], wait_s=10))
                assert answer.startswith(b"HTTP/1.1 204 ")
            assert proxy.lost == 1
            state = await service.ledger.load("ann", worker.sid)
            assert (state.seq, state.checkpoints["AssetV2"].position.id) == (2 + len(acks), "b")
            worker.hang_up()
        await store.close()


async def test_there_is_no_quick_way_past_what_watches_requests(valkey_url: str) -> None:
    store = await open_store(valkey_url)
    for settings, quick in ((Settings(), True), (Settings(log_requests=True), False)):
        async with serving(store, observing=Observing(settings)) as service:
            assert bool(getattr(service.app, "quick", None)) is quick
    await store.close()


def ack_request(number: int, *fields: bytes, chunked: bool = False) -> bytes:
    """Write an ack that moves a checkpoint, always as long."""
    body = b'{"acks": ["AssetV2|2023-11-14T20:00:00.%06dZ|b"]}' % number
    if chunked:
        fields, body = (*fields, b"transfer-encoding: chunked"), b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    else:
        fields = (*fields, b"content-length: %d" % len(body))
    return b"POST /api/sync/ack HTTP/1.1\r\nhost: x\r\n%b\r\n\r\n%b" % (b"\r\n".join(fields), body)


TOKEN: Final = b"authorization: Bearer TOKEN"
AGAIN: Final = {
    "as almost all": ((TOKEN,), False),
    "two tokens": ((TOKEN, b"authorization: Bearer guess"), False),
    "an id": ((TOKEN, b"x-correlation-id: a"), False),
    "two ids": ((TOKEN, b"x-correlation-id: a", b"x-correlation-id: b"), False),
    "which expects to be told to go on": ((TOKEN, b"expect: 100-continue"), False),
    "the last": ((TOKEN, b"connection: close"), False),
    "in chunks": ((TOKEN,), True),
    "of a guess": ((b"authorization: Bearer guess",), False),
    "of a browser": ((b"cookie: immich_access_token=TOKEN",), False),
}


async def test_the_same_head_again_is_answered_as_before(
    valkey_url: str, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with world(valkey_url, 0, caplog) as found:
        for worker in found.workers:
            await found._offer(worker)
        number = 0
        for name, (fields, chunked) in AGAIN.items():
            for _ in range(4):
                number += 1
                sent = Sent([ack_request(number, *fields, chunked=chunked)], wait_s=10)
                await found.both(lambda worker, sent=sent: worker.exchange(sent), name)  # type: ignore[misc]
        assert len(found.workers[0].state.heads) > 3
