"""A phone that syncs with Immich's own server or with this service, on one database; the app's rules hold its copy."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from uuid import UUID

from endpoints.sync.stream import Waits, begin
from endpoints.sync.stream_lines import RESET_LINE, chunks
from ledger.acks import parse_ack
from ledger.commands import AdoptCheckpoints, CreateSession, RecordAcks
from ledger.entity_types import RESET
from ops.simulate.copy import Copy
from ops.simulate.device import HELD_LINES
from ops.simulate.parse import parse_runs
from ops.simulate.tables import TYPES_V2, UNBOUND
from projections.entities.postgres.mapping.from_toml import load_mapping
from projections.entities.postgres.pool import Postgres
from projections.entities.postgres.source import PostgresSource
from projections.entities.registry import entity_types_for
from projections.immich.adopting import Adopting
from projections.immich.tables import ImmichTables
from tests.immich.database import ImmichDatabase
from tests.immich.expected import Immich, differences
from tests.immich.server import ImmichServer
from tests.support.phones.random_phone import Session

T = TypeVar("T")


class Here:
    """This service for one session of Immich's: its real source, stream, adoption, decisions and fold; no network.

    What it adopted is with the session as it is by the first `stream`, and anew when the phone was at Immich since.
    """

    def __init__(self, database: ImmichDatabase, token: str, types: Sequence[str] = TYPES_V2) -> None:
        self._rows = entity_types_for(types)
        self._digest = sha256(token.encode()).digest()
        self._loop = asyncio.new_event_loop()
        self._pool, own = [
            self._run(Postgres.open(database.url, size=2, wait_s=10, statement_timeout_s=60)) for _ in range(2)
        ]
        self._tables = ImmichTables(own)
        self._source = PostgresSource(self._pool, load_mapping("immich"))
        self.session: Session | None = None

    def _run(self, work: Awaitable[T]) -> T:
        return self._loop.run_until_complete(work)

    def stream(self) -> bytes:
        """Read a stream to its end."""
        return self._run(self._stream())

    def ack(self, text: str) -> None:
        """Take an ack."""
        assert self.session is not None
        self._run(self.session.act(RecordAcks((parse_ack(text),))))

    async def _stream(self) -> bytes:
        session = await self._looked()
        begun = await begin(session.act, self._source, session.state, self._rows, Waits(), 0.0)
        if begun is None:
            return RESET_LINE
        made = chunks(self._source, begun.state, begun.rows, begun.snapshot_us, None, begun.types, begun.offered)
        return b"".join([chunk async for chunk in made])

    async def _looked(self) -> Session:
        """Look what Immich has of the session, as each request does within the recheck."""
        row = (await self._tables.sessions([self._digest])).sessions[self._digest]
        adopting = Adopting(lambda: self._source.resends[-1].revision if self._source.resends else 0)
        state = None if self.session is None else self.session.state
        if state is None or adopting.is_news(state, *row.synced):
            horizon_us = await self._source.horizon(row.user)
            command = adopting.adopt(await self._tables.stand(row, horizon_us), state)
            if self.session is None:
                assert command is None or isinstance(command, AdoptCheckpoints)
                self.session = Session(CreateSession(row.user, row.user, adopted=command))
            elif command is not None:
                await self.session.act(command)
        assert self.session is not None
        return self.session

    def close(self) -> None:
        """Close the connections."""
        self._run(self._tables.close())
        self._run(self._pool.close())
        self._loop.close()


class BothPhone:
    """One install of the app with a token of Immich's, which a proxy sends to either side; use as a context manager."""

    def __init__(self, database: ImmichDatabase, user: UUID, file: Path, types: Sequence[str] = TYPES_V2) -> None:
        """Sign in; `types` is what its app asks for here (Immich's model is asked for those of 3.2)."""
        self.user = user
        self.types = types
        self._database = database
        self.token = database.sign_in(user)
        self.immich = ImmichServer(database, self.token)
        self._here: Here | None = None
        self.copy = Copy(file, {UNBOUND[name] for name in types if name in UNBOUND})

    @property
    def here(self) -> Here:
        """This service, from the first sync here on."""
        if self._here is None:
            self._here = Here(self._database, self.token, self.types)
        return self._here

    def at_immich(self, runs: int | None = None, *, before_ack: bool = False) -> Counter[str]:
        """Sync with Immich, to the end or until so many runs are stored; tells how many lines of which types came."""
        return self.sync(lambda: b"".join(self.immich.stream()), self.immich.ack, runs, before_ack=before_ack)

    def at_ours(self, runs: int | None = None, *, before_ack: bool = False) -> Counter[str]:
        """Sync here, likewise."""
        return self.sync(self.here.stream, self.here.ack, runs, before_ack=before_ack)

    def store(self, body: bytes) -> None:
        """Store a stream of Immich's, acknowledging it there; raises what the app stops at."""
        self._store(body, self.immich.ack, None, Counter(), before_ack=False)

    def sync(
        self,
        stream: Callable[[], bytes],
        ack: Callable[[str], None],
        runs: int | None = None,
        *,
        before_ack: bool = False,
    ) -> Counter[str]:
        """Sync with whoever streams and takes acks, likewise; once more behind a reset."""
        came: Counter[str] = Counter()
        for _ in range(2):
            started_over = self._store(stream(), ack, runs, came, before_ack=before_ack)
            if not started_over:
                break
        return came

    def _store(
        self, body: bytes, ack: Callable[[str], None], runs: int | None, came: Counter[str], *, before_ack: bool
    ) -> bool:
        """Store run after run as the app does; raises what the app stops at. Tells whether it started over."""
        lines, done, kind = body.splitlines(keepends=True), 0, ""
        for first in range(0, len(lines), HELD_LINES):
            for run in parse_runs(b"".join(lines[first : first + HELD_LINES]), first + 1):
                if done == runs:
                    return False
                if run.type == RESET:
                    self.copy.wipe()
                self.copy.apply(run)
                done, kind = done + 1, run.type
                came[run.type] += len(run.acks)
                if not (before_ack and done == runs):
                    ack(run.acks[-1])
        return kind == RESET

    def differences(self) -> list[str]:
        """Compare the copy with the database: a line for each row that is missing, differs, or may not be there."""
        return differences(self.copy, Immich(self._database), self.user, self.types)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.copy.close()
        if self._here is not None:
            self._here.close()


def rows(counted: Iterable[tuple[str, int]]) -> int:
    """Count lines without those that carry an ack alone."""
    return sum(count for name, count in counted if name not in ("SyncAckV1", "SyncCompleteV1", RESET))
