"""How a library's catalog lies in Redis, and what its scripts are told of it.

    meta            hash: last stamp given, tombstone floor; of each stored type the last row's stamp and id, and the
                    length of the longest line there ever was; the users who are being deleted
    rows:<type>     sorted set per stored entity type: the line itself by its stamp, so a page is one range
    ids:<form>      hash: entity id -> variant letter and stamp; `r` marks a row that went with its parent, unmarked
    edges           sorted set without scores: `table|parent id|form|child id`
    waiting         hash of the rows whose parents are not there: `form|id` -> variant letter and score; a parent that
                    is missing; all parents, a line each
    wanted          sorted set without scores: `table|parent id|form|child id` of all parents of the rows that wait
    arrived         sorted set by stamp: what rows that wait are still to be looked at for. `table|id`: a parent that
                    came; `=form|id`: the row it is to replace may change now
    checksums       sorted set by stamp: `form|id` of assets that excluded others by another checksum before, owner or
                    external library; forgotten with the delete markers of their time, like which they raise the floor

What is served refers to nothing that is not there: a row with such a reference waits. It lies among the rows of its
type too, WAITS_US later than it was written, so that no page, horizon or count below a horizon sees it, while backups
and exports do. When the parent comes, the row is written anew, with a stamp of then: every device gets it after its
parent. If it is to replace a row that is served, that one stays until then. When the parent is deleted instead, the row
is dropped, or loses the reference where that may be empty. A row that waits to give a served one another owner goes on
waiting while others refer to that one.

Whatever a row waits for is noted in `arrived` by the script that lets it be so; nobody needs to look at all that waits.

All keys of a library share a slot. Every script gets all of them, in one fixed order.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import msgspec

from ledger.keys import (
    catalog_arrived,
    catalog_checksums,
    catalog_edges,
    catalog_ids,
    catalog_meta,
    catalog_rows,
    catalog_waiting,
    catalog_wanted,
)
from projections.entities.forms import FORMS, Form
from projections.entities.lines import head_of
from projections.entities.payloads.base import Payload
from projections.entities.registry import row

REMOVED: Final = "r"
"""Marks an id whose row went with its parent and left no marker of its own."""

WAITS_US: Final = 2**52
"""What the place of a row that waits has above its stamp; all below 2**53, the last double that is exact."""

USERS: Final = "user"
"""The table of users: what refers to them is found by reading all there is."""

EXCLUDING: Final = "asset"
"""The table whose rows exclude each other by owner, external library and checksum."""

CHECKSUMS: Final = "checksums"
"""Names in `meta` the last row whose checksum changed, as entity types name theirs."""


def waits(place: bytes) -> bool:
    """Tell whether a variant letter with a score is the place of a row that waits."""
    return int(place[1:]) >= WAITS_US


@lru_cache(maxsize=4096)
def keys_of(library: str) -> tuple[bytes, ...]:
    """List all keys of a catalog, as rows.lua reads them; each form's ids and the rows of its variants come last."""
    first = (catalog_meta, catalog_edges, catalog_waiting, catalog_wanted, catalog_arrived, catalog_checksums)
    keys = [make(library) for make in first]
    for form in FORMS:
        keys.append(catalog_ids(library, form.name))
        keys.extend(catalog_rows(library, stored) for _, stored in form.variants)
    return tuple(keys)


def _description(form: Form) -> dict[str, Any]:
    """Tell a script of one form.

    `at`: where its ids are among the keys, with the rows of its variants behind them. `parents`: fields that refer to
    others, with their tables; `refs`: those that make edges. `is_parent`: edges may begin at its rows. `is_owned`: its
    rows refer to an owner and may have others below them. `excludes`: no other row may have its checksum; `blank`: its
    head with nothing known, around the id, where it shares that with the table it goes with.
    """
    payload = row(form.type_of("u")).payload
    names = {field.name: field.encode_name for field in msgspec.structs.fields(payload)}
    return {
        "name": form.name,
        "table": form.table,
        "at": keys_of("").index(catalog_ids("", form.name)) + 1,
        "variants": form.variants,
        "parents": [(names[parent.field], parent.table) for parent in form.parents],
        "refs": [(names[parent.field], parent.table) for parent in form.parents if parent.indexed],
        "is_parent": any(parent.indexed and parent.table == form.table for other in FORMS for parent in other.parents),
        "is_owned": "ownerId" in names.values() and form.table in {p.table for other in FORMS for p in other.parents},
        "excludes": form.table == EXCLUDING,
        "blank": _blank(form, payload) if _goes_with(form) else (),
    }


def _goes_with(form: Form) -> str | None:
    """Name the table whose rows a form shares its id with and goes with."""
    return next((parent.table for parent in form.parents if form.key == (parent.field,)), None)


def _blank(form: Form, payload: type[Payload]) -> tuple[str, str]:
    """Split the head of a row that says nothing but its id, before and after the id."""
    others = {name: None for name in payload.__struct_fields__ if name not in form.key}
    head = head_of(form.type_of("u"), payload(**{form.key[0]: "\x01"}, **others)).decode()
    before, after = head.split("\\u0001")
    return before, after


def _lua(value: Any) -> str:
    """Print a value as Lua reads it."""
    match value:
        case dict():
            return "{" + ",".join(f"{name}={_lua(each)}" for name, each in value.items()) + "}"
        case list() | tuple():
            return "{" + ",".join(map(_lua, value)) + "}"
        case bool() | int():
            return str(value).lower()
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"


def _as_lua() -> str:
    """Print all forms as a part of scripts: `table_of` names each one's table, `layout` makes what there is of a table.

    PERF: it makes only what a call asks for; to decode all of it took a quarter of what writing 50 rows does.
    """
    tables = {
        table: {
            "forms": [_description(form) for form in FORMS if form.table == table],
            "parts": [form.name for form in FORMS if _goes_with(form) == table],
        }
        for table in dict.fromkeys(form.table for form in FORMS)
    }
    made = "\n".join(f"  {table} = function() return {_lua(what)} end," for table, what in tables.items())
    return f"local table_of = {_lua({form.name: form.table for form in FORMS})}\nlocal layout = {{\n{made}\n}}\n"


LAYOUT: Final = _as_lua()
"""What scripts that know all forms begin with."""
