"""Lines that make room on a device for assets which take over one another's checksum.

A device holds one asset of each owner, library and checksum. A stream is in the order of last changes, so it may send
who has a checksum now before it tells that who had it has another; and of two that swapped theirs either may come
first. Each makes a device refuse the whole run, and every later one. So a row that may have given its checksum up is
sent once ahead, as it is now but for a checksum that nobody else has, and again in its place. The line ahead has the
ack of the checkpoint that the device has: taken or not, it moves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from ledger.acks import Ack, format_ack
from ledger.positions import Position, us_from_iso
from projections.entities.lines import as_served, data_of, position_of
from projections.entities.registry import ROWS, EntityTypeRow, row

PLACEHOLDER: Final = "placeholder:"
"""What stands for a checksum begins with this, and then comes the asset's id; no Base64 has a colon."""

TABLE: Final = "asset"
"""The device's table whose rows exclude each other by checksum."""

_START: Final = Position(0, "")


class Suspect(Struct, rename="camel"):
    """What of an asset tells whether a device may have it, and whose checksum it excludes: nobody's without one."""

    checksum: str | None = None
    owner_id: str | None = None
    library_id: str | None = None
    created_at: str | None = None


_decode: Final = msgspec.json.Decoder(Suspect).decode


def excludes(served: EntityTypeRow) -> bool:
    """Tell whether rows of an entity type exclude each other by their checksum."""
    return served.form is not None and served.form.table == TABLE and not served.is_delete


TYPES: Final = tuple(found.name for found in ROWS if excludes(found))
"""The entity types whose rows exclude each other, all versions."""


def placeholder(line: bytes, served: EntityTypeRow, checkpoint: Position | None, epoch: int) -> bytes:
    """Make the whole line that is sent ahead of a row's own, of its stored line or the one served."""
    if served.is_other_version and line.startswith(b'{"type":"%b"' % served.stored.encode()):
        line = as_served(line, served, row(served.stored)) or line
    data: dict[str, Any] = msgspec.json.decode(data_of(line))
    data["checksum"] = PLACEHOLDER + data["id"]
    ack = format_ack(Ack(served.name, checkpoint or _START, epoch))
    return b'{"type":"%b","data":%b,"ack":"%b"}\n' % (
        served.name.encode(),
        msgspec.json.encode(data),
        msgspec.json.encode(ack)[1:-1],
    )


def suspects(lines: Sequence[bytes], known_us: int, *, after_others: bool) -> Iterator[bytes]:
    """Pick the rows that a device may have in an older version, where nobody recorded whose checksum changed.

    It has what was made by `known_us`, the newest position that it acknowledged of any of these types. With
    `after_others` only those that come behind another row they could exclude: for the first of them nobody waits.
    """
    seen: set[tuple[str | None, str | None]] = set()
    for line in lines:
        found = _decode(data_of(line))
        if found.checksum is None:
            continue
        whose = found.owner_id, found.library_id
        is_known = found.created_at is None or us_from_iso(found.created_at) <= known_us
        if is_known and (whose in seen or not after_others):
            yield line
        seen.add(whose)


def is_before(lines: Sequence[bytes], offered_us: int) -> bool:
    """Tell whether the first of these was offered before."""
    return bool(lines) and position_of(lines[0]).at_us < offered_us
