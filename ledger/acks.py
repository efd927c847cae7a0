"""The ack codec: `Type|<ISO-8601 UTC>|<entity id>`, from a type's second epoch on with `|<epoch>` behind it.

The seed's form `Type|<time>|` has an empty id: strictly after that time. `SyncResetV1` has no position. The id of a
`SyncCompleteV1` is the set of entity types that its stream carried, as a mask in hex.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from ledger.entity_types import CODES, COMPLETE, RESET
from ledger.errors import InvalidAck, InvalidInput
from ledger.positions import Position, check_id, iso_from_us, us_from_iso, us_of

MAX_ACK_CHARS: Final = 512
MAX_EPOCH: Final = 2**31
_COMPLETE_BIT: Final = 1 << CODES[COMPLETE]
_MASK: Final = re.compile("[0-9a-f]{1,32}")
_PLAIN: Final = re.compile(
    r"(\w+)\|(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)\|([ -{}~]{0,256})(?:\|([1-9]\d{0,8}))?", re.ASCII
)
"""An ack as it is printed, with an id of printable ASCII."""


class Ack(msgspec.Struct, frozen=True, gc=False):
    """What a device stored last of one entity type, in which epoch of it."""

    type: str
    position: Position
    epoch: int = 1


RESET_ACK: Final = Ack(RESET, Position(0, ""))
RESET_TEXT: Final = f"{RESET}|reset"


def parse_ack(text: str) -> Ack:
    """Read an ack; raises InvalidAck. Any ack of type `SyncResetV1` reads as RESET_ACK."""
    if plain := _PLAIN.fullmatch(text):  # PERF: so are almost all
        entity_type, time, entity_id, epoch = plain.groups()
        if entity_type in CODES and entity_type != RESET:
            try:
                return Ack(entity_type, Position(us_of(time), entity_id), int(epoch) if epoch else 1)
            except ValueError:
                pass  # told below
    return _parse_any(text)


def _parse_any(text: str) -> Ack:
    """Read an ack in any of its forms."""
    entity_type, _, rest = text.partition("|")
    if entity_type not in CODES:
        raise InvalidAck(f"Invalid ack type: {entity_type[:64]}")
    if entity_type == RESET:
        return RESET_ACK
    if len(text) > MAX_ACK_CHARS:
        raise InvalidAck(f"Invalid ack of {entity_type}: longer than {MAX_ACK_CHARS} characters")
    time, *more = rest.split("|")
    if len(more) > 2:
        raise InvalidAck(f"Invalid ack of {entity_type}: too many parts")
    entity_id = more[0] if more else ""
    try:
        at_us = us_from_iso(time)
        if entity_id:
            check_id("id", entity_id)
    except InvalidInput as error:
        raise InvalidAck(f"Invalid ack of {entity_type}: the id {error.problems[0][1]}") from error
    except ValueError as error:
        raise InvalidAck(f"Invalid ack of {entity_type}: {error}") from error
    if len(more) < 2:
        return Ack(entity_type, Position(at_us, entity_id), 1)
    epoch = more[1]
    if not (epoch.isascii() and epoch.isdigit() and len(epoch) <= 10 and 1 <= int(epoch) <= MAX_EPOCH):
        raise InvalidAck(f"Invalid ack of {entity_type}: the epoch is not a positive number")
    return Ack(entity_type, Position(at_us, entity_id), int(epoch))


def completion(snapshot_us: int, types: int, epoch: int) -> Ack:
    """Make the ack of a whole stream of `types` (a mask)."""
    types &= ~_COMPLETE_BIT
    return Ack(COMPLETE, Position(snapshot_us, f"{types:x}" if types else ""), epoch)


def completed_types(entity_id: str) -> int:
    """Tell the types (a mask) of the stream that a completion with this id ends; none where the id does not say it."""
    return int(entity_id, 16) if _MASK.fullmatch(entity_id) else 0


def format_ack(ack: Ack) -> str:
    """Print an ack in its full form; `parse_ack` reads back the same."""
    if ack.type == RESET:
        return RESET_TEXT
    text = f"{ack.type}|{iso_from_us(ack.position.at_us)}|{ack.position.id}"
    return text if ack.epoch == 1 else f"{text}|{ack.epoch}"
