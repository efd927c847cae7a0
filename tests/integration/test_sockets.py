"""/api/socket.io over real connections: who hears what, who is let in, and what no client can make grow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
from uvicorn.config import Config

from endpoints.live.sockets import SocketRules, Sockets
from ledger.commands import EndSession, RequestReset
from ledger.personal import plain
from ledger.store.interface import open_store
from ledger.store.standalone import StandaloneStore
from ops.server.connection_balance import Load
from ops.server.http_protocol import LedgerHttpProtocol
from ops.server.proxies import ProxyHint
from ops.server.web_sockets import bound
from ops.server.worker_state import WorkerState
from projections.accounts.tokens import Issued
from projections.entities.entity import Entity, read_line
from projections.live.signals import Signals
from tests.support.phones.http import PARTITIONS, Service, serving
from tests.support.phones.raw_socket import SOCKET, RawSocket, Refused

WAKE = ["on_album_update"]
VERSION = "on_server_version"
NEWS = "on_album_update"


class Served(NamedTuple):
    """A service with sockets, as one worker has them."""

    service: Service
    sockets: Sockets
    port: int
    load: Load
    state: WorkerState

    async def join(self, token: str, **headers: str) -> RawSocket:
        socket = await RawSocket.join(self.port, x_immich_user_token=token, **headers)
        assert (await socket.event()) == [VERSION, {"major": 3, "minor": 2, "patch": 2, "prerelease": None}]
        return socket

    async def in_step(self, user: str = "ann", library: str = "lib") -> tuple[Issued, RawSocket]:
        """Sign in, join, and hear the wake-up of a device that never synced."""
        device = await self.service.sign_in(user, library)
        socket = await self.join(device.token)
        assert await socket.event() == WAKE
        await self.until(lambda: not self.sockets.resting)
        return device, socket

    async def write(self, library: str = "lib", number: int = 0) -> None:
        """Write something new."""
        await self.service.catalog.put(library, [gone(number)])

    async def until(self, what: Callable[[], Any]) -> None:
        async with asyncio.timeout(30):
            while not what():  # noqa: ASYNC110 - of many kinds, without a common event
                await asyncio.sleep(0.01)


def gone(number: int) -> Entity:
    return read_line(b'{"type":"UserDeleteV1","data":{"userId":"u%d"}}' % number)


@asynccontextmanager
async def served(url: str, **rules: Any) -> AsyncIterator[Served]:
    store = await open_store(url)
    assert isinstance(store, StandaloneStore)
    async with serving(store) as service:
        rules = {"wake_every_s": 0.2, **rules}
        sockets = Sockets(service.services, Signals(store, PARTITIONS), SocketRules(**rules))

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await (sockets if sockets.takes(scope) else service.app)(scope, receive, send)

        config = Config(app, log_config=None, lifespan="off", interface="asgi3")
        bound(config, on=True)
        load = Load(1)
        state = WorkerState(load, 0, ProxyHint(lambda host: False))
        server = await asyncio.get_running_loop().create_server(
            lambda: LedgerHttpProtocol(config, state, {}), "127.0.0.1", 0
        )
        async with server:
            yield Served(service, sockets, server.sockets[0].getsockname()[1], load, state)
            for connection in list(state.connections):
                connection.transport.abort()
            while sockets.count:  # noqa: ASYNC110 - they end by themselves
                await asyncio.sleep(0.01)
        await sockets.close()
    await store.close()


async def test_a_write_wakes_its_own_library_at_once_and_then_once_in_a_while(valkey_url: str) -> None:
    async with served(valkey_url, wake_every_s=1.0) as at:
        _, ann = await at.in_step()
        _, other_library = await at.in_step("ann", "other")
        _, bob = await at.in_step("bob", "bobs")
        began_s = time.monotonic()
        await at.write()
        assert await ann.event() == WAKE
        for number in range(1, 6):
            await at.write(number=number)
        assert await ann.event() == WAKE, "the last write is not lost"
        assert time.monotonic() - began_s >= 1, "but not again within the time"
        assert await ann.quiet(1.5), "and is told of once"
        assert await other_library.quiet(0.01)
        assert await bob.quiet(0.01)


async def test_all_devices_of_a_library_are_woken(valkey_url: str) -> None:
    async with served(valkey_url) as at:
        sockets = [(await at.in_step(user, "shared"))[1] for user in ("ann", "bob", "ann")]
        await at.write("shared")
        for socket in sockets:
            assert await socket.event() == WAKE


async def test_who_is_in_step_hears_nothing_and_who_is_not_hears_it_at_once(valkey_url: str) -> None:
    async with served(valkey_url) as at:
        device = await at.service.sign_in()
        await at.write()
        lines = await at.service.stream(device.token, "UsersV1")
        assert lines[-1]["type"] == "SyncCompleteV1"
        for line in lines:
            answer = await at.service.ask("POST", "/api/sync/ack", device.token, json={"acks": [line["ack"]]})
            assert answer.status_code == 204
        socket = await at.join(device.token)
        assert await socket.quiet(0.5), "nothing was written since it synced"
        socket.close()
        await at.until(lambda: at.sockets.count == 0)
        await at.write(number=1)  # while it was away
        socket = await at.join(device.token)
        assert await socket.event() == WAKE
        await at.service.ledger.execute("ann", device.sid, RequestReset(on=True, by=plain("op")))
        socket = await at.join(device.token)
        assert await socket.event() == WAKE, "it is to start over"


async def test_a_session_that_ends_is_told_so_and_its_connection_ends(valkey_url: str) -> None:
    async with served(valkey_url) as at:
        device, socket = await at.in_step()
        _, other = await at.in_step()
        assert (await at.service.ask("POST", "/api/auth/logout", device.token)).status_code == 200
        assert await socket.event() == ["on_session_delete", device.sid]
        assert await socket.text() == "41"
        assert await socket.until_closed() == [], "also if its client does not go"
        await at.write()
        assert await other.event() == WAKE
        again = await RawSocket.join(at.port, x_immich_user_token=device.token)
        assert await again.event() == ["error", "unauthorized"]
        assert await again.until_closed() == ["41"]


async def test_a_session_that_ends_while_its_socket_opens_is_found(valkey_url: str) -> None:
    async with served(valkey_url) as at:
        device = await at.service.sign_in()
        opened = await RawSocket.open(at.port, x_immich_user_token=device.token)  # it is admitted, and not joined yet
        await opened.text()
        await at.service.ledger.execute("ann", device.sid, EndSession("logout"))
        opened.say("40")
        assert any("on_session_delete" in text for text in await opened.until_closed())


async def test_a_session_ends_at_its_time(valkey_url: str) -> None:
    async with served(valkey_url) as at:
        device = await at.service.sign_in(expires_at_us=at.service.clock.now_us + 1_000_000)
        socket = await at.join(device.token)
        assert await socket.event() == WAKE
        away = await at.join(device.token)
        away.close()
        await at.until(lambda: at.sockets.count == 1)
        assert len(at.sockets._catching_up._timers) == 1, "nothing is kept of who left"
        at.service.clock.now_us += 2_000_000
        assert await socket.event(NEWS) == ["on_session_delete", device.sid]
        await socket.until_closed()


async def test_a_store_that_lost_its_ledger_signs_nobody_out(valkey_url: str) -> None:
    async with served(valkey_url) as at:
        _, socket = await at.in_step()
        await at.service.store.command("FLUSHALL", key=b"")
        for place in list(at.sockets._rooms._rooms_at):
            at.sockets._missed(place)
        assert await socket.quiet(0.5)


async def test_a_token_admits_wherever_it_stands(valkey_url: str) -> None:
    async with served(valkey_url) as at:
        token = (await at.service.sign_in()).token
        own = {"Cookie": f"immich_access_token={token}", "Origin": f"http://127.0.0.1:{at.port}"}
        for headers in (
            {"x_immich_user_token": token}, {"x_immich_session_token": token}, {"Authorization": f"Bearer {token}"},
            {"Cookie": f"immich_access_token={token}"}, own,
        ):  # fmt: skip
            socket = await RawSocket.join(at.port, **headers)
            assert (await socket.event())[0] == VERSION, headers
        socket = await RawSocket.join(at.port, f"{SOCKET}&sessionKey={token}")
        assert (await socket.event())[0] == VERSION


async def test_who_is_not_admitted_is_let_go_for_good(valkey_url: str) -> None:
    async with served(valkey_url) as at:
        token = (await at.service.sign_in()).token
        key, _ = await at.service.api_keys.create(["audit.read"], name="any", now_us=1)
        foreign = {"Cookie": f"immich_access_token={token}", "Origin": "https://evil.example"}
        headers: tuple[dict[str, str], ...] = ({}, {"x_immich_user_token": "x" * 43}, {"x_api_key": key}, foreign)
        sockets = [await RawSocket.join(at.port, **each) for each in headers]
        for socket in sockets:
            assert await socket.event() == ["error", "unauthorized"]
            assert await socket.until_closed() == ["41"]
        assert at.sockets.libraries() == {}


async def test_guesses_are_counted_and_limited(valkey_url: str) -> None:
    async with served(valkey_url) as at:
        for _ in range(120):
            await at.service.services.limits.bad_token(_Local(), None)  # type: ignore[arg-type]
        with pytest.raises(Refused) as refused:
            await RawSocket.open(at.port, x_immich_user_token="x" * 43)
        assert refused.value.status == 429
        assert int(refused.value.headers["retry-after"]) > 0


class _Local:
    remote_addr = "127.0.0.1"


async def test_no_more_sockets_than_there_may_be(valkey_url: str) -> None:
    async with served(valkey_url, most=2) as at:
        first = (await at.in_step())[1]
        second = (await at.in_step("bob"))[1]
        with pytest.raises(Refused) as refused:
            await at.in_step("cleo")
        assert (refused.value.status, refused.value.headers["retry-after"]) == (503, "60")
        assert "too many sockets" in refused.value.body["message"].lower()
        first.close()
        await at.until(lambda: at.sockets.count == 1)
        third = (await at.in_step("cleo"))[1]
        await at.write()
        assert await second.event() == await third.event() == WAKE


async def test_of_a_user_the_oldest_sockets_are_let_go(valkey_url: str) -> None:
    async with served(valkey_url, of_a_user=2) as at:
        (_, oldest), (_, second) = await at.in_step(), await at.in_step()
        bob, third = (await at.in_step("bob"))[1], (await at.in_step())[1]
        assert "41" in await oldest.until_closed()
        await at.write()
        assert await second.event() == WAKE
        assert await bob.event() == await third.event() == WAKE


async def test_what_a_client_sends_is_bounded(valkey_url: str) -> None:
    async with served(valkey_url, messages=5) as at:
        (_, long), (_, often), (_, binary) = [await at.in_step() for _ in range(3)]
        long.say("42" + "x" * 5000)
        await long.until_closed()
        assert long.closed == 1009
        for _ in range(5):
            often.say('42["on_album_update"]')
        await often.until_closed()
        binary.say('451-["x",{"_placeholder":true,"num":0}]')
        binary.say(b"x")
        assert await binary.quiet(0.2), "an event of a client is none of anybody's"
        await at.until(lambda: at.sockets.count == 1)


async def test_who_does_not_join_or_answer_is_gone(valkey_url: str) -> None:
    async with served(valkey_url, join_s=0.5, ping_s=0.5, pong_s=0.5) as at:
        device = await at.service.sign_in()
        shy = await RawSocket.open(at.port, x_immich_user_token=device.token)
        assert len(await shy.until_closed()) == 1
        silent, lively = await at.join(device.token), await at.join(device.token)
        silent.answers = False
        gone, _ = await asyncio.gather(silent.until_closed(), lively.pinged(4))
        assert silent.pings >= 1, gone
        assert at.sockets.count == 1


async def test_nothing_is_left_of_sockets_that_went(valkey_url: str) -> None:
    async with served(valkey_url, ping_s=1.0) as at:
        tasks = len(asyncio.all_tasks())
        for _ in range(2):
            joined = [(await at.in_step(user))[1] for user in ("ann", "bob", "ann")]
            assert at.load.least().connections == 3, "a worker tells its siblings of them"
            joined[0].say("41")
            joined[1].close()
            joined[2].say("1")
            await asyncio.gather(joined[0].until_closed(), joined[2].until_closed())
            await at.until(lambda: at.sockets.count == 0)
            await at.until(lambda: at.load.least().connections == 0)
        assert at.sockets.libraries() == {}
        rooms = at.sockets._rooms
        left = (rooms.rooms, rooms._members, rooms._rooms_of, rooms._rooms_at, rooms.pending_disconnect)
        assert not any(left), left
        await at.until(lambda: len(asyncio.all_tasks()) <= tasks)
        assert await at.service.store.command("PUBSUB", "SHARDCHANNELS", key=b"") == []


async def test_what_is_not_spoken_is_refused_in_words(valkey_url: str) -> None:
    async with served(valkey_url) as at:
        old, polling = SOCKET.replace("EIO=4", "EIO=3"), SOCKET.replace("websocket", "polling")
        for target in (old, polling, f"{SOCKET}&sid=x", "/api/socket.io"):
            with pytest.raises(Refused) as refused:
                await RawSocket.open(at.port, target)
            assert refused.value.status == 400
            assert "EIO=4" in refused.value.body["message"]


async def test_other_paths_know_no_sockets(valkey_url: str) -> None:
    async with served(valkey_url) as at:
        for target, status in (("/api/socket.io2/?EIO=4&transport=websocket", 404), ("/api/server/about", 401)):
            with pytest.raises(Refused) as refused:
                await RawSocket.open(at.port, target)
            assert refused.value.status == status
        answer = await at.service.ask("GET", SOCKET)
        assert answer.status_code == 404, "it is no path of HTTP"
