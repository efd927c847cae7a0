"""A user's identity record in Redis, and what it says the user holds: identities and e-mail addresses.

Those lie in other slots, so no script covers all. What is about to be taken is noted in the record first, and what is
given up is removed from it last: whatever breaks in between, the record names all that the user may hold, and the same
done again completes it. Each is held under a token of its own, so that giving it up late never takes it from
somebody who has it anew.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Final, Literal, NamedTuple

from ledger import keys
from ledger.store.interface import Arg, Script, Store

_INTEND: Final = Script.load("projections.accounts", "identity_intend.lua")
_TAKE: Final = Script.load("projections.accounts", "identity_take.lua")
_RELEASE: Final = Script.load("projections.accounts", "identity_release.lua", allow_oom=True)
_COMMIT: Final = Script.load("projections.accounts", "identity_commit.lua")
_LEAVE: Final = Script.load("projections.accounts", "identity_leave.lua", allow_oom=True)
_FORGET: Final = Script.load("projections.accounts", "identity_forget.lua", allow_oom=True)

Fields = dict[str, str]
Waiting = Mapping[str, str]  # field of the record -> token
Wanted = tuple[str, str]  # field of the record, token


class Held(NamedTuple):
    """Which user has an identity or an e-mail address, and under which token."""

    user: str
    token: str = ""


class Intent(NamedTuple):
    """What was noted: link and address, each a field and its token; whether there is an address on record already."""

    link: Wanted
    address: Wanted
    has_email: bool


class Committed(NamedTuple):
    """A complete record, and the addresses that its user had before and must let go."""

    fields: Fields
    leaving: Waiting


def link_field(digest: str) -> str:
    """Name the field of an identity in the record."""
    return f"link:{digest}"


def address_field(digest: str) -> str:
    """Name the field of an e-mail address in the record."""
    return f"address:{digest}"


def taken(token: str) -> str:
    """Print what a field of the record holds once its identity or address is taken."""
    return f"={token}"


async def held_as(store: Store, name: bytes) -> Held | None:
    """Tell how an identity or an e-mail address is held; None if it is nobody's."""
    value = await store.command("GET", name, key=name)
    return None if value is None else Held(*value.decode().split(" ", 1))


async def holder(store: Store, name: bytes) -> str | None:
    """Tell which user has an identity or an e-mail address."""
    held = await held_as(store, name)
    return None if held is None else held.user


class Record:
    """The identity record of one user."""

    def __init__(self, store: Store, partition: int, user: str) -> None:
        self.user = user
        self._store = store
        self._name = keys.identity(partition, user)

    async def read(self) -> Fields:
        """Read the record; empty if there is none."""
        return _fields(await self._store.command("HGETALL", self._name, key=self._name))

    async def intend(self, link: str, address: str) -> Intent:
        """Note what is about to be taken."""
        args = (secrets.token_hex(8), link, address)
        link_token, address_token, has_email = await self._store.script(_INTEND, [self._name], args)
        return Intent((link, link_token.decode()), (address, address_token.decode()), has_email == 1)

    async def take(self, wanted: Wanted) -> bool:
        """Take an identity or an address for the user; False if it is another user's."""
        field, token = wanted
        taken_by = await self._store.script(_TAKE, [_key(field)], (self.user, token))
        return bool(taken_by == self.user.encode())

    async def commit(
        self, link: Wanted, address: Wanted | None, fields: Fields, library: str, now_us: int
    ) -> Committed | None:
        """Complete the record with what was taken; None if it was cleared up meanwhile.

        Without an `address` the user keeps the one on record. `library` is that of a record without one.
        """
        values = chain.from_iterable(fields.items())
        args: tuple[Arg, ...] = (*link, *(address or ("", "")), now_us // 1000, library, *values)
        reply = await self._store.script(_COMMIT, [self._name], args)
        return None if reply is None else Committed(_fields(reply[0]), _fields(reply[1]))

    async def withdraw(self, *wanted: Wanted) -> None:
        """Let go what was noted, and perhaps taken, under these tokens, if nobody completed it."""
        await self._leave("wanted", chain.from_iterable(wanted))

    async def clear(self, what: Literal["links", "all"]) -> bool:
        """Let all identities go, or with `all` everything, and with it the record; False if there is none."""
        return await self._leave(what, ())

    async def let_go(self, leaving: Waiting) -> None:
        """Give up what the record notes as leaving."""
        for field, token in leaving.items():
            await self._store.script(_RELEASE, [_key(field)], (self.user, token))
        if leaving:
            await self._store.script(_FORGET, [self._name], tuple(chain.from_iterable(leaving.items())))

    async def _leave(self, what: str, wanted: Iterable[str]) -> bool:
        leaving = await self._store.script(_LEAVE, [self._name], (what, *wanted))
        if leaving is None:
            return False
        await self.let_go(_fields(leaving))
        return True


def _key(field: str) -> bytes:
    kind, _, digest = field.partition(":")
    return keys.identity_link(digest) if kind == "link" else keys.email(digest)


def _fields(flat: list[bytes]) -> Fields:
    return {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}
