"""Lines as they are stored and sent: composing, taking apart and converting them.

A stored line is `{"type":T,"data":{…},"ack":"T|<time>|<id>` without its closing `"}`. Its head, all before the time, is
what an entity says; the tail is when. Data is encoded canonically, so two heads are equal exactly if the entities are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Final, overload

import msgspec

from ledger.positions import Position, us_from_iso
from projections.entities.payloads.base import Payload
from projections.entities.registry import EntityTypeRow

END: Final = b'"}'
CLOSED: Final = END + b"\n"
"""What closes a line of an entity type in its first epoch."""

_encode: Final = msgspec.json.Encoder().encode


def head_of(entity_type: str, data: Payload) -> bytes:
    """Compose the part of a line before its time."""
    name = entity_type.encode()
    return b'{"type":"%b","data":%b,"ack":"%b|' % (name, _encode(data), name)


def position_of(line: bytes) -> Position:
    """Read the position at the end of a line."""
    _, iso, raw_id = line.rsplit(b"|", 2)
    entity_id = raw_id.decode()
    if "\\" in entity_id:
        entity_id = json.loads(f'"{entity_id}"')
    return Position(us_from_iso(iso.decode()), entity_id)


def escaped(entity_id: str) -> bytes:
    """Print an id as it stands in a line: ids hold no control characters, so only quotes and backslashes matter."""
    return entity_id.replace("\\", "\\\\").replace('"', '\\"').encode()


def data_of(line: bytes) -> bytes:
    """Cut out the data of a line."""
    return line[line.index(b'"data":') + 7 : line.rindex(b',"ack":"')]


def payload_of(row: EntityTypeRow, line: bytes) -> Any:
    """Decode the data of a stored line of the row's stored type."""
    return msgspec.json.decode(data_of(line), type=row.stored_payload or row.payload)


def as_type(line: bytes, entity_type: str, data: Payload) -> bytes:
    """Make a line of another entity type with the same position."""
    _, iso, raw_id = line.rsplit(b"|", 2)
    return b"%b%b|%b" % (head_of(entity_type, data), iso, raw_id)


def as_served(line: bytes, served: EntityTypeRow, stored: EntityTypeRow) -> bytes | None:
    """Make the line of a stored one that is sent as another version; None where that leaves the row out."""
    if served.from_stored is None:
        return renamed(line, served.name)
    data = served.from_stored(payload_of(stored, line))
    return None if data is None else as_type(line, served.name, data)


def renamed(line: bytes, entity_type: str) -> bytes:
    """Make a line of another entity type with the same data and position, which is not decoded."""
    name = entity_type.encode()
    tail = line[line.rindex(b',"ack":"') + 8 :]
    return b'{"type":"%b","data":%b,"ack":"%b%b' % (name, data_of(line), name, tail[tail.index(b"|") :])


def export_line(line: bytes) -> bytes:
    """Turn a stored line into the form `import` reads: type, id and data, with its LF."""
    entity_type = line[9 : line.index(b'"', 9)]
    return b'{"type":"%b","id":"%b","data":%b}\n' % (entity_type, line[line.rindex(b"|") + 1 :], data_of(line))


class JoinedLines(Sequence[bytes]):
    """The lines of a page as one text, each closed by CLOSED: taken apart only where somebody asks for one of them.

    PERF: a stream of a million rows makes no object of any row.
    """

    def __init__(self, text: bytes) -> None:
        self.text = text

    def joined(self, end: bytes) -> bytes:
        """Return all lines, each closed by `end`."""
        return self.text if end == CLOSED else self.text.replace(CLOSED, end)

    @property
    def last(self) -> bytes:
        """The last line; there must be one."""
        start = self.text.rfind(b"\n", 0, len(self.text) - 1) + 1
        return self.text[start : -len(CLOSED)]

    @cached_property
    def _lines(self) -> list[bytes]:
        return self.text[: -len(CLOSED)].split(CLOSED) if self.text else []

    def __bool__(self) -> bool:
        return bool(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._lines == list(other)

    __hash__ = None  # type: ignore[assignment] # as a list

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._lines)

    @overload
    def __getitem__(self, at: int) -> bytes: ...

    @overload
    def __getitem__(self, at: slice) -> list[bytes]: ...

    def __getitem__(self, at: int | slice) -> bytes | list[bytes]:
        return self._lines[at]


def joined(lines: Sequence[bytes], end: bytes) -> bytes:
    """Put lines without their end together, each closed by `end`."""
    return lines.joined(end) if isinstance(lines, JoinedLines) else end.join((*lines, b""))


def count_in(text: bytes) -> int:
    """Count the line feeds of a text. PERF: `bytes.count` of one byte takes six times as long (CPython 3.11)."""
    return len(text) - len(text.replace(b"\n", b""))


def last_of(lines: Sequence[bytes]) -> bytes:
    """Return the last of some lines."""
    return lines.last if isinstance(lines, JoinedLines) else lines[-1]
