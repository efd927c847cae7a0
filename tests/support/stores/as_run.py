"""Stores as people run them, for `pytest --store KIND`: what the tests of every kind of store then run on.

Each has a `url` as the service takes it, and `flush` empties it, by a way of its own where the service's user may not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from tests.support.stores.certificates import write_certificate
from tests.support.stores.sentinels import Sentinels
from tests.support.stores.servers import RedisCluster, RedisServer, free_port

PAGE: Final = Path(__file__).parents[3] / "ops/docs/stores.md"


class AsRun(Protocol):
    """A store that tests share."""

    @property
    def url(self) -> str:
        """The address as the service takes it."""
        ...

    def flush(self) -> None:
        """Empty it."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...


def documented_rules() -> list[str]:
    """Read what the documentation gives a user of an access control list."""
    found = re.search(r"ACL SETUSER ledger on '>…' (.+?)\n```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1].replace("\\\n", " ").replace("'", "").split()


class OverTls(RedisServer):
    """A server that takes TLS from clients with a certificate alone, but for the tests' own commands."""

    def __init__(self, binary: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._tls_port = free_port()
        self._pem = write_certificate(folder / "store.pem")
        options = ("--tls-port", str(self._tls_port), "--tls-auth-clients", "yes")
        files = [part for name in ("cert", "key", "ca-cert") for part in (f"--tls-{name}-file", str(self._pem))]
        super().__init__(binary, folder, options=(*options, *files))

    @property
    def url(self) -> str:
        """The address over TLS, with the client's certificate."""
        names = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
        return f"rediss://127.0.0.1:{self._tls_port}/0?" + "&".join(f"{name}={self._pem}" for name in names)


class Bounded(RedisServer):
    """A server with a user who may do what the documentation lists, and no more."""

    def __init__(self, binary: str, folder: Path) -> None:
        super().__init__(binary, folder)

    @property
    def url(self) -> str:
        """The address, as that user."""
        return f"redis://ledger:pw@127.0.0.1:{self.port}/0"

    def start(self) -> Self:
        """Start the server and make the user, who may also set limits: tests do so, the service never does."""
        super().start()
        self.command("ACL", "SETUSER", "ledger", "on", ">pw", *documented_rules(), "+config|set")
        return self


class Watched(Sentinels):
    """A primary with a replica, known by three Sentinels."""

    def __init__(self, binary: str, folder: Path) -> None:
        super().__init__(binary, folder, replicas=1, durable=False)

    def flush(self) -> None:
        """Empty the primary, and with it the replica."""
        self.primary.flush()


KINDS: Final[dict[str, Callable[[str, Path], AsRun]]] = {
    "server": RedisServer,
    "cluster": RedisCluster,
    "sentinel": Watched,
    "tls": OverTls,
    "acl": Bounded,
}
