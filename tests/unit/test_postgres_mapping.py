"""A mapping file: what it becomes, and that whatever does not fit in it is named with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger.commands import Resend
from ledger.entity_types import ENTITY_TYPES, mask_of, types_in
from ledger.errors import InvalidInput
from projections.entities.postgres.mapping.from_toml import load_mapping, read_mapping
from projections.entities.postgres.mapping.mapping import Branch, Each, Mapping, Order, ParentJoin, SourceOptions
from projections.entities.postgres.mapping.sql_text import problem_of, with_library

MARKER = """
[[entities.StackDeleteV1]]
from = 'gone g'
where = 'g.owner = :library'
updated_at = 'g.at'
id = 'g.id'
data = { stackId = 'g.stack' }
"""
LINK = """
[[entities.AlbumToAssetV1]]
from = 'link l'
where = 'l.owner = :library'
uuid7 = 'l.stamp'
data = { albumId = 'l.album', assetId = 'l.asset' }
"""


def problems_of(text: str) -> list[tuple[str, str]]:
    """Read a mapping that does not fit; returns its problems, paths joined with dots."""
    with pytest.raises(InvalidInput) as refused:
        read_mapping(text, "m.toml")
    return [(".".join(map(str, path)), message) for path, message in refused.value.problems]


def test_rows_that_are_made_otherwise_are_sent_again_in_every_version() -> None:
    again = "[[resend]]\nrevision = 1\ntypes = ['AlbumToAssetV1']\n[[resend]]\nrevision = 2\ntypes = ['AssetFaceV2']\n"
    face = LINK.replace("AlbumToAssetV1", "AssetFaceV2").replace("data = ", "payload = 'face'\n#")
    names = "id assetId personId imageWidth imageHeight boundingBoxX1 boundingBoxY1 boundingBoxX2 boundingBoxY2"
    payload = "\n".join(f"{name} = 'l.x'" for name in (*names.split(), "sourceType", "isVisible", "deletedAt"))
    mapping = read_mapping(f"[payloads.face]\n{payload}\n{again}{LINK}{face}", "m.toml")
    masks = mask_of(["AlbumToAssetV1"]), mask_of(["AssetFaceV1", "AssetFaceV2", "AssetFaceV3"])
    assert mapping.resends == (Resend(1, masks[0]), Resend(2, masks[1]))


def test_hearts_of_others_were_sent_by_the_first_preset() -> None:
    first = load_mapping("immich").resends[0]
    of_others = {name for name in ENTITY_TYPES if name.startswith(("PartnerAsset", "AlbumAsset"))}
    without = {name for name in of_others if "Exif" in name or "Delete" in name}
    assert (first.revision, set(types_in(first.types))) == (1, of_others - without)


def test_what_an_update_of_immich_sends_again_waits_for_the_column_that_it_adds() -> None:
    preset = load_mapping("immich")
    update = Resend(2, mask_of(["AssetOcrV1"]))
    assert preset.resends_with(()) == preset.resends[:1]
    assert preset.resends_with({"asset_ocr.updatedAt"}) == preset.resends == (preset.resends[0], update)


def test_what_is_left_out_has_its_default() -> None:
    mapping = read_mapping(MARKER, "m.toml")
    branch = Branch(
        "StackDeleteV1", "gone g", "g.owner = :library", Order("", "g.at", "g.id"), {"stackId": "g.stack"}, (), None
    )
    assert mapping == Mapping(SourceOptions("uuid", "transaction", None), {"StackDeleteV1": (branch,)}, "m.toml")


def test_all_there_is_to_say() -> None:
    mapping = read_mapping(
        """
        [source]
        library = "bigint"
        stamps = "clock"
        keeps_deletes = "30d"

        [payloads.link]
        albumId = 'l.album'
        assetId = 'l.wrong'

        [[entities.AlbumToAssetV1]]
        payload = "link"
        data = { assetId = 'l.asset' }
        from = 'link l'
        where = 'l.owner = :library'
        uuid7 = 'l.stamp'
        [[entities.AlbumToAssetV1.parents]]
        table = "asset"
        from = 'asset a'
        on = 'a.id = l.asset'
        updated_at = 'a.changed'
        since = 'a.made'
        [[entities.AlbumToAssetV1.parents]]
        table = "album"
        from = 'album b'
        on = 'b.id = l.album'
        uuid7 = 'b.stamp'
        since = false

        [[entities.AlbumToAssetBackfillV1]]
        payload = "link"
        from = 'link l'
        where = 'l.album = m.album'
        uuid7 = 'l.stamp'
        each = { from = 'member AS m', where = 'm.who = :library', uuid7 = 'm.stamp' }
        """,
        "m.toml",
    )
    assert mapping.source == SourceOptions("bigint", "clock", 30 * 86_400_000_000)
    (link,) = mapping.entities["AlbumToAssetV1"]
    assert link.data == {"albumId": "l.album", "assetId": "l.asset"}  # its own expression goes before the payload's
    assert link.parents == (
        ParentJoin("asset", "asset a", "a.id = l.asset", Order("", "a.changed", ""), "a.made"),
        ParentJoin("album", "album b", "b.id = l.album", Order("b.stamp", "", ""), False),
    )
    (old,) = mapping.entities["AlbumToAssetBackfillV1"]
    assert old.each == Each("member AS m", "m.who = :library", Order("m.stamp", "", ""))


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("[source\n", "m.toml", "is not TOML"),
        ("[[resend]]\nrevision = 2\ntypes = ['StackV1']\n" + MARKER, "resend.0.revision", "must be 1"),
        (
            "[[resend]]\nrevision = 1\ntypes = ['AlbumToAssetV1']\nneeds_column = 't.c'\n"
            "[[resend]]\nrevision = 2\ntypes = ['AlbumToAssetV1']\n" + LINK,
            "resend.0.needs_column",
            "last revisions only",
        ),
        ("[[resend]]\nrevision = 1\ntypes = ['StackV1']\n" + MARKER, "resend.0.types.0", "is not mapped"),
        ("[[resend]]\nrevision = 1\ntypes = ['StackDeleteV1']\n" + MARKER, "resend.0.types.0", "a delete marker's"),
        ("[[resend]]\nrevision = 1\ntypes = []\n" + MARKER, "resend.0.types", "names no entity type"),
        ("[[resend]]\nrevision = '1'\ntypes = []\n" + MARKER, "resend.0.revision", "Expected `int`"),
        ("", "entities", "maps no entity type"),
        ("[tables]\n" + MARKER, "tables", "is not a part of a mapping"),
        ("[source]\nlibary = 'uuid'\n" + MARKER, "source", "unknown field `libary`"),
        ("[source]\nlibrary = 'int'\n" + MARKER, "source.library", "Invalid enum value"),
        ("[source]\nkeeps_deletes = '30 days'\n" + MARKER, "source.keeps_deletes", "a duration like"),
        ("[source]\nkeeps_deletes = '1s'\n" + MARKER, "source.keeps_deletes", "more than 1s"),
        ("[[entities.AssetV9]]\n", "entities.AssetV9", "is not an entity type with rows"),
        ("[[entities.SyncCompleteV1]]\n", "entities.SyncCompleteV1", "is not an entity type with rows"),
        ("[entities]\nStackV1 = []\n", "entities.StackV1", "has no branch"),
        (MARKER.replace("from =", "form ="), "entities.StackDeleteV1.0", "form"),
        (MARKER.replace("'gone g'", "7"), "entities.StackDeleteV1.0.from", "Expected `str`"),
        (MARKER.replace("id = 'g.id'\n", ""), "entities.StackDeleteV1.0", "updated_at and id go together"),
        (MARKER.replace("id = 'g.id'", "uuid7 = 'g.id'"), "entities.StackDeleteV1.0", "needs either uuid7"),
        (MARKER.replace("stackId", "stackID"), "entities.StackDeleteV1.0.data.stackID", "has no key 'stackID'"),
        (MARKER.replace("stackId", "stackID"), "entities.StackDeleteV1.0.data", "needs the key 'stackId'"),
        (MARKER.replace("data = {", "payload = 'x'\n#"), "entities.StackDeleteV1.0.payload", "no payloads.x"),
        (MARKER.replace(":library", ":user"), "entities.StackDeleteV1.0.where", "placeholder :user"),
        (MARKER.replace(":library", "$1"), "entities.StackDeleteV1.0.where", "parameter $1"),
        (MARKER.replace("'g.stack'", "'g.stack; DROP'"), "entities.StackDeleteV1.0.data.stackId", "one statement"),
        (MARKER.replace("'g.stack'", "''"), "entities.StackDeleteV1.0.data.stackId", "must not be empty"),
        (
            MARKER + "[[entities.StackDeleteV1.parents]]\ntable = 'asset'\nfrom = 'a'\non = 'true'\nuuid7 = 'a.u'\n",
            "entities.StackDeleteV1.0.parents.0",
            "waits for no parent",
        ),
        (
            LINK + "[[entities.AlbumToAssetV1.parents]]\ntable = 'person'\nfrom = 'a'\non = 'true'\nuuid7 = 'a.u'\n",
            "entities.AlbumToAssetV1.0.parents.0.table",
            "does not refer to 'person'",
        ),
        (
            LINK + "[[entities.AlbumToAssetV1.parents]]\ntable = 'tree'\nfrom = 'a'\non = 'true'\nuuid7 = 'a.u'\n",
            "entities.AlbumToAssetV1.0.parents.0.table",
            "is not a table of the device",
        ),
        (
            LINK + "[[entities.AlbumToAssetV1.parents]]\ntable = 'asset'\nfrom = 'a'\non = 'true'\n",
            "entities.AlbumToAssetV1.0.parents.0",
            "needs either uuid7 or updated_at",
        ),
        (
            LINK + "[[entities.AlbumToAssetV1.parents]]\ntable='asset'\nfrom='a'\non='true'\nuuid7='u'\nsince=true\n",
            "entities.AlbumToAssetV1.0.parents.0.since",
            "an SQL expression or false",
        ),
        (
            LINK + "each = { from = 'a JOIN b ON true', where = 'true', uuid7 = 'b.u' }\n",
            "entities.AlbumToAssetV1.0.each.from",
            "one table and its alias",
        ),
        (
            MARKER + "each = { from = 'a', where = 'true', uuid7 = 'a.u' }\n",
            "entities.StackDeleteV1.0",
            "rows of shares are ordered by a uuid7",
        ),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(text: str, path: str, message: str) -> None:
    assert [found for found in problems_of(text) if found[0] == path and message in found[1]], problems_of(text)


def test_all_problems_are_told_at_once() -> None:
    broken = MARKER.replace(":library", ":user").replace("'g.at'", "'(g.at'") + "[[entities.AssetV9]]\n"
    assert [path for path, _ in problems_of(broken)] == [
        "entities.StackDeleteV1.0.where",
        "entities.StackDeleteV1.0.updated_at",
        "entities.AssetV9",
    ]


def test_the_preset_fits() -> None:
    mapping = load_mapping("immich")
    assert mapping.name == "immich"
    assert {"AssetV2", "AssetDeleteV1", "AlbumToAssetBackfillV1"} <= mapping.entities.keys()


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MARKER)
    assert load_mapping(str(path)).entities.keys() == {"StackDeleteV1"}


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as refused:
        load_mapping(str(tmp_path / "none.toml"))
    ((path, message),) = refused.value.problems
    assert path == (str(tmp_path / "none.toml"),)
    assert "No such file" in message


@pytest.mark.parametrize(
    "sql",
    [
        "a.owner = :library",
        "a.note = ':user; -- $1' AND a.\"odd:name;\" = :library",
        "a.tags[1:2] @> ARRAY['x']::text[]",
        "E'it\\'s; :x' || $tag$ :y; $1 $tag$ || ''''",
        "(SELECT max(x) FROM (VALUES (1), (2)) v(x))",
    ],
)
def test_pieces_of_sql(sql: str) -> None:
    assert problem_of(sql) is None


@pytest.mark.parametrize(
    "sql", ["a) OR (true", "a = 'x", 'a = "x', "a -- all", "a /* all", "a;", "(a", "a]", "[a)", " ", "a = :Library"]
)
def test_what_is_no_piece_of_sql(sql: str) -> None:
    assert problem_of(sql) is not None


def test_only_the_placeholder_is_replaced() -> None:
    sql = "a.x::uuid = :library AND ':library' <> \":library\" AND $$:library$$ <> :library"
    replaced = "a.x::uuid = $1::uuid AND ':library' <> \":library\" AND $$:library$$ <> $1::uuid"
    assert with_library(sql, "$1::uuid") == replaced


NARROWED = """
[narrowed.MemoryToAssetV1]
of = "MemoryToAssetV2"
where = "x.type = 'on_this_day'"
"""


def test_a_narrowed_type_has_the_branches_of_another_with_one_more_condition() -> None:
    links = LINK.replace("AlbumToAssetV1", "MemoryToAssetV2").replace("albumId", "memoryId")
    mapping = read_mapping(links + NARROWED, "m.toml")
    (of,), (narrowed,) = mapping.entities["MemoryToAssetV2"], mapping.entities["MemoryToAssetV1"]
    assert narrowed.entity_type == "MemoryToAssetV1"
    assert narrowed.where == f"({of.where}) AND (x.type = 'on_this_day')"
    assert (narrowed.from_, narrowed.data, narrowed.order) == (of.from_, of.data, of.order)
    for wrong, place in (
        (links + NARROWED.replace("MemoryToAssetV1", "AssetFaceV2"), ("narrowed", "AssetFaceV2", "of")),
        (links + NARROWED.replace("MemoryToAssetV1", "PhotoV1"), ("narrowed", "PhotoV1")),
        (links + NARROWED.replace('"MemoryToAssetV2"', '"MemoryV2"'), ("narrowed", "MemoryToAssetV1", "of")),
        (links + NARROWED.replace("MemoryToAssetV1", "MemoryToAssetV2"), ("narrowed", "MemoryToAssetV2")),
        (links + NARROWED.replace("x.type =", "x.type = :user"), ("narrowed", "MemoryToAssetV1", "where")),
    ):
        with pytest.raises(InvalidInput) as refused:
            read_mapping(wrong, "m.toml")
        assert [path for path, _ in refused.value.problems] == [place]
