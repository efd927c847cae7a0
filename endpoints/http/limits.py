"""How often an address may try to sign in or present bad tokens, and an account be tried: counted for all workers.

The counts are those of the `limits` library, in the store, with a time to live. Its moving window is used: the times of
the last attempts, so at most `amount` of them in any window, wherever it begins, and an exact time to try again. The
sliding-window counter would need less memory (two numbers instead of up to 120 times), but only estimates both, and
keeps its keys for two windows. An attempt that is refused is not counted: who waits gets through.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from typing import Final

import msgspec
from limits import RateLimitItem, parse
from limits.aio.strategies import RateLimiter
from limits.errors import StorageError

from endpoints.http.request import Request
from ledger.errors import LedgerError, StoreUnavailable

AT_ONCE: Final = 32
"""How many questions a worker asks the storage at the same time; a flood of bad tokens opens no more connections."""
_V6_NETWORK_BITS: Final = 64
"""Of an IPv6 address; the rest is the client's own choice (RFC 4291, section 2.5.4)."""


class Limited(LedgerError):
    """Too often; `what` is the rule that was met. The same request will be heard after `retry_after_s` seconds."""

    def __init__(self, what: str, retry_after_s: int) -> None:
        unit = "second" if retry_after_s == 1 else "seconds"
        super().__init__(f"Too many requests; try again in {retry_after_s} {unit}")
        self.what = what
        self.retry_after_s = retry_after_s


class LimitRules(msgspec.Struct, frozen=True):
    """How many in how long, in the notation of `limits`: `30/minute`, `20/10minutes`."""

    sign_in: str = "120/minute"
    """Requests of signing in, by address."""
    account: str = "60/10minutes"
    """Sign-ins of one account."""
    bad_token: str = "120/minute"  # noqa: S105 - a rule
    """Bad credentials, by address and again by the account they claim. Many phones may share an address."""
    refresh: str = "30/minute"
    """New tokens of one session."""
    session: str = "60/10minutes"
    """Sessions that a user's sessions make."""


class Limits:
    """Counts what must not happen too often. Addresses and accounts are known to the storage by their SHA-256 only.

    All methods raise Limited when it was too often, StoreUnavailable when the storage does not tell in time.
    """

    def __init__(
        self,
        limiter: RateLimiter,
        rules: LimitRules = LimitRules(),  # noqa: B008 - it is frozen
        *,
        timeout_s: float = 5.0,
        at_once: int = AT_ONCE,
        trouble: tuple[type[Exception], ...] = (),
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Take a strategy with its storage, which is asked at most `at_once` questions together, for `timeout_s` each.

        `trouble` is what the storage raises, `close` ends its connections. Raises ValueError for an unreadable rule.
        """
        self._limiter = limiter
        self._sign_in, self._account, self._bad_token, self._refresh, self._session = (
            parse(rule) for rule in (rules.sign_in, rules.account, rules.bad_token, rules.refresh, rules.session)
        )
        self._timeout_s = timeout_s
        self._trouble: tuple[type[Exception], ...] = (*trouble, StorageError, OSError)  # a TimeoutError is an OSError
        self._close = close
        self._turns = asyncio.Semaphore(at_once)

    async def sign_in(self, req: Request) -> None:
        """Count a request of signing in by where it comes from."""
        await self._count("sign_in", self._sign_in, "address", client_network(req))

    async def account(self, name: str) -> None:
        """Count a sign-in of an account, whose name is anything that tells it from others."""
        await self._count("account", self._account, "account", name)

    async def bad_token(self, req: Request, account: str | None) -> None:
        """Count a credential that admitted nobody, by where it comes from and by the account that it claims, if any."""
        await self._count("bad_token", self._bad_token, "address", client_network(req))
        if account is not None:
            await self._count("bad_token", self._bad_token, "account", account)

    async def refresh(self, sid: str) -> None:
        """Count a new token of a session."""
        await self._count("refresh", self._refresh, "session", sid)

    async def session(self, user: str) -> None:
        """Count a session that one of a user's makes."""
        await self._count("session", self._session, "user", user)

    async def close(self) -> None:
        """Close the storage's connections."""
        if self._close is not None:
            await self._close()

    async def _count(self, what: str, rule: RateLimitItem, kind: str, name: str) -> None:
        identifiers = (what, kind, sha256(name.encode("utf-8", "replace")).hexdigest())
        try:
            async with asyncio.timeout(self._timeout_s), self._turns:
                if await self._limiter.hit(rule, *identifiers):
                    return
                reset_at_s = (await self._limiter.get_window_stats(rule, *identifiers)).reset_time
        except self._trouble as exc:
            reason = str(exc) or "timed out"
            raise StoreUnavailable(f"the limits are not known: {reason}", maybe_done=True) from exc
        raise Limited(what, max(1, math.ceil(reset_at_s - time.time())))


def client_network(req: Request) -> str:
    """Tell where a request comes from: the client's IPv4 address or IPv6 network.

    It is the connection's peer, or what a trusted proxy says (`ops/server/proxies.py`); 127.0.0.1 where a server knows
    neither.
    """
    return _network(req.remote_addr)


def _network(host: str) -> str:
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    host_bits = 128 - _V6_NETWORK_BITS
    return f"{IPv6Address(int(address) >> host_bits << host_bits)}/{_V6_NETWORK_BITS}"
