"""Forms: the entities the catalog stores, whatever versions and variants they are written and served in.

An id of a form lives in exactly one variant at any time: its upsert, its backfill, its delete marker… A form also
belongs to a table of the device: the asset of a partner and an own asset with the same id are one row there.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

OnDelete = Literal["cascade", "set_null"]

# How variants are marked in stored index entries. Never reuse a letter within a form.
UPSERT: Final = "u"
UPDATE: Final = "m"
BACKFILL: Final = "b"
DELETE: Final = "d"


class Parent(Struct, frozen=True):
    """A reference to a row of another table that the device enforces as a foreign key.

    `field` is the payload's attribute. `indexed`: children are found through the catalog's edges; not so references to
    users (each asset has one; a user's deletion is rare and may read everything) nor rows that share their parent's id.
    """

    field: str
    table: str
    on_delete: OnDelete = "cascade"
    indexed: bool = True


class Form(Struct, frozen=True):
    """One kind of stored entity.

    `variants` pairs each variant's letter with the entity type its rows are stored as (the newest version); `key` names
    the payload attributes an id is made of: one is the id itself, two are a pair.
    """

    name: str
    table: str
    variants: tuple[tuple[str, str], ...]
    key: tuple[str, ...] = ("id",)
    parents: tuple[Parent, ...] = ()

    def type_of(self, letter: str) -> str:
        """Name the entity type a variant is stored as; raises KeyError if the form has no such variant."""
        return dict(self.variants)[letter]

    @property
    def delete_type(self) -> str | None:
        """Name the delete marker's entity type; None for forms that only go with their parent."""
        return dict(self.variants).get(DELETE)

    @property
    def upsert_types(self) -> tuple[str, ...]:
        """Name the stored entity types that hold living rows."""
        return tuple(name for letter, name in self.variants if letter != DELETE)


def _user(field: str) -> Parent:
    return Parent(field, "user", indexed=False)


_ASSET: Final = Parent("asset_id", "asset")
_EXIF_OF: Final = Parent("asset_id", "asset", indexed=False)

FORMS: Final = (
    Form("auth_user", "auth_user", ((UPSERT, "AuthUserV1"),)),
    Form("user", "user", ((UPSERT, "UserV1"), (DELETE, "UserDeleteV1"))),
    Form(
        "partner",
        "partner",
        ((UPSERT, "PartnerV1"), (DELETE, "PartnerDeleteV1")),
        ("shared_by_id", "shared_with_id"),
        (_user("shared_by_id"), _user("shared_with_id")),
    ),
    Form("asset", "asset", ((UPSERT, "AssetV2"), (DELETE, "AssetDeleteV1")), parents=(_user("owner_id"),)),
    Form("stack", "stack", ((UPSERT, "StackV1"), (DELETE, "StackDeleteV1")), parents=(_user("owner_id"),)),
    Form(
        "partner_asset",
        "asset",
        ((UPSERT, "PartnerAssetV2"), (BACKFILL, "PartnerAssetBackfillV2"), (DELETE, "PartnerAssetDeleteV1")),
        parents=(_user("owner_id"),),
    ),
    Form(
        "partner_stack",
        "stack",
        ((UPSERT, "PartnerStackV1"), (BACKFILL, "PartnerStackBackfillV1"), (DELETE, "PartnerStackDeleteV1")),
        parents=(_user("owner_id"),),
    ),
    Form(
        "album_asset",
        "asset",
        ((UPSERT, "AlbumAssetCreateV2"), (UPDATE, "AlbumAssetUpdateV2"), (BACKFILL, "AlbumAssetBackfillV2")),
        parents=(_user("owner_id"),),
    ),
    Form(
        "album",
        "album",
        ((UPSERT, "AlbumV2"), (DELETE, "AlbumDeleteV1")),
        parents=(Parent("thumbnail_asset_id", "asset", on_delete="set_null"),),
    ),
    Form(
        "album_user",
        "album_user",
        ((UPSERT, "AlbumUserV1"), (BACKFILL, "AlbumUserBackfillV1"), (DELETE, "AlbumUserDeleteV1")),
        ("album_id", "user_id"),
        (Parent("album_id", "album"), _user("user_id")),
    ),
    Form(
        "album_to_asset",
        "album_to_asset",
        ((UPSERT, "AlbumToAssetV1"), (BACKFILL, "AlbumToAssetBackfillV1"), (DELETE, "AlbumToAssetDeleteV1")),
        ("album_id", "asset_id"),
        (Parent("album_id", "album"), _ASSET),
    ),
    Form("exif", "exif", ((UPSERT, "AssetExifV1"),), ("asset_id",), (_EXIF_OF,)),
    Form(
        "album_exif",
        "exif",
        (
            (UPSERT, "AlbumAssetExifCreateV1"),
            (UPDATE, "AlbumAssetExifUpdateV1"),
            (BACKFILL, "AlbumAssetExifBackfillV1"),
        ),
        ("asset_id",),
        (_EXIF_OF,),
    ),
    Form("ocr", "ocr", ((UPSERT, "AssetOcrV1"), (DELETE, "AssetOcrDeleteV1")), parents=(_ASSET,)),
    Form(
        "partner_exif",
        "exif",
        ((UPSERT, "PartnerAssetExifV1"), (BACKFILL, "PartnerAssetExifBackfillV1")),
        ("asset_id",),
        (_EXIF_OF,),
    ),
    Form("memory", "memory", ((UPSERT, "MemoryV1"), (DELETE, "MemoryDeleteV1")), parents=(_user("owner_id"),)),
    Form(
        "memory_to_asset",
        "memory_to_asset",
        ((UPSERT, "MemoryToAssetV1"), (DELETE, "MemoryToAssetDeleteV1")),
        ("memory_id", "asset_id"),
        (Parent("memory_id", "memory"), _ASSET),
    ),
    Form("person", "person", ((UPSERT, "PersonV1"), (DELETE, "PersonDeleteV1")), parents=(_user("owner_id"),)),
    Form(
        "face",
        "face",
        ((UPSERT, "AssetFaceV2"), (DELETE, "AssetFaceDeleteV1")),
        parents=(_ASSET, Parent("person_id", "person", on_delete="set_null")),
    ),
    Form(
        "user_metadata",
        "user_metadata",
        ((UPSERT, "UserMetadataV1"), (DELETE, "UserMetadataDeleteV1")),
        ("user_id", "key"),
        (_user("user_id"),),
    ),
    Form(
        "asset_metadata",
        "asset_metadata",
        ((UPSERT, "AssetMetadataV1"), (DELETE, "AssetMetadataDeleteV1")),
        ("asset_id", "key"),
        (_ASSET,),
    ),
    Form("edit", "edit", ((UPSERT, "AssetEditV1"), (DELETE, "AssetEditDeleteV1")), parents=(_ASSET,)),
)

_BY_NAME: Final = {form.name: form for form in FORMS}
_BY_TABLE: Final = {table: tuple(f for f in FORMS if f.table == table) for table in {f.table for f in FORMS}}


def form(name: str) -> Form:
    """Look up a form; raises KeyError."""
    return _BY_NAME[name]


def forms_of(table: str) -> tuple[Form, ...]:
    """Name the forms whose rows lie in one table of the device; raises KeyError."""
    return _BY_TABLE[table]


def sharing_id_with(table: str) -> tuple[Form, ...]:
    """Name the forms whose rows have the same id as their parent in `table` (an asset's exif) and go with it."""
    return tuple(f for f in FORMS for parent in f.parents if parent.table == table and f.key == (parent.field,))
