"""Proxies in front of the service: whose word is taken, and a hint where somebody else speaks for clients.

Taking the word is uvicorn's `ProxyHeadersMiddleware`, used only where LEDGER_TRUSTED_PROXIES names a proxy: from such a
peer X-Forwarded-Proto gives the scheme, and the last address in X-Forwarded-For that is no trusted proxy the client's.
The service listens on TCP only; a peer without an address, as on a unix socket, would never be trusted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from uvicorn.config import Config
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

log = logging.getLogger("syncledger.serve")

FORWARDED: Final = frozenset((b"x-forwarded-for", b"x-forwarded-proto"))


def trust(config: Config, proxies: tuple[str, ...]) -> None:
    """Have a server that is not loaded yet take the word of these addresses and networks."""
    config.proxy_headers = bool(proxies)
    config.forwarded_allow_ips = list(proxies)


def trusts(config: Config, host: str) -> bool:
    """Tell whether a loaded server takes a host's word."""
    app = config.loaded_app
    return isinstance(app, ProxyHeadersMiddleware) and host in app.trusted_hosts


class ProxyHint:
    """Tells once per process that a peer speaks for clients and is not trusted to, for that has puzzling effects."""

    def __init__(self, trusts: Callable[[str], bool]) -> None:
        self._trusts = trusts
        self._told = False

    def look(self, headers: Iterable[tuple[bytes, bytes]], peer: tuple[str, int] | None) -> None:
        """Look at a request's headers (names in lower case) and its connection's peer."""
        if self._told:
            return
        for name, _ in headers:
            if name in FORWARDED:
                break
        else:
            return
        host = peer[0] if peer else ""
        if not self._trusts(host):
            self._told = True
            log.warning(
                "%s sent X-Forwarded-For or X-Forwarded-Proto, which is not believed. If it is a proxy of yours, name "
                "it in LEDGER_TRUSTED_PROXIES: else all its clients count as one, and cookies are not Secure",
                host or "a peer without an address",
            )
