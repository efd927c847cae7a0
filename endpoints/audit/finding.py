"""From a user to the phone, for API keys with `audit.read`: GET /ledger/sessions and GET /ledger/users."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Annotated, Final

import falcon.asgi
import msgspec

from endpoints.http import bodies
from endpoints.http.operations import KEY, Operation, Route
from endpoints.http.replies import send
from endpoints.http.request import Request
from endpoints.services import Services
from ledger.errors import InvalidInput
from ledger.keys import check_name
from projections.finding.prefixes import PREFIX, Place, by_prefix
from projections.finding.summaries import SessionFound, all_of, summaries
from projections.finding.users import users_page

SCOPE: Final = "audit.read"
MAX_LIMIT: Final = 200


class SessionsFoundDto(msgspec.Struct, frozen=True):
    """A page of sessions in the order of their ids; ask again with its `next` as `beyond` until that is null."""

    sessions: list[SessionFound]
    next: str | None


class UserFoundDto(msgspec.Struct, frozen=True):
    """A user, and how many of their sessions live and have ended."""

    user: str
    living: int
    ended: int


class UsersFoundDto(msgspec.Struct, frozen=True):
    """A page of users; ask again with its `next` as `beyond` until that is null."""

    users: list[UserFoundDto]
    next: str | None


class FindQuery(msgspec.Struct, frozen=True):
    """Whose sessions, or which: exactly one of `user`, `email` and `id`."""

    user: Annotated[str, msgspec.Meta(description="All sessions of this user")] | None = None
    email: Annotated[str, msgspec.Meta(description="Those of the user with this address")] | None = None
    id: Annotated[str, msgspec.Meta(description="Those whose ids begin like this; 4 hex digits or more")] | None = None
    ended: Annotated[bool, msgspec.Meta(description="Also those that have ended")] = True
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT, description="Sessions in a page")] = 50
    beyond: Annotated[str, msgspec.Meta(description="The `next` of the page before")] | None = None


class UsersQuery(msgspec.Struct, frozen=True):
    """Which users."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT, description="Users in a page")] = 100
    beyond: Annotated[str, msgspec.Meta(description="The `next` of the page before")] | None = None


class FindSessions:
    """Sessions by their user, the user's address, or the start of their id."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        await self._services.auth.key(req, SCOPE)
        query = bodies.query(req, FindQuery)
        if query.beyond is not None and not PREFIX.fullmatch(query.beyond):
            raise InvalidInput([(("beyond",), "it is not the `next` of a page")])
        places = [place for place in await self._places(query) if query.ended or place.lives]
        rest = sorted(place for place in places if query.beyond is None or place.sid > query.beyond)
        page = rest[: query.limit]
        told = await summaries(self._services.ledger, self._services.past, page)
        send(resp, SessionsFoundDto(told, page[-1].sid if len(rest) > len(page) else None))

    async def _places(self, query: FindQuery) -> Sequence[Place]:
        given = [name for name in ("user", "email", "id") if getattr(query, name) is not None]
        if len(given) != 1:
            raise InvalidInput([(("user",), "Give exactly one of user, email and id")])
        ledger = self._services.ledger
        if query.id is not None:
            if not PREFIX.fullmatch(query.id):
                raise InvalidInput([(("id",), "Expected 4 to 64 hexadecimal digits in lower case")])
            return await by_prefix(ledger, query.id)
        user = query.user
        if query.email is not None:
            user = await self._services.user_of_email(query.email)
        return [] if user is None else await all_of(ledger, check_name("user", user), ended=query.ended)


class ListUsers:
    """All who have sessions."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._turn = asyncio.Semaphore(1)

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        await self._services.auth.key(req, SCOPE)
        query = bodies.query(req, UsersQuery)
        try:
            async with self._turn:
                page = await users_page(self._services.ledger, query.beyond, query.limit)
        except ValueError as error:
            raise InvalidInput([(("beyond",), str(error))]) from error
        send(resp, UsersFoundDto([UserFoundDto(*one) for one in page.users], page.next_place))


def routes(services: Services) -> Iterator[Route]:
    """List the routes."""
    find = Operation(
        "GET",
        "findSessions",
        "Find sessions, living and ended, by their user, the user's e-mail address, or the start of their id",
        {200: SessionsFoundDto},
        KEY,
        query=FindQuery,
    )
    yield Route("/ledger/sessions", FindSessions(services), (find,))
    users = Operation(
        "GET", "listUsers", "List who has sessions, living or ended", {200: UsersFoundDto}, KEY, query=UsersQuery
    )
    yield Route("/ledger/users", ListUsers(services), (users,))
