"""A user's signed-in devices.

Under /api the SDK's shapes (a bare array), at the root the seed's (`{"sessions": [...]}`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Final

import falcon
import falcon.asgi
import msgspec

from endpoints.http import bodies
from endpoints.http.operations import Operation, Route
from endpoints.http.replies import iso_ms, send
from endpoints.http.request import Request
from endpoints.services import Services
from ledger.admission import Caller
from ledger.commands import Command, CreateSession, EndSession, RequestReset
from ledger.errors import InvalidInput, NoSuchSession, NothingToUpdate, SessionEnded
from ledger.log.user_sessions import Heard
from ledger.personal import plain, text_of
from ledger.state import State

MAX_DURATION_S: Final = 100 * 365 * 86_400
MAX_DEVICE_CHARS: Final = 64
SESSION_ID: Final = re.compile("[0-9a-f]{64}")
MOST_LISTED: Final = 1000
"""How many devices one answer lists. The SDK's shape has no pages: a user with more, of a time without a bound or one
that was set, sees those used last; as these end, the others come."""
_PLACE: Final = re.compile(r"(\d{1,16})\.([0-9a-f]{64})", re.ASCII)
DeviceText = Annotated[str, msgspec.Meta(max_length=MAX_DEVICE_CHARS)]


class SessionCreateDto(msgspec.Struct, frozen=True, rename={"device_type": "deviceType", "device_os": "deviceOS"}):
    """A session to make; `duration` in seconds, without it the session does not expire."""

    device_type: DeviceText = ""
    device_os: DeviceText = ""
    duration: Annotated[int, msgspec.Meta(ge=1, le=MAX_DURATION_S)] | msgspec.UnsetType = msgspec.UNSET


class SessionUpdateDto(msgspec.Struct, frozen=True, rename="camel"):
    """What can be changed of a session."""

    is_pending_sync_reset: bool | msgspec.UnsetType = msgspec.UNSET


class SessionResponseDto(msgspec.Struct, frozen=True):
    """A signed-in device, in the SDK's own field names."""

    id: str
    createdAt: str  # noqa: N815
    updatedAt: str  # noqa: N815
    current: bool
    deviceOS: str  # noqa: N815
    deviceType: str  # noqa: N815
    appVersion: str | None  # noqa: N815
    isPendingSyncReset: bool  # noqa: N815
    expiresAt: str | msgspec.UnsetType = msgspec.UNSET  # noqa: N815


class SessionCreateResponseDto(SessionResponseDto, frozen=True, kw_only=True):
    """A session just made, with its token, which is shown once."""

    token: str


class SessionsDto(msgspec.Struct, frozen=True):
    """The seed's shape of the list; `next` is there where it goes on, to be given as `after`."""

    sessions: list[SessionResponseDto]
    next: str | msgspec.UnsetType = msgspec.UNSET


class SessionsQuery(msgspec.Struct, frozen=True):
    """How many devices, those used last first, and from where on."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_LISTED, description="How many at most")] = MOST_LISTED
    after: Annotated[str, msgspec.Meta(description="The `next` of the page before")] | None = None

    def place(self) -> Heard | None:
        """Tell from where to go on; raises InvalidInput."""
        if self.after is None:
            return None
        found = _PLACE.fullmatch(self.after)
        if found is None:
            raise InvalidInput([(("after",), "Expected the `next` of a page")])
        return Heard(int(found[1]), found[2])


class Sessions:
    """All devices of the user who asks."""

    def __init__(self, services: Services) -> None:
        self._ledger = services.ledger
        self._auth = services.auth
        self._tokens = services.tokens
        self._limits = services.limits
        self._settings = services.settings

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        send(resp, (await self._list(req, SessionsQuery())).sessions)

    async def on_get_seed(self, req: Request, resp: falcon.asgi.Response) -> None:
        send(resp, await self._list(req, bodies.query(req, SessionsQuery)))

    async def on_post(self, req: Request, resp: falcon.asgi.Response) -> None:
        caller = await self._auth.session(req, "session.create")
        self._settings.check_tokens_here()
        body = await bodies.decode(req, _decode_create)
        parent = await self._ledger.admit(caller)
        await self._limits.session(parent.user)
        now_us = self._ledger.clock()
        ends = [] if body.duration is msgspec.UNSET else [now_us + body.duration * 1_000_000]
        ends += [] if parent.expires_at_us is None else [parent.expires_at_us]  # it ends with its parent all the same
        issued = self._tokens.issue(parent.user, now_us, min(ends) - now_us if ends else None)
        command = CreateSession(
            user=parent.user,
            library=parent.library,
            parent=parent.sid,
            device_type=plain(body.device_type),
            device_os=plain(body.device_os),
            expires_at_us=issued.expires_at_us,
            authenticated_by="session",
        )
        state = await self._ledger.execute(parent.user, issued.sid, command)
        dto = session_dto(await self._ledger.sealing.opened(state), state.at_us, current=False)
        send(resp, SessionCreateResponseDto(**msgspec.structs.asdict(dto), token=issued.token), falcon.HTTP_201)

    async def on_delete(self, req: Request, resp: falcon.asgi.Response) -> None:
        caller = await self._auth.session(req, "session.delete")
        self._settings.check_sessions_here()
        await self._ledger.admit(caller)
        await self._ledger.end_others(caller.user, caller.sid, EndSession("revoked_others", by=plain(caller.user)))
        resp.status = falcon.HTTP_204

    async def _list(self, req: Request, query: SessionsQuery) -> SessionsDto:
        caller = await self._auth.session(req, "session.read")
        await self._ledger.admit(caller)
        (living, damaged), heard = await self._ledger.sessions.newest(caller.user, query.limit, query.place())
        seen_ms, now_us = {sid: ms for ms, sid in heard}, self._ledger.clock()
        timed = [(max(state.at_us, seen_ms[state.sid] * 1000), state) for state in living if state.lives_at(now_us)]
        timed.sort(key=lambda pair: (pair[0], pair[1].created_at_us), reverse=True)
        found = [
            *[
                session_dto(await self._ledger.sealing.opened(state), updated_us, current=state.sid == caller.sid)
                for updated_us, state in timed
            ],
            *(damaged_dto(sid, seen_ms[sid] * 1000) for sid in damaged),
        ]
        goes_on = len(heard) == query.limit
        return SessionsDto(found, f"{heard[-1].seen_ms}.{heard[-1].sid}" if goes_on else msgspec.UNSET)


class Session:
    """One device of the user who asks."""

    def __init__(self, services: Services) -> None:
        self._ledger = services.ledger
        self._auth = services.auth
        self._settings = services.settings

    async def on_put(self, req: Request, resp: falcon.asgi.Response, session_id: str) -> None:
        caller = await self._admitted(req, session_id, "session.update")
        body = await bodies.decode(req, _decode_update)
        if body.is_pending_sync_reset is msgspec.UNSET:
            raise NothingToUpdate("No fields to update")
        command = RequestReset(body.is_pending_sync_reset, by=plain(caller.user))
        state = await self._on(caller, session_id, command, "session.update")
        state = await self._ledger.sealing.opened(state)
        send(resp, session_dto(state, state.at_us, current=False))  # false even for oneself, as upstream answers

    async def on_delete(self, req: Request, resp: falcon.asgi.Response, session_id: str) -> None:
        caller = await self._admitted(req, session_id, "session.delete")
        self._settings.check_sessions_here()
        await self._on(caller, session_id, EndSession("revoked", by=plain(caller.user)), "authDevice.delete")
        resp.status = falcon.HTTP_204

    async def on_post_lock(self, req: Request, resp: falcon.asgi.Response, session_id: str) -> None:
        """Answer as upstream; there is no PIN code here, so nothing is ever unlocked."""
        caller = await self._admitted(req, session_id, "session.lock")
        state = await self._ledger.look(self._ledger.partition_of(caller.user), session_id)
        if state is None or state.user != caller.user or not state.lives_at(self._ledger.clock()):
            raise _no_access("session.lock")
        resp.status = falcon.HTTP_204

    async def _admitted(self, req: Request, session_id: str, permission: str) -> Caller:
        caller = await self._auth.session(req, permission)
        await self._ledger.admit(caller)
        check_session_id(session_id)
        return caller

    async def _on(self, caller: Caller, session_id: str, command: Command, access: str) -> State:
        try:
            return await self._ledger.execute(caller.user, session_id, command)
        except SessionEnded as error:
            raise _no_access(access) from error


class SessionAtRoot:
    """The seed's form of one device: it can only be ended."""

    def __init__(self, session: Session) -> None:
        self.on_delete = session.on_delete


def check_session_id(session_id: str, field: str = "id") -> None:
    """Refuse what cannot be a session id; raises InvalidInput, which names the `field`."""
    if not SESSION_ID.fullmatch(session_id):
        raise InvalidInput([((field,), "Expected a session id: 64 hexadecimal digits in lower case")])


def _no_access(access: str) -> NoSuchSession:
    return NoSuchSession(f"Not found or no {access} access")


def session_dto(state: State, updated_us: int, *, current: bool) -> SessionResponseDto:
    """Describe an opened session as the SDK has it; `updated_us` is when it was last used."""
    return SessionResponseDto(
        id=state.sid,
        createdAt=iso_ms(state.created_at_us),
        updatedAt=iso_ms(updated_us),
        current=current,
        deviceOS=text_of(state.device_os) or "",
        deviceType=text_of(state.device_type) or "",
        appVersion=text_of(state.app_version) or None,
        isPendingSyncReset=state.pending_reset,
        expiresAt=msgspec.UNSET if state.over_at_us is None else iso_ms(state.over_at_us),
    )


def damaged_dto(sid: str, seen_us: int) -> SessionResponseDto:
    """Describe a session of which only is known that it is there: its owner must see it, to be able to end it."""
    seen = iso_ms(seen_us)
    return SessionResponseDto(
        sid, seen, seen, current=False, deviceOS="", deviceType="", appVersion=None, isPendingSyncReset=False
    )


_decode_create: Final = msgspec.json.Decoder(SessionCreateDto)
_decode_update: Final = msgspec.json.Decoder(SessionUpdateDto)


def routes(services: Services) -> Iterator[Route]:
    """List the session routes, under /api and in the seed's shapes at the root."""
    sessions, session = Sessions(services), Session(services)
    yield Route(
        "/api/sessions",
        sessions,
        (
            Operation("GET", "getSessions", "List the user's devices", {200: list[SessionResponseDto]}),
            Operation(
                "POST",
                "createSession",
                "Make a session that ends with this one",
                {201: SessionCreateResponseDto},
                body=SessionCreateDto,
                body_required=False,
                refusals=(429,),
            ),
            Operation("DELETE", "deleteAllSessions", "End all other sessions", {204: None}),
        ),
    )
    delete = Operation("DELETE", "deleteSession", "End a session", {204: None})
    update = Operation(
        "PUT",
        "updateSession",
        "Ask a device to start over",
        {200: SessionResponseDto},
        body=SessionUpdateDto,
        example={"isPendingSyncReset": True},
    )
    yield Route("/api/sessions/{session_id}", session, (update, delete))
    lock = Operation("POST", "lockSession", "Lock a session", {204: None})
    yield Route("/api/sessions/{session_id}/lock", session, (lock,), suffix="lock")
    seed = Operation("GET", "listSessions", "List the user's devices", {200: SessionsDto}, query=SessionsQuery)
    yield Route("/sessions", sessions, (seed,), suffix="seed")
    at_root = Operation("DELETE", "deleteSessionAtRoot", "End a session", {204: None})
    yield Route("/sessions/{session_id}", SessionAtRoot(session), (at_root,))
