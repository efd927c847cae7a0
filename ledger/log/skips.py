"""Skip pointers: how a walk along a session's events gets far in few steps.

Events whose seq is a multiple of 16, 128 or 1024 are marks. A mark of 16 carries the stream id of the mark of 16 before
it. One of 128 also those of the eight marks of 128 before, one of 1024 those of as many of 1024: newest first, commas
between. Spaces part the spans, nearest first; before there is a mark it is the session's first event. So any event
among 10,000 is within 26 steps of the newest one.

append.lua keeps a session's last mark of each span, with spaces between, in its hash, and takes what a mark of a wide
span is to carry from the one before it. Events written before had fewer pointers: one of each span, or one of 128 only.
Each leads to one of these marks all the same; nothing but speed depends on them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

SPANS: Final = (16, 128, 1024)
KEPT: Final = 8
"""How many marks of 128 and of 1024 one of them leads to."""


class Marks(NamedTuple):
    """A session's last marks: that of 16, up to eight of 128 and of 1024, newest first.

    Without any of a span the one of the span below stands for it. `known`: these are all there are, up to eight; else
    older ones of a span are not known, as where a fold begins with a state.
    """

    near: str = ""
    middle: tuple[str, ...] = ()
    far: tuple[str, ...] = ()
    known: bool = True

    @classmethod
    def read(cls, kept: str) -> Marks:
        """Read the last mark of each span, as a session's hash keeps them; older ledgers' may keep fewer."""
        near, *wide = kept.split(" ")
        return cls(near, tuple(wide[:1]), tuple(wide[1:2]), known=False)

    @property
    def kept(self) -> str:
        """The last mark of each span, as a session's hash keeps them."""
        return " ".join((self.near, *self.middle[:1], *self.far[:1]))

    def carried(self, seq: int) -> str | None:
        """Tell the pointers that event `seq` carries behind these marks; None if it is no mark."""
        count = sum(seq % span == 0 for span in SPANS)
        return " ".join(",".join(marks) for marks in self._spans()[:count]) if count else None

    def fit(self, seq: int, skip: str | None) -> bool:
        """Tell whether what an event carries leads to marks of its session; older ledgers' events may carry fewer."""
        if skip is None:  # PERF: so are 15 of 16, when a ledger is verified or rebuilt
            return True
        expected = self.carried(seq)
        return skip == expected or (expected is not None and all(map(self._lead, skip.split(" "))))

    def moved(self, seq: int, stream_id: str) -> Marks:
        """Tell the marks once event `seq` lies at `stream_id`."""
        if seq == 1:
            return Marks(stream_id)
        if seq % SPANS[0]:
            return self
        _, middle, far = self._spans()
        if seq % SPANS[1] == 0:
            middle = (stream_id, *middle[: KEPT - 1])
        if seq % SPANS[2] == 0:
            far = (stream_id, *far[: KEPT - 1])
        return Marks(stream_id, middle, far, self.known)

    def _spans(self) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        middle = self.middle or (self.near,)
        return (self.near,), middle, self.far or middle[:1]

    def _lead(self, pointers: str) -> bool:
        """Tell whether pointers of one span are the newest of these marks, as far as they are known."""
        ids = pointers.split(",")
        return len(ids) <= KEPT and any(
            ids == list(marks[: len(ids)]) or (not self.known and marks == tuple(ids[: len(marks)]))
            for marks in self._spans()
        )
