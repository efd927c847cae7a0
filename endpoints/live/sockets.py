"""/api/socket.io: the socket that the app opens behind its sign-in, by which it is told to sync.

Nothing is taken from clients beyond their joining, leaving and answering pings. As at Immich a token that admits nobody
hears `error` and is let go, which the app takes for final; all else that keeps a socket from being opened is an HTTP
answer, behind which the app tries again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec
import socketio

from endpoints.accounts.auth import Kind, presented
from endpoints.http.errors import ErrorDto, Forbidden, Unauthenticated, answer_to
from endpoints.http.refusals import Refusals
from endpoints.http.request import Request
from endpoints.live import MESSAGE_BYTES, PATH
from endpoints.live.catching_up import CatchingUp
from endpoints.live.pace import EVERY_S, Pace
from endpoints.live.rooms import NAMESPACE, Rooms, SessionRoom, UserRoom
from endpoints.server_info import ServerVersionResponseDto
from endpoints.services import Services
from ledger.errors import LedgerError, SessionEnded
from ledger.state import State
from projections.live.signals import Endings, Library, Place, Signals

log = logging.getLogger(__name__)

WAKE: Final = "on_album_update"
"""The app answers it with a sync whatever it carries, so it carries nothing."""
SESSION_DELETE: Final = "on_session_delete"
LEAVE_S: Final = 2.0
"""How long a client may take to leave when it is told to."""
TOO_MANY: Final = "There are too many sockets open here; without one the app syncs when it is started"
_HEADERS: Final = frozenset((b"connection", b"upgrade"))

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class SocketRules(msgspec.Struct, frozen=True):
    """What sockets may do at one worker; times in seconds.

    Between pings, and until one is answered, as long as Immich has it. Beyond `of_a_user` the oldest socket of a user
    is let go. A client that joins and answers pings sends two `messages` from one ping to the next.
    """

    most: int = 5000
    of_a_user: int = 32
    messages: int = 16
    join_s: float = 10.0
    ping_s: float = 25.0
    pong_s: float = 20.0
    wake_every_s: float = EVERY_S


class Seat:
    """One connection: of which session it is, None if of nobody's, and until when it may go on."""

    __slots__ = ("counted", "io_sid", "limit", "room", "session")

    def __init__(self, state: State | None, endings: Endings | None, limit: asyncio.Timeout) -> None:
        self.io_sid = ""
        self.limit = limit
        self.counted = 0
        self.room = None if state is None else UserRoom(state.user, Library(state.library))
        self.session = None if state is None or endings is None else SessionRoom(state.sid, endings)

    def end_in(self, seconds: float) -> None:
        """Have the connection closed in a moment, whatever its client does."""
        self.limit.reschedule(asyncio.get_running_loop().time() + seconds)


class Sockets:
    """All sockets of a worker; an ASGI application for the connections that `takes` says are its own."""

    def __init__(self, services: Services, signals: Signals, rules: SocketRules) -> None:
        self._services = services
        self._signals = signals
        self._refusals = Refusals(services)
        self._rules = rules
        self._count = 0
        self._seats: dict[str, Seat] = {}
        self._by_user: dict[str, dict[str, None]] = {}
        self._rooms = Rooms(signals)
        self._pace = Pace(self._wake, rules.wake_every_s)
        self._catching_up = CatchingUp(services, self._seats.get, self._behind, self._over)
        self._tasks: set[asyncio.Task[None]] = set()
        self._io = socketio.AsyncServer(
            client_manager=self._rooms,
            async_mode="asgi",
            transports=["websocket"],
            ping_interval=rules.ping_s,
            ping_timeout=rules.pong_s,
            max_http_buffer_size=MESSAGE_BYTES,
            cors_allowed_origins=[],  # who sent a cookie is looked at where it is read
            always_connect=True,
            async_handlers=False,
            monitor_clients=False,  # a connection that is silent for too long ends by itself
        )
        self._io.on("connect", self._joined)
        self._io.on("disconnect", self._left)
        signals.listen(self._told, self._missed)

    @staticmethod
    def takes(scope: dict[str, Any]) -> bool:
        """Tell whether a connection is a web socket of the app's."""
        return scope["type"] == "websocket" and str(scope["path"]).rstrip("/") == PATH

    @property
    def signals(self) -> Signals:
        """Where is told what sockets hear."""
        return self._signals

    @property
    def resting(self) -> int:
        """How many users' devices were woken of late, and will not be for a moment."""
        return self._pace.rests

    @property
    def count(self) -> int:
        """How many there are."""
        return self._count

    def libraries(self) -> dict[str, tuple[str, str]]:
        """Give the libraries that are listened for here, each with the user and the id of a session that syncs it."""
        seats = self._seats.values()
        return {s.room.place.library: (s.room.user, s.session.sid) for s in seats if s.room and s.session}

    def written(self, library: str) -> None:
        """Take in that something was written to a library, of which the store tells nothing."""
        self._told(Library(library), "")

    async def close(self) -> None:
        """Send nothing any more."""
        self._pace.close()
        self._catching_up.close()
        for task in self._tasks:
            task.cancel()
        await self._signals.close()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve one connection to its end."""
        if (await receive())["type"] != "websocket.connect":
            return
        if self._count >= self._rules.most:
            await self._services.counters.note("sockets_refused")
            await _answer(send, 503, TOO_MANY, retry_after_s=60)
            return
        self._count += 1  # before anything is waited for
        try:
            await self._serve(scope, receive, send)
        finally:
            self._count -= 1

    async def _serve(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if query.get("EIO") != ["4"] or query.get("transport") != ["websocket"] or "sid" in query:
            await _answer(send, 400, "Engine.IO 4 is spoken here, over web sockets: EIO=4&transport=websocket")
            return
        try:
            state = await self._admit(Request(scope, receive))
        except (SessionEnded, Unauthenticated, Forbidden):
            state = None
        except LedgerError as error:
            await _refuse(send, error)
            return
        async with asyncio.timeout(self._rules.join_s) as limit:
            seat = Seat(state, None if state is None else self._signals.endings_of(state.user), limit)
            lean = {name: scope[name] for name in ("type", "path", "query_string", "client")}
            lean["headers"] = [pair for pair in scope["headers"] if pair[0] in _HEADERS]  # no token stays in memory
            lean["ledger.seat"] = seat
            try:
                await self._io.handle_request(lean, _Messages(receive, seat, self._rules).next, send)
            finally:
                if seat.io_sid:
                    self._forget(seat)

    async def _admit(self, req: Request) -> State:
        """Load the session of whoever asks; raises what to answer with."""
        try:
            if presented(req).kind is Kind.COOKIE:
                self._services.auth.origins.check_any(req)  # a browser lets any page open a socket with its cookies
            caller = await self._services.auth.session(req, "sync.stream")
            return await self._services.ledger.admit(caller)
        except LedgerError as error:
            raise await self._refusals.judged(req, error) from None

    async def _joined(self, io_sid: str, environ: dict[str, Any], auth: object) -> None:
        """Take in a connection that joined, or let it go."""
        seat: Seat = environ["asgi.scope"]["ledger.seat"]
        environ.clear()  # PERF: it would be kept for as long as the connection
        if seat.room is None or seat.session is None or seat.io_sid:
            await self._io.emit("error", "unauthorized", to=io_sid)
            await self._io.disconnect(io_sid)
            seat.end_in(LEAVE_S)
            return
        seat.io_sid = io_sid
        seat.limit.reschedule(None)
        self._seats[io_sid] = seat
        own = self._by_user.setdefault(seat.room.user, {})
        own[io_sid] = None
        await self._io.enter_room(io_sid, seat.room)
        await self._io.enter_room(io_sid, seat.session)
        if len(own) > self._rules.of_a_user:
            await self._services.counters.note("sockets_refused")
            await self._let_go(next(iter(own)))
        version = ServerVersionResponseDto(*await self._services.protocol_version())
        await self._io.emit("on_server_version", msgspec.to_builtins(version), to=io_sid)
        self._look_at(seat)

    async def _left(self, io_sid: str, reason: str) -> None:
        """Forget a socket; its connection is closed in a moment."""
        if (seat := self._seats.get(io_sid)) is not None:
            self._forget(seat)
            seat.end_in(LEAVE_S)

    def _forget(self, seat: Seat) -> None:
        if self._seats.pop(seat.io_sid, None) is None or seat.room is None:
            return
        self._catching_up.forget(seat.io_sid)
        own = self._by_user[seat.room.user]
        del own[seat.io_sid]
        if not own:
            del self._by_user[seat.room.user]
        self._rooms.basic_disconnect(seat.io_sid, NAMESPACE)

    # What is sent -----------------------------------------------------------------------------------------------------

    def _told(self, place: Place, text: str) -> None:
        """Take what was told at a place: something was written, or a session ended."""
        if isinstance(place, Library):
            for room in self._rooms.at(place):
                if isinstance(room, UserRoom):
                    self._pace.wake(room)
        else:
            self._over(text, place)

    def _missed(self, place: Place) -> None:
        """Look at all who might not have heard what was told at a place."""
        for room in self._rooms.at(place):
            for io_sid in self._rooms.members(room):
                if (seat := self._seats.get(io_sid)) is not None:
                    self._look_at(seat)

    def _look_at(self, seat: Seat) -> None:
        """Look after a socket once all that concerns it is heard; until then it would be looked at again."""
        if seat.room is None or seat.session is None:
            return
        if self._signals.hears(seat.room.place) and self._signals.hears(seat.session.place):
            self._catching_up.add(seat.io_sid)

    def _behind(self, seat: Seat) -> None:
        """Wake a device that has not all that was written; others of its user may have."""
        if seat.room is not None:
            self._pace.wake(seat.room, seat.io_sid)

    def _over(self, sid: str, place: Endings) -> None:
        """Tell a session that it ended, and let its sockets go."""
        room = SessionRoom(sid, place)
        if self._rooms.members(room):
            task = asyncio.get_running_loop().create_task(self._end(room))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _wake(self, room: UserRoom, member: str | None) -> None:
        await self._rooms.emit(WAKE, None, NAMESPACE, room=member or room)

    async def _end(self, room: SessionRoom) -> None:
        await self._rooms.emit(SESSION_DELETE, room.sid, NAMESPACE, room=room)
        for io_sid in self._rooms.members(room):
            await self._let_go(io_sid)

    async def _let_go(self, io_sid: str) -> None:
        """Tell a socket to go, which its client takes for final, and close the connection in a moment."""
        await self._io.disconnect(io_sid)


class _Messages:
    """What an ASGI connection receives, as far as it is taken: a client that says too much is gone."""

    def __init__(self, receive: Receive, seat: Seat, rules: SocketRules) -> None:
        self._receive = receive
        self._rules = rules
        self._seat = seat
        self._since = asyncio.get_running_loop().time()
        self._begun = False

    async def next(self) -> dict[str, Any]:
        """Give the next event; the first one is that of connecting, which was taken already."""
        if not self._begun:
            self._begun = True
            return {"type": "websocket.connect"}
        event = await self._receive()
        now = asyncio.get_running_loop().time()
        if now - self._since > self._rules.ping_s:
            self._since, self._seat.counted = now, 0
        self._seat.counted += 1
        if self._seat.counted > self._rules.messages:
            return {"type": "websocket.disconnect", "code": 1008}
        return event


async def _refuse(send: Send, error: LedgerError) -> None:
    """Answer with an error, as any other path does."""
    status, body = answer_to(error, "GET", PATH)
    if status >= 500:
        log.error("%d GET %s: %s", status, PATH, error)
    await _answer(send, status, body.message, retry_after_s=getattr(error, "retry_after_s", None))


async def _answer(send: Send, status: int, message: str, *, retry_after_s: int | None = None) -> None:
    body = msgspec.json.encode(ErrorDto(message))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if retry_after_s is not None:
        headers.append((b"retry-after", str(retry_after_s).encode()))
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
