"""Whether the provider signed a token (JWS, by the keys of its JWKS)."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key, RSAKey
from joserfc.jws import JWSRegistry

from endpoints.accounts.identity.oidc.cached import Cached
from endpoints.accounts.identity.oidc.http import Http
from endpoints.accounts.identity.port import SignInRefused

MAX_KEYS: Final = 100
RSA_BITS: Final = range(2048, 8192 + 1)
_MEMBERS: Final = frozenset(("kty", "n", "e", "crv", "x", "y", "use", "key_ops", "alg", "kid"))


@dataclass(frozen=True, repr=False)
class Signed:
    """A token the provider did sign. What its claims say is still to be checked, and personal."""

    alg: str
    typ: str
    claims: dict[str, Any]


class _Header(msgspec.Struct, frozen=True):
    alg: str
    kid: str | None = None
    typ: str | None = None
    crit: list[str] | None = None


class _KeySet(msgspec.Struct, frozen=True):
    keys: list[dict[str, Any]]


class _Registry(JWSRegistry):
    max_header_length = 8192  # some providers put their certificates into it
    max_payload_length = 64 * 1024


_header: Final = msgspec.json.Decoder(_Header)


class Signatures:
    """Verifies tokens with the provider's keys. They are kept, and fetched anew for a token that none of them fits."""

    def __init__(
        self,
        fetch: Callable[[], Awaitable[tuple[Key, ...]]],
        algorithms: tuple[str, ...],
        *,
        named: str = "LEDGER_OIDC_ALGORITHMS",
        failed_s: float = 0.0,
    ) -> None:
        """Take the algorithms and the setting they are `named` in; a fetch that failed is not repeated for so long."""
        self._keys = Cached(fetch, failed_s=failed_s)
        self._named = named
        self._registry = _Registry(algorithms=algorithms, strict_check_header=False)
        self._algorithms = algorithms

    async def verify(self, token: str) -> Signed:
        """Return what a token says; raises SignInRefused for one not signed, ProviderUnavailable without keys."""
        header = _read_header(token)
        if header.alg not in self._algorithms:
            raise _refused(f"its algorithm is none of {self._named}")
        if header.crit:
            raise _refused("it asks for more than is understood here")
        keys = await self._keys.get()
        claims = self._verified(token, header, keys)
        if claims is None:
            claims = self._verified(token, header, await self._keys.newer(keys))
        if claims is None:
            raise _refused("none of the provider's keys signed it")
        return Signed(header.alg, header.typ or "", claims)

    async def keys(self) -> tuple[Key, ...]:
        """Return the keys that are kept, fetched where there are none; raises ProviderUnavailable."""
        return await self._keys.get()

    async def close(self) -> None:
        """End what goes on in the background."""
        await self._keys.close()

    def _verified(self, token: str, header: _Header, keys: tuple[Key, ...]) -> dict[str, Any] | None:
        for key in keys:
            if header.kid is None or key.kid == header.kid:
                try:
                    return jwt.decode(token, key, registry=self._registry).claims
                except (JoseError, ValueError, RecursionError):
                    continue  # not signed with this key, or the key is for something else
        return None


async def fetch_keys(http: Http, address: str) -> tuple[Key, ...]:
    """Fetch the keys of a JWKS that may verify signatures; raises ProviderUnavailable."""
    found = (await http.get("JWKS", address)).ok().json(_KeySet)
    return tuple(_usable(found))


def _usable(found: _KeySet) -> Iterator[Key]:
    """Pick the public keys. What this service cannot use is passed over (RFC 7517, section 5)."""
    for members in found.keys[:MAX_KEYS]:
        if members.get("kty") not in ("RSA", "EC", "OKP"):
            continue
        try:
            key = JWKRegistry.import_key({name: members[name] for name in _MEMBERS & members.keys()})
        except (JoseError, ValueError, TypeError, KeyError):
            continue
        if not isinstance(key, RSAKey) or key.raw_value.key_size in RSA_BITS:
            yield key


def _read_header(token: str) -> _Header:
    encoded = token.partition(".")[0][: _Registry.max_header_length]
    try:
        return _header.decode(urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise _refused("it is not a signed token") from None


def _refused(why: str) -> SignInRefused:
    return SignInRefused("id_token_invalid", f"The provider's token is not good: {why}")
