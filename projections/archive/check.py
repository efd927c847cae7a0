"""Checking one segment: its frames against their digests, its events' chains, and all it says against the fold."""

from __future__ import annotations

from collections.abc import Callable

from ledger.chain import Tip, broken_link
from ledger.errors import CorruptLedger, UnknownEvent
from ledger.log.reader import Entry
from projections.archive.errors import BadSegment
from projections.archive.fold import Fold, ended_line, read_fold, state_line
from projections.archive.format import EndedLine, Previous, StateLine, place
from projections.archive.index import Index
from projections.archive.segment import Segment

Note = Callable[[str, str, str], None]
"""Takes what differs, the session it is about and the event, both '' if there is none."""


class SegmentCheck:
    """Checks a partition's segments one behind the other, oldest first. What it finds goes to `note`, each thing once.

    `folds` are the sessions that have not ended after the last segment, by id, and `broken` those whose chains break,
    which are followed no further: they are as the segment says. `whole`: nothing is missing among the folds.
    """

    def __init__(self, note: Note, folds: dict[str, Fold] | None = None, previous: Previous | None = None) -> None:
        """`folds` and `previous`: the living sessions at the end of the segment before, and its name."""
        self.folds = {} if folds is None else folds
        self.previous = previous
        self.events = 0
        self._note = note
        self.whole = True
        self._follows_any = False
        self._loose: dict[str, Tip] = {}  # sessions whose beginning retention removed: how their events follow is told
        self.broken = {sid for sid, fold in self.folds.items() if fold.broken}

    def begin_anew(self, *, whole: bool) -> None:
        """Go on with a segment whatever is before it; `whole`: nothing is, so that all sessions begin in it or later.

        Else nothing is known of sessions from before: how their events follow each other is looked at, and at the end
        of the segment they are as it says.
        """
        self.folds, self._loose, self.whole, self.previous, self._follows_any = {}, {}, whole, None, True

    async def check(self, segment: Segment, on_events: Callable[[int], None] = lambda _: None) -> None:
        """Check the next segment; `on_events` is told how many more of its events were looked at.

        Raises ObjectMissing, ArchiveUnavailable.
        """
        whole = True
        try:
            await self._check(segment, on_events)
        except BadSegment as error:
            self._note(str(error.details["what"]), "", "")
            whole = await self._reload(segment)
        except CorruptLedger as error:
            if "segment" not in error.details:
                raise
            self._note(str(error), "", str(error.details.get("id", "")))
            whole = await self._reload(segment)
        self.previous = segment.as_previous
        self._loose, self.whole, self._follows_any = {}, whole, False

    async def _check(self, segment: Segment, on_events: Callable[[int], None]) -> None:
        header = await segment.header()
        if header.previous != self.previous and not self._follows_any:
            was = "none" if header.previous is None else f"{header.previous.name} {header.previous.digest}"
            expected = "none" if self.previous is None else f"{self.previous.name} {self.previous.digest}"
            self._note(f"it follows {was}, and the segment before is {expected}", "", "")
        index, ended, count, first, last, frame = Index(), dict[str, Fold](), 0, "", "", 0
        at = (-1, -1)
        async for events in segment.runs():
            for entry in events:
                before, at = at, place(entry.id)
                if at <= before:
                    self._note(f"it does not follow {last}, the event before it", entry.recorded.sid, entry.id)
                last = entry.id
                first = first or last
                self._take(entry, ended)
                index.add(entry, frame)
                count += 1
            on_events(segment.footer.events[frame].lines)
            frame += 1
        self.events += count
        await self._compare_index(segment, index)
        await self._compare_ended(segment, ended)
        living = await self._compare_states(segment)
        said = (header.first, header.last, header.count, header.living)
        if said != (first, last, count, living) or (self.whole and header.ended != len(ended)):
            self._note(f"its header says {said} of what is {(first, last, count, living)}", "", "")

    def _take(self, entry: Entry, ended: dict[str, Fold]) -> None:
        sid, seq = entry.recorded.sid, entry.recorded.seq
        if sid in self.broken:
            return
        fold = self.folds.get(sid)
        if fold is None:
            if not self.whole and (sid in self._loose or seq > 1):
                self._take_loosely(entry)
                return
            fold = self.folds[sid] = Fold()
        try:
            wrong = fold.take(entry)
        except UnknownEvent as error:
            wrong = str(error)
        if wrong:
            self.broken.add(sid)
            self._note(wrong, sid, entry.id)
        elif fold.state is not None and fold.state.ended is not None:
            ended[sid] = self.folds.pop(sid)

    def _take_loosely(self, entry: Entry) -> None:
        """Follow a session whose earlier events are gone."""
        recorded = entry.recorded
        loose = self._loose.get(recorded.sid)
        if loose is not None and (wrong := broken_link(recorded, entry.prev, *loose)):
            self.broken.add(recorded.sid)
            self._note(wrong, recorded.sid, entry.id)
        self._loose[recorded.sid] = Tip(recorded.seq, recorded.hash, entry.id)

    async def _compare_index(self, segment: Segment, index: Index) -> None:
        seen = 0
        async for lines in segment.index():
            seen += len(lines)
            for line in lines:
                if line != index.get(line.sid):
                    self._note("its index does not lead to the session's events", line.sid, "")
        if seen != len(index):
            self._note(f"its index has {seen} sessions, its events are of {len(index)}", "", "")

    async def _compare_ended(self, segment: Segment, ended: dict[str, Fold]) -> None:
        seen = 0
        async for lines in segment.ended():
            for line in lines:
                fold = ended.get(line.sid)
                if fold is not None:
                    seen += 1
                    agrees = line == ended_line(line.sid, fold)
                else:
                    agrees = _ends(self._loose.pop(line.sid, None), line)
                if line.sid in self.broken:
                    self.folds.pop(line.sid, None)
                elif not agrees:
                    self._note("what it keeps of the ended session differs from its events", line.sid, "")
        if seen != len(ended):
            self._note(f"it keeps {seen} ended sessions, by its events there are {len(ended)}", "", "")

    async def _compare_states(self, segment: Segment) -> int:
        """Compare the states with the folds; those of sessions that were only followed loosely are taken over."""
        seen = 0
        async for lines in segment.states():
            for line in lines:
                seen += 1
                if line.sid in self.broken:
                    self.folds[line.sid] = read_fold(segment.text, line)
                    continue
                fold = self.folds.get(line.sid)
                if fold is not None and not line.broken:
                    agrees = line == state_line(line.sid, fold)
                else:
                    fold = self._take_over(segment, line)
                    loose, tip = self._loose.get(line.sid), fold.tip
                    agrees = bool(fold.broken) or (not self.whole and (loose is None or loose == tip))
                if not agrees:
                    self._note("the state it keeps differs from the fold of its events", line.sid, "")
        if seen != len(self.folds):
            self._note(f"it keeps {seen} living sessions, by its events there are {len(self.folds)}", "", "")
        return seen

    def _take_over(self, segment: Segment, line: StateLine) -> Fold:
        """Go on with a session as a segment keeps it; raises BadSegment."""
        fold = self.folds[line.sid] = read_fold(segment.text, line)
        if fold.broken and line.sid not in self.broken:
            self.broken.add(line.sid)
            event, _, what = fold.broken.partition(" ")
            self._note(what, line.sid, event)
        return fold

    async def _reload(self, segment: Segment) -> bool:
        """Go on from the states a damaged segment keeps; False if they cannot be read."""
        self.folds = {}
        try:
            async for lines in segment.states():
                for line in lines:
                    self._take_over(segment, line)
        except CorruptLedger as error:
            self._note(f"nor can its states be read: {error}", "", "")
            self.folds = {}
            return False
        return True


def _ends(loose: Tip | None, line: EndedLine) -> bool:
    return loose is not None and (loose.seq, loose.hash.hex(), loose.head) == (line.seq, line.hash, line.head)
