"""Reading what PostgreSQL plans to do for a page: what would cost more with every row of a large table. Pure.

A page must come off an index in its order. A sort of all that is left, or a scan that looks at rows of every library,
makes each page as slow as the whole table is long, and a first sync slow by the square of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

LARGE_ROWS: Final = 10_000
"""From so many rows on a table is large: reading it whole takes longer than a page may."""
SORTED_ROWS: Final = 5_000
"""As many rows as a page may sort: some branches' pages put together."""

_SORTS: Final = ("Sort", "Incremental Sort")
_TABLE_SCANS: Final = ("Seq Scan", "Parallel Seq Scan")
_INDEX_SCANS: Final = ("Index Scan", "Index Only Scan")


class Trouble(NamedTuple):
    """What is wrong with a plan, at which table (as SQL calls it there: its alias) and over about how many rows."""

    kind: Literal["sort", "sequential scan", "filtered scan"]
    table: str
    alias: str
    rows: int

    @property
    def says(self) -> str:
        """Tell it in words."""
        if self.kind == "sort":
            return f"about {self.rows:,} rows are sorted for one page"
        if self.kind == "sequential scan":
            return f"all of about {self.rows:,} rows are read for one page"
        return f"about {self.rows:,} rows of all libraries are looked through in the index's order, for those of one"


def troubles_in(explained: Any, rows_of: Mapping[str, float]) -> tuple[Trouble, ...]:
    """List what is wrong with a plan, as EXPLAIN (FORMAT JSON) gives it; `rows_of` tells how large tables are.

    A table that `rows_of` does not know counts as small: temporary ones, functions. Each trouble is told once.
    """
    found: dict[tuple[str, str, str], Trouble] = {}
    for trouble in _troubles(explained[0]["Plan"], rows_of):
        key = (trouble.kind, trouble.table, trouble.alias)
        if key not in found or found[key].rows < trouble.rows:
            found[key] = trouble
    return tuple(found.values())


def _troubles(node: Mapping[str, Any], rows_of: Mapping[str, float]) -> Iterator[Trouble]:
    kind = node["Node Type"]
    table, alias = node.get("Relation Name", ""), node.get("Alias", "")
    rows = int(rows_of.get(table, 0))
    if kind in _SORTS:
        yield from _sort(node, kind, rows_of)
    elif kind in _TABLE_SCANS and rows > LARGE_ROWS:
        yield Trouble("sequential scan", table, alias, rows)
    elif kind in _INDEX_SCANS and rows > LARGE_ROWS and _is_filtered(node):
        yield Trouble("filtered scan", table, alias, rows)
    for child in node.get("Plans", ()):
        yield from _troubles(child, rows_of)


def _sort(node: Mapping[str, Any], kind: str, rows_of: Mapping[str, float]) -> Iterator[Trouble]:
    """Judge a sort by what it reads; one behind a sorted key goes on where that key is the same."""
    (child,) = node["Plans"]
    rows = int(child["Plan Rows"])
    if kind == "Incremental Sort" or rows <= SORTED_ROWS:
        return
    scans = [scan for scan in _scans(child) if rows_of.get(scan["Relation Name"], 0) > SORTED_ROWS]
    largest = max(scans, key=lambda scan: rows_of[scan["Relation Name"]], default={})
    yield Trouble("sort", largest.get("Relation Name", ""), largest.get("Alias", ""), rows)


def _scans(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if "Relation Name" in node:
        yield node
    for child in node.get("Plans", ()):
        yield from _scans(child)


def _is_filtered(node: Mapping[str, Any]) -> bool:
    """Tell whether rows of the index's range are compared with a parameter or constant and left out.

    A filter that tests a flag (`"isVisible"`, `IS NULL`) leaves out few rows. One that compares for equality is how
    rows of other libraries are passed over.
    """
    return " = " in node.get("Filter", "") and " = " not in node.get("Index Cond", "")
