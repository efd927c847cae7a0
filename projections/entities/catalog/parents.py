"""Which rows of a page must wait for a parent that is newer than the stream's snapshot, or behind a cut of its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import msgspec

from ledger.positions import Position
from projections.entities.catalog.layout import REMOVED
from projections.entities.forms import DELETE, Form, forms_of
from projections.entities.lines import data_of
from projections.entities.registry import ROWS, row


def is_checked(entity_type: str, written_since: bool, limits: Mapping[str, Position]) -> bool:
    """Tell whether any row could be held: something was written since the snapshot, or a parent's run was cut."""
    tables = {table for _, table in _fields(entity_type)}
    return bool(tables) and (written_since or any(_table_of(cut) in tables for cut in limits))


class Parents:
    """The parents that the rows of one page refer to."""

    def __init__(self, entity_type: str, lines: Sequence[bytes]) -> None:
        decode, fields = _reader(entity_type)
        self._refs = [
            [(table, parent) for name, table in fields if (parent := getattr(data, name)) is not None]
            for data in map(decode, map(data_of, lines))
        ]
        self._places: dict[tuple[str, str], list[tuple[Form, int]]] = {}
        self._wanted: list[tuple[Form, list[str]]] = []
        ids: dict[str, dict[str, None]] = {}
        for refs in self._refs:
            for table, parent in refs:
                ids.setdefault(table, {})[parent] = None
        at = 0
        for table, parents in ids.items():
            for form in forms_of(table):
                self._wanted.append((form, list(parents)))
                for parent in parents:
                    self._places.setdefault((table, parent), []).append((form, at))
                    at += 1

    def wanted(self) -> list[tuple[Form, list[str]]]:
        """List what must be looked up: each form with the ids asked of it."""
        return self._wanted

    def first_waiting(
        self, found: Sequence[bytes | None], snapshot_us: int, limits: Mapping[str, Position]
    ) -> int | None:
        """Find the first row one of whose parents lives, but nowhere that was sent; `found` answers `wanted`.

        A parent that lives nowhere holds nothing back: rows of parents that never were are not in pages, and what was
        deleted since was sent before or goes with its parent.
        """
        held = {
            parent
            for parent, places in self._places.items()
            if (sent := [_is_sent(form, found[at], snapshot_us, limits) for form, at in places])
            and False in sent
            and True not in sent
        }
        if not held:
            return None
        return next((index for index, refs in enumerate(self._refs) if any(ref in held for ref in refs)), None)


def _is_sent(form: Form, entry: bytes | None, snapshot_us: int, limits: Mapping[str, Position]) -> bool | None:
    """Tell whether a row was below all limits; None if it does not live in this form."""
    if entry is None or chr(entry[0]) in (DELETE, REMOVED):
        return None
    stamp = int(entry[1:])
    cuts = (limits[name].at_us for name in _versions(form.type_of(chr(entry[0]))) if name in limits)
    return stamp < min(cuts, default=snapshot_us) and stamp < snapshot_us


@cache
def _versions(stored: str) -> tuple[str, ...]:
    return tuple(found.name for found in ROWS if found.stored == stored)


@cache
def _fields(entity_type: str) -> tuple[tuple[str, str], ...]:
    """Name a payload's attributes that refer to parents, with their tables; an AlbumV1 also refers to its owner."""
    found = row(entity_type)
    if found.form is None or found.is_delete:
        return ()
    owner = (("owner_id", "user"),) if found.needs_owner else ()
    return tuple((parent.field, parent.table) for parent in found.parents) + owner


@cache
def _table_of(entity_type: str) -> str:
    found = row(entity_type)
    return "" if found.form is None else found.form.table


@cache
def _reader(entity_type: str) -> tuple[Any, tuple[tuple[str, str], ...]]:
    """Make a decoder that reads nothing of a payload but its references."""
    fields = _fields(entity_type)
    struct = msgspec.defstruct("Refs", [(name, str | None) for name, _ in fields], rename="camel")
    return msgspec.json.Decoder(struct).decode, fields
