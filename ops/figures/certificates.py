"""Until when the certificates are good that others show: of the proxy in front, of the store, of who signs users in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Iterator
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from cryptography import x509

from ledger.figures.families import Family, Part
from ops.settings.settings import Settings

log = logging.getLogger("syncledger.figures")

PLACES: Final = ("external_domain", "store", "identity", "source")
EXPIRES: Final = Family(
    "certificate_expires_timestamp_seconds",
    "gauge",
    "Until when the certificate is good that is shown at a place which settings name over TLS.",
    ("place",),
    [(place,) for place in PLACES],
    join="max",
    sparse=True,
)
TIMEOUT_S: Final = 5.0
EVERY_S: Final = 600.0
_PORTS: Final = {"https": 443, "rediss": 6379, "rediss+cluster": 6379}


class Place(NamedTuple):
    """Where a certificate is shown."""

    name: str
    host: str
    port: int


def places_of(settings: Settings) -> Iterator[Place]:
    """List where certificates are shown, as settings name it; of several addresses of one place the first."""
    urls = {
        "external_domain": settings.external_domain,
        "store": settings.redis_url or "",
        "identity": settings.oidc.issuer or settings.jwt.jwks or "",
        "source": settings.gumnut.url if "gumnut" in (settings.source, settings.identity) else "",
    }
    for name, url in urls.items():
        scheme, _, rest = url.partition("://")
        if scheme not in _PORTS:
            continue
        authority = rest.partition("/")[0].partition(",")[0]
        parts = urlsplit(f"//{authority.rpartition('@')[2]}")
        with contextlib.suppress(ValueError):  # where it is used, it is told
            if parts.hostname:
                yield Place(name, parts.hostname, parts.port or _PORTS[scheme])


async def expires_s(place: Place) -> float:
    """Tell until when the certificate of a place is good, in s since 1970, whoever signed it.

    Raises OSError where nobody answers over TLS, ValueError where the certificate cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # looks at it alone: nothing is sent or believed
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with asyncio.timeout(TIMEOUT_S):
        _, writer = await asyncio.open_connection(place.host, place.port, ssl=context, server_hostname=place.host)
        try:
            shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        finally:
            writer.close()
    if not shown:
        raise ValueError("no certificate was shown")
    return x509.load_der_x509_certificate(shown).not_valid_after_utc.timestamp()


async def look(settings: Settings, part: Part) -> None:
    """Look at the certificates of all places; one that cannot be looked at stays what it was, and is named."""
    for place in places_of(settings):
        try:
            part.set(EXPIRES.name, place.name, to=await expires_s(place))
        except (OSError, ValueError, EOFError) as error:
            log.warning("the certificate of %s:%d cannot be looked at: %s", place.host, place.port, error)
