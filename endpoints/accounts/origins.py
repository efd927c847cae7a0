"""Whose page sent a request: what a browser does with its cookies on behalf of another site changes nothing here."""

from __future__ import annotations

from typing import Final

from endpoints.http.errors import Forbidden
from endpoints.http.request import Request

REFUSAL: Final = "Cross-origin request refused"
MAX_ORIGIN_BYTES: Final = 512
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_SITES: Final = frozenset({b"same-origin", b"none"})
_DEFAULT_PORTS: Final = {b"http": b":80", b"https": b":443"}


class Origins:
    """Tells requests of our own pages, and of no page at all, from those of others."""

    def __init__(self, external_domain: str = "") -> None:
        """Take the address that users know the service by, where it differs from the Host a request arrives with."""
        address = external_domain if "://" in external_domain else f"https://{external_domain}"
        self._external = _place(address.encode())

    def check(self, req: Request) -> None:
        """Refuse a request that would change something and that another origin's page sent; raises Forbidden.

        Browsers say where a request comes from in `Sec-Fetch-Site` or, older ones, in `Origin`; apps and scripts say
        nothing. Neither header can be set by a page.
        """
        if req.method not in _READING:
            self.check_any(req)

    def check_any(self, req: Request) -> None:
        """Refuse what another origin's page sent, also where it only reads; raises Forbidden."""
        given = req.raw_headers
        site = given.get(b"sec-fetch-site")
        if site is not None and site.strip().lower() not in _OWN_SITES:
            raise Forbidden(REFUSAL)
        origin = given.get(b"origin")
        if origin is not None and not self._is_own(origin, given.get(b"host", b"")):
            raise Forbidden(REFUSAL)

    def _is_own(self, origin: bytes, host: bytes) -> bool:
        if len(origin) > MAX_ORIGIN_BYTES:
            return False
        place = _place(origin)
        scheme = origin.partition(b"://")[0].strip().lower()
        return bool(place) and place in (self._external, _without_port(scheme, host.strip().lower()))


def _place(url: bytes) -> bytes:
    """Reduce an address to its host and port in lower case, the port left out where the scheme implies it."""
    scheme, _, rest = url.strip().lower().partition(b"://")
    return _without_port(scheme, rest.partition(b"/")[0])


def _without_port(scheme: bytes, place: bytes) -> bytes:
    return place.removesuffix(_DEFAULT_PORTS.get(scheme, b"\0"))
