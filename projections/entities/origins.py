"""The origins of a ledger's source: what the positions that devices hold were made in, noted in the ledger's store.

Every source that the ledger ever read is on record, as it described itself (`Found`), and has a number. Sessions carry
the number that they were streamed from, so nobody has to go through them when the source is exchanged: each is asked to
start over by its own next stream (`ledger.starting_over.exchanged`), whatever crashed in between, and one that holds
nothing of the exchanged source is not. That goes both ways: who points the service to a wrong database and back again
has only those start over that synced meanwhile.

Before another origin is taken, streams are refused for `SETTLE_S`, counted from when it was last seen to change. So
what is being restored is not served in part, and an operator who meant something else can put that right.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

import msgspec
from msgspec.structs import replace

from ledger import keys
from ledger.commands import EVER, Origin
from ledger.errors import Contended, CorruptLedger
from ledger.log.append import pairs
from ledger.store.interface import Arg, Script, Store
from projections.entities.source import SourceUnavailable

log = logging.getLogger(__name__)

SETTLE_S: Final = 60.0
"""How long another origin must have been seen, unchanged, before it is taken."""
GIVE_UP_S: Final = 3600.0
"""How long a table must have been missing before it is not waited for any more."""
FIRST: Final = 1
"""The number of the origin that a ledger's devices synced with first."""
KEPT: Final = 64
"""How many origins are on record; one that comes back after so many others is a new one."""
TOLD_US: Final = 7 * 86_400_000_000
"""For how long it is told that a source was exchanged."""
ATTEMPTS: Final = 16
_NOTE: Final = Script.load("projections.entities", "origin_note.lua")
_TAKE: Final = Script.load("projections.entities", "origin_take.lua")


class SourceExchanged(SourceUnavailable):
    """The source is another one than devices have synced with, or not whole; the message says what comes of that."""


class Found(msgspec.Struct, frozen=True):
    """How a source describes itself; what is empty or 0 is not known.

    `system` is who made the data, `database` which of its databases, `tables` what holds rows, each with what it is.
    `keyed` are the tables that have a primary key. `timeline` counts how often it took over from one it had followed,
    the last time having got `replayed`; both and `written` as `ledger.commands.Origin` has it.
    """

    kind: str
    system: str = ""
    database: int = 0
    tables: dict[str, int] = {}
    keyed: tuple[str, ...] = ()
    timeline: int = 0
    written: int = 0
    replayed: int = 0
    loading: tuple[str, ...] = ()
    """Tables that are being filled at this moment."""


class Record(msgspec.Struct, frozen=True):
    """An origin as it was first seen, with those it goes on from; `why` it is another one than the newest before."""

    found: Found
    follows: tuple[tuple[int, int], ...] = ()
    since_us: int = 0
    why: str = ""


_records: Final = msgspec.json.Decoder(Record)


class Origins:
    """The origins of one ledger, as one process knows them."""

    def __init__(self, store: Store, *, settle_s: float = SETTLE_S, give_up_s: float = GIVE_UP_S) -> None:
        self._store = store
        self._settle_s = settle_s
        self._give_up_s = give_up_s
        self._newest = -1
        self._records: dict[int, Record] = {}
        self.current = 0
        """The number of the origin last seen; 0 before."""

    async def of(self, found: Found, again: Callable[[], Awaitable[Found]] | None = None) -> Origin:
        """Tell the origin of a source that was found so; `again` finds it once more.

        Raises SourceExchanged until another one than before is taken, and while it is not whole.
        """
        for _ in range(ATTEMPTS):
            number = self._number_of(found)
            missing = self._missing(found)
            if missing and self._newest >= 0:
                await self._wait_for(found, missing)
                continue
            if number is not None:
                newest, noted = await self._note(number, found)
                if newest != self._newest:
                    await self._read()
                    continue
                if noted > found.written > 0:
                    if again is not None:  # others may have looked later, and noted that first
                        found, again = await again(), None
                        continue
                    why = "it is as it was earlier: a backup or snapshot of it was brought back"
                    number = await self._take(found, why, (), b"back:%d" % number)
                if number is not None:
                    self.current = number
                    return self._origin(number, found.written)
                continue
            if self._newest < 0:
                await self._read()
                continue
            why, follows = self._compared(found)
            number = await self._take(found, why, follows, _name(found, why))
            if number is not None:
                self.current = number
                return self._origin(number, found.written)
        raise SourceUnavailable("Too many others describe the source of this ledger otherwise at the same time")

    async def of_kind(self, kind: str) -> Origin:
        """Tell the origin of a source that is known by its kind alone, which cannot change while a process reads it."""
        if not self.current:
            await self.of(Found(kind))
        return self._origin(self.current, 0)

    def remembered(self) -> Origin | None:
        """Tell the origin that `of_kind` tells, without asking; None before it was found."""
        return self._origin(self.current, 0) if self.current else None

    async def accept(self, found: Found, *, same: bool) -> tuple[int, bool]:
        """Take what was found now, by an operator's word; returns its number and whether anything changed.

        `same`: it has all that the one before had (after pg_upgrade, say), so no device that has not started over yet
        does. Raises Contended where others see it otherwise at the same time.
        """
        for _ in range(ATTEMPTS):
            await self._read()
            known = self._number_of(found)
            number = self._newest + 1 if known is None else known
            before = max((n for n in self._records if n < number), default=0)
            follows = ((before, EVER), *self._records[before].follows) if same and before else ()
            if known is not None and self._records[known].follows == follows:
                return number, False
            if known is not None and not same:
                return number, False
            why = _difference(self._records[before].found, found) if before else ""
            taken, _, _ = await self._put(number, Record(found, follows, why=why), b"accepted", 0)
            if taken:
                return number, True
        raise Contended("The source of this ledger is seen otherwise by others at the same time; try again")

    def told(self, now_us: int) -> str:
        """Say in words that the source was exchanged lately; '' if it was not."""
        record = self._records.get(self.current)
        if record is None or not record.why or record.follows or now_us - record.since_us > TOLD_US:
            return ""
        since = datetime.fromtimestamp(record.since_us / 1e6, UTC).isoformat(timespec="seconds")
        return f"since {since} {record.why}: each device that synced before starts over with its next stream"

    def _origin(self, number: int, written: int) -> Origin:
        follows = self._records[number].follows
        return Origin(number, written, follows, first=number == FIRST or (FIRST, EVER) in follows)

    def _number_of(self, found: Found) -> int | None:
        """Find the newest origin on record that is the one found; None if there is none."""
        same = [n for n, record in self._records.items() if not _difference(record.found, found)]
        if found.timeline:
            same = [n for n in same if self._records[n].found.timeline in (0, found.timeline)]
        return max(same, default=None)

    def _missing(self, found: Found) -> str:
        """Say what is missing of what was there before, or is being filled; '' if nothing is."""
        number, before = self._number_of(found), self._records.get(self._before(found))
        if before is None or before.found.kind != found.kind:
            return ""
        if gone := sorted({name for name, oid in before.found.tables.items() if oid} - found.tables.keys()):
            return f"the table {gone[0]} was there before and is missing, so a restore or an upgrade may be running"
        if number is not None or not _difference(before.found, found):  # or it only took over
            return ""
        if found.loading:
            return f"the table {found.loading[0]} is being filled (COPY), so a restore is running"
        # A dump makes primary keys behind all rows.
        if bare := sorted(set(before.found.keyed) - set(found.keyed)):
            return f"the table {bare[0]} had a primary key before and has none, so a restore may be running"
        return ""

    def _before(self, found: Found) -> int:
        """Tell with which origin on record to compare what was found: its own, or else the newest; 0 without any."""
        number = self._number_of(found)
        return max(self._records, default=0) if number is None else number

    def _compared(self, found: Found) -> tuple[str, tuple[tuple[int, int], ...]]:
        """Say why what was found is another origin than those on record, and what it goes on from.

        A server that was promoted goes on from the timeline before, up to where it had followed that. Of no other
        change is it known how much it lost.
        """
        if not self._records:
            return "", ()
        before = [n for n, r in self._records.items() if not _difference(r.found, found)]
        if before:
            number = max(before)
            record = self._records[number]
            took_over = found.timeline == record.found.timeline + 1 and found.replayed > 0
            if not took_over:
                return "another server took over from it, and what that had is not known", ()
            earlier = ((n, up_to if up_to == EVER else min(up_to, found.replayed)) for n, up_to in record.follows)
            follows = ((number, found.replayed), *earlier)
            return "another server took over from it", follows
        return _difference(self._records[max(self._records)].found, found), ()

    async def _wait_for(self, found: Found, missing: str) -> None:
        """Raise SourceExchanged while something is missing; what stays away for `GIVE_UP_S` is not missed any more.

        Where other tables are what they were it is an upgrade that dropped one, which is waited for as another origin
        is. A table that comes after all is another one.
        """
        number = self._before(found)
        record = self._records[number]
        if not found.loading:
            tables = {name: oid if name in found.tables else 0 for name, oid in record.found.tables.items()}
            keyed = tuple(name for name in record.found.keyed if name in found.keyed)
            given_up = replace(record, found=replace(record.found, tables=tables, keyed=keyed))
            is_upgrade = self._number_of(found) is not None and len(found.tables) > 0
            wait_s = self._settle_s if is_upgrade else self._give_up_s
            taken, left_ms, _ = await self._put(number, given_up, _name(found, missing), wait_s)
            if left_ms == 0:
                self._newest = -1
                if taken:
                    log.error("not missed any more: %s", missing)
                return
        else:
            await self._store.command("HDEL", keys.origins(), "pending", key=keys.origins())
        raise SourceExchanged(f"It cannot be told what devices may be sent: {missing}")

    async def _put(self, number: int, record: Record, what: bytes, settle_s: float) -> tuple[int, int, int]:
        """Put an origin on record once `what` was seen for long enough, unless another one was.

        Returns 1 if that is done, for how many ms it is to be seen still, and when it was done (µs).
        """
        args: list[Arg] = [self._newest, number, msgspec.json.encode(record), record.found.written]
        args += [number - KEPT, what, int(settle_s * 1000)]
        taken, left_ms, at_us = await self._store.script(_TAKE, (keys.origins(),), args)
        return int(taken), int(left_ms), int(at_us)

    async def _take(self, found: Found, why: str, follows: tuple[tuple[int, int], ...], what: bytes) -> int | None:
        """Put another origin on record once it has settled; None if somebody else did.

        `what` is to stay the same until then. Raises SourceExchanged meanwhile.
        """
        number = self._newest + 1
        settle_s = 0.0 if not self._records or follows else self._settle_s
        record = Record(found, follows, why=why)
        taken, left_ms, at_us = await self._put(number, record, what, settle_s)
        if left_ms > 0:
            told = f"The source is another one than devices have synced with: {why}"
            raise SourceExchanged(
                f"{told}. Unless it is put back, they start over with their first stream in {-(-left_ms // 1000):,} s; "
                "if it has all that it had, say so: syncledger source accept --same"
            )
        if not taken:
            self._newest = -1
            return None
        self._newest = number
        self._records[number] = Record(found, follows, at_us, why)
        for old in [n for n in self._records if n <= number - KEPT]:
            del self._records[old]
        if follows:
            log.warning("the source goes on as number %d: %s", number, why)
        elif why:
            log.error("the source is another one (number %d): %s; devices start over", number, why)
        return number

    async def _note(self, number: int, found: Found) -> tuple[int, int]:
        """Note how far an origin is written; returns the number of the newest one, and how far it was written before.

        Tables that it did not have before are noted too: they will be missed where they go.
        """
        record = self._records[number]
        merged = ""
        if more := {name: oid for name, oid in found.tables.items() if name not in record.found.tables}:
            tables, keyed = record.found.tables | more, {*record.found.keyed, *found.keyed}
            record = replace(record, found=replace(record.found, tables=tables, keyed=tuple(sorted(keyed))))
            merged = msgspec.json.encode(record).decode()
        newest, noted = await self._store.script(
            _NOTE, (keys.origins(),), (self._newest, number, found.written, merged)
        )
        if merged and int(newest) == self._newest:
            self._records[number] = record
        return int(newest), int(noted)

    async def _read(self) -> None:
        """Read what is on record."""
        fields = pairs(await self._store.command("HGETALL", keys.origins(), key=keys.origins()))
        try:
            self._newest = int(fields.get(b"newest", 0))
            self._records = {
                int(name.removeprefix(b"record:")): replace(
                    _records.decode(value), since_us=int(fields.get(b"since:" + name.removeprefix(b"record:"), 0))
                )
                for name, value in fields.items()
                if name.startswith(b"record:")
            }
        except (ValueError, msgspec.DecodeError) as error:
            raise CorruptLedger(
                f"{keys.origins().decode()} cannot be read ({error}): delete it, and the source that is read then "
                "counts as the one that devices synced with"
            ) from error


def _difference(before: Found, now: Found) -> str:
    """Say why what was found is another source than one before, its timeline left out; '' if it is the same."""
    if before.kind != now.kind:
        return f"it was {before.kind}, and is {now.kind}"
    if before.system != now.system and before.system and now.system:
        return "it is another server's data (a restored dump, or another server at the address)"
    if before.database != now.database and before.database and now.database:
        return "it is another database of the server"
    other = sorted(name for name, oid in before.tables.items() if now.tables.get(name, oid) != oid)
    if other:
        return f"the table {other[0]} was made anew (a restored dump, or a migration)"
    return ""


def _name(found: Found, why: str) -> bytes:
    """Name what is about to be taken, so that it settles anew when it changes."""
    told = (found.kind, found.system, found.database, found.timeline, sorted(found.tables.items()), found.keyed, why)
    return msgspec.json.encode(told)
