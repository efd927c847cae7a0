"""Reading a segment: the frames that are needed, each checked against its digest."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from hashlib import sha256
from typing import Final, TypeVar

import msgspec
import zstandard

from ledger.errors import CorruptLedger
from ledger.events import Recorded, decode_event
from ledger.log.reader import PAGE_BYTES, Entry, size_of
from projections.archive.errors import BadSegment
from projections.archive.fold import Fold, read_fold
from projections.archive.format import (
    FORMAT,
    TAIL_BYTES,
    EndedLine,
    EventLine,
    Footer,
    Frame,
    Header,
    IndexLine,
    Name,
    Previous,
    Run,
    StateLine,
    footer_size,
    parse_name,
    place,
    unpack_footer,
)
from projections.archive.objects import Objects

KEPT_FRAMES: Final = 8
"""How many unpacked frames a reader keeps, of about 1 MB each."""
T = TypeVar("T")

_header: Final = msgspec.json.Decoder(Header)
_event: Final = msgspec.json.Decoder(EventLine)
_index: Final = msgspec.json.Decoder(IndexLine)
_ended: Final = msgspec.json.Decoder(EndedLine)
_state: Final = msgspec.json.Decoder(StateLine)


class Frames:
    """The frames last read, unpacked."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def get(self, name: str, frame: Frame) -> bytes | None:
        """Give a frame that was read a short time ago."""
        key = (name, frame.offset)
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def keep(self, name: str, frame: Frame, content: bytes) -> None:
        """Keep a frame for a while."""
        self._kept[name, frame.offset] = content
        if len(self._kept) > KEPT_FRAMES:
            self._kept.popitem(last=False)


class Segment:
    """An opened segment. What is read and is not what it should be raises BadSegment."""

    def __init__(self, objects: Objects, text: str, name: Name, footer: Footer, digest: bytes, frames: Frames) -> None:
        self.text = text
        self.name = name
        self.footer = footer
        self.digest = digest
        self._objects = objects
        self._frames = frames

    @classmethod
    async def open(cls, objects: Objects, text: str, frames: Frames | None = None) -> Segment:
        """Read a segment's footer; raises ObjectMissing."""
        name = parse_name(text)
        if name is None:
            raise BadSegment(text, "its name is none of a segment")
        tail, size = await objects.tail(text, TAIL_BYTES)
        length = footer_size(text, tail)
        if length > size:
            raise BadSegment(text, "its footer is damaged")
        packed = tail[-length:] if length <= len(tail) else await objects.read(text, size - length, length)
        footer, digest = unpack_footer(text, packed, size)
        return cls(objects, text, name, footer, digest, frames or Frames())

    @property
    def as_previous(self) -> Previous:
        """Name this segment as the one behind it does."""
        return Previous(self.text, self.digest.hex())

    async def header(self) -> Header:
        """Read the header."""
        (header,) = await self._lines(self.footer.header, _header)
        if (header.format, header.partition, header.first, header.last) != (FORMAT, *self.name):
            raise BadSegment(self.text, "its header is another segment's")
        return header

    async def pages(self) -> AsyncIterator[list[Entry]]:
        """Read all events in order, a frame at a time."""
        async for events in self.runs():
            yield list(events)

    async def runs(self) -> AsyncIterator[Iterator[Entry]]:
        """Read all events in order, a frame at a time, of which each event is made when it is asked for.

        PERF: events that do not outlive each other cost the garbage collector nothing: 40% of the whole.
        """
        for frame in self.footer.events:
            yield map(self._entry, await self._lines(frame, _event))

    async def behind(self, stream_id: str) -> AsyncIterator[list[Entry]]:
        """Read the events behind a stream id in order, a frame at a time."""
        frames, beyond = self.footer.events, place(stream_id)
        began = bisect_right(frames, beyond, key=lambda frame: place(frame.first))
        for frame in frames[max(0, began - 1) :]:
            lines = await self._lines(frame, _event)
            if entries := [self._entry(line) for line in lines if place(line.id) > beyond]:
                yield entries

    async def find(self, sid: str) -> IndexLine | None:
        """Find where a session's events are; None if there are none."""
        return await self._look_up(self.footer.index, sid, _index)

    async def state(self, sid: str) -> Fold | None:
        """Read the state of a session after the last event; None if it did not live then."""
        line = await self._look_up(self.footer.states, sid, _state)
        return None if line is None else read_fold(self.text, line)

    async def index(self) -> AsyncIterator[list[IndexLine]]:
        """Read where each session's events are, in the order of session ids."""
        for frame in self.footer.index:
            yield await self._lines(frame, _index)

    async def states(self) -> AsyncIterator[list[StateLine]]:
        """Read the sessions alive after the last event, in the order of their ids."""
        for frame in self.footer.states:
            yield await self._lines(frame, _state)

    async def ended(self) -> AsyncIterator[list[EndedLine]]:
        """Read the sessions that ended here, in the order of their ids."""
        for frame in self.footer.ended:
            yield await self._lines(frame, _ended)

    async def of_session(
        self,
        page: list[Entry],
        sid: str,
        found: IndexLine,
        newest: str,
        top_seq: int,
        top_at_us: int,
        count: int,
        page_bytes: int = PAGE_BYTES,
    ) -> bool:
        """Add a session's events from seq `top_seq` and time `top_at_us` backwards to `page`.

        Returns True as soon as it has `count`, or `page_bytes`; else False behind the last event here.
        `newest` is the stream id that its last event here must have. Raises CorruptLedger behind what could be read.
        """
        runs, newer = list(reversed(found.runs)), None
        size = size_of(page)
        while runs and (runs[0].first_seq > top_seq or runs[0].first_at_us > top_at_us):
            newer = runs.pop(0)
        expected = newest if newer is None else ""
        if newer is not None and runs and runs[0].last_seq + 1 != newer.first_seq:
            runs.insert(0, newer)  # where one is missing between them, its first event tells
        while runs:
            taken = _enough(runs, count - len(page))
            contents = await asyncio.gather(*(self._content(self._frame_of(run, sid)) for run in runs[:taken]))
            del runs[:taken]
            for content in contents:
                for line in reversed(_lines_with(content, b'"sid":"%b"' % sid.encode())):
                    entry = self._entry(self._decode(line, _event))
                    if entry.recorded.sid != sid:
                        continue
                    if expected not in ("", entry.id):
                        what = f"event {expected} is missing: it was lost before its segment was made"
                        raise CorruptLedger(what, sid=sid, id=expected)
                    expected = entry.prev
                    if entry.recorded.seq <= top_seq and entry.recorded.at_us <= top_at_us:
                        page.append(entry)
                        size += len(entry.recorded.raw)
                        if len(page) == count or size >= page_bytes:
                            return True
        return False

    async def check_frames(self) -> int:
        """Read every frame and compare it with its digest; gives how many bytes that were."""
        for frame in self.footer.frames:
            await self._read(frame)
        return sum(frame.length for frame in self.footer.frames)

    def _frame_of(self, run: Run, sid: str) -> Frame:
        if not 0 <= run.frame < len(self.footer.events):
            raise BadSegment(self.text, f"its index leads session {sid} to a frame that is not there")
        return self.footer.events[run.frame]

    async def _look_up(self, frames: Sequence[Frame], sid: str, decoder: msgspec.json.Decoder[T]) -> T | None:
        """Find a session's line in frames that are in the order of session ids."""
        at = bisect_right([frame.first for frame in frames], sid) - 1
        if at < 0:
            return None
        mark = b'{"sid":"%b"' % sid.encode()
        content = await self._content(frames[at])
        start = 0 if content.startswith(mark) else content.find(b"\n" + mark) + 1
        if not content.startswith(mark, start):
            return None
        return self._decode(content[start : content.index(b"\n", start)], decoder)

    async def _lines(self, frame: Frame, decoder: msgspec.json.Decoder[T]) -> list[T]:
        """Read a frame's lines, without keeping it."""
        content = self._unpack(frame, await self._read(frame))
        try:
            lines = decoder.decode_lines(content)
        except msgspec.DecodeError as error:
            raise BadSegment(self.text, f"a line cannot be read in its frame at {frame.offset}: {error}") from error
        if len(lines) != frame.lines:
            raise BadSegment(self.text, f"{len(lines)} lines in its frame at {frame.offset}, {frame.lines} were meant")
        return lines

    async def _content(self, frame: Frame) -> bytes:
        """Read a frame that may be asked for again soon."""
        content = self._frames.get(self.text, frame)
        if content is None:
            content = self._unpack(frame, await self._read(frame))
            self._frames.keep(self.text, frame, content)
        return content

    async def _read(self, frame: Frame) -> bytes:
        packed = await self._objects.read(self.text, frame.offset, frame.length)
        if sha256(packed).digest() != frame.digest:
            raise BadSegment(self.text, f"its frame at {frame.offset} does not match its digest")
        return packed

    def _unpack(self, frame: Frame, packed: bytes) -> bytes:
        try:
            if zstandard.frame_content_size(packed) != frame.size:  # what is said there is what unpacking would take
                raise BadSegment(self.text, f"its frame at {frame.offset} does not hold {frame.size} bytes")
            return zstandard.ZstdDecompressor().decompress(packed)
        except zstandard.ZstdError as error:
            raise BadSegment(self.text, f"its frame at {frame.offset} cannot be unpacked: {error}") from error

    def _decode(self, line: bytes, decoder: msgspec.json.Decoder[T]) -> T:
        try:
            return decoder.decode(line)
        except msgspec.DecodeError as error:
            raise BadSegment(self.text, f"a line cannot be read: {error}") from error

    def _entry(self, line: EventLine) -> Entry:
        """Make of a line what the stream had; raises BadSegment naming the event."""
        try:
            event = decode_event(line.raw, line.schema)
            digest = bytes.fromhex(line.hash)
        except CorruptLedger as error:
            error.details.setdefault("id", line.id)
            error.details.setdefault("segment", self.text)
            raise
        except ValueError as error:
            raise BadSegment(self.text, f"event {line.id} cannot be read: {error}") from error
        recorded = Recorded(line.sid, line.seq, line.at, line.schema, event, line.raw, digest)
        return Entry(line.id, recorded, line.prev)


def _enough(runs: Sequence[Run], count: int) -> int:
    """Tell how many of these runs are read together for `count` events: at most as many as frames are kept."""
    events = 0
    for number, run in enumerate(runs[:KEPT_FRAMES]):
        events += run.last_seq - run.first_seq + 1
        if events >= count:
            return number + 1
    return min(len(runs), KEPT_FRAMES)


def _lines_with(content: bytes, mark: bytes) -> list[bytes]:
    """Find the lines that hold a mark."""
    lines, at = [], content.find(mark)
    while at >= 0:
        end = content.index(b"\n", at)
        lines.append(content[content.rfind(b"\n", 0, at) + 1 : end])
        at = content.find(mark, end)
    return lines
