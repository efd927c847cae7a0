"""Whether the rows that are there keep what a position and a payload need: looks at the first rows of each branch.

A sample is of all libraries and does not regard the branch's condition, so that it needs no index and costs the same on
any table. What it finds is there; what it does not find may still be further on. Branches of shares are left out: their
rows are those of another branch as a rule.
"""

# ruff: noqa: S608 - a mapping is SQL that its operator wrote; sql_text.py holds its pieces to being pieces
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import asyncpg

from projections.entities.postgres.check.schema import about, blames_the_statement, once, probes_of
from projections.entities.postgres.connections.connecting import apart, encoding_of
from projections.entities.postgres.mapping.column_types import fields_of
from projections.entities.postgres.mapping.mapping import Mapping
from projections.entities.postgres.mapping.probes import Piece, Probe
from projections.entities.postgres.mapping.sql_names import columns_in, tables_in
from projections.entities.postgres.statements.readable import id_in_positions
from projections.entities.source_check import Problem, Weight

SAMPLE_ROWS: Final = 10_000

_UUID7_MS: Final = "('x' || translate(left({value}::text, 13), '-', ''))::bit(48)::bigint"


class Question(NamedTuple):
    """One thing to count in a sample, and what it means if the count is not 0; `{n}` in `says` is the count."""

    piece: Piece
    counted: str
    weight: Weight
    says: str


async def sample_problems(connection: Any, mapping: Mapping) -> list[Problem]:
    """List what is wrong with the rows that were looked at; the schema must be right.

    Raises SourceUnavailable if the server does not answer.
    """
    problems: list[Problem] = []
    for probe in probes_of(mapping):
        if probe.branch.each is None and (questions := list(_questions(probe, encoding_of(connection)))):
            problems += await _ask(connection, probe, questions)
    return once(problems)


async def _ask(connection: Any, probe: Probe, questions: Sequence[Question]) -> list[Problem]:
    values = list(dict.fromkeys(question.piece.sql for question in questions))
    names = {sql: f"f{at}" for at, sql in enumerate(values)}
    counts = [question.counted.format(value=names[question.piece.sql]) for question in questions]
    sql = f"SELECT {', '.join(('count(*)', *counts))} FROM ({probe.rows(values, SAMPLE_ROWS)}) sample"
    try:
        async with apart(connection):
            statement = await connection.prepare(sql)
            row = await statement.fetchrow(*(None for _ in statement.get_parameters()))
    except asyncpg.PostgresError as error:
        if not blames_the_statement(error):
            raise
        says = f"its first {SAMPLE_ROWS:,} rows cannot be read: {error.args[0]}"
        return [about(probe, Piece(probe.place, ""), says)]
    rows, *found = tuple(row)
    return [
        about(probe, question.piece, f"{question.says} in {count:,} of the first {rows:,} rows", question.weight)
        for question, count in zip(questions, found, strict=True)
        if count
    ]


def _questions(probe: Probe, encoding: str) -> Iterator[Question]:
    """Ask what can be asked of the branch's own tables; what refers to a share or a parent is left out."""
    own = tables_in(probe.branch.from_).keys()
    order = [piece for piece in probe.order() if _is_own(piece, own)]
    for piece in order:
        yield from _of_order(piece, encoding)
    if len(own) == 1 and order and len(order) == len(probe.order()):
        others = ", ".join(piece.sql for piece in order)
        yield Question(
            Piece(order[-1].place, f"ROW({others})::text"),
            "count({value}) - count(DISTINCT {value})",
            "problem",
            "another row has the same place in the order (a page that ends between them loses one)",
        )
    needed = {field.name for field in fields_of(probe.branch.entity_type) if not field.nullable}
    for key, piece in zip(probe.branch.data, probe.data(), strict=True):
        if key in needed and _is_own(piece, own):
            says = f"{key} is null, and a device needs a value there: such a row is held back"
            yield Question(piece, "count(*) FILTER (WHERE {value} IS NULL)", "warning", says)


def _of_order(piece: Piece, encoding: str) -> Iterator[Question]:
    yield Question(piece, "count(*) FILTER (WHERE {value} IS NULL)", "problem", "is null (such a row is never sent)")
    if piece.place.endswith(".uuid7"):
        yield Question(
            piece,
            "count(*) FILTER (WHERE substr({value}::text, 15, 1) <> '7')",
            "problem",
            "is no UUID of version 7, so its order is not that of time",
        )
        later = f"{_UUID7_MS} > extract(epoch FROM clock_timestamp()) * 1000 + 60000"
        yield Question(piece, f"count(*) FILTER (WHERE {later})", "warning", _FUTURE)
    elif piece.place.endswith(".updated_at"):
        later = "{value} > clock_timestamp() + interval '1 minute'"
        yield Question(piece, f"count(*) FILTER (WHERE {later})", "warning", _FUTURE)
    elif piece.place.endswith(".id"):
        yield Question(
            piece,
            f"count(*) FILTER (WHERE NOT {id_in_positions('{value}', encoding)})",
            "problem",
            "is no id a position can hold (1 to 256 bytes of UTF-8 without '|' or control characters)",
        )


_FUTURE: Final = "lies in the future by the server's clock, and is not sent before then"


def _is_own(piece: Piece, own: Any) -> bool:
    columns = columns_in(piece.sql)
    return bool(columns) and all(column.alias in own for column in columns)
