"""API keys: credentials of scripts, without a session, each good for the scopes it was made with.

A key is 256 random bits, shown once. Kept is only its SHA-256, under an id that is the start of that hash: a fast hash
is enough, because nobody can guess what it is the hash of.

When a key was last used is noted beside it, at most once a minute by each process, and no request waits for that.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

import msgspec

from ledger import keys
from ledger.errors import CorruptLedger, InvalidInput, LedgerError, Refused

SCOPES: Final = ("audit.read", "entities.read", "entities.write", "metrics.read", "proxy.check", "sessions.manage")
OF_A_LIBRARY: Final = frozenset(("entities.read", "entities.write"))
"""The scopes that a key may have in one library alone."""
PREFIX: Final = "slk_"
MAX_NAME_CHARS: Final = 100
ID_CHARS: Final = 16
_MAX_KEY_CHARS: Final = 128
NOTED_FOR_US: Final = 60_000_000
"""How long a note of use is good for."""

log = logging.getLogger("syncledger.api_keys")


class ApiKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is kept of a key. `id` is the start of `hash`, which is SHA-256 hex.

    A key bound to a `library` has its scopes there alone, and they are in `library_scopes`: versions that know of no
    such keys see one without any scope, not one for all libraries.
    """

    id: str
    hash: str
    name: str
    scopes: tuple[str, ...]
    created_at_us: int
    library: str = ""
    library_scopes: tuple[str, ...] = ()

    def may(self, scope: str, library: str | None = None) -> bool:
        """Tell whether the key has a scope in a library; None for what belongs to none."""
        return scope in self.scopes or (library == self.library != "" and scope in self.library_scopes)


class _Store(Protocol):
    async def command(self, *args: bytes | str | int, key: bytes) -> Any: ...


_decode: Final = msgspec.json.Decoder(ApiKey).decode


class ApiKeys:
    """The API keys of a ledger."""

    def __init__(self, store: _Store, clock: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        """`clock` tells the time in µs since 1970 UTC."""
        self._store = store
        self._clock = clock
        self._noted_us: dict[str, int] = {}
        self._notes: set[asyncio.Task[None]] = set()

    async def create(
        self, scopes: Iterable[str], *, name: str, now_us: int, library: str | None = None
    ) -> tuple[str, ApiKey]:
        """Make a key and return it, for the only time, with what is kept of it; raises InvalidInput.

        With a `library` it is bound to that one.
        """
        text = PREFIX + secrets.token_urlsafe(32)
        digest = _digest(text)
        wanted = _scopes(scopes)
        if library is None:
            key = ApiKey(digest[:ID_CHARS], digest, _name(name), wanted, now_us)
        else:
            _check_bound(library, wanted)
            key = ApiKey(digest[:ID_CHARS], digest, _name(name), (), now_us, library, wanted)
        taken = await self._run("HSETNX", keys.api_keys(), key.id, msgspec.json.encode(key))
        if taken != 1:
            raise Refused("Two keys got the same id; try again")
        return text, key

    async def find(self, text: str) -> ApiKey | None:
        """Look a presented key up; None if there is no such key. Its use is noted in the background."""
        if len(text) > _MAX_KEY_CHARS:
            return None
        digest = _digest(text)
        raw = await self._run("HGET", keys.api_keys(), digest[:ID_CHARS])
        if raw is None:
            return None
        key = _read(raw)
        if not hmac.compare_digest(key.hash, digest):
            return None
        self._note_use(key.id)
        return key

    async def by_hash(self, digest: str) -> ApiKey | None:
        """Tell what is kept of the key of this SHA-256 now; None where there is none any more."""
        raw = await self._run("HGET", keys.api_keys(), digest[:ID_CHARS])
        key = None if raw is None else _read(raw)
        return key if key is not None and hmac.compare_digest(key.hash, digest) else None

    async def all(self) -> list[ApiKey]:
        """List all keys that can be read, oldest first; empty without any."""
        return (await self.all_with_damaged())[0]

    async def all_with_damaged(self) -> tuple[list[ApiKey], list[str]]:
        """List all keys, oldest first, and the ids of those that cannot be read."""
        flat = await self._run("HGETALL", keys.api_keys())
        found, damaged = [], []
        for key_id, value in zip(flat[::2], flat[1::2], strict=True):
            try:
                found.append(_read(value))
            except CorruptLedger:
                damaged.append(key_id.decode(errors="backslashreplace"))
        return sorted(found, key=lambda key: (key.created_at_us, key.id)), damaged

    async def used_ms(self) -> dict[str, int]:
        """Tell when keys were last used, in ms since 1970 UTC, to the minute; one never used is not among them."""
        flat = await self._run("HGETALL", keys.api_keys_used())
        return {name.decode(): int(at_ms) for name, at_ms in zip(flat[::2], flat[1::2], strict=True)}

    async def revoke(self, key_id: str) -> bool:
        """Delete a key by its id; False if there was none."""
        deleted = await self._run("HDEL", keys.api_keys(), key_id)
        # A note may arrive after its key has gone: whatever belongs to no key goes along, now or the next time.
        noted = await self._run("HKEYS", keys.api_keys_used())
        left = set(noted) - set(await self._run("HKEYS", keys.api_keys()))
        if left:
            await self._run("HDEL", keys.api_keys_used(), *left)
        return bool(deleted)

    def _note_use(self, key_id: str) -> None:
        """Note the use of a key, unless this process did so lately."""
        now_us = self._clock()
        if now_us - self._noted_us.get(key_id, -NOTED_FOR_US) < NOTED_FOR_US:
            return
        self._noted_us[key_id] = now_us
        task = asyncio.create_task(self._write_use(key_id, now_us // 1000))
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)

    async def _write_use(self, key_id: str, now_ms: int) -> None:
        try:
            await self._run("HSET", keys.api_keys_used(), key_id, now_ms)
        except LedgerError as error:
            self._noted_us.pop(key_id, None)
            log.warning("the use of an API key could not be noted: %s", error)

    async def _run(self, command: str, name: bytes, *args: bytes | str | int) -> Any:
        return await self._store.command(command, name, *args, key=name)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _read(raw: bytes) -> ApiKey:
    try:
        return _decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptLedger(f"An API key cannot be read: {error}") from error


def _name(name: str) -> str:
    if len(name) > MAX_NAME_CHARS or not (name.isprintable() or not name):
        raise InvalidInput([(("name",), f"must have at most {MAX_NAME_CHARS} printable characters")])
    return name


def _check_bound(library: str, scopes: Iterable[str]) -> None:
    keys.check_name("library", library)
    if others := [scope for scope in scopes if scope not in OF_A_LIBRARY]:
        text = f"{', '.join(others)} cannot be bound to a library, as {' and '.join(sorted(OF_A_LIBRARY))} can"
        raise InvalidInput([(("scopes",), text)])


def _scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    wanted: Sequence[str] = tuple(dict.fromkeys(scopes))
    if not wanted:
        raise InvalidInput([(("scopes",), f"must name at least one of {', '.join(SCOPES)}")])
    for scope in wanted:
        if scope not in SCOPES:
            raise InvalidInput([(("scopes",), f"{scope!r} is not one of {', '.join(SCOPES)}")])
    return tuple(wanted)
