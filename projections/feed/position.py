"""Where a feed stands: of each partition the stream id of the last event that was told. Pure.

As text it is one word of base64url: a version, the ledger's mark, and the ids compressed. 256 partitions take about
1.8 KB, 1,024 about 7 KB: up to there it fits into a header line of 8 KB, which is what proxies take.

    1 byte     version
    4 bytes    the mark of the ledger: a position is good for no other
    the rest   zlib: number of partitions (u32), newest time in ms (u64); then of each partition how much older its id
               is, plus 1, 0 for one of which nothing was told; then the numbers behind the dashes. Both as planes
               of bytes, u64 little-endian, since most planes are zeros
"""

from __future__ import annotations

import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Final, NamedTuple

VERSION: Final = 1
HEADER_CHARS: Final = 7600
"""How long a position may be that is sent in a header line: nginx refuses lines of 8 KB."""
HEADER_PARTITIONS: Final = 1024
"""With more partitions than these no position is sent as the id of a server-sent event, however short it is."""
MAX_U64: Final = 2**64 - 1
_head: Final = Struct("<IQ")
_MARK_BYTES: Final = 4
_WORD: Final = 8


class StreamId(NamedTuple):
    """The id of a stream entry as what it is ordered by."""

    ms: int
    number: int

    def __str__(self) -> str:
        return f"{self.ms}-{self.number}"


BEGINNING: Final = StreamId(0, 0)
"""Before all events."""


def stream_id(text: str) -> StreamId:
    """Read a stream id; raises ValueError."""
    ms, _, number = text.partition("-")
    return StreamId(int(ms), int(number))


def mark_of(ledger_id: str) -> bytes:
    """Tell the mark of a ledger."""
    return zlib.crc32(ledger_id.encode()).to_bytes(_MARK_BYTES, "big")


class FeedPosition(NamedTuple):
    """The last stream id told of each partition; BEGINNING for nothing."""

    ids: tuple[StreamId, ...]

    @classmethod
    def start(cls, partitions: int) -> FeedPosition:
        """Give the position before all events."""
        return cls((BEGINNING,) * partitions)

    def text(self, mark: bytes) -> str:
        """Print the position for a ledger of that mark."""
        newest_ms = max((one.ms for one in self.ids), default=0)
        older = [0 if one == BEGINNING else newest_ms - one.ms + 1 for one in self.ids]
        body = _head.pack(len(self.ids), newest_ms) + _planes(older) + _planes(one.number for one in self.ids)
        packed = bytes((VERSION,)) + mark + zlib.compress(body, 9)
        return urlsafe_b64encode(packed).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: str, mark: bytes, partitions: int) -> FeedPosition:
        """Read what `text` printed; raises ValueError, which says what is wrong with it."""
        body = _body(text, mark, partitions)
        count, newest_ms = _head.unpack_from(body)
        if count != partitions:
            raise ValueError(f"it is of {count} partitions, and this ledger has {partitions}")
        if len(body) != _size(partitions):
            raise ValueError("it is cut off")
        middle = _head.size + partitions * _WORD
        older, numbers = _words(body[_head.size : middle]), _words(body[middle:])
        ids = []
        for behind, number in zip(older, numbers, strict=True):
            if behind > newest_ms + 1 or (behind == 0 and number):
                raise ValueError("it is damaged")
            ids.append(StreamId(newest_ms - behind + 1, number) if behind else BEGINNING)
        return cls(tuple(ids))


def fits_header(text: str, partitions: int) -> bool:
    """Tell whether a position may be sent in a header line."""
    return partitions <= HEADER_PARTITIONS and len(text) <= HEADER_CHARS


def longest_text(partitions: int) -> int:
    """Tell how many characters no position of so many partitions exceeds."""
    size = _size(partitions)
    return (1 + _MARK_BYTES + size + size // 1000 + 64) * 4 // 3 + 4


def _body(text: str, mark: bytes, partitions: int) -> bytes:
    if len(text) > longest_text(partitions):
        raise ValueError(f"it is longer than any position of {partitions} partitions")
    try:
        packed = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (UnicodeEncodeError, Base64Error) as error:
        raise ValueError("it is no base64url: give a position as a feed gave it, start or now") from error
    if urlsafe_b64encode(packed).rstrip(b"=") != text.encode("ascii"):  # what the decoder passes over
        raise ValueError("it is no base64url: give a position as a feed gave it, start or now")
    if len(packed) <= 1 + _MARK_BYTES or packed[0] != VERSION:
        raise ValueError("it is no position of a feed")
    if packed[1 : 1 + _MARK_BYTES] != mark:
        raise ValueError("it is of another ledger")
    reader = zlib.decompressobj()
    try:
        body = reader.decompress(packed[1 + _MARK_BYTES :], _size(partitions) + 1)
    except zlib.error as error:
        raise ValueError("it is damaged or cut off") from error
    if len(body) < _head.size or len(body) > _size(partitions) or not reader.eof or reader.unused_data:
        raise ValueError("it is damaged, cut off, or of more partitions")
    return body


def _size(partitions: int) -> int:
    return _head.size + 2 * partitions * _WORD


def _planes(numbers: Iterable[int]) -> bytes:
    words = b"".join(number.to_bytes(_WORD, "little") for number in numbers)
    return b"".join(words[plane::_WORD] for plane in range(_WORD))


def _words(planes: bytes) -> Sequence[int]:
    count = len(planes) // _WORD
    return [int.from_bytes(planes[at::count], "little") for at in range(count)]
