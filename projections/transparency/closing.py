"""Closing a log that went back, for which nobody has the newest copy any more, and beginning another behind it.

What is left of the closed log stays where it is. The log behind it lies in another place, under another origin and key,
and its first leaf tells which one it follows, how far that was known and why it was closed. It logs all that is kept
from the beginning, so what only the closed log knew is what that still proves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ledger import keys as names
from ledger.store.interface import Script
from ledger.transparency.checkpoints import parse_checkpoint
from ledger.transparency.entries import MAX_NOTE_BYTES, MAX_WHY_BYTES
from ledger.transparency.notes import BadNote, VerifierKey, parse_note, verified
from projections.archive.errors import ArchiveUnavailable
from projections.transparency import batches
from projections.transparency.errors import LogContradicts, LogRefused
from projections.transparency.job import LogOf
from projections.transparency.noted import read_noted
from projections.transparency.place import FORMAT_FOLLOWING, Closed, Identity, LogPlace, checkpoint_name

_CLOSE: Final = Script.load("projections.transparency", "close.lua", allow_oom=True)


def closed_by(checkpoint: str, why: str, verifiers: Sequence[VerifierKey], noted_origin: str, noted: int) -> Closed:
    """Tell what a log begins with behind one that is closed, whose newest known checkpoint this is; '' without any.

    `verifiers` are the keys of the closed log; `noted_origin` and `noted` its origin and entries as the ledger knows
    them. Raises LogRefused.
    """
    if not why.strip() or not why.isprintable() or len(why.encode()) > MAX_WHY_BYTES:
        raise LogRefused(
            f"say why the log is closed, in a line of at most {MAX_WHY_BYTES} bytes: auditors read it first"
        )
    if not checkpoint:
        if not noted_origin:
            raise LogRefused("this ledger knows of no log, and no checkpoint of one was given: there is none to close")
        return Closed(origin=noted_origin, size=noted, why=why)
    if len(checkpoint.encode()) > MAX_NOTE_BYTES:
        raise LogRefused(f"the checkpoint is longer than {MAX_NOTE_BYTES:,} bytes: leave signatures of witnesses out")
    try:
        note = parse_note(checkpoint)
        found = parse_checkpoint(note.text)
        signed = verified(note, [key for key in verifiers if key.name == found.origin])
    except BadNote as error:
        raise LogRefused(f"what was given as checkpoint is none: {error}") from error
    if noted_origin not in ("", found.origin):
        raise LogRefused(f"the checkpoint is one of log {found.origin}, this ledger's is {noted_origin}")
    if not signed:
        raise LogRefused(
            f"no key that is known of log {found.origin} signed the checkpoint: give the log's key with --key"
        )
    return Closed(origin=found.origin, size=max(found.size, noted), why=why, checkpoint=checkpoint)


async def refuse_whole(place: LogPlace, closed: Closed) -> None:
    """Refuse to close a log whose newest copy still lies where it was written; raises LogRefused.

    It is not whole where somebody has a newer checkpoint of it, or another one of its size. What cannot be read is not
    whole either.
    """
    try:
        identity, newest = await place.identity(), await batches.newest(place)
        size = 0 if newest is None else newest.end
        signed = await place.find(checkpoint_name(closed.size))
    except (LogContradicts, ArchiveUnavailable):
        return
    if identity is None or identity.origin != closed.origin or size < closed.size or signed is None:
        return
    if closed.checkpoint and parse_note(closed.checkpoint).text != parse_note(signed.decode()).text:
        return
    raise LogRefused(
        f"log {closed.origin} is not lost: it lies in {place.shown}, with all of its {size:,} entries. Set "
        "LEDGER_PROOF to that place. If it is to be closed all the same, move it elsewhere before, and keep it"
    )


async def close(log_of: LogOf, closed: Closed, new_origin: str, take_key: Callable[[str], None]) -> Identity:
    """Begin the log behind a closed one where `log_of` says; to call it again completes what broke off.

    `take_key` has the new origin's key made where the old one's is. Raises LogRefused: the place holds a log.
    """
    place = log_of.place
    begun = await place.identity()
    if begun is None:
        origin = log_of.wanted or new_origin
        if origin == closed.origin:
            raise LogRefused(
                f"the log behind {closed.origin} needs a name of its own: set LEDGER_PROOF_ORIGIN to another one, or "
                "leave it out"
            )
        wanted = Identity(format=FORMAT_FOLLOWING, origin=origin, ledger=log_of.ledger_id, follows=closed)
        begun = await place.begin(wanted)
    if begun.ledger != log_of.ledger_id or begun.follows is None or begun.follows.origin != closed.origin:
        raise LogRefused(
            f"{place.shown} holds log {begun.origin}: what is left of a log stays as it is, for auditors. Set "
            "LEDGER_PROOF to an empty place, where the log behind it begins"
        )
    take_key(begun.origin)
    args = (closed.origin, begun.origin, place.shown)
    found = (await log_of.store.script(_CLOSE, [names.meta()], args)).decode()
    if found != begun.origin:
        raise LogRefused(f"this ledger's log is {found}, not {closed.origin}: there is nothing to close")
    return begun


async def noted_log(log_of: LogOf) -> tuple[str, int]:
    """Tell origin and entries of the log that is to be closed; ('', 0) where the ledger knows of none.

    Where closing broke off behind its last step, that of the one that the log at hand follows.
    """
    noted, identity = await read_noted(log_of.store), await log_of.place.identity()
    if identity is not None and identity.follows is not None and noted.origin == identity.origin:
        return identity.follows.origin, identity.follows.size
    return noted.origin, noted.size
