"""What somebody decided to put aside: stream entries that are no events, and heads of histories given up.

It is kept with its bytes, with why and by whom, named by every verify and never counted as clean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Final, Literal, NamedTuple

import msgspec

from ledger import keys
from ledger.errors import CorruptLedger, LedgerError, UnknownEvent
from ledger.log.append import pairs
from ledger.log.reader import parse_entry
from ledger.log.stored_sessions import RawSession
from ledger.positions import iso_from_us
from ledger.store.interface import Script, Store
from projections.archive.fold import Fold
from projections.archive.format import place
from projections.checking.findings import Finding

MOST: Final = 1000
"""How many entries of a partition are put aside at most: more come of who writes to its stream all the time."""
MAX_WHY_CHARS: Final = 500
_ASIDE: Final = Script.load("projections.checking", "aside.lua", allow_oom=True)


class Decision(NamedTuple):
    """Who decided something, why, and when."""

    why: str
    by: str
    at_us: int


class Aside(msgspec.Struct, frozen=True, array_like=True):
    """What was put aside. `what` was wrong with it; `held`: fields and values as they lay, of an entry or a session."""

    kind: Literal["entry", "head"]
    what: str
    why: str
    by: str
    at_us: int
    held: list[bytes]

    def finding(self, partition: int, name: str) -> Finding:
        """Say what was put aside under its name."""
        sid, _, _ = name.partition("@")
        decided = f"by {self.by} at {iso_from_us(self.at_us)}: {self.why}"
        if self.kind == "head":
            return Finding(partition, sid, f"{self.what}; its events were taken for its history {decided}")
        return Finding(partition, "", f"{self.what}; set aside {decided}", name)


class CannotSetAside(LedgerError):
    """An entry that may not be put aside, or is not there."""


_decode: Final = msgspec.msgpack.Decoder(Aside).decode


def advice(partition: int, entry_id: str) -> str:
    """Tell what to do with an entry that is no event."""
    return f"syncledger set-aside {partition} {entry_id} --why TEXT keeps it elsewhere"


async def read_asides(store: Store, partition: int) -> dict[str, Aside]:
    """Read all that was put aside of a partition, by name; raises CorruptLedger."""
    name = keys.aside(partition)
    held = pairs(await store.command("HGETALL", name, key=name))
    try:
        return {entry_id.decode(): _decode(aside) for entry_id, aside in held.items()}
    except (ValueError, msgspec.DecodeError) as error:
        raise CorruptLedger(f"what was set aside of partition {partition} cannot be read: {error}") from error


async def set_aside(store: Store, partition: int, row: Sequence[Any], decision: Decision) -> Aside:
    """Put a stream entry aside, as it was read, that is no event.

    Raises CannotSetAside for an event of this or a newer version, and where too much is aside.
    """
    entry_id = row[0].decode()
    try:
        parse_entry(row)
    except UnknownEvent as error:
        raise CannotSetAside(f"stream entry {entry_id} may be an event: {error}") from error
    except CorruptLedger as error:
        what = str(error)
    else:
        raise CannotSetAside(f"stream entry {entry_id} is an event that can be read; nothing is set aside")
    aside = Aside("entry", what, decision.why, decision.by, decision.at_us, list(row[1]))
    names = (keys.stream(partition), keys.aside(partition))
    done = await store.script(_ASIDE, names, (entry_id, msgspec.msgpack.encode(aside), MOST))
    if done < 0:
        raise CannotSetAside(
            f"{MOST:,} entries of partition {partition} are aside already: find who writes to its stream"
        )
    return aside


async def find_entry(store: Store, partition: int, entry_id: str) -> Sequence[Any]:
    """Read an entry of a stream; raises CannotSetAside if it is not there."""
    name = keys.stream(partition)
    rows = await store.command("XRANGE", name, entry_id, entry_id, key=name)
    if not rows:
        raise CannotSetAside(f"partition {partition} has no stream entry {entry_id}")
    row: Sequence[Any] = rows[0]
    return row


async def keep_head(store: Store, partition: int, sid: str, stored: RawSession, what: str, decision: Decision) -> None:
    """Keep what is stored of a session whose head is given up."""
    held = [*chain.from_iterable(stored.session.items()), b"ended", stored.ended or b""]
    aside = Aside("head", what, decision.why, decision.by, decision.at_us, held)
    seq = stored.session.get(b"seq", b"").decode(errors="replace") or "ended"
    name = keys.aside(partition)
    await store.command("HSET", name, f"{sid}@{seq}", msgspec.msgpack.encode(aside), key=name)


async def broken_by(
    store: Store, partition: int, asides: Mapping[str, Aside], folds: Mapping[str, Fold]
) -> list[tuple[str, str, str]]:
    """Tell whose last events entries that are aside were, or may have been: session, entry and why.

    An entry may be an event of the session that it names, and of the one whose last event it names as the one before;
    what is stored of these tells. One that is not the last is missed by the next.
    """
    broken = []
    for entry_id, aside in asides.items():
        fields = pairs(aside.held) if aside.kind == "entry" else {}
        sid, prev = fields.get(b"sid", b"").hex(), fields.get(b"prev", b"").decode(errors="replace")
        named = [sid] if sid in folds else []
        for each in dict.fromkeys((*named, *(other for other, fold in folds.items() if prev and fold.head == prev))):
            head = folds[each].head
            if not folds[each].broken and (not head or place(head) < place(entry_id)):
                name = keys.session(partition, each)
                if await store.command("HGET", name, "head", key=name) in (None, entry_id.encode()):
                    broken.append((each, entry_id, aside.what))
    return broken
