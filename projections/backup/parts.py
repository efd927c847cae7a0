"""Writing the parts of a backup, and reading them back: lines packed, hashed and counted on the way."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import msgspec
import zstandard

from projections.archive.errors import ObjectMissing
from projections.archive.objects import Objects
from projections.backup.errors import BadBackup
from projections.backup.format import Event, Line, Part, State

PART_BYTES: Final = 64 * 1024 * 1024
"""How long a part becomes before the next one begins: what lies on this machine's disk at a time."""
FRAME_BYTES: Final = 1024 * 1024
MAX_LINE_BYTES: Final = 64 * 1024 * 1024
"""No line is longer; what claims to be is damaged."""
_FED_BYTES: Final = 16 * 1024
"""How much is unpacked at a time, so that what is packed absurdly well does not fill the memory."""
_LEVEL: Final = 3
_encoder: Final = msgspec.json.Encoder()
_decoder: Final[msgspec.json.Decoder[Line]] = msgspec.json.Decoder(Line)


class PartWriter:
    """Writes lines into parts `<stem>-00000.ndjson.zst` and so on; a part is spooled, then written as a new object."""

    def __init__(
        self, objects: Objects, folder: str, stem: str, *, spool: Path | None = None, part_bytes: int = PART_BYTES
    ) -> None:
        """`folder` ends with a slash; `spool` is where parts are built, the system's folder if None."""
        self.parts: list[Part] = []
        self._objects = objects
        self._folder = folder
        self._stem = stem
        self._spool = spool
        self._part_bytes = part_bytes
        self._number = 0
        self._lines: list[bytes] = []
        self._pending = 0
        self._counts: Counter[str] = Counter()
        self._file: IO[bytes] | None = None
        self._size = 0
        self._hash = sha256()
        self._compressor = zstandard.ZstdCompressor(_LEVEL)

    async def add(self, *lines: Line) -> None:
        """Take lines; raises ArchiveUnavailable, ObjectExists."""
        for line in lines:
            encoded = _encoder.encode(line)
            self._lines.append(encoded)
            self._pending += len(encoded) + 1
            self._counts[_kind(line)] += _count(line)
        if self._pending >= FRAME_BYTES:
            self._pack()
            if self._size >= self._part_bytes:
                await self._ship()

    async def finish(self) -> list[Part]:
        """Write what is left and give all parts."""
        self._pack()
        await self._ship()
        return self.parts

    async def begin_again(self) -> None:
        """Take all lines back; the names of parts that were written are not used again."""
        self._close()
        self._lines, self._pending, self._counts = [], 0, Counter()
        await self._objects.delete([self._folder + part.name for part in self.parts])
        self.parts = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._close()

    def _pack(self) -> None:
        if not self._lines:
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._spool)  # noqa: SIM115 - closed with this
        packed = self._compressor.compress(b"\n".join(self._lines) + b"\n")
        self._file.write(packed)
        self._hash.update(packed)
        self._size += len(packed)
        self._lines, self._pending = [], 0

    async def _ship(self) -> None:
        if self._file is None:
            return
        name = f"{self._stem}-{self._number:05d}.ndjson.zst"
        self._number += 1
        await self._objects.create(self._folder + name, self._file)
        self.parts.append(Part(name, self._size, self._hash.hexdigest(), dict(self._counts)))
        self._counts = Counter()
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._size, self._hash = None, 0, sha256()


async def read_lines(objects: Objects, folder: str, part: Part) -> AsyncIterator[list[Line]]:
    """Read a part's lines, some at a time; raises BadBackup, at the latest at the end, for another part."""
    name, left, counts = folder + part.name, b"", Counter[str]()
    unpacked = _Unpacker(name)
    async for chunk in _checked(objects, folder, part):
        for start in range(0, len(chunk), _FED_BYTES):
            *whole, left = (left + unpacked.feed(chunk[start : start + _FED_BYTES])).split(b"\n")
            if len(left) > MAX_LINE_BYTES:
                raise BadBackup(name, "a line does not end")
            if whole:
                lines = [_decode(name, line) for line in whole]
                for line in lines:
                    counts[_kind(line)] += _count(line)
                yield lines
    unpacked.end()
    if left or counts != Counter(part.lines):
        raise BadBackup(name, f"it holds {dict(counts)}, its manifest says {part.lines}")


async def check_part(objects: Objects, folder: str, part: Part) -> None:
    """Read a part and compare it with its size and digest; raises BadBackup."""
    async for _ in _checked(objects, folder, part):
        pass


async def _checked(objects: Objects, folder: str, part: Part) -> AsyncIterator[bytes]:
    name, digest, size = folder + part.name, sha256(), 0
    with suppress(ObjectMissing):
        async for chunk in objects.chunks(name):
            digest.update(chunk)
            size += len(chunk)
            yield chunk
    if size == 0:
        raise BadBackup(name, "it is not there")
    if (size, digest.hexdigest()) != (part.size, part.sha256):
        raise BadBackup(
            name, f"it has {size} bytes and SHA-256 {digest.hexdigest()}, {part.size} and {part.sha256} were written"
        )


class _Unpacker:
    """Unpacks frames that lie one behind the other, as they come."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._begun = False

    def feed(self, piece: bytes) -> bytes:
        """Unpack some more; raises BadBackup."""
        out = []
        try:
            while piece:
                out.append(self._frame.decompress(piece))
                self._begun, piece = True, b""
                if self._frame.eof:
                    piece = self._frame.unused_data
                    self._frame, self._begun = zstandard.ZstdDecompressor().decompressobj(), False
        except zstandard.ZstdError as error:
            raise BadBackup(self._name, f"it cannot be unpacked: {error}") from error
        return b"".join(out)

    def end(self) -> None:
        """Tell that nothing follows; raises BadBackup inside a frame."""
        if self._begun:
            raise BadBackup(self._name, "it ends in the middle")


def _decode(name: str, line: bytes) -> Line:
    try:
        return _decoder.decode(line)
    except msgspec.DecodeError as error:
        raise BadBackup(name, f"a line cannot be read: {error}") from error


def _kind(line: Line) -> str:
    return "events" if isinstance(line, Event) else "states" if isinstance(line, State) else line.key


def _count(line: Line) -> int:
    return 1 if isinstance(line, Event | State) else len(line.pairs)
