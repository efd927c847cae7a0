"""What proves a session's history to who has nothing but the log's key: as it is written, and how it is checked.

A proof holds the session's events as they are stored, the log's entry of the newest one, the session's place in the
state tree, and the checkpoint that both are proved against. It is JSON, for people to look into; what counts in it are
the bytes that hashes and signatures cover.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec

from ledger.chain import GENESIS, link, previous_of
from ledger.errors import CorruptLedger
from ledger.events import Recorded, decode_event, tag_of
from ledger.transparency.checkpoints import Checkpoint, LogProof, parse_checkpoint, parse_proof
from ledger.transparency.entries import KINDS, ClosedLeaf, StateLeaf, pack_event, pack_state, parse_leaf
from ledger.transparency.merkle import leaf_hash, root_by_inclusion
from ledger.transparency.notes import BadNote, Verified, VerifierKey, verified
from ledger.transparency.state_tree import Path, Record, root_by_path

FORMAT: Final = "syncledger/session-proof@v1"
NOT_PROVED: Final = (
    "that every request was logged",
    "anything since that entry",
    "that the device did what the events say",
    "at what time it was, except by the times of witnesses",
)
PRUNED: Final = "which entry its newest event is, for the log is pruned there; its hash is in the state"


Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""What is hashed as eight bytes."""
_HASH: Final = re.compile("[0-9a-f]{64}")


class ProvedEvent(msgspec.Struct, frozen=True, rename="camel"):
    """An event as it is stored: its hash is SHA-256 over the hash before, session, seq, time, schema and `raw`."""

    seq: Count
    at_us: Count
    schema: Count
    raw: bytes
    hash: str


class ProvedRecord(msgspec.Struct, frozen=True):
    """What the state tree holds where a path ends: a session, its last seq and hash, and the entry of that event."""

    session: str
    seq: Count
    hash: str
    entry: Count


class StateProof(msgspec.Struct, frozen=True):
    """The session's place in the state tree, and the entry that holds the tree's root.

    `siblings` are from the root down; `end` is None where no session lies there. `proof` is a C2SP tlog-proof.
    """

    sessions: Count
    siblings: list[str]
    end: ProvedRecord | None
    proof: str


class ClosedProof(msgspec.Struct, frozen=True):
    """The log's first entry, where it tells of a log that was closed before this one, and its C2SP tlog-proof."""

    entry: bytes
    proof: str


class SessionProof(msgspec.Struct, frozen=True, rename="camel"):
    """All that proves a session's history. `newest` is the tlog-proof of the newest event's entry, '' without one or
    where the log is pruned there: then its hash is proved by the state tree alone.

    `previous_hash`: the hash before the first event, where older ones are not kept any more. `place`: what is said
    of where the log lies. `follows`: which closed log this one follows; null for none.
    """

    format: str
    session: str
    events: list[ProvedEvent]
    newest: str
    state: StateProof
    previous_hash: str = ""
    place: str = ""
    follows: ClosedProof | None = None


class Verdict(msgspec.Struct, frozen=True):
    """What a proof proves: of which log, up to which entry, who signed, and how many of the session's events.

    `seq`: of the newest logged event, 0 where nothing was ever logged of the session; `first`: that of the first event
    that is given, 0 without one. `follows`: which closed log this one follows.
    """

    checkpoint: Checkpoint
    signed: tuple[Verified, ...]
    seq: int
    first: int
    events: int
    follows: ClosedLeaf | None = None


class NotProved(ValueError):
    """A proof that does not hold; the message says which part of it, in plain words."""


def read(content: bytes) -> SessionProof:
    """Read a proof as its file holds it, of which nothing is checked yet; raises NotProved."""
    try:
        return msgspec.json.decode(content.decode(), type=SessionProof)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotProved(f"this is no proof of a session's history: {error}") from error


def check(proof: SessionProof, keys: Sequence[VerifierKey], witnesses: Sequence[VerifierKey] = ()) -> Verdict:
    """Check a proof with the log's keys, one of which must have signed, and those of witnesses, all of which must have.

    Raises NotProved.
    """
    try:
        return _check(proof, keys, witnesses)
    except NotProved:
        raise
    except BadNote as error:
        raise NotProved(f"the checkpoint: {error}") from error
    except (ValueError, CorruptLedger) as error:
        raise NotProved(str(error)) from error


def words(proof: SessionProof, verdict: Verdict) -> list[str]:
    """Say what is proved, and what is not."""
    checkpoint = verdict.checkpoint
    said = f"log {checkpoint.origin}, entry {checkpoint.size - 1:,}"
    if not verdict.seq:
        proved = [f"nothing was logged for session {proof.session} by {said}"]
    elif not verdict.events:
        proved = [
            f"events up to seq {verdict.seq:,} of session {proof.session} were logged, and nothing more by {said}"
        ]
    else:
        proved = [
            f"these {verdict.events:,} events of session {proof.session}, in this order, were logged by {said}",
            f"nothing more was logged for it by then: its newest event is seq {verdict.seq:,}",
        ]
    lines = [f"proved: {each}" for each in proved]
    if verdict.seq and not verdict.events:
        lines.append("not proved: what the events were, for they are not kept any more")
    if verdict.events and not proof.newest:
        lines.append(f"not proved: {PRUNED}")
    if verdict.events and proof.previous_hash:
        lines.append(f"not proved: what the events before seq {verdict.first:,} were, for they are not kept any more")
    if (closed := verdict.follows) is not None:
        lines.append(
            f"note: this log follows {plain(closed.origin)}, of {closed.size:,} entries, which was closed: "
            f"{plain(closed.why)}. What only that one had is not proved here"
        )
    lines += [f"not proved: {each}" for each in NOT_PROVED]
    if proof.place:
        lines.append(f"note: {plain(proof.place)}")
    return lines


def _check(proof: SessionProof, keys: Sequence[VerifierKey], witnesses: Sequence[VerifierKey]) -> Verdict:
    if proof.format != FORMAT:
        raise NotProved(f"this is {proof.format[:60]!r}, what is read here is {FORMAT}")
    sid = _unhex("session", proof.session)
    state = parse_proof(proof.state.proof)
    checkpoint, signed = _signed(state, keys, witnesses)
    path = Path(tuple(_unhex("state.siblings", each) for each in proof.state.siblings), _record(proof.state.end))
    leaf = pack_state(StateLeaf(state.at, proof.state.sessions, root_by_path(sid, path)))
    if state.at != checkpoint.size - 1:
        raise NotProved(f"the state is that of entry {state.at}, the newest is {checkpoint.size - 1}")
    _included("the session's place in the state tree", state, leaf, checkpoint)
    follows = _closed(proof, keys, witnesses, checkpoint)
    known = path.end if path.end is not None and path.end.sid == sid else None
    if known is None:
        if proof.events or proof.newest:
            raise NotProved("it has events of a session of which nothing was logged")
        return Verdict(checkpoint, signed, 0, 0, 0, follows)
    if proof.events:
        newest = _follow(proof, sid)
        if (newest.seq, newest.hash) != (known.seq, known.hash):
            raise NotProved(f"its newest event is seq {newest.seq}, which is not seq {known.seq} as it was logged last")
        if proof.newest:
            _check_newest(proof, keys, witnesses, checkpoint, newest, known)
    first = proof.events[0].seq if proof.events else 0
    return Verdict(checkpoint, signed, known.seq, first, len(proof.events), follows)


def _check_newest(
    proof: SessionProof,
    keys: Sequence[VerifierKey],
    witnesses: Sequence[VerifierKey],
    checkpoint: Checkpoint,
    newest: Recorded,
    known: Record,
) -> None:
    """Check that the newest event's entry is in the log where the state tree says."""
    entry = parse_proof(proof.newest)
    if _signed(entry, keys, witnesses)[0] != checkpoint:
        raise NotProved("its two parts are of different checkpoints")
    if entry.at != known.entry:
        raise NotProved(f"its newest event is proved at entry {entry.at}, it was logged at {known.entry}")
    leaf = pack_event(KINDS[tag_of(newest.event)], known.sid, known.seq, known.hash)
    _included("its newest event", entry, leaf, checkpoint)


def _closed(
    proof: SessionProof, keys: Sequence[VerifierKey], witnesses: Sequence[VerifierKey], checkpoint: Checkpoint
) -> ClosedLeaf | None:
    """Check what is said of a closed log before this one: it is this log's first entry."""
    if proof.follows is None:
        return None
    entry, leaf = parse_proof(proof.follows.proof), parse_leaf(proof.follows.entry)
    if entry.at != 0 or not isinstance(leaf, ClosedLeaf) or _signed(entry, keys, witnesses)[0] != checkpoint:
        raise NotProved("what it says of a log before this one is not this log's first entry")
    _included("what it says of a log before this one", entry, proof.follows.entry, checkpoint)
    return leaf


def plain(text: str) -> str:
    """Give what somebody wrote without what a terminal would carry out."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _signed(
    proof: LogProof, keys: Sequence[VerifierKey], witnesses: Sequence[VerifierKey]
) -> tuple[Checkpoint, tuple[Verified, ...]]:
    checkpoint = parse_checkpoint(proof.note.text)
    signed = verified(proof.note, [*(key for key in keys if key.name == checkpoint.origin), *witnesses])
    if not any(each.key in keys for each in signed):
        raise NotProved(f"the checkpoint of {checkpoint.origin} is not signed by the key that was given")
    for witness in witnesses:
        if not any(each.key == witness for each in signed):
            raise NotProved(f"witness {witness.name} did not sign the checkpoint")
    return checkpoint, signed


def _included(what: str, proof: LogProof, leaf: bytes, checkpoint: Checkpoint) -> None:
    if root_by_inclusion(proof.at, checkpoint.size, leaf_hash(leaf), proof.hashes) != checkpoint.root:
        raise NotProved(f"{what} is not in the log at entry {proof.at}")


def _record(end: ProvedRecord | None) -> Record | None:
    if end is None:
        return None
    return Record(_unhex("state.end.session", end.session), end.seq, _unhex("state.end.hash", end.hash), end.entry)


def _unhex(field: str, text: str) -> bytes:
    """Read 32 bytes, which are written in one way only: so a proof that was altered is another one, or none."""
    if not _HASH.fullmatch(text):
        raise NotProved(f"{field}: a session id or hash has 64 lower-case hex digits")
    return bytes.fromhex(text)


def _follow(proof: SessionProof, sid: bytes) -> Recorded:
    """Follow the chain to its newest event."""
    seq, digest = 0, GENESIS
    if proof.previous_hash:
        seq, digest = proof.events[0].seq - 1, _unhex("previousHash", proof.previous_hash)
    recorded: Recorded | None = None
    for each in proof.events:
        recorded = Recorded(
            sid.hex(),
            each.seq,
            each.at_us,
            each.schema,
            decode_event(each.raw, each.schema),
            each.raw,
            _unhex("hash", each.hash),
        )
        previous = previous_of(recorded, seq, digest)
        if previous is None:
            raise NotProved(f"event {each.seq} does not follow event {seq}: something between them is missing")
        if link(previous, sid.hex(), each.seq, each.at_us, each.schema, each.raw) != recorded.hash:
            raise NotProved(f"event {each.seq} was changed: its hash is that of another one")
        seq, digest = recorded.seq, recorded.hash
    assert recorded is not None
    return recorded
