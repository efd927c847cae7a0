"""Sessions as the store has them: loaded and mended, appended to, and read back where the connection was lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Final, Protocol

from ledger.errors import CorruptLedger, NotReplicated, StoreUnavailable
from ledger.evolve import left_of
from ledger.figures.of_log import LogFigures
from ledger.log.append import Conflict, Section, append, load, read_ended
from ledger.log.reader import walk
from ledger.log.remembered import Recent
from ledger.log.replicas import Replicas
from ledger.state import State
from ledger.store.interface import Store

ATTEMPTS: Final = 16
"""How often something is decided again behind other writers before it is given up as Contended."""


class Mender(Protocol):
    """Makes what is stored of a session anew from its events."""

    async def mend(self, partition: int, sid: str, why: str) -> bool:
        """Mend a session that cannot be read, for `why`; False if it stays as it is. Raises StoreUnavailable."""
        ...


class Stored:
    """Loads and appends for one process and one store, and decides nothing.

    All methods raise StoreUnavailable when the store is away.
    """

    def __init__(
        self,
        store: Store,
        partitions: int,
        clock: Callable[[], int],
        recent: Recent,
        figures: LogFigures,
        replicas: Replicas | None,
        mender: Mender | None,
    ) -> None:
        """`clock` tells the time in µs since 1970 UTC. `recent`: what this process remembers of sessions."""
        self.store = store
        self.partitions = partitions
        self.clock = clock
        self.replicas = replicas
        self._recent = recent
        self._figures = figures
        self._mender = mender

    async def look(self, partition: int, sid: str) -> State | None:
        """Load a session that lives, without noting it as seen; None if there is none. Raises CorruptLedger."""
        return await self.load(partition, sid, self.clock(), seen=False)

    async def load(
        self,
        partition: int,
        sid: str,
        now_us: int,
        *,
        seen: bool,
        begins: bool = False,
        ancestors: Sequence[str] = (),
        known: State | None = None,
    ) -> State | None:
        """Load a session as `ledger.log.append.load` does; one that cannot be read is mended first.

        Raises CorruptLedger where it could not be.
        """
        began_s = perf_counter()
        try:
            found = await load(
                self.store, partition, sid, now_us, seen=seen, begins=begins, ancestors=ancestors, known=known
            )
        except CorruptLedger as damage:
            self._recent.forget(sid)
            if self._mender is None or not await self._mender.mend(partition, sid, str(damage)):
                raise
        else:
            self._figures.loads.note(perf_counter() - began_s)
            return found
        return await load(self.store, partition, sid, now_us, seen=seen, begins=begins, ancestors=ancestors)

    async def append(
        self,
        partition: int,
        sections: Sequence[Section],
        now_us: int,
        living_parent: str = "",
        *,
        seen_by_us: int | None = None,
        ancestors: Sequence[str] = (),
        most_sessions: int = 0,
        leaves: bool = False,
    ) -> Conflict | None:
        """Append as `ledger.log.append.append` does, and wait for replicas where they are to confirm it.

        When the connection is lost on the way, reads back what became of it instead of guessing. Raises NotReplicated
        where it is written and replicas do not confirm it, ParentOver and TooManySessions.
        """
        began_s = perf_counter()
        try:
            conflict = await append(
                self.store,
                partition,
                sections,
                now_us,
                living_parent,
                seen_by_us,
                ancestors=ancestors,
                most_sessions=most_sessions,
                leaves=leaves,
            )
        except StoreUnavailable as error:
            # What is remembered stays: if the server comes back without it, nobody else may know.
            if not error.maybe_done:
                raise
            conflict = await self.outcome(partition, sections[0], now_us)
        figures = self._figures
        figures.appends.note(perf_counter() - began_s)
        if conflict is not None:
            figures.conflict()
            return conflict
        for section in sections:
            figures.appended(section.events)
        if self.replicas is not None:
            try:
                await self.replicas.appended(partition, sections)
            except NotReplicated:
                # It is there. A replica that takes over without it is told by who remembers it.
                for section in sections:
                    if section.after.ended is None:
                        self._recent.keep(section.after)
                    else:
                        self._recent.keep_ended(section.after)
                raise
        return None

    async def outcome(self, partition: int, first: Section, now_us: int) -> Conflict | None:
        """Tell what became of an append whose connection was lost, by its first section."""
        # If the lost write still comes through later, the version it expects is gone or ours.
        sid, last = first.after.sid, first.events[-1]
        page = await walk(self.store, partition, sid, top_seq=last.seq, count=1)
        if page is not None and page.entries and page.entries[0].recorded.hash == last.hash:
            return None
        return Conflict(await self.load(partition, sid, now_us, seen=False), lost=True)

    async def confirm_all(self, partition: int) -> None:
        """See that replicas have all that is in a partition now, if they are waited for; raises NotReplicated."""
        if self.replicas is not None:
            await self.replicas.confirm_partition(partition)

    async def confirm_ended(self, partition: int, sid: str) -> None:
        """See that replicas have the end of a session, if it has ended and replicas are waited for.

        Who was answered that an end is not confirmed asks again, and may hear that it has ended only once it is. Raises
        NotReplicated.
        """
        if self.replicas is None:
            return
        ended = await read_ended(self.store, partition, sid)
        if ended is not None and not self._recent.is_confirmed(sid, ended.hash):
            await self.replicas.confirm(partition, left_of(sid, ended.user, ended.seq, ended.hash))
            self._recent.confirm(sid, ended.hash)
