"""What goes with a deleted row: its children get their delete markers, or lose the reference where it may be empty."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec import Struct
from msgspec.structs import replace

from projections.entities.entity import entity_of
from projections.entities.forms import form
from projections.entities.lines import payload_of
from projections.entities.registry import row
from projections.entities.writes import Write


class Child(Struct, frozen=True):
    """A row that refers to `parent` (`table|id`): its form, id, what the form's ids hold for it, and its line."""

    parent: str
    form: str
    id: str
    held: bytes
    line: bytes


def child_writes(children: Sequence[Child], deleted: Collection[str], now_us: int) -> list[Write]:
    """Decide what becomes of the children of deleted rows; each write holds only if the child has not changed since."""
    once = {(child.form, child.id): child for child in children}
    return [_write(child, deleted, now_us) for child in once.values()]


def _write(child: Child, deleted: Collection[str], now_us: int) -> Write:
    its_form = form(child.form)
    stored = row(its_form.type_of(chr(child.held[0])))
    data = payload_of(stored, child.line)
    emptied: dict[str, None] = {}
    for parent in its_form.parents:
        if f"{parent.table}|{getattr(data, parent.field)}" in deleted:
            if parent.on_delete == "cascade":
                return Write.removing(its_form, data, child.id, now_us, child.held)
            emptied[parent.field] = None
    return Write.of(entity_of(stored, replace(data, **emptied), child.id), child.held)
