"""Why a row waits: it cannot be read by a device, a parent is missing, or a parent cannot be read. In SQL, pure.

A parent that cannot be read is not sent, so what refers to it waits too, and so does what refers to that. Where it was
seen to be so (`unfit_parents.py`), its children stand at its next change, which mends it: who had passed their own
place by then gets them there. A reference that a device sets to null when its row goes is null meanwhile.
"""

# ruff: noqa: S608 - a mapping is SQL that its operator wrote; what comes from outside is a parameter
from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from projections.entities.forms import Parent, forms_of
from projections.entities.postgres.mapping.column_types import Field, fields_of
from projections.entities.postgres.mapping.expressions import Expressions, SqlTypes
from projections.entities.postgres.statements.encodings import shown
from projections.entities.postgres.statements.json_sql import literal, printed
from projections.entities.postgres.statements.keyset import uuid7_at
from projections.entities.postgres.statements.readable import INTEGERS, Given, id_in_positions, stamp_in_reach
from projections.entities.registry import row

_MEMBERS: Final = "_sl_unfit_{table}_{kind}_"
MEMBERS: Final = re.compile(_MEMBERS.format(table="([a-z_]+?)", kind="(uuid|text)"))
"""Stands for a parameter: the rows of a table that were seen not to fit; null where that may be any."""


class Described(NamedTuple):
    """A branch's expressions and what the database holds of them."""

    found: Expressions
    types: SqlTypes


class Reference(NamedTuple):
    """What a row refers to: a payload's key, the table, the expression, and whether a device sets it to null."""

    field: str
    table: str
    sql: str
    given: Given
    set_null: bool


class Guard(NamedTuple):
    """Whether what a row refers to can be read.

    `wrong` is true where it cannot, and `named` is `table|id` of what cannot then; `at` is the instant at which it was
    mended, where it was seen unfit, or null. All need `join` behind the branch's own tables. `member` is true of no
    fewer rows than have an `at`.
    """

    reference: Reference
    wrong: str
    named: str
    at: str
    tables: frozenset[str]
    join: str = ""
    member: str = "true"


class Waits(NamedTuple):
    """All that keeps rows of a branch.

    Their own `fits` by key. `missing` is true of rows that lack a parent; `waits` of those that may get it yet, with
    the `row_id` of the row and `parent_id` of the parent (`table|id`). `guards` are of parents that cannot be read.
    `stamp` names where a row stands, and the condition under which positions reach there: one beyond is in no page.
    """

    fits: tuple[tuple[str, str], ...]
    missing: str
    waits: str
    parent_id: str
    row_id: str
    guards: tuple[Guard, ...]
    stamp: tuple[str, str] = ("", "")

    @property
    def unfit(self) -> str:
        """Print that a row cannot be read; empty where none is."""
        return unless([condition for _, condition in self.fits])

    @property
    def unfit_field(self) -> str:
        """Print the first field at which a row cannot be read, of one that cannot."""
        return _first([(f"({condition}) IS NOT TRUE", literal(name)) for name, condition in self.fits])

    @property
    def needs_unfit(self) -> tuple[str, str]:
        """Print that a parent cannot be read that a row cannot be without, and its `table|id` then; may be empty."""
        return _any([guard for guard in self.guards if not guard.reference.set_null])

    @property
    def set_null_for(self) -> tuple[str, str]:
        """Print that what a row is sent without cannot be read, and its `table|id` then; may be empty."""
        return _any([guard for guard in self.guards if guard.reference.set_null])


def waits_of(one: Described, sources: Mapping[str, Sequence[Described]], *, mended: bool) -> Waits:
    """Tell all that keeps rows of a branch; `sources` has the branches that the rows of each table are mapped by.

    `mended`: also where children of mended parents stand.
    """
    found = one.found
    missing, waits, parent_id = _missing(one)
    guards = tuple(_guards(one, sources, mended=mended))
    stamp = "uuid7" if len(found.order) == 1 else "updated_at", stamp_in_reach(found.order[0], one.types.order[0])
    return Waits(own_fits(one), missing, waits, parent_id, _row_id(one), guards, stamp)


def own_fits(one: Described) -> tuple[tuple[str, str], ...]:
    """List the conditions under which a device can read a row of a branch, by key."""
    found, types = one
    made = list(_conditions(found.branch.entity_type, _data(one)))
    if len(found.order) == 2 and types.order[1] not in ("uuid", *INTEGERS):
        made.append(("id", id_in_positions(found.order[1], types.encoding)))
    return tuple(made)


def unless(conditions: Sequence[str]) -> str:
    """Print that not all of some conditions hold; empty without any."""
    return f"(({' AND '.join(conditions)}) IS NOT TRUE)" if conditions else ""


def _data(one: Described) -> dict[str, tuple[str, Given]]:
    """Map a branch's payload keys to their expressions and what the database holds of them."""
    return dict(zip(one.found.branch.data, zip(one.found.data, one.types.data, strict=True), strict=True))


def _conditions(entity_type: str, data: Mapping[str, tuple[str, Given]]) -> Iterator[tuple[str, str]]:
    for field in fields_of(entity_type):
        if field.name in data:
            sql, given = data[field.name]
            if condition := printed(entity_type, field, sql[1:-1], given).fits:
                yield field.name, condition


def parent_types(entity_type: str, table: str) -> tuple[str, ...]:
    """Name the entity types whose rows are in a table for the devices that ask for rows which refer to it."""
    served_with = row(entity_type).served_with
    if served_with is not None and (named := row(served_with[1])).form in forms_of(table):
        return (named.name,)
    return tuple(dict.fromkeys(name for form in forms_of(table) for name in form.upsert_types))


def _guards(one: Described, sources: Mapping[str, Sequence[Described]], *, mended: bool) -> Iterator[Guard]:
    found, types = one
    data = _data(one)
    references = list(_references(found.branch.entity_type, data))
    several = {ref.table for ref in references if sum(ref.table == other.table for other in references) > 1}
    for number, reference in enumerate(references):
        joined = [at for at, parent in enumerate(found.branch.parents) if parent.table == reference.table]
        known = [at for at in joined if found.parents[at]] if reference.table not in several else []
        if known:
            yield _joined_guard(one, known[0], reference, sources, f"{number}", mended=mended)
            continue
        for at in joined:
            sql, sql_type = found.stands[at], types.stands[at]
            yield _guard(
                reference, f"_sl_there{at}", [stamp_in_reach(sql, sql_type)], instant(sql, sql_type), (), mended
            )
        guard = _looked_up(reference, sources, f"{number}", mended=mended)
        if guard is not None:
            yield guard


def _references(entity_type: str, data: Mapping[str, tuple[str, Given]]) -> Iterator[Reference]:
    served = row(entity_type)
    if served.form is None or served.is_delete:
        return
    owner = (Parent("owner_id", "user"),) if served.needs_owner else ()
    names = _names(entity_type)
    for parent in (*served.parents, *owner):
        field = names[parent.field]
        if field.name in data:
            sql, given = data[field.name]
            yield Reference(field.name, parent.table, sql, given, parent.on_delete == "set_null" and field.nullable)


def _joined_guard(
    one: Described,
    at: int,
    reference: Reference,
    sources: Mapping[str, Sequence[Described]],
    path: str,
    *,
    mended: bool,
) -> Guard:
    """Tell of a parent whose own columns were joined already: nothing is looked up."""
    found, types = one
    parent = found.branch.parents[at]
    data = {name: (sql, given) for (name, sql), given in zip(found.parents[at].items(), types.parents[at], strict=True)}
    upsert = parent_types(found.branch.entity_type, reference.table)[0]
    conditions = [condition for _, condition in _conditions(upsert, data)]
    changes, changes_type = found.changes[at], types.changes[at]
    sql, sql_type = (found.stands[at], types.stands[at]) if changes is None else (changes, changes_type or "")
    conditions.append(stamp_in_reach(sql, sql_type))
    behind = [
        guard
        for number, further in enumerate(_references(upsert, data))
        if not further.set_null
        and (guard := _looked_up(further, sources, f"{path}_{number}", mended=mended)) is not None
    ]
    there = "" if parent.from_.lstrip().startswith("(SELECT 1)") else f"_sl_there{at}"
    return _guard(reference, there, conditions, instant(sql, sql_type), behind, mended)


def _guard(
    reference: Reference, there: str, conditions: Sequence[str], at: str, behind: Sequence[Guard], mended: bool
) -> Guard:
    wrong = unless(conditions)
    if there:
        wrong = f"({there} AND {wrong})"
    named = f"{literal(reference.table + '|')} || {shown(reference.sql, reference.given.encoding)}"
    causes = [(wrong, named), *((guard.wrong, guard.named) for guard in behind)]
    member = _member(reference.table, reference.sql, reference.given)
    stood = f"CASE WHEN {member} AND {' AND '.join(conditions)} THEN {at} END"
    return Guard(
        reference,
        _any_of([cause for cause, _ in causes]),
        _first(causes),
        _latest([stood, *(g.at for g in behind)]) if mended else "",
        frozenset({reference.table}).union(*(g.tables for g in behind)),
        "".join(g.join for g in behind),
        "true" if behind else member,
    )


def _looked_up(
    reference: Reference, sources: Mapping[str, Sequence[Described]], path: str, *, mended: bool
) -> Guard | None:
    """Tell of a parent that is looked up where it is mapped, by its id; None where all such can be read."""
    selects: list[str] = []
    tables = frozenset({reference.table})
    known: set[tuple[str, ...]] = set()
    for number, one in enumerate(
        sorted(sources.get(reference.table, ()), key=lambda one: one.found.branch.each is not None)
    ):
        if one.found.data in known:
            continue
        known.add(one.found.data)
        fits = [condition for _, condition in own_fits(one)]
        behind = list(_behind(one, sources, f"{path}_{number}", mended=mended))
        if fits or behind:
            tables = tables.union(*(guard.tables for guard in behind))
            selects.append(_looked_up_in(one, reference, fits, behind, f"_sl_ref{path}", mended=mended))
    if not selects:
        return None
    several = " UNION ALL ".join(f"({select})" for select in selects)
    join = (
        f" CROSS JOIN LATERAL (SELECT {reference.sql} AS id) _sl_ref{path} CROSS JOIN LATERAL"
        f" (SELECT min(unfit) AS unfit, max(at) AS at FROM ({several}) several) _sl_parent{path}"
    )
    unfit, at = f"_sl_parent{path}.unfit", f"_sl_parent{path}.at" if mended else ""
    return Guard(reference, f"({unfit} IS NOT NULL)", unfit, at, tables, join)


def _behind(one: Described, sources: Mapping[str, Sequence[Described]], path: str, *, mended: bool) -> Iterator[Guard]:
    references = _references(one.found.branch.entity_type, _data(one))
    for number, further in enumerate(references):
        if not further.set_null:
            guard = _looked_up(further, sources, f"{path}_{number}", mended=mended)
            if guard is not None:
                yield guard


def _looked_up_in(
    one: Described, reference: Reference, fits: Sequence[str], behind: Sequence[Guard], ref: str, *, mended: bool
) -> str:
    found, types = one
    branch = found.branch
    key = row(branch.entity_type).key[0]
    at = list(branch.data).index(_names(branch.entity_type)[key].name)
    own, given = found.data[at], types.data[at]
    same = own, f"{ref}.id"
    if given.sql_type != reference.given.sql_type:
        same = f"{own}::text", f"{ref}.id::text"
    named = f"{literal(reference.table + '|')} || {shown(f'{ref}.id', reference.given.encoding)}"
    cases = [f"WHEN {unless(fits)} THEN {named}"] if fits else []
    cases += [f"WHEN {guard.wrong} THEN {guard.named}" for guard in behind]
    stands = "NULL::timestamptz"
    if mended:
        reach, stood = stamp_in_reach(found.order[0], types.order[0]), instant(found.order[0], types.order[0])
        member = _member(reference.table, f"{ref}.id", reference.given)
        stands = _latest([f"CASE WHEN {member} AND {reach} THEN {stood} END", *(guard.at for guard in behind)])
    from_ = found.from_ + "".join(guard.join for guard in behind)
    select = f"SELECT CASE {' '.join(cases)} END AS unfit, {stands} AS at FROM {from_} WHERE {same[0]} = {same[1]}"
    if branch.each is None:
        return select
    return (
        f"SELECT r.* FROM {found.each_from} CROSS JOIN LATERAL ({select} AND {found.where}) r WHERE {found.each_where}"
    )


def instant(sql: str, sql_type: str) -> str:
    """Print where a UUIDv7 or a timestamp stands, as a timestamptz."""
    if sql_type == "uuid":
        return uuid7_at(sql)
    return f"({sql} AT TIME ZONE 'UTC')" if sql_type == "timestamp" else sql


def _member(table: str, sql: str, given: Given) -> str:
    """Print that a row was seen not to fit; all were where the parameter is null."""
    kind = "uuid" if given.sql_type == "uuid" else "text"
    ref = sql if kind == "uuid" else f"{sql}::text"
    members = _MEMBERS.format(table=table, kind=kind)
    return f"({members} IS NULL OR {ref} = ANY({members}))"


def _latest(instants: Sequence[str]) -> str:
    return instants[0] if len(instants) == 1 else f"greatest({', '.join(instants)})"


def _any(guards: Sequence[Guard]) -> tuple[str, str]:
    return _any_of([guard.wrong for guard in guards]), _first([(guard.wrong, guard.named) for guard in guards])


def _first(causes: Sequence[tuple[str, str]]) -> str:
    """Print the text of the first of these causes that holds, as one of them must; empty without any."""
    if len(causes) < 2:  # PERF: planning a statement costs with its length
        return causes[0][1] if causes else ""
    cases = " ".join(f"WHEN {cause} THEN {text}" for cause, text in causes[:-1])
    return f"CASE {cases} ELSE {causes[-1][1]} END"


def _missing(one: Described) -> tuple[str, str, str]:
    """Print that a parent is missing, that one is which may come yet, and which that is: `table|id`.

    A reference that is null has no parent to miss.
    """
    found, types = one
    branch = found.branch
    served = row(branch.entity_type)
    refs = served.parents
    fields = _names(branch.entity_type)
    data = dict(zip(branch.data, found.data, strict=True))
    missing, waits, ids = [], [], []
    for at, parent in enumerate(branch.parents):
        referring = [fields[ref.field] for ref in refs if ref.table == parent.table]
        ref = data[referring[0].name] if len(referring) == 1 else "null"
        gone = f"_sl_there{at} IS NULL"
        if len(referring) == 1 and referring[0].nullable:
            gone = f"({gone} AND {ref} IS NOT NULL)"
        missing.append(gone)
        if parent.since is not False:
            waits.append(gone)
            ids.append(f"WHEN {gone} THEN {literal(parent.table + '|')} || coalesce({shown(ref, types.encoding)}, '')")
    return _any_of(missing), _any_of(waits), f"CASE {' '.join(ids)} END" if ids else ""


def _any_of(conditions: Sequence[str]) -> str:
    return f"({' OR '.join(conditions)})" if conditions else ""


def _row_id(one: Described) -> str:
    """Print a row's id as its data has it; the parts of a pair with a colon between them."""
    found, types = one
    data = dict(zip(found.branch.data, found.data, strict=True))
    fields = _names(found.branch.entity_type)
    parts = ", ".join(
        shown(data[fields[attribute].name], types.encoding) for attribute in row(found.branch.entity_type).key
    )
    return f"concat_ws(':', {parts})"


def _names(entity_type: str) -> dict[str, Field]:
    """Map a payload's attributes to what is known of them."""
    return dict(zip(row(entity_type).payload.__struct_fields__, fields_of(entity_type), strict=True))
