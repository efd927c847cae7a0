"""Connections to PostgreSQL: few, shared by all streams of a process, each held for one short use.

What goes wrong with them is SourceUnavailable, in words that hold no password: waiting for a connection is bounded, and
so is every statement, by the server (`statement_timeout`) and, should that be silent, some seconds later by us.

One connection that is gone tells of all: a server that restarted, or a firewall that forgot, took its siblings too. So
none that is as old is used again, and what only reads is asked once more on a new one (`Postgres.ask`), in bounded
time. One that nobody used for a while is asked whether it is still there before anything hangs on it.

Sessions are read-only and without JIT, and print values in one way whatever a role or database has set, by parameters
of their start: a SET would stay on a server connection that others get next. Where sessions share connections to the
server (`?pgbouncer=true`, PgBouncer with `pool_mode = transaction`), nothing can be said at their start or kept: each
use is a transaction that begins with it, and statements are not kept prepared. `source check` tells where a role or
database has set something else behind a pooler.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final, Self, TypeVar

import asyncpg

from ledger.errors import InvalidInput
from projections.entities.postgres.connections.address import AddressError, read_address
from projections.entities.postgres.connections.connecting import Connection, Connector, encoding_of
from projections.entities.postgres.connections.freed_memory import keep_freed_memory
from projections.entities.source import SourceUnavailable

log = logging.getLogger(__name__)

T = TypeVar("T")
APPLICATION: Final = "syncledger"
SILENCE_S: Final = 5.0
"""How much later than the server's own limit we give a statement up, and how long a cancelled one may take to end."""
IDLE_S: Final = 180.0
"""How long a connection that nobody uses is kept: less than the four minutes after which balancers forget one."""
UNUSED_S: Final = 10.0
"""A connection that was not used for so long is asked first whether it is still there."""
THERE_S: Final = 2.0
"""How long the answer may take."""
AGAIN_S: Final = 10.0
"""What took longer than this until its connection was known to be gone is not tried again: who asked has waited."""
STATEMENTS: Final = 500
"""Prepared statements a connection keeps: a few for each entity type."""
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


_BOUNCER: Final = "behind PgBouncer with pool_mode = transaction, add ?pgbouncer=true to the database's URL"


class ConnectionLost(SourceUnavailable):
    """The connection is gone, or nobody answers on it: what only read may be asked again on another one."""


class Postgres:
    """A pool of at most `size` connections; the first is made at the first use."""

    def __init__(
        self, pool: asyncpg.Pool, settings: dict[str, str], *, size: int, wait_s: float, statement_timeout_s: float
    ) -> None:
        """`settings` are what each transaction sets for itself; empty where sessions have it from their start."""
        self._pool = pool
        self.size = size
        self.encoding = "UTF8"
        """That of the database, as the connection told that was used last."""
        self._settings = settings
        said = ", ".join(f"set_config('{name}', {_literal(value)}, true)" for name, value in settings.items())
        self._set = f"SELECT {said}"
        self._wait_s = wait_s
        self._statement_timeout_s = statement_timeout_s
        self._returning: set[asyncio.Task[None]] = set()
        self._expired_s = -math.inf

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        size: int,
        wait_s: float,
        statement_timeout_s: float,
        watch: Callable[[asyncpg.Connection], Awaitable[None]] | None = None,
    ) -> Self:
        """Prepare a pool for an address; whether a server is there is told by the first use.

        `wait_s` bounds how long a caller waits for a connection, made or given back; `statement_timeout_s` a statement.
        `watch` is called with each connection that is made.
        Raises InvalidInput for an address that cannot be read.
        """
        try:
            address = read_address(dsn)
        except AddressError as error:
            raise InvalidInput([(("LEDGER_POSTGRES",), str(error))]) from None
        for note in address.notes:
            log.warning("%s", note)
        keep_freed_memory()
        settings = {
            "statement_timeout": str(max(1, round(statement_timeout_s * 1000))),
            "jit": "off",
            **PRINTING,
            # As on disks without heads: at 4, the default, tables are read whole to spare a page's few index reads.
            "random_page_cost": "1.1",
            **({"search_path": address.search_path} if address.search_path else {}),
        }
        at_start = {} if address.pooled else {"default_transaction_read_only": "on", **settings}
        pool = await asyncpg.create_pool(
            address.dsn,
            min_size=0,
            max_size=size,
            max_inactive_connection_lifetime=IDLE_S,
            reset=_keep,
            init=watch,
            connect=Connector(address, wait_s),
            connection_class=Connection,
            command_timeout=statement_timeout_s + SILENCE_S,
            statement_cache_size=STATEMENTS if address.statement_cache_size is None else address.statement_cache_size,
            max_cached_statement_lifetime=0,
            max_cacheable_statement_size=0,  # asking for all entity types at once takes 20 KB
            server_settings={"application_name": APPLICATION, **at_start},
        )
        return cls(
            pool, settings if address.pooled else {}, size=size, wait_s=wait_s, statement_timeout_s=statement_timeout_s
        )

    @property
    def shares_sessions(self) -> bool:
        """Tell whether others may use the connections to the server that ours are used for."""
        return bool(self._settings)

    @property
    def in_use(self) -> int:
        """How many connections are held right now; one that ends a cancelled statement still counts."""
        return int(self._pool.get_size() - self._pool.get_idle_size())

    async def ask(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """Do some work that only reads on a connection, and once more on a new one where that turns out to be gone.

        Raises what `connection` does.
        """
        began_s = time.monotonic()
        try:
            async with self.connection() as connection:
                return await work(connection)
        except ConnectionLost as error:
            if time.monotonic() - began_s > AGAIN_S:
                raise
            log.info("asked again on a new connection: %s", error)
        async with self.connection() as connection:
            return await work(connection)

    @contextlib.asynccontextmanager
    async def connection(self, *, writes: bool = False) -> AsyncGenerator[asyncpg.Connection]:
        """Hold a connection, outside of any transaction but one that began with it, of statements that see what is new.

        Raises SourceUnavailable when none is to be had in time, and for all that goes wrong with it in the block. When
        the block fails or is cancelled, nobody waits: its statement is cancelled behind it, and the connection is back.
        `writes`: in one transaction that may write.
        """
        connection = await self._take()
        self.encoding, born_s = encoding_of(connection), connection.born_s
        transaction = None
        if writes or self.shares_sessions:
            # Each statement sees what was committed before it, whatever the role has for its transactions.
            transaction = connection.transaction(isolation="read_committed", readonly=not writes)
        try:
            if transaction is not None:
                await transaction.start()
                if writes:
                    await connection.execute("SET TRANSACTION READ WRITE")
                if self._settings:
                    await connection.execute(self._set)
            yield connection
            if transaction is not None:
                await transaction.commit()
        except BaseException as error:
            task = asyncio.ensure_future(self._give_back(connection, transaction))
            self._returning.add(task)
            task.add_done_callback(self._returning.discard)
            if _is_lost(error, connection) and born_s > self._expired_s:  # none is used again that is as old
                await self.expire()
            raise_unavailable(error, connection, self._statement_timeout_s)
            raise
        await self._give_back(connection)

    async def expire(self) -> None:
        """Have no connection used again that is open now: they may lead to another server than new ones do."""
        self._expired_s = time.monotonic()
        await self._pool.expire_connections()

    async def close(self) -> None:
        """Close all connections; those in use are cut off."""
        self._pool.terminate()
        if self._returning:
            await asyncio.wait(self._returning)

    async def _take(self) -> asyncpg.Connection:
        """Take a connection that is there: one that was not used for some time is asked."""
        while True:
            connection = await self._acquire()
            if time.monotonic() - connection.used_s < UNUSED_S:
                return connection
            try:
                async with asyncio.timeout(THERE_S):
                    await connection.execute("SELECT 1")
            except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                log.info("a connection to PostgreSQL was gone when it was to be used again")
                await self._end(connection)
                await self.expire()
            except BaseException:
                await self._end(connection)
                raise
            else:
                connection.note_used()
                return connection

    async def _acquire(self) -> asyncpg.Connection:
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

    async def _give_back(self, connection: asyncpg.Connection, failed: Any = None) -> None:
        """Give a connection back, behind a transaction that failed."""
        # When this fails the connection is closed instead, and the next use makes another.
        trouble = OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError
        if failed is not None:
            with contextlib.suppress(*trouble):
                async with asyncio.timeout(SILENCE_S):
                    await failed.rollback()
        with contextlib.suppress(*trouble):
            await self._pool.release(connection, timeout=SILENCE_S)

    async def _end(self, connection: asyncpg.Connection) -> None:
        with contextlib.suppress(asyncpg.InterfaceError):  # it ended by itself
            connection.terminate()
        await self._give_back(connection)

    def __repr__(self) -> str:
        return f"Postgres(size={self.size}, in_use={self.in_use})"


def raise_unavailable(error: BaseException, connection: asyncpg.Connection, statement_timeout_s: float) -> None:
    """Raise SourceUnavailable for what a server or the way to it may do; return for all else, as for errors of ours."""
    if isinstance(error, asyncpg.DataError) and error.severity is None:  # the driver's own: an argument does not fit
        return
    if _is_lost(error, connection):
        text = "The connection to PostgreSQL was lost"
        if not isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
            text = _text(error, statement_timeout_s)  # type: ignore[arg-type] # what is lost is no BaseException
        raise ConnectionLost(text) from error
    if isinstance(error, asyncpg.PostgresError | asyncpg.InternalClientError):
        raise SourceUnavailable(_text(error, statement_timeout_s)) from error


def _is_lost(error: BaseException, connection: asyncpg.Connection) -> bool:
    """Tell whether an error says that its connection is gone, or that nobody answers on it."""
    gone = TimeoutError | OSError | asyncpg.PostgresConnectionError | asyncpg.OperatorInterventionError
    if isinstance(error, gone):
        return not isinstance(error, asyncpg.QueryCanceledError)
    return isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError) and _closed(connection)


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
        case asyncpg.PostgresConnectionError() if "startup parameter" in str(error):
            return f"PostgreSQL refused: {error.args[0]}; {_BOUNCER}"
        case asyncpg.DuplicatePreparedStatementError() | asyncpg.InvalidSQLStatementNameError():
            return f"PostgreSQL refused: {error.args[0]} ({error.sqlstate}); {_BOUNCER}"
        case asyncpg.PostgresConnectionError():
            return f"The connection to PostgreSQL was lost: {error.args[0]}"
        case asyncpg.PostgresError():
            return f"PostgreSQL refused: {error.args[0]} ({error.sqlstate})"
        case OSError():
            return f"PostgreSQL cannot be reached: {error}"
        case _:
            return f"PostgreSQL answered in a way that was not understood ({type(error).__name__})"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


async def _keep(connection: Any) -> None:
    """Reset nothing between two uses: nobody here sets anything."""
    connection.note_used()
