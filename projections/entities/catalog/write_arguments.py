"""What the write script is told: one group of arguments for each change of a row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from msgspec import Struct

from ledger.positions import iso_from_us
from ledger.store.scripts import Arg
from projections.entities.entity import Entity, entity_of
from projections.entities.forms import Form, forms_of
from projections.entities.payloads.base import Payload
from projections.entities.registry import row

BATCH_ROWS: Final = 50
"""How many rows one script writes, at most: it takes less than two milliseconds, for which everybody else waits."""
BATCH_BYTES: Final = 128 * 1024
LOOKED_AT_ROWS: Final = 50
"""How many rows that wait one script looks at, at most."""

FORGET: Final = "f"
"""The letter of a write that is no variant: what waits for an id is forgotten."""

LEAVE: Final = "l"
"""The letter of a write that is no variant: no more rows of a user are taken, until it is deleted or written again."""

NOTHING: Final = b"-"
"""Expected by a write that is done only where there is neither a row nor a marker of the id."""

WITH_LAST: Final = b"&"
"""Expected by the owner's membership that goes with the album written before it, and only if that was taken."""


class Write(Struct, frozen=True):
    """One change of a row; `letter` is the variant written, or tells what to do with what waits for the id.

    `expected` is what the form's ids must hold for the id, or the place of what waits for it, else nothing changes;
    empty for anything. Only with none, or with that place, is what waits replaced. NOTHING and WITH_LAST say else, and
    with `form:` before it, it is what another form's ids must hold.
    """

    form: Form
    letter: str
    id: str
    head: bytes = b""
    refs: tuple[str, ...] = ()
    expected: bytes = b""

    @property
    def as_parent(self) -> str:
        """Name the row as its children refer to it."""
        return f"{self.form.table}|{self.id}"

    @classmethod
    def of(cls, entity: Entity, expected: bytes = b"") -> Write:
        """Write an entity as it is."""
        assert entity.row.form is not None
        return cls(entity.row.form, entity.row.letter, entity.id, entity.head, entity.refs, expected)

    @classmethod
    def removing(cls, form: Form, data: Payload, entity_id: str, now_us: int, expected: bytes = b"") -> Write:
        """Replace a row by its delete marker; where its form has none, by that of another form of its table.

        An asset in an album is one row on the device with the own asset of that id, and goes by AssetDeleteV1.
        """
        marker_row = row(next(f.delete_type for f in (form, *forms_of(form.table)) if f.delete_type is not None))
        values = {
            field: iso_from_us(now_us) if field == "deleted_at" else getattr(data, field, None)
            for field in marker_row.payload.__struct_fields__
        }
        values.update({mine: getattr(data, its) for mine, its in zip(marker_row.key, form.key, strict=True)})
        return cls.of(entity_of(marker_row, marker_row.payload(**values), entity_id), expected)


def batches(writes: Iterable[Write]) -> Iterator[list[Write]]:
    """Cut writes into what one script takes at a time, bounded in rows and bytes; a pair of writes stays together."""
    batch: list[Write] = []
    size = 0
    for write in writes:
        is_full = len(batch) >= BATCH_ROWS or size + len(write.head) > BATCH_BYTES
        if batch and is_full and write.expected != WITH_LAST:
            yield batch
            batch, size = [], 0
        batch.append(write)
        size += len(write.head)
    if batch:
        yield batch


def arguments(batch: Sequence[Write]) -> list[Arg]:
    """Print a batch as the script's arguments."""
    args: list[Arg] = [LOOKED_AT_ROWS]
    for w in batch:
        args += (f"{w.form.name}:{w.letter}", w.id, w.head, "\n".join(w.refs), w.expected)
    return args
