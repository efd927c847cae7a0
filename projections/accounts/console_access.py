"""Who is signed in at the console, and the links that sign in once: kept in the store, each for a time, never many.

A browser holds a secret of 256 random bits in a cookie, a link holds one in its fragment. Kept is only the SHA-256 of
either, so what is read here signs nobody in. A session names who holds it; what they may do is looked up with each
request, so it ends with its API key, and everywhere at once.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec

from ledger import keys
from ledger.errors import CorruptLedger, InvalidInput
from ledger.store.interface import Script, Store
from projections.accounts.api_keys import ID_CHARS

SESSION_US: Final = 8 * 3600 * 1_000_000
"""A working day: then whoever sits there signs in again."""
LINK_US: Final = 5 * 60 * 1_000_000
MOST_SESSIONS: Final = 2000
MOST_OF_ONE: Final = 20
"""Sessions of one holder: signing in once more ends the oldest, and nobody can crowd others out."""
MOST_LINKS: Final = 100
MAX_NAME_CHARS: Final = 100
_MAX_SECRET_CHARS: Final = 128
_PUT: Final = Script.load("projections.accounts", "console_put.lua")
_TAKE: Final = Script.load("projections.accounts", "console_take.lua")


class Holder(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whose a console session is.

    `key`: an API key's, by its whole hash; it may what that key may. `link`: who took a one-time link; it is called
    `name` and may `scopes`. `user`: a user's, for as long as their session `sid` of the ledger lives.
    """

    kind: Literal["key", "link", "user"]
    key_hash: str = ""
    name: str = ""
    scopes: tuple[str, ...] = ()
    user: str = ""
    sid: str = ""

    @property
    def owner_told(self) -> str:
        """Name whose it is for a log: the id of a key, a user, or who made a link."""
        return self.key_hash[:ID_CHARS] or self.user or self.name

    @property
    def owner(self) -> str:
        """Tell what the bound on one holder's sessions goes by."""
        return f"{self.kind} {self.key_hash or self.user or self.name}"


_decode: Final = msgspec.json.Decoder(Holder).decode


class ConsoleAccess:
    """The console's sessions and links. All methods raise StoreUnavailable; `now_us` is the ledger's clock."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def make_link(self, name: str, scopes: Iterable[str], now_us: int) -> str:
        """Make the secret of a link that signs in once within LINK_US as `name`, with `scopes`; raises InvalidInput."""
        if not (1 <= len(name) <= MAX_NAME_CHARS and name.isprintable()):
            raise InvalidInput([(("by",), f"must have 1 to {MAX_NAME_CHARS} printable characters")])
        holder = Holder("link", name=name, scopes=tuple(scopes))
        return await self._put(keys.console_links(), holder, now_us, LINK_US, MOST_LINKS, MOST_LINKS)

    async def take_link(self, secret: str, now_us: int) -> Holder | None:
        """Take what a link signs in as, once; None for one that was taken, is over, or never was."""
        if len(secret) > _MAX_SECRET_CHARS:
            return None
        name = keys.console_links()
        return _living(await self._store.script(_TAKE, (name,), (_digest(secret),)), now_us)

    async def open(self, holder: Holder, now_us: int) -> str:
        """Begin a session of SESSION_US and return its secret; ends the holder's oldest where there are too many."""
        return await self._put(keys.console_sessions(), holder, now_us, SESSION_US, MOST_SESSIONS, MOST_OF_ONE)

    async def find(self, secret: str, now_us: int) -> Holder | None:
        """Tell whose session a secret is; None where it is nobody's, or over."""
        if len(secret) > _MAX_SECRET_CHARS:
            return None
        name = keys.console_sessions()
        return _living(await self._store.command("HGET", name, _digest(secret), key=name), now_us)

    async def close(self, secret: str) -> None:
        """End a session."""
        name = keys.console_sessions()
        await self._store.command("HDEL", name, _digest(secret), key=name)

    async def close_all(self) -> int:
        """End all sessions and links; returns how many sessions there were."""
        name, links = keys.console_sessions(), keys.console_links()
        count = int(await self._store.command("HLEN", name, key=name))
        await self._store.command("DEL", name, key=name)
        await self._store.command("DEL", links, key=links)
        return count

    async def _put(self, name: bytes, holder: Holder, now_us: int, for_us: int, most: int, most_of_one: int) -> str:
        secret = secrets.token_urlsafe(32)
        owner = _digest(holder.owner)[:16]
        text = msgspec.json.encode(holder)
        arguments = (_digest(secret), now_us + for_us, owner, text, now_us, most, most_of_one)
        await self._store.script(_PUT, (name,), arguments)
        return secret


def _living(kept: Any, now_us: int) -> Holder | None:
    if kept is None:
        return None
    over_us, _, text = bytes(kept).split(b" ", 2)
    if int(over_us) <= now_us:
        return None
    try:
        return _decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptLedger(f"A session of the console cannot be read: {error}") from error


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
