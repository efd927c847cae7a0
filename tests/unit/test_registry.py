"""The registry against the SDK's enums and the order of the protocol."""

from __future__ import annotations

import pytest

from ledger.entity_types import CODES, ENTITY_TYPES, mask_of, types_in
from projections.entities.forms import DELETE, FORMS, forms_of, sharing_id_with
from projections.entities.registry import REQUEST_TYPES, ROWS, STORED_TYPES, entity_types_for, row, upserts_of
from tests.support.sources.samples import SAMPLES

# `SyncRequestType` of Immich 3.3, in upstream's SYNC_TYPES_ORDER; AssetFacesV1 and the other old ones included.
SDK_REQUEST_TYPES = [
    "AuthUsersV1",
    "AuthUsersV2",
    "UsersV1",
    "PartnersV1",
    "AssetsV1",
    "AssetsV2",
    "StacksV1",
    "PartnerAssetsV1",
    "PartnerAssetsV2",
    "PartnerStacksV1",
    "AlbumAssetsV1",
    "AlbumAssetsV2",
    "AlbumsV1",
    "AlbumsV2",
    "AlbumUsersV1",
    "AlbumToAssetsV1",
    "AssetExifsV1",
    "AlbumAssetExifsV1",
    "AssetOcrV1",
    "PartnerAssetExifsV1",
    "MemoriesV1",
    "MemoriesV2",
    "MemoryToAssetsV1",
    "MemoryToAssetsV2",
    "PeopleV1",
    "AssetFacesV1",
    "AssetFacesV2",
    "AssetFacesV3",
    "UserMetadataV1",
    "AssetMetadataV1",
    "AssetEditsV1",
]
CONTROL = {"SyncAckV1", "SyncResetV1", "SyncCompleteV1"}


def names(*request_types: str) -> list[str]:
    return [found.name for found in entity_types_for(request_types)]


def test_request_types_are_the_sdks_in_order() -> None:
    assert list(REQUEST_TYPES) == SDK_REQUEST_TYPES
    assert len(REQUEST_TYPES) == 31


def test_there_is_one_row_for_each_entity_type() -> None:
    assert sorted(found.name for found in ROWS) == sorted(ENTITY_TYPES)
    assert {found.name for found in ROWS if found.form is None} == CONTROL
    assert set(SAMPLES) == set(ENTITY_TYPES) - CONTROL


def test_every_stored_type_is_asked_for_by_a_request_type() -> None:
    assert all(found.request_types for found in ROWS if found.form is not None)
    assert {found.name for found in entity_types_for(REQUEST_TYPES)} == set(ENTITY_TYPES) - CONTROL


def test_a_stream_has_each_entity_type_once_when_both_versions_are_asked_for() -> None:
    assert names("AssetsV2", "AssetsV1") == ["AssetDeleteV1", "AssetV1", "AssetV2"]
    asked = names(*REQUEST_TYPES)
    assert len(asked) == len(set(asked))


def test_the_order_is_that_of_the_protocol_not_of_the_request() -> None:
    assert names("AlbumsV2", "UsersV1", "AssetsV2") == [
        "UserDeleteV1", "UserV1", "AssetDeleteV1", "AssetV2", "AlbumDeleteV1", "AlbumV2",
    ]  # fmt: skip


def test_deletes_come_before_backfills_before_upserts() -> None:
    assert names("PartnerAssetsV2") == ["PartnerAssetDeleteV1", "PartnerAssetBackfillV2", "PartnerAssetV2"]
    assert names("AlbumUsersV1") == ["AlbumUserDeleteV1", "AlbumUserBackfillV1", "AlbumUserV1"]
    assert names("AlbumAssetsV2") == ["AlbumAssetBackfillV2", "AlbumAssetUpdateV2", "AlbumAssetCreateV2"]
    for request_type in REQUEST_TYPES:
        ranks = [
            0 if found.is_delete else 1 if "Backfill" in found.name else 2 for found in entity_types_for([request_type])
        ]
        assert ranks == sorted(ranks), request_type


def test_no_types_give_nothing_and_unknown_ones_are_refused() -> None:
    assert entity_types_for([]) == ()
    with pytest.raises(KeyError):
        entity_types_for(["PhotosV1"])


def test_parents_come_before_children_in_a_full_stream() -> None:
    at = {name: place for place, name in enumerate(names(*REQUEST_TYPES))}
    for form in FORMS:
        for parent in form.parents:
            first_child = min(at[name] for letter, name in form.variants if letter != DELETE)
            parents = (pair for f in forms_of(parent.table) for pair in f.variants)
            assert min(at[name] for letter, name in parents if letter != DELETE) < first_child, form.name


def test_clearing_a_delete_type_means_its_upserts_in_all_versions_too() -> None:
    assert upserts_of("AssetDeleteV1") == ("AssetV1", "AssetV2")
    assert set(upserts_of("PartnerAssetDeleteV1")) == {
        "PartnerAssetV1", "PartnerAssetV2", "PartnerAssetBackfillV1", "PartnerAssetBackfillV2",
    }  # fmt: skip
    assert set(upserts_of("AlbumUserDeleteV1")) == {"AlbumUserV1", "AlbumUserBackfillV1"}
    assert upserts_of("AssetV2") == ()
    assert upserts_of("SyncCompleteV1") == ()


def test_versions_are_served_from_the_rows_of_one() -> None:
    others = {found.name: found.stored for found in ROWS if found.is_other_version}
    assert others == {
        "AssetV1": "AssetV2",
        "PartnerAssetV1": "PartnerAssetV2",
        "PartnerAssetBackfillV1": "PartnerAssetBackfillV2",
        "AlbumAssetCreateV1": "AlbumAssetCreateV2",
        "AlbumAssetUpdateV1": "AlbumAssetUpdateV2",
        "AlbumAssetBackfillV1": "AlbumAssetBackfillV2",
        "AlbumV1": "AlbumV2",
        "AssetFaceV1": "AssetFaceV2",
        "AssetFaceV3": "AssetFaceV2",
        "AuthUserV2": "AuthUserV1",
        "MemoryV2": "MemoryV1",
        "MemoryToAssetV2": "MemoryToAssetV1",
    }
    assert set(STORED_TYPES) == set(ENTITY_TYPES) - set(others) - CONTROL


def test_codes_in_stored_events_stay_what_they_were() -> None:
    assert [CODES[name] for name in ("AuthUserV1", "MemoryV1", "AssetFaceV2", "SyncCompleteV1")] == [0, 43, 52, 58]
    assert ENTITY_TYPES[59:] == ("AuthUserV2", "MemoryV2", "MemoryToAssetV2", "AssetFaceV3")
    assert types_in(mask_of(ENTITY_TYPES)) == ENTITY_TYPES


def test_what_3_3_asks_for_comes_in_its_order() -> None:
    asked = ("AssetFacesV3", "MemoryToAssetsV2", "MemoriesV2", "UsersV1", "AuthUsersV2", "AssetsV2")
    assert names(*asked) == [
        "AuthUserV2", "UserDeleteV1", "UserV1", "AssetDeleteV1", "AssetV2", "MemoryDeleteV1", "MemoryV2",
        "MemoryToAssetDeleteV1", "MemoryToAssetV2", "AssetFaceDeleteV1", "AssetFaceV3",
    ]  # fmt: skip
    assert upserts_of("AssetFaceDeleteV1") == ("AssetFaceV1", "AssetFaceV2", "AssetFaceV3")
    assert upserts_of("MemoryDeleteV1") == ("MemoryV1", "MemoryV2")


def test_only_faces_of_3_3_are_kept_without_what_they_refer_to() -> None:
    """Their app has no foreign keys there; that of 3.2 has them on V2 faces."""
    assert row("AssetFaceV3").parents == ()
    for found in ROWS:
        if found.form is not None and not found.is_delete and found.name != "AssetFaceV3":
            assert found.parents == found.form.parents, found.name


def test_the_letters_of_a_form_are_its_own() -> None:
    for form in FORMS:
        letters = [letter for letter, _ in form.variants]
        assert len(letters) == len(set(letters)), form.name
        assert set(letters) <= set("umbd")
        assert all(row(name).is_delete == (letter == DELETE) for letter, name in form.variants)


def test_exif_goes_with_its_asset_by_its_id() -> None:
    assert {form.name for form in sharing_id_with("asset")} == {"exif", "album_exif", "partner_exif"}
    assert sharing_id_with("album") == ()
