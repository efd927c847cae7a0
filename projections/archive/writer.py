"""Writing a segment: into a file of this machine first, frame by frame, then whole into object storage."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import IO, Final, NamedTuple, Self

import msgspec
import zstandard
from msgspec.structs import replace

from ledger.events import SCHEMA, tag_of
from ledger.log.reader import Entry
from projections.archive.format import (
    FORMAT,
    FRAME_BYTES,
    EndedLine,
    EventLine,
    Footer,
    Frame,
    Header,
    IndexLine,
    Name,
    Previous,
    ReadableLine,
    StateLine,
    pack_footer,
)
from projections.archive.index import Index
from projections.history.words import readable

LEVEL: Final = 6
"""Of zstd: at 3 segments are a few percent larger, at 9 they take twice the time."""
_encoder: Final = msgspec.json.Encoder()


class Built(NamedTuple):
    """A finished segment that lies in `file`."""

    name: Name
    header: Header
    footer: Footer
    digest: bytes
    size: int
    file: IO[bytes]


class SegmentWriter:
    """Takes a partition's events in order, then makes them a segment; holds one frame and the index in memory."""

    def __init__(self, partition: int, previous: Previous | None, spool: Path | None) -> None:
        """`spool`: the folder for the file, the system's if None; the file has no name and so never stays."""
        self.count = 0
        self._partition = partition
        self._previous = previous
        self._body = _Frames(tempfile.TemporaryFile(dir=spool))  # noqa: SIM115 - closed with this
        self._spool = spool
        self._first = self._last = ""
        self._index = Index()
        self._file: IO[bytes] | None = None

    @property
    def last(self) -> str:
        """The stream id of the last event taken."""
        return self._last

    def add(self, entry: Entry) -> None:
        """Take the next event."""
        self._index.add(entry, len(self._body.frames))
        self._body.add(entry.id, _encoder.encode(_line(entry)))
        self._first = self._first or entry.id
        self._last = entry.id
        self.count += 1

    def finish(self, ended: Iterable[EndedLine], states: Iterable[StateLine], created: str) -> Built:
        """Make the events taken, at least one, a segment; `ended` and `states` are in the order of session ids."""
        parts = [self._body.take()]
        line: IndexLine | EndedLine | StateLine
        for lines in (self._index.lines(), ended, states):
            for line in lines:
                self._body.add(line.sid, _encoder.encode(line))
            parts.append(self._body.take())
        *_, ends, alive = parts
        header = Header(
            format=FORMAT,
            partition=self._partition,
            first=self._first,
            last=self._last,
            count=self.count,
            schema=SCHEMA,
            previous=self._previous,
            living=sum(frame.lines for frame in alive),
            ended=sum(frame.lines for frame in ends),
            created=created,
        )
        # What the header says is known last, and it lies first: all other frames move behind it.
        self._file = tempfile.TemporaryFile(dir=self._spool)  # noqa: SIM115 - closed with this
        head = _Frames(self._file)
        head.add("", _encoder.encode(header))
        (header_frame,) = head.take()
        footer = Footer(FORMAT, header_frame, *(_moved(frames, header_frame.length) for frames in parts))
        self._body.copy_to(self._file)
        packed, digest = pack_footer(footer)
        self._file.write(packed)
        self._file.flush()
        name = Name(self._partition, self._first, self._last)
        return Built(name, header, footer, digest, self._file.tell(), self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._body.close()
        if self._file is not None:
            self._file.close()


class _Frames:
    """Packs lines into frames behind each other in a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self.frames: list[Frame] = []
        self._file = file
        self._lines: list[bytes] = []
        self._size = 0
        self._first = ""
        self._offset = 0
        self._compressor = zstandard.ZstdCompressor(LEVEL)

    def add(self, first: str, line: bytes) -> None:
        """Add a line; `first` names it if it begins a frame."""
        if not self._lines:
            self._first = first
        self._lines.append(line)
        self._size += len(line) + 1
        if self._size >= FRAME_BYTES:
            self._flush()

    def take(self) -> tuple[Frame, ...]:
        """End the frame begun, and give those since the last time."""
        self._flush()
        frames, self.frames = tuple(self.frames), []
        return frames

    def copy_to(self, other: IO[bytes]) -> None:
        """Copy all that was packed behind what another file holds."""
        self._file.seek(0)
        while piece := self._file.read(FRAME_BYTES):
            other.write(piece)

    def close(self) -> None:
        """Give the file back to the system."""
        self._file.close()

    def _flush(self) -> None:
        if not self._lines:
            return
        packed = self._compressor.compress(b"\n".join(self._lines) + b"\n")
        self._file.write(packed)
        digest = sha256(packed).digest()
        self.frames.append(Frame(self._offset, len(packed), self._size, len(self._lines), digest, self._first))
        self._offset += len(packed)
        self._lines, self._size = [], 0


def _line(entry: Entry) -> EventLine:
    recorded = entry.recorded
    return ReadableLine(
        id=entry.id,
        sid=recorded.sid,
        seq=recorded.seq,
        at=recorded.at_us,
        schema=recorded.schema,
        event=tag_of(recorded.event),
        data=readable(entry).data,
        raw=recorded.raw,
        hash=recorded.hash.hex(),
        prev=entry.prev,
    )


def _moved(frames: tuple[Frame, ...], by: int) -> tuple[Frame, ...]:
    return tuple(replace(frame, offset=frame.offset + by) for frame in frames)
