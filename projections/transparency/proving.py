"""Making the proof of a session's history out of the log and what is kept of its events."""

from __future__ import annotations

from typing import Final

from ledger.errors import CorruptLedger, NoSuchSession, Refused
from ledger.events import HistoryLost, Recorded
from ledger.transparency.checkpoints import LogProof, parse_checkpoint
from ledger.transparency.entries import ClosedLeaf, StateLeaf, parse_leaf
from ledger.transparency.notes import Note, parse_note
from ledger.transparency.session_proof import (
    FORMAT,
    ClosedProof,
    ProvedEvent,
    ProvedRecord,
    SessionProof,
    StateProof,
)
from ledger.transparency.state_tree import Node, Record
from projections.archive.errors import ObjectMissing
from projections.history.event_pages import EventPages
from projections.transparency.errors import LogContradicts
from projections.transparency.place import CHECKPOINT, LOG, LogPlace
from projections.transparency.states import StateTree
from projections.transparency.tree import TreeReader

_TRIES: Final = 3
"""How often the newest checkpoint is taken anew, where what it needs was superseded meanwhile."""


class NotLogged(CorruptLedger):
    """What is kept of a session does not lead to what is logged of it."""


class TooLong(Refused):
    """A history of more events than are proved at once over HTTP."""


async def prove(
    place: LogPlace, past: EventPages, partition: int | None, sid: str, *, note: str = "", most: int | None = None
) -> SessionProof | None:
    """Make the proof of a session as of the newest checkpoint; None before the first one.

    `partition`: where its events are; None where none are kept. `note`: what is to be said of the place.
    `most`: how many events may be in it, None for any number. Raises TooLong, NotLogged, LogContradicts,
    ArchiveUnavailable, and what reading events does.
    """
    for attempt in range(_TRIES):
        try:
            return await _prove(place, past, partition, sid, note, most)
        except ObjectMissing:
            if attempt == _TRIES - 1:
                raise
    return None


async def _prove(
    place: LogPlace, past: EventPages, partition: int | None, sid: str, note: str, most: int | None
) -> SessionProof | None:
    text = await place.find(CHECKPOINT)
    if text is None:
        return None
    try:
        signed = parse_note(text.decode())
        checkpoint = parse_checkpoint(signed.text)
    except ValueError as error:
        raise LogContradicts(CHECKPOINT, str(error)) from error
    tree, at = TreeReader(place, checkpoint.size), checkpoint.size - 1
    leaf = parse_leaf(await tree.leaf(at, checkpoint.root))
    if not isinstance(leaf, StateLeaf):
        raise LogContradicts(CHECKPOINT, "its last entry is no state root")
    states = await StateTree.open(place, leaf.size, Node(leaf.root, leaf.sessions))
    path = await states.path(bytes.fromhex(sid))
    known = path.end if path.end is not None and path.end.sid.hex() == sid else None
    events: list[ProvedEvent] = []
    previous, newest = "", ""
    if known is not None and partition is not None:
        events, previous = await _events(past, partition, sid, known, most)
        if events and known.entry >= (await place.pruned()).minimum:
            newest = str(LogProof(known.entry, tuple(await tree.inclusion(known.entry)), signed))
    end = None if path.end is None else ProvedRecord(path.end.sid.hex(), *_shown(path.end))
    state = StateProof(
        leaf.sessions,
        [sibling.hex() for sibling in path.siblings],
        end,
        str(LogProof(at, tuple(await tree.inclusion(at)), signed)),
    )
    return SessionProof(FORMAT, sid, events, newest, state, previous, note, await _follows(place, tree, signed))


async def _follows(place: LogPlace, tree: TreeReader, signed: Note) -> ClosedProof | None:
    """Prove which closed log this one follows; None for one that follows none."""
    identity, checkpoint = await place.identity(), parse_checkpoint(signed.text)
    if identity is None or identity.follows is None:
        return None
    # Its bundle and tiles stay, however far the log is pruned.
    first = await tree.leaf(0, checkpoint.root)
    if not isinstance(parse_leaf(first), ClosedLeaf):
        raise LogContradicts(LOG, f"it says that the log follows {identity.follows.origin}, its first entry does not")
    return ClosedProof(first, str(LogProof(0, tuple(await tree.inclusion(0)), signed)))


def _shown(record: Record) -> tuple[int, str, int]:
    return record.seq, record.hash.hex(), record.entry


async def _events(
    past: EventPages, partition: int, sid: str, known: Record, most: int | None
) -> tuple[list[ProvedEvent], str]:
    """Read a session's events up to the one that is logged last, and the hash before them if older ones are gone."""
    events: list[ProvedEvent] = []
    previous = ""
    try:
        async for run in past.runs(partition, sid, forward=True):
            for entry in run.entries:
                recorded = entry.recorded
                if recorded.seq > known.seq:
                    break
                if not events and not previous and not _begins(recorded):
                    previous = recorded.hash.hex()  # what it says cannot be checked without the hash before it
                    continue
                each = ProvedEvent(recorded.seq, recorded.at_us, recorded.schema, recorded.raw, recorded.hash.hex())
                events.append(each)
            if most is not None and len(events) > most:
                raise TooLong(
                    f"this history has more than {most:,} events, too many for a request: run syncledger "
                    f"history {sid} --proof FILE"
                )
    except NoSuchSession:
        return [], ""
    if events and (events[-1].seq, events[-1].hash) != (known.seq, known.hash.hex()):
        raise NotLogged(
            f"what is kept of session {sid} does not lead to seq {known.seq}, which is logged at entry {known.entry}: "
            "it was cut, or changed after it was logged. Run syncledger verify",
            sid=sid,
        )
    return events, previous


def _begins(recorded: Recorded) -> bool:
    """Tell whether a history begins with an event, or with the hole that it tells of."""
    event = recorded.event
    return recorded.seq == 1 or (isinstance(event, HistoryLost) and event.from_seq == 1)
