"""The keys of a JWK Set (RFC 7517) that may verify a signature: of any number, with a `kid` or without.

Nobody promises that keys are named, that a token names one, or that a set is small. So keys are made only when they are
tried, those first whose name the token gives, and a token tries so many at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key, RSAKey

T = TypeVar("T")

MAX_TRIES: Final = 1000
"""How many keys are tried for one token; only a set without names comes near."""
TRIES_IN_A_TURN: Final = 20
"""How many before others get their turn: some milliseconds."""
RSA_BITS: Final = range(2048, 8192 + 1)
_MEMBERS: Final = frozenset(("kty", "n", "e", "crv", "x", "y", "use", "key_ops", "alg"))
"""What a public key is read of: what is private in it, or unknown, is not looked at."""
_KINDS: Final = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
"""What kind of key an algorithm takes, by how its name begins. None is symmetric: whoever reads a set could sign."""
_CURVES: Final = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}


class PublicKey(NamedTuple):
    """A key, and whose tokens it signs where the set says so: an issuer, perhaps with a place for the tenant."""

    key: Key
    issuer: str | None


class KeySetDto(msgspec.Struct, frozen=True):
    """A JWK Set as it is sent."""

    keys: list[Any]


class KeySet:
    """The keys of one set. What cannot be used is passed over (RFC 7517, section 5)."""

    def __init__(self, keys: Iterable[object]) -> None:
        """Take the keys as the set has them; the size of what was sent is their only bound."""
        self._named: dict[str, list[_Lazy]] = {}
        self._unnamed: list[_Lazy] = []
        self._all: list[_Lazy] = []
        for members in keys:
            if not isinstance(members, dict) or members.get("kty") not in _KINDS.values():
                continue
            if members.get("use") not in (None, "sig"):
                continue
            lazy = _Lazy(members)
            kid = members.get("kid")
            self._all.append(lazy)
            (self._named.setdefault(kid, []) if isinstance(kid, str) and kid else self._unnamed).append(lazy)

    def __len__(self) -> int:
        return len(self._all)

    def fitting(self, alg: str, kid: str | None) -> Iterator[PublicKey]:
        """Yield the keys that may have signed a token with this header, the likeliest first, bounded.

        A token that names a key may be signed by one of that name, or by one that has none.
        """
        found = [*self._named.get(kid, ()), *self._unnamed] if kid else self._all
        kind, curve = _KINDS.get(alg[:2]), _CURVES.get(alg)
        tries = 0
        for lazy in found:
            if lazy.members["kty"] != kind or (curve is not None and lazy.members.get("crv") != curve):
                continue
            if (key := lazy.key()) is not None:
                yield PublicKey(key, lazy.issuer)
            tries += 1
            if tries == MAX_TRIES:
                return


async def first_good(keys: Iterator[PublicKey], verify: Callable[[PublicKey], T | None]) -> T | None:
    """Return what `verify` returns for the first key with which it returns anything; others get their turns between."""
    for tried, key in enumerate(keys, 1):
        if (verified := verify(key)) is not None:
            return verified
        if tried % TRIES_IN_A_TURN == 0:
            await asyncio.sleep(0)
    return None


class _Lazy:
    """A key that is made when it is first tried: a thousand at once would keep everybody waiting."""

    __slots__ = ("_key", "_made", "issuer", "members")

    def __init__(self, members: Mapping[str, Any]) -> None:
        self.members = members
        self.issuer = issuer if isinstance(issuer := members.get("issuer"), str) else None
        self._made = False
        self._key: Key | None = None

    def key(self) -> Key | None:
        """Make the key; None for one that cannot be used."""
        if not self._made:
            self._made = True
            try:
                self._key = JWKRegistry.import_key(
                    {name: self.members[name] for name in _MEMBERS & self.members.keys()}
                )
            except (JoseError, ValueError, TypeError, KeyError):
                self._key = None
            if isinstance(self._key, RSAKey) and self._key.raw_value.key_size not in RSA_BITS:
                self._key = None
        return self._key
