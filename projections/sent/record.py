"""A session's last sync streams: what each sent and how it ended, newest first, at most KEPT of them.

They are told beside the events: written once a stream is over, without an event, in the session's slot. A worker that
dies loses those of its streams that were open. They go with the session's history, no fold makes them, and backups
leave them out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final, Literal

import msgspec

from ledger import keys
from ledger.log.service import Ledger
from ledger.store.interface import Script, Store

KEPT: Final = 20
MAX_LINE_CHARS: Final = 256
MAX_WHY_CHARS: Final = 200
"""Longer texts are cut: a record takes about 200 bytes, and never more than 2 KB."""
_NOTE: Final = Script.load("projections.sent", "note.lua")

How = Literal["completed", "gone", "stalled", "broken", "ended", "refused"]
"""`gone`: the client left. `stalled`: it took nothing for LEDGER_STALL. `broken`: broken off here. `ended`: its session
ended meanwhile. `refused`: answered 503 before its first line."""


class SentStream(msgspec.Struct, frozen=True, array_like=True):
    """A sync stream that is over.

    `at_us`: when it ended, by the ledger's clock; `took_us`: how long after it was asked for. `rows` and `size` (bytes,
    before compression) count what was handed to the connection, of which the client may have missed the last few
    hundred KB. `first` and `last` are the acks of the first and last line of it that is a row, '' without any. `why`
    tells what broke it.
    """

    at_us: int
    took_us: int
    how: How
    rows: int
    size: int
    first: str
    last: str
    snapshot_us: int
    correlation: str
    why: str = ""


class Sent(msgspec.Struct, frozen=True):
    """A stream, or `times` of them since `since_us` that all failed alike before their first row."""

    stream: SentStream
    times: int
    since_us: int


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(SentStream).decode


def is_worth_noting(how: str, rows: int) -> bool:
    """Tell whether a stream is kept: not a poll that found nothing, nor one whose client did not wait for that."""
    return rows > 0 or how in ("broken", "stalled", "refused")


async def note(ledger: Ledger, user: str, sid: str, stream: SentStream) -> bool:
    """Keep how a stream ended; False if its session is not there any more. Raises StoreUnavailable."""
    stream = msgspec.structs.replace(
        stream,
        first=stream.first[:MAX_LINE_CHARS],
        last=stream.last[:MAX_LINE_CHARS],
        why=stream.why[:MAX_WHY_CHARS],
    )
    alike = "" if stream.rows else sha256(f"{stream.how} {stream.why}".encode()).hexdigest()[:16]
    partition = ledger.partition_of(user)
    names = (keys.sent(partition, sid), keys.session(partition, sid), keys.ended(partition))
    return bool(await ledger.store.script(_NOTE, names, (sid, stream.at_us, _encode(stream), alike, KEPT)))


async def newest(ledger: Ledger, partition: int, sid: str) -> Sequence[Sent]:
    """Read a session's last streams, newest first; what a later version wrote otherwise is left out."""
    return parsed(await stored(ledger.store, partition, sid))


async def stored(store: Store, partition: int, sid: str) -> Sequence[bytes]:
    """Read the records of a session's last streams as they are stored, newest first."""
    name = keys.sent(partition, sid)
    entries: Sequence[bytes] = await store.command("LRANGE", name, 0, KEPT - 1, key=name)
    return entries


def parsed(entries: Iterable[bytes]) -> list[Sent]:
    """Read stored records; what a later version wrote otherwise is left out."""
    found = []
    for entry in entries:
        try:
            times, since_us, _, record = entry.split(b" ", 3)
            found.append(Sent(_decode(record), int(times), int(since_us)))
        except (msgspec.MsgspecError, ValueError):
            continue
    return found
