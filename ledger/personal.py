"""Personal texts in events: what a device says of itself, and who did something.

As events hold them they are bytes: nothing; plain, behind a 0 byte, as schema 1 had them; or sealed, behind a 1 byte,
with a key of the session's user. Whoever destroys that key has erased them from the log, its archive and every backup,
and no hash changes. Sealing is AES-256-GCM; its nonce follows from key and text (RFC 5297's idea), so the same text is
sealed the same and what did not change shows as that. It tells whoever reads the log that two texts of one user are
equal, and nothing else.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ledger.commands import ClearCheckpoints, Command, CreateSession, DescribeDevice, EndSession, RequestReset
from ledger.events import (
    CheckpointsCleared,
    DeviceDescribed,
    Event,
    Personal,
    SessionCreated,
    SessionEnded,
    SyncResetRequested,
)
from ledger.state import State

KEY_BYTES: Final = 32
PLAIN: Final = b"\0"
SEALED: Final = b"\1"
_NONCE_BYTES: Final = 12
_DEVICE: Final = ("device_type", "device_os", "app_version")
_BY: Final = ("by",)
_FIELDS: Final[dict[type, tuple[str, ...]]] = {
    **dict.fromkeys((CreateSession, DescribeDevice, SessionCreated, DeviceDescribed, State), _DEVICE),
    **dict.fromkeys(
        (ClearCheckpoints, EndSession, RequestReset, CheckpointsCleared, SessionEnded, SyncResetRequested), _BY
    ),
}
"""The fields of commands, events and states that are personal; what is not listed has none."""

T = TypeVar("T", bound=Command | Event | State)


def plain(text: str | None) -> Personal:
    """Lay a text out as a command takes it; nothing for none."""
    return PLAIN + text.encode() if text else b""


def text_of(value: Personal) -> str | None:
    """Read a text that is plain; empty for nothing, None for one that is sealed: its key is not here, or was erased."""
    if value[:1] == SEALED:
        return None
    return value[1:].decode()


class UserKey:
    """The key of one user's personal texts."""

    def __init__(self, secret: bytes) -> None:
        """`secret`: 32 random bytes; raises ValueError for any other number."""
        if len(secret) != KEY_BYTES:
            raise ValueError(f"a user's key has {KEY_BYTES} bytes")
        self._nonces = hmac.digest(secret, b"syncledger nonce", "sha256")
        self._cipher = AESGCM(hmac.digest(secret, b"syncledger seal", "sha256"))

    def seal(self, value: Personal) -> Personal:
        """Seal what is plain; what is sealed, or nothing, stays as it is."""
        if value[:1] != PLAIN:
            return value
        nonce = hmac.digest(self._nonces, value, "sha256")[:_NONCE_BYTES]
        return SEALED + nonce + self._cipher.encrypt(nonce, value, None)

    def open(self, value: Personal) -> Personal:
        """Make a sealed text plain; it stays sealed where another key sealed it."""
        if value[:1] != SEALED:
            return value
        nonce = value[1 : 1 + _NONCE_BYTES]
        try:
            return self._cipher.decrypt(nonce, value[1 + _NONCE_BYTES :], None)
        except (InvalidTag, ValueError):  # of a key that was erased before this one was made
            return value


def has_plain(told: Command | Event | State) -> bool:
    """Tell whether a command, event or state holds a personal text that is not sealed."""
    return any(getattr(told, name)[:1] == PLAIN for name in _FIELDS.get(type(told), ()))


def has_sealed(told: Command | Event | State) -> bool:
    """Tell whether a command, event or state holds a personal text that is sealed."""
    return any(getattr(told, name)[:1] == SEALED for name in _FIELDS.get(type(told), ()))


def sealed(told: T, key: UserKey) -> T:
    """Seal the personal texts of a command, event or state."""
    return _each(told, key.seal)


def opened(told: T, key: UserKey | None) -> T:
    """Make the personal texts of a command, event or state plain, as far as the key opens them."""
    return told if key is None else _each(told, key.open)


def hidden(told: T) -> T:
    """Make the personal texts of a command, event or state unreadable, as if their keys were not here."""
    return _each(told, lambda value: SEALED if value else value)


def _each(told: T, change: Callable[[Personal], Personal]) -> T:
    names = _FIELDS.get(type(told), ())
    changed = {name: new for name in names if (new := change(old := getattr(told, name))) != old}
    return msgspec.structs.replace(told, **changed) if changed else told
