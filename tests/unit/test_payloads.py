"""Strict payloads, against the table of the protocol: each field in each way it can be wrong."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from ledger.errors import InvalidInput
from ledger.positions import Position
from projections.entities.entity import MAX_DEPTH, MAX_LINE_BYTES, pair_id, read_line
from projections.entities.lines import data_of, head_of, position_of
from projections.entities.registry import ROWS
from tests.support.sources.samples import ALBUM_ID, ASSET_ID, OCR_ID, PARTNER_ID, SAMPLES, USER_ID, sample

# Section 2 of the protocol: s text, b boolean, i integer, f number, dt time, {} object, id; n nullable; a|b an enum.
ASSET = """id id, ownerId id, originalFileName s, checksum s, thumbhash s n, type IMAGE|VIDEO|AUDIO|OTHER,
visibility timeline|archive|hidden|locked, isFavorite b, isEdited b, fileCreatedAt dt n, fileModifiedAt dt n,
createdAt dt n, localDateTime dt n, deletedAt dt n, livePhotoVideoId id n, stackId id n, libraryId id n, width i n,
height i n"""
EXIF = """assetId id, description s n, exifImageWidth i n, exifImageHeight i n, fileSizeInByte i n, orientation s n,
dateTimeOriginal dt n, modifyDate dt n, timeZone s n, latitude f n, longitude f n, projectionType s n, city s n,
state s n, country s n, make s n, model s n, lensModel s n, fNumber f n, focalLength f n, iso i n, exposureTime s n,
profileDescription s n, rating i n, fps f n"""
ALBUM = """id id, name s, description s, createdAt dt, updatedAt dt, thumbnailAssetId id n, isActivityEnabled b,
order asc|desc"""
FACE = """id id, assetId id, personId id n, imageWidth i, imageHeight i, boundingBoxX1 i, boundingBoxY1 i,
boundingBoxX2 i, boundingBoxY2 i, sourceType s"""
USER = "id id, name s, email s, deletedAt dt n, hasProfileImage b, profileChangedAt dt"
STACK = "id id, ownerId id, primaryAssetId id, createdAt dt, updatedAt dt"
ALBUM_USER = "albumId id, userId id, role editor|viewer|owner"
ALBUM_TO_ASSET = "albumId id, assetId id"
TABLE = {
    "AuthUserV1": USER
    + """, isAdmin b, oauthId s, pinCode s n, storageLabel s n, quotaSizeInBytes i n,
    quotaUsageInBytes i""",
    "AuthUserV2": USER
    + """, isAdmin b, oauthId s n, pinCode s n, storageLabel s n, quotaSizeInBytes i n,
    quotaUsageInBytes i""",
    "UserV1": USER,
    "UserDeleteV1": "userId id",
    "AssetV1": ASSET + ", duration duration n",
    "AssetV2": ASSET + ", duration i32 n",
    "AssetDeleteV1": "assetId id",
    "AssetExifV1": EXIF,
    "AssetEditV1": "id id, assetId id, action crop|rotate|mirror, parameters {}, sequence i",
    "AssetEditDeleteV1": "editId id",
    "AssetMetadataV1": "assetId id, key s, value {}",
    "AssetMetadataDeleteV1": "assetId id, key s",
    "AssetOcrV1": """id id, assetId id, text s, textScore f, boxScore f, isVisible b, x1 f, y1 f, x2 f, y2 f, x3 f,
    y3 f, x4 f, y4 f""",
    "AssetOcrDeleteV1": "id id, assetId id, deletedAt dt",
    "PartnerV1": "sharedById id, sharedWithId id, inTimeline b",
    "PartnerDeleteV1": "sharedById id, sharedWithId id",
    "StackV1": STACK,
    "StackDeleteV1": "stackId id",
    "AlbumV1": ALBUM + ", ownerId id",
    "AlbumV2": ALBUM,
    "AlbumDeleteV1": "albumId id",
    "AlbumUserV1": ALBUM_USER,
    "AlbumUserDeleteV1": "albumId id, userId id",
    "AlbumToAssetV1": ALBUM_TO_ASSET,
    "AlbumToAssetDeleteV1": ALBUM_TO_ASSET,
    "MemoryV1": """id id, ownerId id, type on_this_day, data {}, createdAt dt, updatedAt dt, deletedAt dt n,
    isSaved b, memoryAt dt, seenAt dt n, showAt dt n, hideAt dt n""",
    "MemoryV2": """id id, ownerId id, type on_this_day|birthday, data {}, createdAt dt, updatedAt dt, deletedAt dt n,
    isSaved b, memoryAt dt, seenAt dt n, showAt dt n, hideAt dt n""",
    "MemoryDeleteV1": "memoryId id",
    "MemoryToAssetV1": "memoryId id, assetId id",
    "MemoryToAssetDeleteV1": "memoryId id, assetId id",
    "PersonV1": """id id, ownerId id, name s, createdAt dt, updatedAt dt, birthDate dt n, isHidden b, isFavorite b,
    color s n, faceAssetId id n""",
    "PersonDeleteV1": "personId id",
    "AssetFaceV1": FACE,
    "AssetFaceV2": FACE + ", isVisible b, deletedAt dt n",
    "AssetFaceDeleteV1": "assetFaceId id",
    "UserMetadataV1": "userId id, key preferences|license|onboarding, value {}",
    "UserMetadataDeleteV1": "userId id, key preferences|license|onboarding",
}
SAME_AS = {
    "PartnerAssetV1": "AssetV1",
    "PartnerAssetV2": "AssetV2",
    "PartnerAssetBackfillV1": "AssetV1",
    "PartnerAssetBackfillV2": "AssetV2",
    "PartnerAssetDeleteV1": "AssetDeleteV1",
    "PartnerAssetExifV1": "AssetExifV1",
    "PartnerAssetExifBackfillV1": "AssetExifV1",
    "PartnerStackV1": "StackV1",
    "PartnerStackBackfillV1": "StackV1",
    "PartnerStackDeleteV1": "StackDeleteV1",
    "AlbumUserBackfillV1": "AlbumUserV1",
    **{f"AlbumAsset{kind}{v}": f"Asset{v}" for kind in ("Create", "Update", "Backfill") for v in ("V1", "V2")},
    **{f"AlbumAssetExif{kind}V1": "AssetExifV1" for kind in ("Create", "Update", "Backfill")},
    "AlbumToAssetBackfillV1": "AlbumToAssetV1",
    "AssetFaceV3": "AssetFaceV2",
    "MemoryToAssetV2": "MemoryToAssetV1",
}
WRONG: dict[str, list[Any]] = {
    "s": [5, True, [], {}],
    "b": [0, 1, "true", []],
    "i": [5.0, 1.5, True, "5", 2**63, -(2**63) - 1, 1e30, []],
    "i32": [5.0, True, "5", -1, 2**31, "0:10:00.00000"],
    "f": [True, "1.5", [], {}],
    "{}": [[], "x", 1, True],
    "id": ["", "a|b", "a\nb", "a\u0000", "\u0085", "x" * 257, 5, True],
    "duration": [600_000, "10:00", "1:60:00.000", "0:00:00.0000000", "x", "0:10:00.00000\n"],
    "dt": [
        "2025-01-20", "2025-01-20T10:30:45.123", "2025-01-20T10:30:45.123+01:00", "2025-01-20 10:30:45.123Z",
        "2025-02-29T10:30:45.123Z", "2100-02-29T00:00:00Z", "2025-13-01T10:30:45.123Z", "2025-04-31T10:30:45.123Z",
        "2025-01-20T24:00:00.000Z", "2025-01-20T10:60:45.123Z", "2025-01-20T10:30:45.1234567Z", "",
        "2025-01-20T10:30:45.123Z\n", "\u0662\u0660\u0662\u0665-01-20T10:30:45.123Z", 1737369045123, True,
    ],
}  # fmt: skip
RIGHT: dict[str, list[Any]] = {
    "s": ["", "x\u0000y", "\U0001f600", 'quo"te\\'],
    "b": [True, False],
    "i": [0, -5, 2**63 - 1, -(2**63)],
    "i32": [0, 2**31 - 1],
    "f": [0, 1, -1.5, 1e300],
    "{}": [{}, {"a": {"b": [1, 2.5, None, "x"]}}],
    "id": ["x", "x" * 256, 'quo"te\\', "ünï"],
    "duration": ["0:00:00.000", "12:34:56.00100"],
    "dt": ["2025-01-20T10:30:45.123Z", "2025-01-20T10:30:45Z", "2024-02-29T23:59:59.123456Z", "2000-02-29T00:00:00.0Z"],
}


class Field(NamedTuple):
    type: str
    name: str
    kind: str
    nullable: bool


def fields_of(entity_type: str) -> list[Field]:
    fields = []
    for text in TABLE[SAME_AS.get(entity_type, entity_type)].split(","):
        name, kind, *nullable = text.split()
        fields.append(Field(entity_type, name, kind, nullable == ["n"]))
    return fields


def line(entity_type: str, data: Any, **more: Any) -> bytes:
    return json.dumps({"type": entity_type, "data": data, **more}).encode()


def problem(raw: bytes) -> tuple[tuple[str | int, ...], str]:
    with pytest.raises(InvalidInput) as refused:
        read_line(raw)
    (found,) = refused.value.problems
    return found


def test_the_table_is_complete() -> None:
    assert set(TABLE) | set(SAME_AS) == set(SAMPLES)


@pytest.mark.parametrize("entity_type", SAMPLES)
def test_a_payload_has_exactly_the_fields_of_the_protocol(entity_type: str) -> None:
    expected = {field.name for field in fields_of(entity_type)}
    assert set(sample(entity_type)) - {"avatarColor"} == expected
    read_line(line(entity_type, sample(entity_type)))
    assert problem(line(entity_type, sample(entity_type, favourite=1))) == (
        ("data", "favourite"),
        "is not a field of this type",
    )


@pytest.mark.parametrize("entity_type", SAMPLES)
def test_each_field_is_refused_in_every_way_it_can_be_wrong(entity_type: str) -> None:
    for field in fields_of(entity_type):
        missing = sample(entity_type)
        del missing[field.name]
        assert problem(line(entity_type, missing)) == (("data", field.name), "is missing")
        wrong = WRONG.get(field.kind, ["unknown", "", 1, True])  # the others are enums
        if not field.nullable:
            wrong = [None, *wrong]
        for value in wrong:
            path, message = problem(line(entity_type, sample(entity_type, **{field.name: value})))
            assert path == ("data", field.name), (value, path, message)
            assert message


@pytest.mark.parametrize("entity_type", SAMPLES)
def test_each_field_is_taken_in_every_way_it_can_be_right(entity_type: str) -> None:
    for field in fields_of(entity_type):
        right = [*RIGHT.get(field.kind, field.kind.split("|")), *([None] if field.nullable else [])]
        for value in right:
            data = sample(entity_type, **{field.name: value})
            entity = read_line(line(entity_type, data))
            if entity.row.name == entity_type:
                assert json.loads(data_of(entity.head + b"x|y")) == data, field


def test_only_the_avatar_color_may_be_absent() -> None:
    without = sample("UserV1")
    del without["avatarColor"]
    assert b"avatarColor" not in read_line(line("UserV1", without)).head
    assert b'"avatarColor":null' in read_line(line("UserV1", sample("UserV1", avatarColor=None))).head
    assert problem(line("UserV1", sample("UserV1", avatarColor="black")))[0] == ("data", "avatarColor")


def test_times_keep_their_bytes() -> None:
    entity = read_line(line("AssetV2", sample("AssetV2", createdAt="2025-01-20T10:30:45.12Z")))
    assert b'"createdAt":"2025-01-20T10:30:45.12Z"' in entity.head


def test_equal_entities_have_equal_heads_however_they_were_written() -> None:
    data = sample("AssetV2", originalFileName="Größe.jpg")
    spaced = json.dumps({"id": ASSET_ID, "data": dict(reversed(data.items())), "type": "AssetV2"}, indent=1).encode()
    compact = json.dumps({"type": "AssetV2", "data": data}, ensure_ascii=False, separators=(",", ":")).encode()
    assert read_line(spaced) == read_line(compact)


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"", ()),
        (b"null", ()),
        (b"[]", ()),
        (b'"AssetV2"', ()),
        (b'{"type":"AssetV2"}', ("data",)),
        (b'{"data":{}}', ("type",)),
        (b'{"type":5,"data":{}}', ("type",)),
        (b'{"type":"PhotoV1","data":{}}', ("type",)),
        (b'{"type":"SyncCompleteV1","data":{}}', ("type",)),
        (b'{"type":"AssetDeleteV1","data":{"assetId":"x"},"ack":"x"}', ("ack",)),
        (b'{"type":"AssetDeleteV1","data":[]}', ("data",)),
        (b'{"type":"AssetDeleteV1","data":{"assetId":"x"}} {}', ()),
        (b'{"type":"AssetDeleteV1","data":{"assetId":NaN}}', ()),
        (b'{"type":"AssetDeleteV1","data":{"assetId":"\\ud800"}}', ()),
        (b'{"type":"AssetDeleteV1","data":{"assetId":"\xff"}}', ("data",)),
        (b'{"type":"AssetDeleteV1","data":{"assetId":"\xed\xa0\x80"}}', ("data",)),
        (b'{"type":"AssetDeleteV1","data":{"assetId":"\x00"}}', ()),
        (b'{"type":"AssetDeleteV1","data":{"assetId":"x"},"id":"y"}', ("id",)),
        (b'{"type":"AssetDeleteV1","data":{"assetId":"x"},"id":5}', ("id",)),
        (b'{"type":"AlbumUserDeleteV1","data":{"albumId":"a","userId":"b"},"id":"a|b"}', ("id",)),
        (b'{"type":"AssetDeleteV1","data":' + b"[" * 200_000 + b"]" * 200_000 + b"}", ()),
        (b"[" * 100_000, ()),
        (b"x" * (MAX_LINE_BYTES + 1), ()),
    ],
    ids=lambda value: str(value)[:60],
)
def test_hostile_lines_are_refused_with_their_place(raw: bytes, path: tuple[str, ...]) -> None:
    assert problem(raw)[0] == path


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity"])
def test_numbers_that_no_reader_holds_are_refused(number: str) -> None:
    raw = line("AssetMetadataV1", sample("AssetMetadataV1", value={"n": 17})).replace(b"17", number.encode())
    assert problem(raw)[0][:1] in ((), ("data",))
    raw = line("AssetExifV1", sample("AssetExifV1", iso=17)).replace(b'"iso": 17', b'"iso": ' + number.encode())
    assert problem(raw)[0] in ((), ("data", "iso"), ("data",))


def test_integers_beyond_64_bits_are_refused_in_fields_only() -> None:
    huge = 123456789012345678901234567890
    assert problem(line("AssetExifV1", sample("AssetExifV1", iso=huge)))[0] == ("data", "iso")
    entity = read_line(line("AssetMetadataV1", sample("AssetMetadataV1", value={"n": huge})))
    assert b'"value":{"n":123456789012345678901234567890}' in entity.head


def test_objects_nest_only_so_deep() -> None:
    def nested(levels: int) -> Any:
        value: Any = {}
        for _ in range(levels - 1):
            value = {"a": value}
        return value

    read_line(line("AssetMetadataV1", sample("AssetMetadataV1", value=nested(MAX_DEPTH))))
    for levels in (MAX_DEPTH + 1, 500):
        path, message = problem(line("AssetMetadataV1", sample("AssetMetadataV1", value=nested(levels))))
        assert path == ("data",)
        assert "nested" in message


def test_an_entitys_id_is_the_id_in_its_data() -> None:
    assert read_line(line("AssetV2", sample("AssetV2"))).id == ASSET_ID
    assert read_line(line("AssetExifV1", sample("AssetExifV1"))).id == ASSET_ID
    assert read_line(line("AssetOcrDeleteV1", sample("AssetOcrDeleteV1"))).id == OCR_ID
    assert read_line(line("UserV1", sample("UserV1"), id=USER_ID)).id == USER_ID


PAIRS = ["PartnerV1", "AlbumUserV1", "AlbumToAssetV1", "MemoryToAssetV1", "UserMetadataV1", "AssetMetadataV1"]


@pytest.mark.parametrize("entity_type", PAIRS)
def test_a_pair_has_an_id_of_its_parts_or_the_given_one_and_its_delete_marker_the_same(entity_type: str) -> None:
    delete_type = entity_type.replace("V1", "DeleteV1")
    upsert = read_line(line(entity_type, sample(entity_type)))
    assert upsert.id == read_line(line(delete_type, sample(delete_type))).id
    assert len(upsert.id) == 36
    assert read_line(line(entity_type, sample(entity_type), id="mine")).id == "mine"


def test_pairs_of_other_forms_or_parts_have_other_ids() -> None:
    ids = {
        pair_id("album_user", (ALBUM_ID, USER_ID)),
        pair_id("album_user", (USER_ID, ALBUM_ID)),
        pair_id("album_user", (ALBUM_ID, PARTNER_ID)),
        pair_id("album_to_asset", (ALBUM_ID, USER_ID)),
    }
    assert len(ids) == 4
    assert pair_id("album_user", ("a", "b")) == "ccf5894c-ba43-5b1e-b5f7-97a1f8e24153"  # stored ids must never change


@pytest.mark.parametrize("entity_id", ["x", 'quo"te', "back\\slash", "ünï", "a b"])
def test_a_position_is_read_back_from_its_line(entity_id: str) -> None:
    from projections.entities.lines import escaped

    found = next(found for found in ROWS if found.name == "AssetDeleteV1")
    head = head_of("AssetDeleteV1", found.payload(asset_id=entity_id))
    stored = head + b"2026-11-21T09:28:58.123456Z|" + escaped(entity_id)
    assert position_of(stored) == Position(1795253338123456, entity_id)
    assert json.loads(stored + b'"}')["ack"] == f"AssetDeleteV1|2026-11-21T09:28:58.123456Z|{entity_id}"
