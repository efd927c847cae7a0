"""Where a service listens: several addresses with one port, both families where all are meant."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from ops.server import listening
from ops.server.listening import ServiceError, address_of, listen


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@contextmanager
def listening_on(hosts: Sequence[str], port: int = 0) -> Iterator[list[socket.socket]]:
    made = listen(hosts, port)
    try:
        yield made
    finally:
        for one in made:
            one.close()


def answers(host: str, port: int) -> str:
    """Connect, and tell from where it was seen."""
    with socket.create_connection((host, port), timeout=5) as client:
        return str(client.getsockname()[0])


@needs_ipv6
@pytest.mark.parametrize("hosts", [("::",), ("0.0.0.0", "::"), ("127.0.0.1", "::1"), ("::1", "127.0.0.1", "::1")])
def test_both_families_are_listened_on_with_one_port(hosts: tuple[str, ...]) -> None:
    with listening_on(hosts) as made:
        assert len(made) == 2
        (port,) = {one.getsockname()[1] for one in made}
        assert answers("127.0.0.1", port) == "127.0.0.1"
        assert answers("::1", port) == "::1"
        for one in made:  # a client's address is its own, not one of the other family's in disguise
            if one.family == socket.AF_INET6:
                assert one.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        assert all(address_of(one).endswith(f":{port}") for one in made)


def test_every_address_is_also_that_of_a_machine_with_one_family(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def without_ipv6(host: str, *given: object, **named: object) -> object:
        if host == "::":
            raise socket.gaierror(socket.EAI_ADDRFAMILY, "Address family for hostname not supported")
        return real(host, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", without_ipv6)
    with listening_on(("::",)) as made:
        assert [one.family for one in made] == [socket.AF_INET]


def test_a_port_that_is_taken_at_one_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "BIND_PATIENCE_S", 0.0)
    with listening_on(("127.0.0.2",)) as taken:
        port = taken[0].getsockname()[1]
        with pytest.raises(ServiceError, match=rf"Cannot listen on 127\.0\.0\.2 port {port}: .*choose another --port"):
            listen(("127.0.0.1", "127.0.0.2"), port)
        with listening_on(("127.0.0.1",), port):
            pass  # nothing was left open


def test_a_port_that_the_system_chose_is_free_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    real, refused = listening._bound, 0

    def bound(family: int, address: tuple[str, int], *, wait: bool) -> socket.socket:
        nonlocal refused
        if address[0] == "127.0.0.2" and refused < 3:
            refused += 1
            with socket.create_server(("127.0.0.2", address[1])):
                return real(family, address, wait=wait)
        return real(family, address, wait=wait)

    monkeypatch.setattr(listening, "_bound", bound)
    with listening_on(("127.0.0.1", "127.0.0.2")) as made:
        assert (refused, len({one.getsockname()[1] for one in made})) == (3, 1)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_an_address_that_this_machine_has_not_is_told(host: str) -> None:
    with pytest.raises(ServiceError, match=f"Cannot listen on {host}"):
        listen(("127.0.0.1", host), 0)
