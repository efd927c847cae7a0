"""API keys: credentials of scripts, without a session, each good for the scopes it was made with.

A key is 256 random bits, shown once. Kept is only its SHA-256, under an id that is the start of that hash: a fast hash
is enough, because nobody can guess what it is the hash of.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

import msgspec

from ledger import keys
from ledger.errors import CorruptLedger, InvalidInput, Refused

SCOPES: Final = ("audit.read", "entities.read", "entities.write")
PREFIX: Final = "slk_"
MAX_NAME_CHARS: Final = 100
_ID_CHARS: Final = 16
_MAX_KEY_CHARS: Final = 128


class ApiKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is kept of a key. `id` is the start of `hash`, which is SHA-256 hex."""

    id: str
    hash: str
    name: str
    scopes: tuple[str, ...]
    created_at_us: int


class _Store(Protocol):
    async def command(self, *args: bytes | str | int, key: bytes) -> Any: ...


_decode: Final = msgspec.json.Decoder(ApiKey).decode


class ApiKeys:
    """The API keys of a ledger."""

    def __init__(self, store: _Store) -> None:
        self._store = store

    async def create(self, scopes: Iterable[str], *, name: str, now_us: int) -> tuple[str, ApiKey]:
        """Make a key and return it, for the only time, with what is kept of it; raises InvalidInput."""
        text = PREFIX + secrets.token_urlsafe(32)
        digest = _digest(text)
        key = ApiKey(digest[:_ID_CHARS], digest, _name(name), _scopes(scopes), now_us)
        taken = await self._run("HSETNX", keys.api_keys(), key.id, msgspec.json.encode(key))
        if taken != 1:
            raise Refused("Two keys got the same id; try again")
        return text, key

    async def find(self, text: str) -> ApiKey | None:
        """Look a presented key up; None if there is no such key."""
        if len(text) > _MAX_KEY_CHARS:
            return None
        digest = _digest(text)
        raw = await self._run("HGET", keys.api_keys(), digest[:_ID_CHARS])
        if raw is None:
            return None
        key = _read(raw)
        return key if hmac.compare_digest(key.hash, digest) else None

    async def all(self) -> list[ApiKey]:
        """List all keys, oldest first; empty without any."""
        raw = await self._run("HVALS", keys.api_keys())
        return sorted((_read(value) for value in raw), key=lambda key: (key.created_at_us, key.id))

    async def revoke(self, key_id: str) -> bool:
        """Delete a key by its id; False if there was none."""
        return bool(await self._run("HDEL", keys.api_keys(), key_id))

    async def _run(self, *args: bytes | str | int) -> Any:
        return await self._store.command(*args, key=keys.api_keys())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _read(raw: bytes) -> ApiKey:
    try:
        return _decode(raw)
    except msgspec.MsgspecError as error:
        raise CorruptLedger(f"An API key cannot be read: {error}") from error


def _name(name: str) -> str:
    if len(name) > MAX_NAME_CHARS or not (name.isprintable() or not name):
        raise InvalidInput([(("name",), f"must have at most {MAX_NAME_CHARS} printable characters")])
    return name


def _scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    wanted: Sequence[str] = tuple(dict.fromkeys(scopes))
    if not wanted:
        raise InvalidInput([(("scopes",), f"must name at least one of {', '.join(SCOPES)}")])
    for scope in wanted:
        if scope not in SCOPES:
            raise InvalidInput([(("scopes",), f"{scope!r} is not one of {', '.join(SCOPES)}")])
    return tuple(wanted)
