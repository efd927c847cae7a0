"""Skip pointers: how a walk along a session's events gets far in few steps.

Events whose seq is a multiple of 16, 128 or 1024 are marks. A mark of 16 carries the stream id of the mark of 16 before
it, one of 128 also that of the mark of 128 before, and so on, with spaces between, nearest first; before there is such
a mark it is the session's first event. So any event among 10,000 is within 45 steps of the newest one.

append.lua keeps a session's last three marks, written the same way, in its hash. Ledgers of before the marks of 16 and
1024 have fewer pointers, each to one of these marks all the same; nothing but speed depends on them.
"""

from __future__ import annotations

from typing import Final

SPANS: Final = (16, 128, 1024)


def carried(marks: str, seq: int) -> str | None:
    """Tell the pointers that event `seq` carries behind these last marks of its session; None if it is no mark."""
    count = sum(seq % span == 0 for span in SPANS)
    return " ".join(_split(marks)[:count]) if count else None


def fits(marks: str, seq: int, skip: str | None) -> bool:
    """Tell whether what an event carries leads to marks of its session; older ledgers' events may carry fewer."""
    if skip is None:  # PERF: so are 15 of 16, when a ledger is verified or rebuilt
        return True
    expected = carried(marks, seq)
    return skip == expected or (expected is not None and set(skip.split(" ")) <= set(_split(marks)))


def moved(marks: str, seq: int, stream_id: str) -> str:
    """Tell a session's last marks once event `seq` lies at `stream_id`."""
    if seq == 1:
        return stream_id
    if seq % SPANS[0]:
        return marks
    before = _split(marks)
    return " ".join(mark if seq % span else stream_id for mark, span in zip(before, SPANS, strict=True))


def _split(marks: str) -> list[str]:
    """Give the mark of each span; the first event, and what older ledgers kept, stands for those that are missing."""
    found = marks.split(" ")
    return (found + found[-1:] * 2)[: len(SPANS)]
