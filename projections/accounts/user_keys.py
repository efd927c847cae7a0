"""The keys of users' personal texts, in a place of their own that no backup copies.

A key is an object `users/<SHA-256 of the user>`, wrapped with the newest key of credentials. Erasing a user is noted
in `erased/<SHA-256 of the user>/<when, in µs>`, and then the object is deleted: what it sealed is unreadable for good.
The notes stay, so that an earlier backup is restored without those users.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import cached_property
from hashlib import sha256
from typing import Final

import msgspec

from ledger import keys
from ledger.errors import NAMED, CorruptLedger, LayoutError, UserKeyUnreadable
from ledger.personal import KEY_BYTES, UserKey
from ledger.store.interface import Store
from projections.accounts.credentials import Cipher, CredentialUnreadable
from projections.archive.errors import ObjectExists, ObjectMissing
from projections.archive.objects import Objects

REMEMBERED: Final = 4096
REMEMBERED_S: Final = 60.0
"""How long a key that was read is used: so long another process may go on to seal with a key that was erased."""
LARGEST_BYTES: Final = 4096
_PLACE: Final = "place"
_USERS: Final = "users/"
_ERASED: Final = "erased/"


class Erased(msgspec.Struct, frozen=True):
    """A user who was erased, and when."""

    user: str
    at_us: int


class _Key(msgspec.Struct, frozen=True):
    user: str
    secret: bytes


class UserKeys:
    """The keys of all users of one ledger; implements `ledger.log.sealing.UserKeys`.

    All methods raise ArchiveUnavailable where the place does not answer, CorruptLedger for what cannot be read there,
    and LayoutError where the ledger's keys are elsewhere.
    """

    def __init__(
        self,
        store: Store,
        open_place: Callable[[], Objects],
        open_cipher: Callable[[], Cipher],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Both are opened, and with that perhaps made, when they are first needed."""
        self._store = store
        self._open_place = open_place
        self._open_cipher = open_cipher
        self._now_s = now_s
        self._is_ours = False
        self._known: OrderedDict[str, tuple[UserKey, float]] = OrderedDict()

    @cached_property
    def _objects(self) -> Objects:
        return self._open_place()

    @cached_property
    def _cipher(self) -> Cipher:
        return self._open_cipher()

    async def check(self) -> None:
        """Hold the place to its ledger: whichever was there first is the one for good. Raises LayoutError."""
        place = await self._place()
        name = keys.meta()
        await self._store.command("HSETNX", name, "user_keys", place, key=name)
        if await self._store.command("HGET", name, "user_keys", key=name) != place:
            raise LayoutError(
                "The keys of this ledger's users lie in another place than LEDGER_USER_KEYS names (by default the "
                "folder user-keys in the data folder): name that place. If it is lost, take this one with "
                "`syncledger user keys --adopt`: what was sealed until now stays unreadable"
            )
        self._is_ours = True

    async def check_begun(self) -> None:
        """Check the place of a ledger that has one; before the first key nothing is made. Raises LayoutError."""
        name = keys.meta()
        if await self._store.command("HEXISTS", name, "user_keys", key=name):
            await self.check()

    async def adopt(self) -> None:
        """Take this place for the ledger's, whatever it was before."""
        name = keys.meta()
        await self._store.command("HSET", name, "user_keys", await self._place(), key=name)
        self._is_ours = True

    async def of(self, user: str) -> UserKey:
        """Return a user's key, which is made where there is none."""
        found = await self.find(user)
        if found is not None:
            return found
        secret = secrets.token_bytes(KEY_BYTES)
        wrapped = self._cipher.encrypt(msgspec.msgpack.encode(_Key(user, secret)))
        try:
            await self._objects.put(_object_of(user), wrapped)
        except ObjectExists:  # another process made one a moment ago
            return await self.of(user)
        return self._keep(user, UserKey(secret))

    async def find(self, user: str) -> UserKey | None:
        """Return a user's key; None if there is none, or it was erased."""
        known = self._known.get(user)
        if known is not None and self._now_s() - known[1] < REMEMBERED_S:
            self._known.move_to_end(user)
            return known[0]
        if not self._is_ours:
            await self.check()
        wrapped = await self._read(_object_of(user))
        return None if wrapped is None else self._keep(user, self._unwrapped(wrapped, user))

    async def find_now(self, user: str) -> UserKey | None:
        """Return a user's key as `find` does, but not a remembered one: another process may have erased it just now."""
        self._known.pop(user, None)
        return await self.find(user)

    async def erase(self, user: str, now_us: int) -> bool:
        """Destroy a user's key, and note that; False if there was none. Done again it completes what broke off."""
        if not self._is_ours:
            await self.check()
        name = _object_of(user)
        had_key = await self._objects.size(name) is not None
        note = msgspec.json.encode({"user": user, "at_us": now_us})
        with suppress(ObjectExists):
            await self._objects.put(f"{_ERASED}{_digest(user)}/{now_us:020}", note)
        await self._objects.delete([name])
        self._known.pop(user, None)
        return had_key

    async def all_erased(self) -> AsyncIterator[Erased]:
        """Yield all erasures, in no order; one user may have been erased several times.

        Raises CorruptLedger once all others were yielded, if there are notes that cannot be read.
        """
        unread: list[str] = []
        async for page in self._objects.names(_ERASED):
            for info in page:
                try:
                    erased = await self._erasure(info.name)
                except CorruptLedger as error:
                    unread.append(str(error))
                    continue
                if erased is not None:
                    yield erased
        if unread:
            raise CorruptLedger(
                "; ".join(unread[:NAMED]) + (f" and {len(unread) - NAMED:,} more" if len(unread) > NAMED else "")
            )

    async def count(self) -> int:
        """Tell how many users have a key."""
        return sum([len(page) async for page in self._objects.names(_USERS)])

    async def rewrap(self, on_progress: Callable[[int], None] = lambda _: None) -> int:
        """Wrap all keys anew that an older key of credentials wrapped; returns how many those were.

        May be stopped and run again. Raises CredentialUnreadable once all others are done.
        """
        looked, renewed, unreadable = 0, 0, 0
        async for page in self._objects.names(_USERS):
            for info in page:
                wrapped = await self._read(info.name)
                looked += 1
                if wrapped is None or self._cipher.is_newest(wrapped):
                    continue
                try:
                    anew = self._cipher.encrypt(self._cipher.decrypt(wrapped))
                except CredentialUnreadable:
                    unreadable += 1
                    continue
                noted = await self._notes_of(info.name)
                await self._objects.replace(info.name, anew)
                renewed += 1
                if await self._notes_of(info.name) != noted:  # erased meanwhile: it must not come back
                    await self._objects.delete([info.name])
            on_progress(looked)
        if unreadable:
            raise CredentialUnreadable(unreadable)
        return renewed

    async def _place(self) -> bytes:
        """Read what this place is called, which whoever comes first decides."""
        if (found := await self._read(_PLACE)) is None:
            with suppress(ObjectExists):
                await self._objects.put(_PLACE, secrets.token_hex(16).encode())
            found = await self._read(_PLACE)
        return b"" if found is None else found

    async def _notes_of(self, name: str) -> set[str]:
        prefix = f"{_ERASED}{name.removeprefix(_USERS)}/"
        return {info.name async for page in self._objects.names(prefix) for info in page}

    async def _erasure(self, name: str) -> Erased | None:
        """Read the note of an erasure; None if it is gone."""
        if (note := await self._read(name)) is None:
            return None
        try:
            return _note.decode(note)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CorruptLedger(f"the note {name} cannot be read: {error}") from error

    async def _read(self, name: str) -> bytes | None:
        """Read an object; None if there is none. One that is too large is none of ours."""
        try:
            content, size = await self._objects.tail(name, LARGEST_BYTES)
        except ObjectMissing:
            return None
        if size > LARGEST_BYTES:
            raise UserKeyUnreadable(f"{name} in the place of users' keys has {size:,} bytes: it is no key", object=name)
        return content

    def _unwrapped(self, wrapped: bytes, user: str) -> UserKey:
        try:
            held = _key.decode(self._cipher.decrypt(wrapped))
            if held.user == user:
                return UserKey(held.secret)
        except CredentialUnreadable:
            raise UserKeyUnreadable(
                f"the key of user {user} cannot be decrypted: put the key used for it behind the first in "
                "LEDGER_CREDENTIAL_KEY, then run syncledger credentials rekey",
                user=user,
            ) from None
        except (msgspec.DecodeError, ValueError):
            pass
        raise UserKeyUnreadable(f"the key of user {user} is none, or another user's: it was changed", user=user)

    def _keep(self, user: str, key: UserKey) -> UserKey:
        self._known[user] = key, self._now_s()
        self._known.move_to_end(user)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return key


_key: Final = msgspec.msgpack.Decoder(_Key)
_note: Final = msgspec.json.Decoder(Erased)


def _digest(user: str) -> str:
    return sha256(user.encode()).hexdigest()


def _object_of(user: str) -> str:
    return f"{_USERS}{_digest(user)}"
