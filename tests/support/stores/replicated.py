"""A primary with real replicas, on either kind of server."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.support.stores.servers import RedisServer, redis7_binary, valkey_binary, wait_until

COUNT: Final = 2


def has_replicas(primary: RedisServer, count: int) -> bool:
    """Tell whether so many replicas confirm a write."""
    with primary.client() as client:
        client.set("synced", "1")  # WAIT counts what was written on its own connection
        return int(client.execute_command("WAIT", count, 100)) >= count


class Replicated:
    """A primary and its replicas."""

    def __init__(self, binary: str, folder: Path) -> None:
        self.primary = RedisServer(binary, folder / "primary", options=("--repl-diskless-sync-delay", "0"))
        self.replicas = [RedisServer(binary, folder / f"replica{number}") for number in range(COUNT)]

    def __enter__(self) -> Replicated:
        try:
            self.primary.start()
            for replica in self.replicas:
                replica.start()
                replica.command("REPLICAOF", "127.0.0.1", self.primary.port)
            wait_until(self.in_sync, "the replicas to be in sync")
        except BaseException:
            self.__exit__()
            raise
        return self

    def in_sync(self) -> bool:
        return has_replicas(self.primary, COUNT)

    def __exit__(self, *_: object) -> None:
        for server in (self.primary, *self.replicas):
            server.kill()


def binary_of(kind: str) -> str:
    binary = valkey_binary() if kind == "valkey" else redis7_binary()
    if binary is None:
        pytest.skip("redis-server 7 is not installed")
    return binary
