"""What a plan is judged by, the names found in a mapping's SQL, and the indexes made of them."""

from __future__ import annotations

from typing import Any

import pytest

from projections.entities.postgres.check.indexes import Index, lookup_index, order_index
from projections.entities.postgres.check.plans import Trouble, troubles_in
from projections.entities.postgres.mapping.sql_names import (
    Column,
    columns_in,
    joined_columns,
    library_columns,
    only_column,
    tables_in,
)

LARGE = {"asset": 1_000_000.0, "partner": 12.0}


def explained(*nodes: dict[str, Any]) -> Any:
    """A plan of these nodes, each the only child of the one before."""
    child: dict[str, Any] | None = None
    for node in reversed(nodes):
        child = node if child is None else {**node, "Plans": [child]}
    return [{"Plan": child}]


def scan(kind: str, rows: int, table: str = "asset", **more: str) -> dict[str, Any]:
    named = {key.replace("_", " ").title(): value for key, value in more.items()}
    return {"Node Type": kind, "Relation Name": table, "Alias": "a", "Plan Rows": rows, **named}


LIMIT = {"Node Type": "Limit", "Plan Rows": 1000}
SORT = {"Node Type": "Sort", "Plan Rows": 1000}


def test_a_page_off_its_index_is_fine() -> None:
    wanted = scan("Index Scan", 500_000, index_cond='(("ownerId" = $1) AND ("updateId" > $2))')
    assert troubles_in(explained(LIMIT, wanted), LARGE) == ()


def test_a_sequential_scan_of_a_large_table_is_told() -> None:
    (found,) = troubles_in(explained(LIMIT, scan("Seq Scan", 500_000)), LARGE)
    assert found == Trouble("sequential scan", "asset", "a", 1_000_000)
    assert "1,000,000" in found.says


def test_a_sequential_scan_of_a_small_or_unknown_table_is_fine() -> None:
    assert troubles_in(explained(LIMIT, scan("Seq Scan", 12, "partner")), LARGE) == ()
    assert troubles_in(explained(LIMIT, scan("Seq Scan", 12, "unheard_of")), LARGE) == ()


def test_a_sort_is_judged_by_what_it_reads() -> None:
    many = scan("Bitmap Heap Scan", 500_000)
    assert troubles_in(explained(LIMIT, SORT, many), LARGE) == (Trouble("sort", "asset", "a", 500_000),)
    assert troubles_in(explained(LIMIT, SORT, LIMIT, scan("Index Scan", 500_000)), LARGE) == ()
    assert troubles_in(explained(LIMIT, {**SORT, "Node Type": "Incremental Sort"}, many), LARGE) == ()


def test_rows_of_other_libraries_that_are_passed_over_are_told() -> None:
    passing = scan("Index Scan", 500, index_cond='("updateId" > $2)', filter='("ownerId" = $1)')
    assert [found.kind for found in troubles_in(explained(LIMIT, passing), LARGE)] == ["filtered scan"]
    flagged = scan("Index Scan", 500, index_cond='("ownerId" = $1)', filter='("deletedAt" IS NULL)')
    assert troubles_in(explained(LIMIT, flagged), LARGE) == ()


def test_one_trouble_is_told_once() -> None:
    branch = scan("Seq Scan", 500_000)
    plan = [{"Plan": {"Node Type": "Append", "Plan Rows": 2, "Plans": [branch, branch]}}]
    assert len(troubles_in(plan, LARGE)) == 1


@pytest.mark.parametrize(
    ("from_", "tables"),
    [
        ("asset a", {"a": "asset"}),
        ('"user" u', {"u": '"user"'}),
        ("asset AS a", {"a": "asset"}),
        ("asset", {"asset": "asset"}),
        ('photos."Asset" a', {"a": 'photos."Asset"'}),
        ("asset a JOIN album_asset aa ON aa.id = a.id", {"a": "asset", "aa": "album_asset"}),
        ("asset a LEFT JOIN exif ON exif.id = a.id", {"a": "asset", "exif": "exif"}),
        ("asset a, partner p", {"a": "asset", "p": "partner"}),
        ("generate_series(1, 2) n", {}),
        ("(SELECT 1) n", {}),
    ],
)
def test_tables_are_found_by_their_alias(from_: str, tables: dict[str, str]) -> None:
    assert tables_in(from_) == tables


def test_columns_are_found_where_they_stand_alone_and_in_expressions() -> None:
    assert only_column(' a."updateId" ') == Column("a", "updateId")
    assert only_column("A.Id") == Column("a", "id")
    assert only_column('a."updateId"::text') is None
    assert columns_in("encode(a.checksum, 'b.ase64')") == (Column("a", "checksum"),)
    assert columns_in("null") == ()


def test_what_a_condition_holds_equal_is_found_on_either_side() -> None:
    where = 'aa."albumId" = b.id AND :library = aa."ownerId" AND aa.kind = \'x\''
    assert library_columns(where, "aa") == ("ownerId",)
    assert joined_columns(where, "aa") == ("albumId",)
    assert joined_columns(where, "b") == ("id",)
    assert library_columns('a."ownerId"::text = :library', "a") == ("ownerId",)
    assert joined_columns("a.x = a.y", "a") == ()


@pytest.mark.parametrize(
    ("from_", "where", "order", "index"),
    [
        ("asset a", 'a."ownerId" = :library', ('a."updateId"',), 'ON asset ("ownerId", "updateId");'),
        ('"user" u', "true", ('u."updateId"',), 'ON "user" ("updateId");'),
        ("asset a", "a.owner = :library", ("a.changed", "a.id"), 'ON asset ("owner", "changed", "id" COLLATE "C");'),
        ("asset a", 'a."ownerId" = p."sharedById"', ('a."updateId"',), 'ON asset ("ownerId", "updateId");'),
        ("asset a", "a.o = :library", ("lower(a.id)",), 'ON asset ("o", (lower(id)));'),
        ("users u", "u.id = :library", ("u.id",), 'ON users ("id");'),
        ("links l JOIN albums b ON b.id = l.album", "b.id = l.album", ("l.at",), 'ON links ("at");'),
        ("(SELECT 1 AS id) a", "a.id = :library", ("a.id",), ""),
        ("asset a", "true", ("a.changed", "e.id"), ""),
        ("asset a", "true", ("now()",), ""),
    ],
)
def test_an_index_is_printed_ready_to_run(from_: str, where: str, order: tuple[str, ...], index: str) -> None:
    texts = [name for name in order if name == "a.id" and len(order) > 1]
    found = order_index(from_, where, order, texts=texts, shares={"p"})
    assert (found.statement if found else "") == (index and f"CREATE INDEX CONCURRENTLY {index}")


def test_a_joined_table_is_looked_up_by_what_joins_it() -> None:
    from_ = 'memory m JOIN memory_asset x ON x."memoriesId" = m.id'
    assert lookup_index(from_, "true", "x") == Index("memory_asset", ('"memoriesId"',))
    assert lookup_index(from_, "m.owner = :library", "m") == Index("memory", ('"owner"',))
    assert lookup_index(from_, "true", "y") is None


def test_an_index_that_is_there_is_known_by_its_first_columns() -> None:
    wanted = Index("photos.asset", ('"ownerId"', '"updateId"'))
    assert wanted.is_among([("asset", ("ownerId", "updateId", "id"))])
    assert not wanted.is_among([("asset", ("ownerId",)), ("asset", ("updateId", "ownerId")), ("x", ("ownerId",))])
