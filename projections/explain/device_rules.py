"""What can be wrong with a device that syncs: one rule for each thing, in the order in which they matter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ledger.decide import ACK_AHEAD, FENCE
from ledger.entity_types import COMPLETE, ENTITY_TYPES, mask_of
from ledger.events import ASKED, IMMICH, SessionEnded, SessionResumed, SyncResetRequested
from ledger.going_on import HISTORY_LOST
from ledger.personal import text_of
from ledger.positions import iso_from_us
from projections.explain.case import Case, Finding, after_text, rows_text
from projections.explain.source_rules import (
    horizon_lags,
    library_unknown,
    rows_unfit,
    rows_wait,
    sent_again,
    source_down,
    types_left_out,
)
from projections.explain.story import Ignored
from projections.explain.stream_rules import CANNOT_STORE, streams_break, streams_repeat
from projections.history.words import ack_text, instant

DAY_US: Final = 86_400_000_000
IDLE_US: Final = 7 * DAY_US
"""Unheard of for so long, a device is taken to be away."""
REPEATED: Final = 3
"""After so many streams with something new that began at the same place of a type, it is said what stops there."""
UNFINISHED: Final = 3
"""After so many new offers without a finished one it is said that streams do not finish."""
_SHOWN: Final = 10

_REASONS: Final = {
    "logout": "it signed out",
    "provider_logout": "its user signed out at the identity provider",
    "revoked": "it was signed out by its owner or an operator",
    "revoked_others": "another device signed all others out",
    "parent_ended": "the session it belonged to ended",
    "idle": "nothing was heard of it for too long",
    "expired": "its time was over",
    "token_reused": "a token of it came again long after it was replaced, so somebody had copied it",
    "erased": "its user was erased",
    "gone": "Immich had not had it for an hour, so it was signed out there; it goes on if it is there again",
}
_CAUSES: Final = {
    ACK_AHEAD: ", because it acknowledged what the log does not know of: the store has lost answered writes",
    HISTORY_LOST: ", because the store has lost events of it that this service remembered",
    FENCE: ", because the store may have lost what it did (syncledger fence)",
    IMMICH: ", because its owner wished that in Immich",
}
_CLEARED: Final = {
    ASKED: "because its owner or an operator wanted these rows sent again",
    IMMICH: "because Immich cleared its own, to send these rows again",
}

Rule = Callable[[Case], Finding | None]


def _ended(case: Case) -> Finding | None:
    entry = case.story.ended
    if entry is None or not isinstance(entry.recorded.event, SessionEnded):
        return None
    event = entry.recorded.event
    because = _REASONS.get(event.reason, event.reason)
    who = text_of(event.by)
    by = f" (by {who})" if who else ""
    says = f"The session ended at {iso_from_us(entry.recorded.at_us)}: {because}{by}. The device must sign in again."
    return Finding(f"ended_{event.reason}", "stops", says, [entry.recorded.seq])


def _expired(case: Case) -> Finding | None:
    if case.state.ended is not None or not case.over:
        return None
    says = f"The session or its token was good until {instant(case.state.over_at_us)}. The device must sign in again."
    return Finding("expired", "stops", says)


def _idle(case: Case) -> Finding | None:
    away_us = case.now_us - case.heard_us
    if case.over or away_us < IDLE_US:
        return None
    says = f"Nothing was heard of the device for {away_us // DAY_US} days: it is off, away, or the app is gone."
    return Finding("idle", "stops", says)


def _reset_pending(case: Case) -> Finding | None:
    state, entry = case.state, case.story.reset_asked
    if case.over or not state.pending_reset:
        return None
    asked = "The device was asked to start over"
    match None if entry is None else entry.recorded.event:
        case SyncResetRequested(by=by, cause=cause):
            who, because = text_of(by), _CAUSES.get(cause, "")
        case SessionResumed():
            who, because = "", ", because its session had ended here and was there again"
        case _:
            return Finding("reset_ignored", "stops", f"{asked} long ago and has not answered.")
    assert entry is not None
    asked += f" at {iso_from_us(entry.recorded.at_us)}" + (f" by {who}" if who else "") + because
    if case.heard_us > entry.recorded.at_us:
        says = f"{asked}. It has asked for a stream or sent something since, at {iso_from_us(case.heard_us)}, but has "
        says += "not acknowledged the reset: until it does, it is sent nothing else."
        return Finding("reset_ignored", "stops", says, [entry.recorded.seq])
    says = f"{asked}, and has not been heard of since: it is told when it asks next."
    return Finding("reset_waiting", "note", says, [entry.recorded.seq])


def _reset_unanswered(case: Case) -> Finding | None:
    """The line was sent, and nobody asks for it any more: the request was taken back, or other types are asked for."""
    state, entry = case.state, case.story.reset_sent
    if not state.reset_sent or state.pending_reset or case.over or case.exchanged or case.missed_deletes:
        return None
    at = f" at {iso_from_us(entry.recorded.at_us)}" if entry is not None else ""
    says = (
        f"The device was told to start over{at} and has not acknowledged it. What it was for is over, but it may have "
        "emptied itself meanwhile: until it acknowledges, it is sent nothing else."
    )
    return Finding("reset_unanswered", "stops", says, [] if entry is None else [entry.recorded.seq])


def _exchanged(case: Case) -> Finding | None:
    """Its source is another one than what it has came from."""
    if case.state.pending_reset or not case.exchanged:
        return None
    says = (
        "What it has came from another source than the one that is read now (restored, exchanged, or promoted with a "
        "loss): it must start over, and is sent nothing else until it acknowledges that."
    )
    return Finding("source_exchanged", "stops", says)


def _reset_due(case: Case) -> Finding | None:
    if case.state.pending_reset or case.over or case.exchanged or not case.missed_deletes:
        return None
    synced_us = case.state.synced_us(mask_of(case.facts.types))
    says = (
        f"Deletes up to {iso_from_us(case.facts.library.floor_us)} were purged, and the device knows of deletes up to "
        f"{instant(synced_us)} only: it must start over, and is sent nothing else until it acknowledges that."
    )
    return Finding("deletes_purged", "stops", says)


def _refused(case: Case) -> Finding | None:
    refused = case.story.ignored("refused")
    if not refused or case.over:
        return None
    last = refused[-1]
    says = (
        f"At least {_count(refused)} of {_names(refused)} came to nothing, refused since the last progress; the last "
        f"on record, {ack_text(last.ack)}, because {last.reason}."
    )
    return Finding("acks_refused", "hinders", says, _seqs(refused))


def _stale_epoch(case: Case) -> Finding | None:
    stale = [one for one in case.story.ignored("stale") if one.older_epoch]
    if not stale or case.over:
        return None
    says = (
        f"The device still acknowledges what it had before its checkpoints were cleared: at least "
        f"{_count(stale)} of {_names(stale)} counted for nothing."
    )
    return Finding("acks_of_older_epoch", "hinders", says, _seqs(stale))


def _stale(case: Case) -> Finding | None:
    stale = [one for one in case.story.ignored("stale") if not one.older_epoch]
    if not stale or case.over:
        return None
    says = (
        f"At least {_count(stale, 'late ack')} of {_names(stale)} behind newer ones changed nothing; that is harmless."
    )
    return Finding("acks_late", "note", says, _seqs(stale))


def _never_streamed(case: Case) -> Finding | None:
    state = case.state
    if case.over or case.reset_due or state.offered or state.checkpoints:
        return None
    if case.story.cleared_seq:
        cause = _CLEARED.get(case.story.cleared_cause, case.story.cleared_cause)
        says = f"Its checkpoints were cleared ({cause}), and it has not asked for a stream since."
        return Finding("not_streamed_since", "stops", says, [case.story.cleared_seq])
    return Finding("never_streamed", "stops", "The device signed in and has never asked for a stream.", [1])


def _never_acked(case: Case) -> Finding | None:
    if case.over or not case.counted or case.reset_due or case.state.checkpoints or not case.state.offered:
        return None
    streams = case.story.streams
    says = (
        f"The device was offered {rows_text(case.rows_offered)} in {_times(len(streams))} and has acknowledged nothing"
        + (": it breaks off while it reads or stores them, or its acks do not arrive." if len(streams) > 1 else " yet.")
    )
    return Finding("never_acked", "stops" if len(streams) > 1 else "hinders", says, streams[-_SHOWN:])


def _stuck_types(case: Case) -> Finding | None:
    if case.over or case.reset_due:
        return None
    stuck = [name for name in case.waiting if case.is_stuck(name)]
    if not stuck:
        return None
    told = "; ".join(_standing(case, name) for name in stuck[:_SHOWN])
    says = f"Other types advanced, but not {', '.join(stuck[:_SHOWN])}. {told}. Its first rows there may stop it."
    seqs = sorted({seq for name in stuck for seq in case.story.of(name).offers})
    return Finding("type_stuck", "stops", says, seqs[-_SHOWN:])


def _no_progress(case: Case) -> Finding | None:
    streams = case.story.streams
    if case.over or case.reset_due or not case.state.checkpoints or not case.rows_offered or len(streams) < 2:
        return None
    since = f"since {iso_from_us(case.story.advanced_at_us)}" if case.story.advanced_seq else "for long"
    says = (
        f"No checkpoint advanced {since}, though {rows_text(case.rows_offered)} ahead were offered in "
        f"{_times(len(streams))}."
    )
    return Finding("no_progress", "stops", says, streams[-_SHOWN:])


def _window_repeated(case: Case) -> Finding | None:
    """The device begins again and again at one place: it cannot store what comes first there."""
    if case.over or case.reset_due or not case.state.checkpoints or not case.waiting or streams_repeat(case):
        return None
    name = case.waiting[0]
    offers = case.story.of(name).offers
    if len(offers) < REPEATED:
        return None
    since = next((e.recorded.at_us for e in reversed(case.facts.entries) if e.recorded.seq == offers[0]), 0)
    says = (
        f"{len(offers)} streams since {iso_from_us(since)} began at the same place of {name}{after_text(case, name)}, "
        f"and nothing of it was acknowledged: {CANNOT_STORE}"
    )
    return Finding("window_repeated", "stops", says, offers[-_SHOWN:])


def _unfinished(case: Case) -> Finding | None:
    offers = case.story.of(COMPLETE).offers
    if case.over or case.reset_due or len(offers) < UNFINISHED or not case.state.checkpoints:
        return None
    says = f"{len(offers)} streams with something new began since one was last acknowledged to its end."
    return Finding("not_finishing", "hinders", says, offers[-_SHOWN:])


def _behind(case: Case) -> Finding | None:
    if case.over or case.reset_due or not case.rows_ahead or not case.state.checkpoints:
        return None
    most = sorted(case.facts.library.ahead.items(), key=lambda pair: -pair[1].rows)
    parts = [f"{name} {ahead.rows:,}" for name, ahead in most[:3] if ahead.rows]
    says = f"The device is {rows_text(case.rows_ahead)} behind its library ({', '.join(parts)})."
    return Finding("behind", "note", says)


def _up_to_date(case: Case) -> Finding | None:
    complete = case.state.checkpoints.get(COMPLETE)
    if case.over or not case.counted or case.reset_due or case.rows_ahead or complete is None:
        return None
    says = f"The device has all there is, and finished a stream up to {iso_from_us(complete.position.at_us)}."
    return Finding("up_to_date", "note", says, [case.story.advanced_seq] if case.story.advanced_seq else [])


def _adopted(case: Case) -> Finding | None:
    if case.over or case.reset_due or not case.story.adopted:
        return None
    says = (
        f"Its checkpoints were {case.story.adopted}. Rows that Immich itself skipped before that stay missing on it "
        "until it starts over."
    )
    return Finding("adopted", "note", says, [case.story.adopted_seq])


def _standing(case: Case, name: str) -> str:
    rows, offers = case.facts.library.offered[name].rows, len(case.story.of(name).offers)
    return f"{rows_text(rows)} of it{after_text(case, name)} were offered in {_times(offers)}"


def _times(count: int) -> str:
    return "one stream" if count == 1 else f"{count:,} streams with something new"


def _names(ignored: list[Ignored]) -> str:
    return ", ".join(dict.fromkeys(ENTITY_TYPES[one.ack.code] for one in ignored))


def _count(ignored: list[Ignored], noun: str = "ack") -> str:
    number = sum(1 + one.others for one in ignored)
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _seqs(ignored: list[Ignored]) -> list[int]:
    return [one.seq for one in ignored][-_SHOWN:]


def _damaged(case: Case) -> Finding | None:
    if not case.facts.damage:
        return None
    return Finding(
        "damaged",
        "hinders",
        f"Its history is damaged ({case.facts.damage}): only what came after that is looked at here. "
        "syncledger verify names all damage.",
    )


RULES: Final[tuple[Rule, ...]] = (
    _ended, _expired, _damaged, source_down, library_unknown, _reset_pending, _exchanged, _reset_due,
    _reset_unanswered, _idle, _never_streamed, streams_repeat, streams_break, _window_repeated, _stuck_types,
    _never_acked, _no_progress, _refused, _stale_epoch, _unfinished, horizon_lags, rows_wait, rows_unfit,
    sent_again, types_left_out, _behind, _up_to_date, _stale, _adopted,
)  # fmt: skip
