"""What can be wrong with a device by what its last streams sent and how they ended: rules as in `device_rules`."""

from __future__ import annotations

from typing import Final

from ledger.positions import iso_from_us
from projections.explain.case import Case, Finding
from projections.sent.judgement import Stuck
from projections.sent.words import row_text

CANNOT_STORE: Final = (
    "the app cannot store one of the rows that come first there, or its acks do not arrive. Its log shows which: an "
    "SqliteException 2067 (UNIQUE) is a checksum that another asset on it has, 787 (FOREIGN KEY) a row that came "
    "without its parent, and a TypeError a value it cannot read. If that does not end with its next syncs, have it "
    "start over: syncledger session reset, or the button on its page of the console."
)
_HOW: Final = {
    "completed": "{n} sent to the end",
    "gone": "{n} left by the device",
    "stalled": "{n} cut off, as the device took nothing for LEDGER_STALL",
    "broken": "{n} broken off by this service",
    "ended": "{n} ended with its session",
    "refused": "{n} answered 503",
}


def streams_repeat(case: Case) -> Finding | None:
    """The device begins again and again with the same row, which it never acknowledges."""
    stuck = case.stuck
    if case.over or case.reset_due or stuck is None or stuck.kind != "repeats":
        return None
    until = f", up to {row_text(stuck.last)} each time" if stuck.last else ""
    says = (
        f"The last {stuck.times} streams since {iso_from_us(stuck.since_us)} all began with {row_text(stuck.first)}"
        f"{until}, and it was not acknowledged ({_hows(stuck)}): {CANNOT_STORE}"
    )
    return Finding("streams_repeat", "stops", says)


def streams_break(case: Case) -> Finding | None:
    """Streams do not come to their end: the device leaves or takes nothing, or something here breaks them off."""
    stuck = case.stuck
    if case.over or stuck is None or stuck.kind == "repeats" or (case.counted and not case.rows_ahead):
        return None  # polls that find nothing leave no trace: who has all there is got it since
    newest = case.facts.sent[0].stream
    last = f" The newest got up to {row_text(newest.last)}." if newest.last else ""
    since = iso_from_us(stuck.since_us)
    if stuck.kind == "stalls":
        says = (
            f"The device took nothing of its last stream for so long that it was cut off (LEDGER_STALL; {_hows(stuck)} "
            f"since {since}): the app was put to sleep, it is busy with what it got, or its network is gone.{last}"
        )
        return Finding("stream_stalled", "hinders", says)
    if stuck.kind == "breaks_off":
        says = (
            f"The device left its last {stuck.times} streams since {since} before their end, each at another place: it "
            f"gets on, but its network or something between breaks them off, or the app is closed.{last}"
        )
        return Finding("streams_left", "hinders", says)
    count = "stream was" if stuck.times == 1 else f"{stuck.times} streams were"
    says = f"Its last {count} not sent to the end by this service ({_hows(stuck)}) since {since}: {stuck.why}.{last}"
    return Finding("streams_failed", "hinders", says)


def _hows(stuck: Stuck) -> str:
    return ", ".join(_HOW[how].format(n=count) for how, count in stuck.hows.most_common())
