"""Whether a session's last streams show that its device is stuck; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple

from ledger.acks import parse_ack
from ledger.entity_types import COMPLETE
from ledger.errors import InvalidAck
from ledger.state import State
from projections.sent.record import Sent

REPEATED: Final = 3
"""So many streams that began at one place, or that broke off wherever they began, are no accident."""
_BROKEN_BY_CLIENT: Final = ("gone", "stalled")


class Stuck(NamedTuple):
    """What is wrong: the newest `times` streams, since `since_us`.

    `repeats`: they began with the same line (`first`), and it was not acknowledged. `breaks_off`: the device left each
    of them before its end. `stalls`: it took nothing for too long, in the newest one at least. `fails`: they were
    refused or broken off here, because of `why`. `last` is the last line that all of them sent, '' where it differs;
    `hows` counts how they ended.
    """

    kind: Literal["repeats", "breaks_off", "stalls", "fails"]
    times: int
    since_us: int
    first: str
    last: str
    hows: Counter[str]
    why: str = ""


def judge(newest_first: Sequence[Sent], state: State) -> Stuck | None:
    """Tell what a session's last streams show to be wrong, as of its newest state; None where nothing does."""
    complete = state.checkpoints.get(COMPLETE)
    if complete is not None and newest_first and complete.acked_at_us > newest_first[0].stream.at_us:
        return None  # it came to an end since, in a stream that had nothing more for it
    return _judge(newest_first, state, lambda line: _is_acknowledged(line, state))


def judged_then(newest_first: Sequence[Sent], state: State) -> Stuck | None:
    """Tell what they showed when the newest of them ended, at most: whatever was acknowledged since."""
    return _judge(newest_first, state, lambda _: False)


def _judge(every: Sequence[Sent], state: State, is_acknowledged: Callable[[str], bool]) -> Stuck | None:
    newest_first = [sent for sent in every if sent.stream.at_us >= state.created_at_us]  # it may have been resumed
    if not newest_first or state.ended is not None:
        return None
    newest = newest_first[0]
    if newest.stream.how in ("refused", "broken"):
        failed = _run(newest_first, lambda sent: sent.stream.how in ("refused", "broken"))
        return _stuck("fails", failed, newest.stream.why)
    with_rows = [sent for sent in newest_first if sent.stream.rows]
    if not with_rows:
        return None
    first = with_rows[0].stream.first
    same = _run(with_rows, lambda sent: sent.stream.first == first)
    if len(same) >= REPEATED and not is_acknowledged(first):
        return _stuck("repeats", same)
    if newest.stream.how == "stalled":
        return _stuck("stalls", _run(newest_first, lambda sent: sent.stream.how == "stalled"))
    left = _run(with_rows, lambda sent: sent.stream.how in _BROKEN_BY_CLIENT)
    return _stuck("breaks_off", left) if len(left) >= REPEATED else None


def _stuck(kind: Literal["repeats", "breaks_off", "stalls", "fails"], run: Sequence[Sent], why: str = "") -> Stuck:
    lasts, hows = {sent.stream.last for sent in run}, Counter[str]()
    for sent in run:
        hows[sent.stream.how] += sent.times
    return Stuck(
        kind,
        sum(sent.times for sent in run),
        run[-1].since_us,
        run[0].stream.first,
        lasts.pop() if len(lasts) == 1 else "",
        hows,
        why,
    )


def _run(newest_first: Sequence[Sent], wanted: Callable[[Sent], bool]) -> list[Sent]:
    """Take the newest ones up to the first that is not wanted."""
    found = []
    for sent in newest_first:
        if not wanted(sent):
            break
        found.append(sent)
    return found


def _is_acknowledged(line: str, state: State) -> bool:
    """Tell whether a line's position was acknowledged, or is none of the type's epoch any more."""
    try:
        ack = parse_ack(line)
    except InvalidAck:
        return False
    if ack.epoch != state.epoch_of(ack.type):
        return True
    held = state.checkpoints.get(ack.type)
    return held is not None and held.position.key >= ack.position.key
