"""Credentials that identity providers gave for sessions: kept encrypted, for as long as the session lives.

A stored ciphertext names its session inside, so that one moved to another session is not taken for its own. The script
that ends a session removes it.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from ledger import keys
from ledger.errors import CorruptLedger, InvalidInput, LedgerError, StoreReplyError
from ledger.store.interface import Script, Store, scan

MAX_CREDENTIAL_CHARS: Final = 16 * 1024
_HOLD: Final = Script.load("projections.accounts", "hold_credential.lua")
_KEYS_SETTING: Final = "LEDGER_CREDENTIAL_KEY"


class CredentialUnreadable(LedgerError):
    """A stored credential was encrypted with a key that is not given any more, or was changed."""

    def __init__(self, count: int = 1) -> None:
        what = "A stored credential" if count == 1 else f"{count} stored credentials"
        super().__init__(
            f"{what} cannot be decrypted: put the key used back behind the first in {_KEYS_SETTING}, or sign in anew"
        )


class Cipher:
    """Encrypts with the newest of its keys, decrypts with any: AES-128-CBC and HMAC-SHA-256, as Fernet defines."""

    def __init__(self, newest: Fernet, older: Sequence[Fernet] = ()) -> None:
        self._newest = newest
        self._all = MultiFernet([newest, *older])

    @staticmethod
    def make_key() -> str:
        """Make a key: 32 random bytes in URL-safe base64."""
        return Fernet.generate_key().decode()

    @classmethod
    def from_keys(cls, texts: Sequence[str]) -> Cipher:
        """Read keys, the newest first; raises ValueError, which holds nothing of a key."""
        if not texts:
            raise ValueError("there must be at least one key")
        fernets = []
        for number, text in enumerate(texts, 1):
            try:
                fernets.append(Fernet(text))
            except ValueError:
                message = f"key {number} of {len(texts)} is not 32 bytes in URL-safe base64"
                raise ValueError(message) from None
        return cls(fernets[0], fernets[1:])

    def encrypt(self, text: bytes) -> bytes:
        """Encrypt with the newest key."""
        return self._newest.encrypt(text)

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Decrypt; raises CredentialUnreadable."""
        try:
            return self._all.decrypt(ciphertext)
        except InvalidToken:
            raise CredentialUnreadable from None

    def is_newest(self, ciphertext: bytes) -> bool:
        """Tell whether a ciphertext was made with the newest key."""
        try:
            self._newest.decrypt(ciphertext)
        except InvalidToken:
            return False
        return True


class Credentials:
    """The credentials of living sessions. All methods raise StoreUnavailable when the store is away."""

    def __init__(self, store: Store, partitions: int, cipher: Cipher) -> None:
        self._store = store
        self._partitions = partitions
        self._cipher = cipher

    async def hold(self, user: str, sid: str, credential: str) -> bool:
        """Keep a credential, in place of any; False if the session does not live. Raises InvalidInput."""
        return await self._put(keys.partition_of(user, self._partitions), sid, self._sealed(sid, credential))

    async def read(self, user: str, sid: str) -> str | None:
        """Read a session's credential; None if there is none. Raises CredentialUnreadable, CorruptLedger."""
        ciphertext = await self._get(keys.partition_of(user, self._partitions), sid)
        return None if ciphertext is None else self._opened(sid, ciphertext)

    async def replace(self, user: str, sid: str, old: str, new: str) -> bool:
        """Put `new` in place of `old`; False, and nothing written, if that is not the credential any more.

        Raises CredentialUnreadable, CorruptLedger, InvalidInput.
        """
        partition = keys.partition_of(user, self._partitions)
        sealed = self._sealed(sid, new)
        while (held := await self._get(partition, sid)) is not None:
            if not hmac.compare_digest(self._opened(sid, held).encode(), old.encode()):
                return False
            if await self._put(partition, sid, sealed, held):
                return True
        return False  # the session has none any more; a turn more is taken only behind another writer

    async def rekey(self, on_progress: Callable[[int], None] = lambda _: None) -> int:
        """Encrypt all anew that an older key encrypted, and tell how many those were; may be stopped and run again.

        `on_progress` is told how many were looked at. Raises CredentialUnreadable or CorruptLedger once all others are
        done.
        """
        looked, renewed, unreadable = 0, 0, 0
        damaged: list[int] = []
        for partition in range(self._partitions):
            try:
                async for page in self._pages(partition):
                    results = await asyncio.gather(
                        *(self._renew(partition, sid) for sid in page), return_exceptions=True
                    )
                    for result in results:
                        if isinstance(result, BaseException) and not isinstance(result, CredentialUnreadable):
                            raise result
                        unreadable += isinstance(result, CredentialUnreadable)
                        renewed += result is True
                    looked += len(page)
                    on_progress(looked)
            except StoreReplyError:  # a key of another type
                damaged.append(partition)
        if damaged:
            raise CorruptLedger(
                f"The credentials of partitions {', '.join(map(str, damaged))} cannot be read: run syncledger verify; "
                "all others are done"
            )
        if unreadable:
            raise CredentialUnreadable(unreadable)
        return renewed

    async def _renew(self, partition: int, sid: str) -> bool:
        """Encrypt one credential with the newest key; False if it is already, or its session ended meanwhile."""
        while (held := await self._get(partition, sid)) is not None and not self._cipher.is_newest(held):
            if await self._put(partition, sid, self._cipher.encrypt(self._cipher.decrypt(held)), held):
                return True
        return False

    async def _pages(self, partition: int) -> AsyncIterator[list[str]]:
        """Yield the sessions that have a credential in a partition, some perhaps twice."""
        async for held in scan(self._store, "HSCAN", keys.credentials(partition)):
            yield [sid.decode() for sid, _ in held]

    async def _get(self, partition: int, sid: str) -> bytes | None:
        name = keys.credentials(partition)
        held: bytes | None = await self._store.command("HGET", name, sid, key=name)
        return held

    async def _put(self, partition: int, sid: str, ciphertext: bytes, held: bytes = b"") -> bool:
        names = (keys.session(partition, sid), keys.credentials(partition))
        return bool(await self._store.script(_HOLD, names, (sid, ciphertext, held)))

    def _sealed(self, sid: str, credential: str) -> bytes:
        if not (1 <= len(credential) <= MAX_CREDENTIAL_CHARS and credential.isascii() and credential.isprintable()):
            problem = f"must have 1 to {MAX_CREDENTIAL_CHARS} printable ASCII characters"
            raise InvalidInput([(("credential",), problem)])
        return self._cipher.encrypt(f"{sid} {credential}".encode())

    def _opened(self, sid: str, ciphertext: bytes) -> str:
        owner, _, credential = self._cipher.decrypt(ciphertext).partition(b" ")
        if not hmac.compare_digest(owner, sid.encode()):
            raise CorruptLedger("A session's credential was encrypted for another session", session=sid)
        return credential.decode()
