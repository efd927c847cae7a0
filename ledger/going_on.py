"""What is put on record of a session of which the store lost events: the hole, and what was known behind it. Pure."""

from __future__ import annotations

from typing import Final

from ledger.commands import GoOn
from ledger.events import (
    Event,
    HistoryLost,
    SessionCreated,
    SessionEnded,
    SyncResetRequested,
    TokenFirstUsed,
    TokenRotated,
)
from ledger.state import State

HISTORY_LOST: Final = "history_lost"
"""The cause of the reset that a device is asked for behind a hole."""


def go_on(state: State | None, command: GoOn) -> tuple[Event, ...]:
    """Tell of the hole between what there is and what was known, and have the device start over: it may be ahead.

    What was known of its tokens is put on record again. A session of which nothing is left is created anew, and ended
    again if it had: else who remembers only that it lived would let it live.
    """
    known = command.known
    seq, after = (0, b"") if state is None else (state.seq, state.hash)
    events: list[Event] = []
    if known.seq > seq:
        events.append(HistoryLost(seq + 1, known.seq, command.cause, known.hash, after))
    if state is None:
        events.append(_created_anew(known))
        if known.ended is not None:
            events.append(SessionEnded(known.ended))
    if known.ended is None and (state is None or state.ended is None):
        events += _tokens_again(state, known)
        epoch = known.epoch + max(known.epochs.values(), default=0)
        if state is None or not state.pending_reset or epoch > state.epoch:
            events.append(SyncResetRequested(True, b"", HISTORY_LOST, epoch))
    return tuple(events)


def _created_anew(known: State) -> SessionCreated:
    return SessionCreated(
        user=known.user,
        library=known.library,
        parent=known.parent,
        device_type=known.device_type,
        device_os=known.device_os,
        app_version=known.app_version,
        expires_at_us=known.expires_at_us,
        authenticated_by=known.authenticated_by,
        token_expires_at_us=None if known.token else known.token_expires_at_us,
        provider_session=known.provider_session,
    )


def _tokens_again(state: State | None, known: State) -> list[Event]:
    """Tell what is to be said of tokens that were lost: else a device that refreshed would be signed out."""
    if state is not None and state.token_number > known.token_number:
        return []
    events: list[Event] = []
    number, in_use = known.token_number, bytes.fromhex(known.sid) if state is None else state.token_in_use
    held = () if state is None else tuple(token.digest for token in state.new_tokens)
    if known.token and known.token != in_use:
        until_us = max((token.until_us for token in known.old_tokens if token.digest == in_use), default=0)
        if known.token not in held:
            events.append(TokenRotated(known.token, number, known.token_expires_at_us))
        events.append(TokenFirstUsed(known.token, until_us))
        held = ()
    new = (token for token in known.new_tokens if token.digest not in held)
    return [*events, *(TokenRotated(token.digest, number, token.expires_at_us) for token in new)]
