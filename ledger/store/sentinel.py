"""A primary that Sentinels know: they are asked for it before each connection, so a failover is followed by connecting.

A Sentinel that was cut off from the others may name a primary of the past. So most votes come first, and who is
connected to must say of itself that it is a primary.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff

from ledger.errors import StoreUnavailable
from ledger.store.connect import NOT_REACHED, Address, Target

ASKED_SHARE: Final = 0.4
"""For how much of the timeout of a connection the Sentinels are asked."""
_SHARED: Final = ("ssl_", "socket_")
"""What options of the primary's connection are the Sentinels' too."""


class SentinelTarget(Target):
    """The primary of a name, wherever its Sentinels say it is."""

    def __init__(
        self,
        connection_class: type[AbstractConnection],
        options: dict[str, Any],
        sentinels: tuple[Address, ...],
        service: str,
        credentials: Mapping[str, str],
    ) -> None:
        """`credentials`: `sentinel_username` and `sentinel_password`, of the Sentinels themselves; may be empty."""
        super().__init__(connection_class, options, False, sentinels)
        self._service = service
        self._sentinel_options: dict[str, Any] = {
            **{name: value for name, value in options.items() if name.startswith(_SHARED)},
            **{name.removeprefix("sentinel_"): value for name, value in credentials.items()},
            "ssl": issubclass(connection_class, SSLConnection),
            "retry": Retry(NoBackoff(), 0),
        }

    @property
    def name(self) -> str:
        """Whose primary it is, for messages."""
        return f"{self._service!r} of the Sentinels {', '.join(f'{host}:{port}' for host, port in self.addresses)}"

    async def connect(self, protocol: asyncio.Protocol, timeout_s: float) -> asyncio.StreamWriter:
        """Connect to the server that most Sentinels name and that says it is the primary; raises StoreUnavailable."""
        trouble = StoreUnavailable(f"the Sentinels name no primary for {self._service!r}", maybe_done=False)
        asked_s = timeout_s * ASKED_SHARE
        for host, port in await self.primaries(asked_s):
            try:
                target = _Primary(self.connection_class, self.options | {"host": host, "port": port}, False)
                return await target.connect(protocol, timeout_s - asked_s)
            except StoreUnavailable as error:
                trouble = error
        raise trouble

    async def primaries(self, timeout_s: float) -> list[Address]:
        """List the servers that Sentinels name, most votes first; raises StoreUnavailable where none answers."""
        votes: Counter[Address] = Counter()
        troubles: list[str] = []
        asked = [asyncio.create_task(self._ask(address, timeout_s)) for address in self.addresses]
        try:
            for answer in asyncio.as_completed(asked):
                try:
                    votes[await answer] += 1
                except NOT_REACHED as error:
                    troubles.append(str(error) or "timed out")
                if votes and max(votes.values()) * 2 > len(self.addresses):
                    break
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        if not votes:
            told = f"no Sentinel names a primary for {self._service!r}: {'; '.join(dict.fromkeys(troubles))}"
            raise StoreUnavailable(told, maybe_done=False)
        return [address for address, _ in votes.most_common()]

    async def _ask(self, address: Address, timeout_s: float) -> Address:
        bounds = {"socket_connect_timeout": timeout_s, "socket_timeout": timeout_s}
        sentinel = Sentinel([address], sentinel_kwargs=self._sentinel_options | bounds)  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(timeout_s):
                host, port = await sentinel.discover_master(self._service)
        except MasterNotFoundError as error:
            # redis-py tells why by printing its whole connection; what follows the last dash is the kind of error.
            _, asked, why = str(error).rpartition(" - ")
            told = f"does not answer ({why})" if asked else "knows of none"
            raise MasterNotFoundError("{}:{} {}".format(*address, told)) from error
        finally:
            await sentinel.aclose()
        return str(host), int(port)


class _Primary(Target):
    """A server that must say of itself that it is a primary."""

    async def _check(self, connection: AbstractConnection) -> None:
        await connection.send_command("ROLE")
        role = await connection.read_response()
        if not role or role[0] != b"master":
            raise ConnectionError("it is not the primary any more")
