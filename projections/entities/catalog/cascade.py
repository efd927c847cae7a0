"""What goes with a deleted row: its children get their delete markers, or lose the reference where it may be empty.

Children that wait were never sent, so nothing is left of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec import Struct
from msgspec.structs import replace

from projections.entities.catalog.layout import waits
from projections.entities.catalog.write_arguments import FORGET, Write
from projections.entities.entity import entity_of
from projections.entities.forms import form
from projections.entities.lines import payload_of
from projections.entities.registry import row


class Child(Struct, frozen=True):
    """A row that refers to `parent` (`table|id`): its form, id, line, and where it is.

    `held`: what the form's ids hold for it, or the place of one that waits. `refs`: the parents of one that waits.
    """

    parent: str
    form: str
    id: str
    held: bytes
    line: bytes
    refs: tuple[str, ...] = ()


def child_writes(children: Sequence[Child], deleted: Collection[str], now_us: int) -> list[Write]:
    """Decide what becomes of the children of deleted rows; each write holds only if the child has not changed since."""
    once = {(child.form, child.id, child.held): child for child in children}
    return [_write(child, deleted, now_us) for child in once.values()]


def _write(child: Child, deleted: Collection[str], now_us: int) -> Write:
    its_form = form(child.form)
    stored = row(its_form.type_of(chr(child.held[0])))
    data = payload_of(stored, child.line)
    emptied: dict[str, None] = {}
    for parent in its_form.parents:
        if f"{parent.table}|{getattr(data, parent.field)}" in deleted:
            if parent.on_delete == "cascade":
                if waits(child.held):
                    return Write(its_form, FORGET, child.id, expected=child.held)
                return Write.removing(its_form, data, child.id, now_us, child.held)
            emptied[parent.field] = None
    rewritten = Write.of(entity_of(stored, replace(data, **emptied), child.id), child.held)
    if waits(child.held):  # an AlbumV1 waits for its owner too, who is no part of what is stored
        return replace(rewritten, refs=tuple(ref for ref in child.refs if ref not in deleted))
    return rewritten
