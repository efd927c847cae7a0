"""Whether the provider signed a token (JWS): by the keys of its JWKS, or with the client's secret where that is let."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import Key, OctKey
from joserfc.jws import JWSRegistry

from endpoints.accounts.identity.jwks import KeySet, KeySetDto, PublicKey, first_good
from endpoints.accounts.identity.oidc.cached import Cached
from endpoints.accounts.identity.oidc.config import is_symmetric
from endpoints.accounts.identity.oidc.http import Http
from endpoints.accounts.identity.port import SignInRefused

MAX_TOKEN_CHARS: Final = 128 * 1024
"""A token is longer where a provider puts all groups of somebody into it."""
_ALGORITHM: Final = re.compile(r"[A-Za-z0-9-]{1,24}")


@dataclass(frozen=True, repr=False)
class Signed:
    """A token the provider did sign. What its claims say is still to be checked, and personal.

    `key_issuer` is whose key did so, where the key set says that.
    """

    alg: str
    typ: str
    claims: dict[str, Any]
    key_issuer: str | None = None


class _Header(msgspec.Struct, frozen=True):
    alg: str
    kid: str | None = None
    typ: str | None = None
    crit: list[str] | None = None


class _Registry(JWSRegistry):
    max_header_length = 8192  # some providers put their certificates into it
    max_payload_length = MAX_TOKEN_CHARS  # the whole token is measured before


_header: Final = msgspec.json.Decoder(_Header)


class Signatures:
    """Verifies tokens with the provider's keys. They are kept, and fetched anew for a token that none of them fits."""

    def __init__(
        self,
        fetch: Callable[[], Awaitable[KeySet]],
        algorithms: tuple[str, ...],
        *,
        secret: str | None = None,
        named: str = "LEDGER_OIDC_ALGORITHMS",
        failed_s: float = 0.0,
    ) -> None:
        """Take the algorithms and the setting they are `named` in; a fetch that failed is not repeated for so long.

        `secret` is the client's, with which symmetric algorithms sign.
        """
        self._keys = Cached(fetch, failed_s=failed_s)
        self._named = named
        self._algorithms = algorithms
        self._registry = _Registry(algorithms=algorithms, strict_check_header=False)
        symmetric = any(map(is_symmetric, algorithms))
        # One secret for both ways: what it signs is looked at with it alone, and what keys sign never with it.
        self._secret: Key | None = OctKey.import_key(secret or "") if symmetric else None

    async def verify(self, token: str) -> Signed:
        """Return what a token says; raises SignInRefused for one not signed, ProviderUnavailable without keys."""
        if len(token) > MAX_TOKEN_CHARS:
            raise SignInRefused(
                "id_token_too_large",
                f"The provider's token has {len(token):,} characters, and {MAX_TOKEN_CHARS:,} are taken: have the "
                "provider put less into it, such as groups",
            )
        header = _read_header(token)
        if header.alg not in self._algorithms:
            raise _refused(f"it is signed with {_shown(header.alg)}, and {self._named} takes {self._taken}")
        if header.crit:
            raise _refused("it asks for more than is understood here")
        if is_symmetric(header.alg):
            assert self._secret is not None, "the settings take such an algorithm with a secret only"
            signed = self._verified(token, header, PublicKey(self._secret, None))
            if signed is None:
                raise _refused(f"it is signed with {header.alg}, but not with this client's secret")
            return signed
        keys = await self._keys.get()
        signed = await self._signed(token, header, keys)
        if signed is None:
            signed = await self._signed(token, header, await self._keys.newer(keys))
        if signed is None:
            raise _refused("none of the provider's keys signed it")
        return signed

    async def keys(self) -> KeySet:
        """Return the keys that are kept, fetched where there are none; raises ProviderUnavailable."""
        return await self._keys.get()

    async def close(self) -> None:
        """End what goes on in the background."""
        await self._keys.close()

    @property
    def _taken(self) -> str:
        return ", ".join(self._algorithms)

    async def _signed(self, token: str, header: _Header, keys: KeySet) -> Signed | None:
        return await first_good(keys.fitting(header.alg, header.kid), lambda key: self._verified(token, header, key))

    def _verified(self, token: str, header: _Header, public: PublicKey) -> Signed | None:
        try:
            claims = jwt.decode(token, public.key, registry=self._registry).claims
        except (JoseError, ValueError, RecursionError):
            return None  # not signed with this key, or the key is for something else
        return Signed(header.alg, header.typ or "", claims, public.issuer)


async def fetch_keys(http: Http, address: str) -> KeySet:
    """Fetch the keys of a JWKS that may verify signatures; raises ProviderUnavailable."""
    return KeySet((await http.get("JWKS", address)).ok().json(KeySetDto).keys)


def _read_header(token: str) -> _Header:
    encoded = token.partition(".")[0]
    if len(encoded) > _Registry.max_header_length:
        raise _refused(f"its header has more than {_Registry.max_header_length} characters")
    try:
        return _header.decode(urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise _refused("it is not a signed token") from None


def _shown(alg: str) -> str:
    return alg if _ALGORITHM.fullmatch(alg) else "an algorithm of no known name"


def _refused(why: str) -> SignInRefused:
    return SignInRefused("id_token_invalid", f"The provider's token is not good: {why}")
