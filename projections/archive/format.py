"""How a segment lies in its object: zstd frames that hold lines of JSON, and a footer that tells where each frame is.

    header     one line: which events, of which schema, behind which segment
    events     frames of about 1 MB: a line per event, readable, with its exact bytes
    index      a line per session with events here: in which frames
    ended      a line per session that ended here: what the `ended` hash keeps of it
    states     a line per session alive after the last event: its two hashes
    footer     a skippable zstd frame: offset, length and SHA-256 of each frame before it

So `zstdcat` shows all of it, and one read of the last bytes finds everything. All numbers are little-endian. A
segment's digest is the SHA-256 of its footer, which holds those of its frames; each header names the segment before
with its digest, so the newest segment proves all.
"""

from __future__ import annotations

import re
from hashlib import sha256
from struct import Struct as Packed
from typing import Any, Final, NamedTuple

import msgspec

from projections.archive.errors import BadSegment

FORMAT: Final = 1
FRAME_BYTES: Final = 1024 * 1024
"""How long a frame is before it is compressed, but for its last line."""
MAX_FRAME_BYTES: Final = 64 * FRAME_BYTES
"""No frame is longer; what claims to be is damaged."""
TAIL_BYTES: Final = 64 * 1024
"""What is read of a segment first: the footer of about 600 frames fits."""
_SKIPPABLE: Final = 0x184D2A5C
_MAGIC: Final = b"SYNCLEDG"
_head: Final = Packed("<II")
_end: Final = Packed("<32sI8s")
_name: Final = re.compile(r"p(\d{3,5})/(\d{20})-(\d{20})_(\d{20})-(\d{20})\.ndjson\.zst", re.ASCII)


class Name(NamedTuple):
    """A segment's name, read: its partition, and the stream ids of its first and last event."""

    partition: int
    first: str
    last: str

    def __str__(self) -> str:
        return f"{folder(self.partition)}{_padded(self.first)}_{_padded(self.last)}.ndjson.zst"


class Previous(msgspec.Struct, frozen=True):
    """The segment before, and its digest in hex."""

    name: str
    digest: str


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """A segment's first line. `living` and `ended` count the chain heads in it; `created` is for people."""

    format: int
    partition: int
    first: str
    last: str
    count: int
    schema: int
    previous: Previous | None
    living: int
    ended: int
    created: str


class EventLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """An event as a segment has it; `raw` are its exact bytes, in Base64, and `at` is in µs."""

    id: str
    sid: str
    seq: int
    at: int
    schema: int
    raw: bytes
    hash: str
    prev: str


class ReadableLine(EventLine, frozen=True, kw_only=True, omit_defaults=True):
    """The same for people too; only `EventLine` is read back."""

    event: str
    data: dict[str, Any]


class Run(NamedTuple):
    """A session's events in one frame: the frame's number, the first and last seq, and the first one's time."""

    frame: int
    first_seq: int
    last_seq: int
    first_at_us: int


class IndexLine(msgspec.Struct, frozen=True):
    """Where a session's events are in a segment; `prev` is the stream id of the one before the first of them."""

    sid: str
    prev: str
    runs: tuple[Run, ...]


class EndedLine(msgspec.Struct, frozen=True):
    """A session that ended in a segment: the stream id of its last event, that event's seq and hash, its user."""

    sid: str
    head: str
    seq: int
    hash: str
    user: str


class StateLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A session alive after a segment's last event: the fields of its two hashes, in Base64, and its head.

    Of a `broken` one nothing is known but where its chain breaks and why; `head` is the last event before that.
    """

    sid: str
    session: dict[str, bytes]
    checkpoints: dict[str, bytes]
    head: str
    broken: str = ""


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """Where a frame lies. `first` is the stream id or session id in its first line, `size` its length unpacked."""

    offset: int
    length: int
    size: int
    lines: int
    digest: bytes
    first: str


class Footer(msgspec.Struct, frozen=True, array_like=True):
    """Where all frames are."""

    format: int
    header: Frame
    events: tuple[Frame, ...]
    index: tuple[Frame, ...]
    ended: tuple[Frame, ...]
    states: tuple[Frame, ...]

    @property
    def frames(self) -> tuple[Frame, ...]:
        """All frames as they lie."""
        return (self.header, *self.events, *self.index, *self.ended, *self.states)


footer_decoder: Final = msgspec.msgpack.Decoder(Footer)


def folder(partition: int) -> str:
    """Tell what the names of a partition's segments begin with."""
    return f"p{partition:03d}/"


def parse_name(text: str) -> Name | None:
    """Read a segment's name; None if it is none."""
    match = _name.fullmatch(text)
    if match is None:
        return None
    partition, *numbers = map(int, match.groups())
    return Name(partition, f"{numbers[0]}-{numbers[1]}", f"{numbers[2]}-{numbers[3]}")


def place(stream_id: str) -> tuple[int, int]:
    """Tell a stream id as what it is ordered by: milliseconds and a count; raises ValueError."""
    ms, _, count = stream_id.partition("-")
    return int(ms), int(count)


def after(stream_id: str) -> str:
    """Tell the smallest stream id behind one."""
    ms, count = place(stream_id)
    return f"{ms}-{count + 1}"


def pack_footer(footer: Footer) -> tuple[bytes, bytes]:
    """Lay a footer out as the frame that ends a segment; gives it and the segment's digest."""
    payload = msgspec.msgpack.encode(footer)
    digest = sha256(payload).digest()
    return _head.pack(_SKIPPABLE, len(payload) + _end.size) + payload + _end.pack(digest, len(payload), _MAGIC), digest


def footer_size(name: str, tail: bytes) -> int:
    """Tell from a segment's last bytes how long its footer is, as it lies; raises BadSegment."""
    if len(tail) < _end.size or not tail.endswith(_MAGIC):
        raise BadSegment(name, "it does not end as a segment does")
    _, length, _ = _end.unpack(tail[-_end.size :])
    return int(_head.size + length + _end.size)


def unpack_footer(name: str, packed: bytes, size: int) -> tuple[Footer, bytes]:
    """Read the footer of a segment that is `size` bytes long; gives it and the digest; raises BadSegment."""
    digest, length, _ = _end.unpack(packed[-_end.size :])
    payload = packed[_head.size : -_end.size]
    if packed[: _head.size] != _head.pack(_SKIPPABLE, length + _end.size) or sha256(payload).digest() != digest:
        raise BadSegment(name, "its footer is damaged")
    try:
        footer = footer_decoder.decode(payload)
    except msgspec.DecodeError as error:
        raise BadSegment(name, f"its footer cannot be read: {error}") from error
    if footer.format != FORMAT:
        raise BadSegment(name, f"it has format {footer.format}, this version reads {FORMAT}: upgrade")
    offset = 0
    for frame in footer.frames:
        if frame.offset != offset or not 0 < frame.length < size or not 0 < frame.size <= MAX_FRAME_BYTES:
            raise BadSegment(name, "its footer names frames that do not lie one behind the other")
        offset += frame.length
    if offset + len(packed) != size:
        raise BadSegment(name, f"its frames end at {offset}, its footer begins at {size - len(packed)}")
    return footer, digest


def _padded(stream_id: str) -> str:
    ms, count = place(stream_id)
    return f"{ms:020d}-{count:020d}"
