"""Finding table and column names in a mapping's pieces of SQL, to name them in errors and to derive indexes. Pure.

This is no parser: it reads what mappings are written in (`asset a JOIN album b ON …`, `a."ownerId" = :library`) and
finds nothing in what it does not know.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

_NAME: Final = r'(?:"(?:[^"]|"")+"|[A-Za-z_][A-Za-z0-9_$]*)'
_LITERALS: Final = re.compile(r"'(?:[^']|'')*'")
_TABLE: Final = re.compile(
    rf"(?:^|,|\bJOIN\b)\s*(?:ONLY\s+)?({_NAME}(?:\s*\.\s*{_NAME})?)(?:\s+(?:AS\s+)?({_NAME}))?", re.IGNORECASE
)
_COLUMN: Final = re.compile(rf"(?<![\w\"$.])({_NAME})\s*\.\s*({_NAME})(?!\s*[\w\"$.(])")
_SIDE: Final = rf"({_NAME})\s*\.\s*({_NAME})"
_CAST: Final = r"(?:\s*::\s*\w+)?"
_EQUAL: Final = re.compile(
    rf"(?<![\w\"$.]){_SIDE}{_CAST}\s*=\s*(?:{_SIDE}|(:library)\b)|(:library)\b{_CAST}\s*=\s*{_SIDE}", re.IGNORECASE
)
_KEYWORDS: Final = frozenset(
    {"on", "using", "where", "join", "left", "right", "inner", "cross", "full", "natural", "lateral", "tablesample"}
)


class Column(NamedTuple):
    """A column as SQL names it, unquoted: by its table's alias."""

    alias: str
    name: str


def unquoted(name: str) -> str:
    """Return a name as the database stores it: without quotes, or folded to lower case."""
    name = name.strip()
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def quoted(name: str) -> str:
    """Print a stored name so that SQL reads exactly that."""
    return '"' + name.replace('"', '""') + '"'


def tables_in(from_: str) -> dict[str, str]:
    """Map the aliases of a FROM clause to their tables as SQL writes them; subqueries and functions are left out."""
    text = _LITERALS.sub("''", from_)
    tables = {}
    for found in _TABLE.finditer(text):
        table, alias = found.group(1), found.group(2)
        if text[found.end(1) :].lstrip().startswith("(") or table.lower() in _KEYWORDS:
            continue
        if alias is None or alias.lower() in _KEYWORDS:
            alias = table.rpartition(".")[2]
        tables[unquoted(alias)] = table
    return tables


def columns_in(expression: str) -> tuple[Column, ...]:
    """List the columns an expression names with their alias, in order."""
    text = _LITERALS.sub("''", expression)
    found = (Column(unquoted(alias), unquoted(name)) for alias, name in _COLUMN.findall(text))
    return tuple(dict.fromkeys(found))


def only_column(expression: str) -> Column | None:
    """Return the column that an expression is, if it is nothing else."""
    found = re.fullmatch(rf"\s*{_SIDE}\s*", expression)
    return None if found is None else Column(unquoted(found.group(1)), unquoted(found.group(2)))


def library_columns(condition: str, alias: str) -> tuple[str, ...]:
    """List the columns of one table that a condition holds equal to the library.

    Conditions under OR are found as well: an index for one side of it is of use to that side.
    """
    found = _equalities(_LITERALS.sub("''", condition))
    return tuple(dict.fromkeys(left.name for left, right in found if right is None and left.alias == alias))


def joined_columns(condition: str, alias: str, to: Collection[str] | None = None) -> tuple[str, ...]:
    """List the columns of one table that a condition holds equal to a column of another; of those in `to`, if given."""
    names = []
    for left, right in _equalities(_LITERALS.sub("''", condition)):
        if right is None or (left.alias == alias) == (right.alias == alias):
            continue
        own, other = (left, right) if left.alias == alias else (right, left)
        if to is None or other.alias in to:
            names.append(own.name)
    return tuple(dict.fromkeys(names))


def _equalities(text: str) -> Iterator[tuple[Column, Column | None]]:
    """Yield what is equal to what; None is the library."""
    for match in _EQUAL.finditer(text):
        left_alias, left, right_alias, right, library, library_first, alias, name = match.groups()
        if library_first:
            yield Column(unquoted(alias), unquoted(name)), None
        elif library:
            yield Column(unquoted(left_alias), unquoted(left)), None
        else:
            yield Column(unquoted(left_alias), unquoted(left)), Column(unquoted(right_alias), unquoted(right))
