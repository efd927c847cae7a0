"""What may be done to a device: have it start over, take that back, sign it out; each asked once more before.

Who did it is in the event: the API key's name, the user, or whose link it was.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import falcon
import falcon.asgi

from endpoints.console.device import Place, Seen
from endpoints.console.pages import PLACE, go_on, show
from endpoints.console.visitors import MANAGE, Visitor, Visitors, one
from endpoints.console.words import device
from endpoints.http.errors import Forbidden
from endpoints.http.request import Request
from endpoints.services import Services
from endpoints.sync.acks import forgotten
from ledger.commands import ClearCheckpoints, EndSession, RequestReset
from ledger.entity_types import CODES, COMPLETE, RESET
from ledger.errors import InvalidInput, Refused, SessionEnded
from ledger.events import ASKED
from ledger.personal import plain, text_of
from ledger.state import State

Fields = dict[str, list[str]]


class Words(NamedTuple):
    """What an action is called, what it does to the device, and what its button says."""

    title: str
    does: str
    button: str


WORDS: Final = {
    "reset": Words(
        "Have this device start over",
        "With its next stream the device is told to forget what it holds of the library, and gets all of it again. "
        "Photos that wait for their upload stay on it.",
        "Have it start over",
    ),
    "take-back": Words(
        "Take the reset back",
        "The device is no longer asked to start over. If it was already told to, it starts over all the same.",
        "Take it back",
    ),
    "sign-out": Words(
        "Sign this device out",
        "Its tokens admit nobody from now on, and a stream that is open ends. Whoever uses it must sign in again. "
        "Its history stays.",
        "Sign it out",
    ),
}


class Action(Seen):
    """One action: a page that asks, and the form on it that does it."""

    def __init__(self, services: Services, visitors: Visitors, name: str) -> None:
        super().__init__(services, visitors)
        self._name = name

    async def on_get(self, req: Request, resp: falcon.asgi.Response, session_id: str) -> None:
        """Ask whether it is meant."""
        visitor = await self.visitors.of(req)
        place = await self.place(visitor, session_id)
        self._check(visitor, place)
        state = await self.ledger.sealing.opened(await self._living(place))
        show(
            resp,
            "confirm.html",
            visitor,
            here="devices" if visitor.sees_all else "mine",
            place=place,
            name=self._name,
            words=WORDS[self._name],
            device=device(text_of(state.device_type), text_of(state.device_os)),
            types=_types_of(state) if self._name == "reset" else (),
        )

    async def on_post(self, req: Request, resp: falcon.asgi.Response, session_id: str) -> None:
        """Do it, and put on record who did."""
        visitor, fields = await self.visitors.form(req)
        place = await self.place(visitor, session_id)
        self._check(visitor, place)
        try:
            done = await self._done(place, visitor, fields)
        except SessionEnded as error:
            raise Refused("This device has been signed out before") from error
        go_on(resp, f"{PLACE}/devices/{place.sid}?done={done}")

    async def _done(self, place: Place, visitor: Visitor, fields: Fields) -> str:
        by = plain(visitor.name)
        if self._name == "sign-out":
            self.services.settings.check_sessions_here()
            await self.ledger.execute(place.user, place.sid, EndSession("revoked", by=by))
        elif self._name == "take-back":
            await self.ledger.execute(place.user, place.sid, RequestReset(False, by=by))
        elif one(fields, "what") == "types":
            types = fields.get("type", [])
            if not types or any(name not in CODES or name in (COMPLETE, RESET) for name in types):
                raise InvalidInput([(("type",), "Choose at least one of the types that are offered")])
            await self.ledger.execute(place.user, place.sid, ClearCheckpoints(forgotten(types), ASKED, by=by))
            return "types"
        else:
            if fields.get("type"):
                raise InvalidInput([(("what",), "Types are chosen, and all of it too: choose which one is meant")])
            await self.ledger.execute(place.user, place.sid, RequestReset(True, by=by))
        return self._name

    def _check(self, visitor: Visitor, place: Place) -> None:
        if not visitor.may_act_on(place.user):
            raise Forbidden(f"You may look, not change anything. That needs an API key of scope {MANAGE} as well")

    async def _living(self, place: Place) -> State:
        state = await self.ledger.look(place.partition, place.sid)
        if state is None:
            raise Refused("This device has been signed out before")
        return state


def _types_of(state: State) -> list[str]:
    """List the types that a device holds something of, in the order of their codes."""
    return sorted((name for name in state.checkpoints if name not in (COMPLETE, RESET)), key=CODES.__getitem__)
