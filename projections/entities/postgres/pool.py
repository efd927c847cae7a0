"""Connections to PostgreSQL: few, shared by all streams of a process, each held for one short use.

What goes wrong with them is SourceUnavailable, in words that hold no password: waiting for a connection is bounded, and
so is every statement, by the server (`statement_timeout`) and, should that be silent, some seconds later by us.

Sessions are read-only and without JIT, and print values in one way whatever a role or database has set, by parameters
of their start. PgBouncer refuses parameters it does not know: list `default_transaction_read_only, statement_timeout,
jit, random_page_cost, extra_float_digits, bytea_output, lc_monetary, lc_numeric, lc_time, transform_null_equals` in its
`ignore_startup_parameters`; `source check` tells where a role or database has set something else behind it.
With `pool_mode = transaction` it also needs `max_prepared_statements` (1.21), or `?statement_cache_size=0` on our
address. Parameters are used, rather than SET, because a SET would stay on a server connection that others get next; the
one exception is how statements are planned, which changes no answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any, Final, Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from ledger.errors import InvalidInput
from projections.entities.source import SourceUnavailable

APPLICATION: Final = "syncledger"
SILENCE_S: Final = 5.0
"""How much later than the server's own limit we give a statement up, and how long a cancelled one may take to end."""
IDLE_S: Final = 300.0
STATEMENTS: Final = 500
"""Prepared statements a connection keeps: a few for each entity type."""
_CACHE_SIZE: Final = "statement_cache_size"
PRINTING: Final = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",  # at 0 and below floats are rounded
    "bytea_output": "hex",
    "lc_monetary": "C",
    "lc_numeric": "C",  # the separators of to_char()
    "lc_time": "C",
    "standard_conforming_strings": "on",  # what a backslash in a mapping's literals means
    "transform_null_equals": "off",
}
"""All settings that change what a statement of a mapping means or prints."""


class Connection(asyncpg.Connection):  # type: ignore[misc] # asyncpg has no types
    """A connection that knows for what its statements are planned, so that it is told only when that changes."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._for_values = False

    async def plan_for_values(self, wanted: bool) -> None:
        """Have statements planned for the values at hand each time, or leave it to PostgreSQL.

        Behind a PgBouncer that shares connections another one's choice may be found: that costs time, and nothing else.
        """
        if wanted != self._for_values:
            await self.execute(f"SET plan_cache_mode = {'force_custom_plan' if wanted else 'auto'}")
            self._for_values = wanted


class Postgres:
    """A pool of at most `size` connections; the first is made at the first use."""

    def __init__(self, pool: asyncpg.Pool, *, size: int, wait_s: float, statement_timeout_s: float) -> None:
        self._pool = pool
        self.size = size
        self._wait_s = wait_s
        self._statement_timeout_s = statement_timeout_s
        self._returning: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, dsn: str, *, size: int, wait_s: float, statement_timeout_s: float) -> Self:
        """Prepare a pool for an address; whether a server is there is told by the first use.

        `wait_s` bounds how long a caller waits for a connection, made or given back; `statement_timeout_s` a statement.
        Raises InvalidInput for an address that cannot be read.
        """
        address, cache_size = _split(dsn) if _CACHE_SIZE in dsn else (dsn, STATEMENTS)
        pool = await asyncpg.create_pool(
            address,
            min_size=0,
            max_size=size,
            max_inactive_connection_lifetime=IDLE_S,
            reset=_keep,
            connection_class=Connection,
            timeout=wait_s,
            command_timeout=statement_timeout_s + SILENCE_S,
            statement_cache_size=cache_size,
            max_cached_statement_lifetime=0,
            max_cacheable_statement_size=0,  # asking for all entity types at once takes 20 KB
            server_settings={
                "application_name": APPLICATION,
                "default_transaction_read_only": "on",
                "statement_timeout": str(max(1, round(statement_timeout_s * 1000))),
                "jit": "off",
                **PRINTING,
                # As on disks without heads: at 4, the default, tables are read whole to spare a page's few index reads.
                "random_page_cost": "1.1",
            },
        )
        return cls(pool, size=size, wait_s=wait_s, statement_timeout_s=statement_timeout_s)

    @property
    def in_use(self) -> int:
        """How many connections are held right now; one that ends a cancelled statement still counts."""
        return int(self._pool.get_size() - self._pool.get_idle_size())

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncGenerator[asyncpg.Connection]:
        """Hold a connection, outside of any transaction.

        Raises SourceUnavailable when none is to be had in time, and for all that goes wrong with it in the block. When
        the block fails or is cancelled, nobody waits: its statement is cancelled behind it, and the connection is back.
        """
        connection = await self._take()
        try:
            yield connection
        except BaseException as error:
            task = asyncio.ensure_future(self._give_back(connection))
            self._returning.add(task)
            task.add_done_callback(self._returning.discard)
            raise_unavailable(error, connection, self._statement_timeout_s)
            raise
        await self._give_back(connection)

    async def expire(self) -> None:
        """Have no connection used again that is open now: they may lead to another server than new ones do."""
        await self._pool.expire_connections()

    async def close(self) -> None:
        """Close all connections; those in use are cut off."""
        self._pool.terminate()
        if self._returning:
            await asyncio.wait(self._returning)

    async def _take(self) -> asyncpg.Connection:
        if self._pool.is_closing():
            raise SourceUnavailable("The service is shutting down")
        try:
            async with asyncio.timeout(self._wait_s):
                connection = await self._pool.acquire()
        except TimeoutError as error:
            if self.in_use >= self.size:
                text = f"All {self.size} connections to PostgreSQL were in use for {self._wait_s:g} s"
            else:
                text = f"PostgreSQL made no connection within {self._wait_s:g} s"
            raise SourceUnavailable(text) from error
        except (OSError, asyncpg.PostgresError) as error:
            raise SourceUnavailable(_text(error, self._statement_timeout_s)) from error
        except (ValueError, TypeError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            # What the driver says about an address may quote parts of it, so it is neither repeated nor chained.
            kind = type(error).__name__
        else:
            return connection
        raise SourceUnavailable(f"No connection to PostgreSQL can be made with this address ({kind})")

    async def _give_back(self, connection: asyncpg.Connection) -> None:
        # When this fails the connection is closed instead, and the next use makes another.
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            await self._pool.release(connection, timeout=SILENCE_S)

    def __repr__(self) -> str:
        return f"Postgres(size={self.size}, in_use={self.in_use})"


def raise_unavailable(error: BaseException, connection: asyncpg.Connection, statement_timeout_s: float) -> None:
    """Raise SourceUnavailable for what a server or the way to it may do; return for all else, as for errors of ours."""
    if isinstance(error, asyncpg.DataError) and error.severity is None:  # the driver's own: an argument does not fit
        return
    if isinstance(error, TimeoutError | OSError | asyncpg.PostgresError | asyncpg.InternalClientError):
        raise SourceUnavailable(_text(error, statement_timeout_s)) from error
    if isinstance(error, asyncpg.InterfaceError) and _closed(connection):
        raise SourceUnavailable("The connection to PostgreSQL was lost") from error


def _closed(connection: asyncpg.Connection) -> bool:
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:  # lost, so that the pool took it already
        return True


def _text(error: Exception, statement_timeout_s: float) -> str:
    """Say what happened; of a server's error without its details, which may quote a row."""
    match error:
        case TimeoutError():
            return "PostgreSQL did not answer in time"
        case asyncpg.QueryCanceledError():
            return f"PostgreSQL cancelled a statement (they may take {statement_timeout_s:g} s): {error.args[0]}"
        case asyncpg.PostgresConnectionError():
            return f"The connection to PostgreSQL was lost: {error.args[0]}"
        case asyncpg.PostgresError():
            return f"PostgreSQL refused: {error.args[0]} ({error.sqlstate})"
        case OSError():
            return f"PostgreSQL cannot be reached: {error}"
        case _:
            return f"PostgreSQL answered in a way that was not understood ({type(error).__name__})"


def _split(dsn: str) -> tuple[str, int]:
    """Take our own parameter out of an address; the driver would hand it to the server."""
    try:
        parts = urlsplit(dsn)
        query = parse_qsl(parts.query, keep_blank_values=True)
        sizes = [int(value) for name, value in query if name == _CACHE_SIZE]
    except ValueError:  # not chained: it may quote the address
        raise InvalidInput([((_CACHE_SIZE,), "Expected a whole number in an address that can be read")]) from None
    kept = urlencode([(name, value) for name, value in query if name != _CACHE_SIZE])
    return urlunsplit(parts._replace(query=kept)), sizes[-1] if sizes else STATEMENTS


async def _keep(connection: Any) -> None:
    """Reset nothing between two uses: nobody here sets anything."""
