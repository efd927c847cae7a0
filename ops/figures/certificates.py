"""Until when the certificates are good that others show: of the proxy in front, of the store, of who signs users in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

from cryptography import x509

from ledger.errors import LedgerError
from ledger.figures.families import Family, Part
from ledger.store.addresses import read_url
from ledger.store.cluster import ClusterStore
from ledger.store.connect import Address
from ledger.store.interface import Store
from ledger.store.sentinel import SentinelTarget
from ops.settings.settings import Settings
from projections.entities.postgres.connections.address import PORT as POSTGRES_PORT
from projections.entities.postgres.connections.address import AddressError, read_address

log = logging.getLogger("syncledger.figures")

PLACES: Final = ("external_domain", "store", "sentinel", "identity", "source")
EXPIRES: Final = Family(
    "certificate_expires_timestamp_seconds",
    "gauge",
    "Until when the certificates are good that are shown at a place which settings name over TLS: the first to end.",
    ("place",),
    [(place,) for place in PLACES],
    join="max",
    sparse=True,
)
TIMEOUT_S: Final = 5.0
EVERY_S: Final = 600.0
SOON_S: Final = 60.0
"""How often it is looked while one is over or nearly so: who has renewed it is told so."""
SHORT_S: Final = 14 * 86_400.0
"""Who has no longer than this is nearly over; the alert has it too."""
MOST: Final = 64
"""How many addresses of a place are looked at; of a store with more the rest is not."""
_HTTPS: Final = 443
_ASK_FOR_TLS: Final = b"\0\0\0\x08\x04\xd2\x16\x2f"
"""PostgreSQL's SSLRequest, which is answered with one byte: S for yes."""
_REPLICA: Final = re.compile(r"^slave\d+:ip=([^,]+),port=(\d+)", re.MULTILINE)


class Place(NamedTuple):
    """Where a certificate is shown; a `postgres` must be asked for TLS first."""

    name: str
    host: str
    port: int
    postgres: bool = False


def places_of(settings: Settings) -> Iterator[Place]:
    """List where certificates are shown, as settings name it: all addresses that they name."""
    urls = {
        "external_domain": settings.external_domain,
        "identity": settings.oidc.issuer or settings.jwt.jwks or "",
        "source": settings.gumnut.url if "gumnut" in (settings.source, settings.identity) else "",
    }
    for name, url in urls.items():
        scheme, _, rest = url.partition("://")
        with contextlib.suppress(ValueError):  # where it is used, it is told
            parts = urlsplit(f"//{rest.partition('/')[0].rpartition('@')[2]}")
            if scheme == "https" and parts.hostname:
                yield Place(name, parts.hostname, parts.port or _HTTPS)
    if _is_tls(settings):
        with contextlib.suppress(LedgerError):
            target = read_url(settings.redis_url or "")
            name = "sentinel" if isinstance(target, SentinelTarget) else "store"
            for host, port in target.addresses or (target.address,):
                yield Place(name, host, port)
    yield from _of_database(settings)


def _of_database(settings: Settings) -> Iterator[Place]:
    """List the addresses of PostgreSQL; one on a socket, or without TLS, has no certificate."""
    if settings.source != "postgres" or settings.postgres.url is None:
        return
    with contextlib.suppress(AddressError, ValueError):
        address = read_address(settings.postgres.url)
        parts = urlsplit(address.dsn)
        if parse_qs(parts.query).get("sslmode") == ["disable"]:
            return
        hosts = address.hosts or ((parts.hostname or "", parts.port or POSTGRES_PORT),)
        for host, port in hosts:
            if host and not host.startswith("/"):
                yield Place("source", host, port, postgres=True)


async def other_places(settings: Settings, store: Store) -> list[Place]:
    """List where else the store shows certificates, as it is now: a cluster's nodes, the primary, its replicas.

    What cannot be asked is left out.
    """
    if not _is_tls(settings):
        return []
    found: list[Address] = []
    if isinstance(store, ClusterStore):
        found = store.addresses
    else:
        target = read_url(settings.redis_url or "")
        with contextlib.suppress(LedgerError):
            if isinstance(target, SentinelTarget):
                found += await target.primaries(TIMEOUT_S)
            (told,) = await store.each_primary("INFO", "replication")
            found += [(host, int(port)) for host, port in _REPLICA.findall(told.decode(errors="replace"))]
    return [Place("store", host, port) for host, port in found]


def _is_tls(settings: Settings) -> bool:
    return (settings.redis_url or "").startswith("rediss")


async def expires_s(place: Place) -> float | None:
    """Tell until when the certificate of a place is good, in s since 1970, whoever signed it; None without TLS.

    Raises OSError where nobody answers over TLS, ValueError where the certificate cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # looks at it alone: nothing is sent or believed
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection(place.host, place.port, ssl=None if place.postgres else context)
        try:
            if place.postgres:
                writer.write(_ASK_FOR_TLS)
                if await reader.readexactly(1) != b"S":
                    return None
                await writer.start_tls(context, server_hostname=place.host)
            shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        finally:
            writer.close()
    if not shown:
        raise ValueError("no certificate was shown")
    return x509.load_der_x509_certificate(shown).not_valid_after_utc.timestamp()


class Look:
    """Looks at certificates in a worker now and then."""

    def __init__(self, settings: Settings, part: Part) -> None:
        self._settings = settings
        self._part = part
        self._again_s = 0.0
        self._told: set[Place] = set()

    async def look(self, store: Store) -> None:
        """Look at all places if it is time to; call it every SOON_S.

        Of several addresses of a place the one that ends first counts. One that cannot be looked at is named and counts
        for nothing; where none of a place can be, the figure stays what it was.
        """
        if time.monotonic() < self._again_s:
            return
        places = dict.fromkeys([*places_of(self._settings), *await other_places(self._settings, store)])
        ends = await _ends_of(places)
        now_s, short = time.time(), {place: end_s for place, end_s in ends.items() if end_s < time.time() + SHORT_S}
        for name in {place.name for place in ends}:
            self._part.set(EXPIRES.name, name, to=min(end_s for place, end_s in ends.items() if place.name == name))
        for place, end_s in short.items():
            if place not in self._told:
                when = "is over" if end_s < now_s else "will be over within two weeks"
                log.warning("the certificate of %s, %s:%d, %s: renew it", place.name, place.host, place.port, when)
        self._told = set(short)
        self._again_s = time.monotonic() + (0 if short else EVERY_S - SOON_S / 2)


async def _ends_of(places: Iterable[Place]) -> Mapping[Place, float]:
    """Look at places, of each name MOST at most; those that cannot be looked at are named and left out."""
    ends: dict[Place, float] = {}
    counts: dict[str, int] = {}
    for place in places:
        counts[place.name] = counts.get(place.name, 0) + 1
        if counts[place.name] > MOST:
            continue
        try:
            end_s = await expires_s(place)
        except (OSError, ValueError, EOFError) as error:
            log.warning("the certificate of %s, %s:%d, cannot be looked at: %s", *place[:3], error)
            continue
        if end_s is not None:
            ends[place] = end_s
    return ends
