"""The sockets that a service listens on: one for each address, and all with one port."""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections.abc import Iterator, Sequence

from ledger.errors import Unavailable
from ops.settings.settings import Settings

log = logging.getLogger("syncledger.serve")

BACKLOG = 2048
BIND_PATIENCE_S = 3.0
OTHER_PORTS = 20
"""How many ports that the system chose are tried, where each must be free at several addresses."""
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class ServiceError(Unavailable):
    """The service cannot start; the message says what to do."""


def listen(hosts: Sequence[str], port: int, given: Sequence[socket.socket] = ()) -> list[socket.socket]:
    """Return a listening socket for each address of some hosts; `::` is every address, of both families.

    What a service killed a moment ago still holds is waited for. A host needs one address that this machine has. With
    port 0 the system chooses one that is the same for all. Of those that were `given`, which listen already, the ones
    that are wanted are used, and all others closed. Raises ServiceError.
    """
    for _ in range(OTHER_PORTS):
        listeners: list[socket.socket] = []
        try:
            for host in hosts:
                listeners += _of_host(host, port, listeners, given)
        except BaseException as error:
            for listener in listeners:
                if listener not in given:
                    listener.close()
            if not isinstance(error, _PortTaken):
                raise
        else:
            for unwanted in given:
                if unwanted not in listeners:
                    unwanted.close()
            return listeners
    raise ServiceError(f"Cannot listen on {', '.join(hosts)}: no port is free at all of them; choose one by --port")


def check_free(settings: Settings) -> None:
    """Tell that a port is taken before the work that comes before listening on it; raises ServiceError."""
    for listener in listen(settings.host, settings.port):
        listener.close()


def address_of(listener: socket.socket) -> str:
    """Return the URL a client on this machine uses."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _PortTaken(Exception):
    """The port that the system chose for one address is not free at another one."""


def _of_host(
    host: str, port: int, before: Sequence[socket.socket], given: Sequence[socket.socket]
) -> list[socket.socket]:
    chosen = before[0].getsockname()[1] if before else port
    known = {one.getsockname()[:2] for one in before}
    made: list[socket.socket] = []
    try:
        found = list(dict.fromkeys(_addresses(host, chosen)))
    except OSError as error:
        raise ServiceError(f"Cannot listen on {host}: {error.strerror}") from error
    missing: OSError | None = None
    try:
        for family, address in found:
            at = made[0].getsockname()[1] if made else chosen
            if (address[0], at) in known:
                continue
            try:
                known_one = _of_address(given, address[0], at)
                made.append(known_one or _bound(family, (address[0], at, *address[2:]), wait=port != 0))
            except OSError as error:
                if error.errno == errno.EADDRINUSE and port == 0 and (made or before):
                    raise _PortTaken from error
                if error.errno not in _NOT_HERE:
                    says = f"Cannot listen on {host} port {at}: {error.strerror}; choose another --port"
                    raise ServiceError(says) from error
                missing = error
    except BaseException:
        for one in made:
            if one not in given:
                one.close()
        raise
    if missing is not None and not made:
        raise ServiceError(f"Cannot listen on {host}: {missing.strerror}") from missing
    if missing is not None:
        log.info("this machine has not all addresses of %s", host)
    return made


def _of_address(given: Sequence[socket.socket], host: str, port: int) -> socket.socket | None:
    """Find the socket of an address; port 0 is any."""
    for one in given:
        at = one.getsockname()
        if at[0] == host and port in (0, at[1]):
            return one
    return None


def _addresses(host: str, port: int) -> Iterator[tuple[int, tuple[str, int]]]:
    for name in (host, "0.0.0.0") if host == "::" else (host,):  # noqa: S104 - as asked
        try:
            found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError:
            if name == "::":  # a machine without the other family
                continue
            raise
        for family, _, _, _, address in found:
            yield family, address  # type: ignore[misc] # of these two families it begins with host and port


def _bound(family: int, address: tuple[str, int], *, wait: bool) -> socket.socket:
    deadline = time.monotonic() + BIND_PATIENCE_S
    while True:
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # else clients of the other family would have addresses like ::ffff:1.2.3.4
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE or not wait or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return listener
