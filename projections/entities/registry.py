"""The registry: one row per entity type, holding all that is known of it, in the order of the stream.

The order is that of the request types in upstream's SYNC_TYPES_ORDER; inside a request type deletes come first, then
backfills, then upserts, so the device never holds two rows that exclude each other, and finds each parent there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple

from msgspec import Struct

from ledger.entity_types import COMPLETE, RESET
from projections.entities import versions
from projections.entities.forms import DELETE, FORMS, Form, Parent
from projections.entities.payloads import albums, assets, memories, people, users
from projections.entities.payloads.base import Nothing, Payload


class EntityTypeRow(Struct, frozen=True):
    """What is known of one entity type.

    `form` and `letter` say where it is stored (None: it is never stored), `stored` is the entity type of the rows it is
    served from: itself, or another version of it. `key` names the payload attributes its id is made of. `parents` are
    what a device enforces of its references.

    `stored_payload` is what its stored lines hold, where that is more than the devices that ask for it can read, and
    `exported_as` names the version that says all of it.
    `to_stored` and `from_stored` convert from and to the stored version, where payloads differ; None instead of a
    payload: the row is left out. `needs_owner`: the payload holds the album's owner. `served_with`, an attribute and an
    entity type: the row is left out where the row that it names is not served as that.
    """

    name: str
    payload: type[Payload]
    request_types: tuple[str, ...] = ()
    form: Form | None = None
    letter: str = ""
    stored: str = ""
    key: tuple[str, ...] = ()
    parents: tuple[Parent, ...] = ()
    stored_payload: type[Payload] | None = None
    exported_as: str = ""
    to_stored: Callable[[Any], Payload] | None = None
    from_stored: Callable[..., Payload | None] | None = None
    needs_owner: bool = False
    served_with: tuple[str, str] | None = None

    @property
    def is_delete(self) -> bool:
        """Tell whether this is a delete marker."""
        return self.letter == DELETE

    @property
    def is_other_version(self) -> bool:
        """Tell whether it is served from the rows of another entity type."""
        return self.stored not in ("", self.name)

    @property
    def serves_all(self) -> bool:
        """Tell whether all stored rows are served as this type, whatever they say."""
        return self.needs_owner or (self.from_stored is None and self.served_with is None)

    @property
    def is_as_stored(self) -> bool:
        """Tell whether stored lines are served as they are, and all of them."""
        return not (self.is_other_version or self.from_stored or self.served_with)


# Request type -> the entity types it asks for, in the order they are sent.
_REQUESTS: Final[dict[str, tuple[str, ...]]] = {
    "AuthUsersV1": ("AuthUserV1",),
    "AuthUsersV2": ("AuthUserV2",),
    "UsersV1": ("UserDeleteV1", "UserV1"),
    "PartnersV1": ("PartnerDeleteV1", "PartnerV1"),
    "AssetsV1": ("AssetDeleteV1", "AssetV1"),
    "AssetsV2": ("AssetDeleteV1", "AssetV2"),
    "StacksV1": ("StackDeleteV1", "StackV1"),
    "PartnerAssetsV1": ("PartnerAssetDeleteV1", "PartnerAssetBackfillV1", "PartnerAssetV1"),
    "PartnerAssetsV2": ("PartnerAssetDeleteV1", "PartnerAssetBackfillV2", "PartnerAssetV2"),
    "PartnerStacksV1": ("PartnerStackDeleteV1", "PartnerStackBackfillV1", "PartnerStackV1"),
    "AlbumAssetsV1": ("AlbumAssetBackfillV1", "AlbumAssetUpdateV1", "AlbumAssetCreateV1"),
    "AlbumAssetsV2": ("AlbumAssetBackfillV2", "AlbumAssetUpdateV2", "AlbumAssetCreateV2"),
    "AlbumsV1": ("AlbumDeleteV1", "AlbumV1"),
    "AlbumsV2": ("AlbumDeleteV1", "AlbumV2"),
    "AlbumUsersV1": ("AlbumUserDeleteV1", "AlbumUserBackfillV1", "AlbumUserV1"),
    "AlbumToAssetsV1": ("AlbumToAssetDeleteV1", "AlbumToAssetBackfillV1", "AlbumToAssetV1"),
    "AssetExifsV1": ("AssetExifV1",),
    "AlbumAssetExifsV1": ("AlbumAssetExifBackfillV1", "AlbumAssetExifUpdateV1", "AlbumAssetExifCreateV1"),
    "AssetOcrV1": ("AssetOcrDeleteV1", "AssetOcrV1"),
    "PartnerAssetExifsV1": ("PartnerAssetExifBackfillV1", "PartnerAssetExifV1"),
    "MemoriesV1": ("MemoryDeleteV1", "MemoryV1"),
    "MemoriesV2": ("MemoryDeleteV1", "MemoryV2"),
    "MemoryToAssetsV1": ("MemoryToAssetDeleteV1", "MemoryToAssetV1"),
    "MemoryToAssetsV2": ("MemoryToAssetDeleteV1", "MemoryToAssetV2"),
    "PeopleV1": ("PersonDeleteV1", "PersonV1"),
    "AssetFacesV1": ("AssetFaceDeleteV1", "AssetFaceV1"),
    "AssetFacesV2": ("AssetFaceDeleteV1", "AssetFaceV2"),
    "AssetFacesV3": ("AssetFaceDeleteV1", "AssetFaceV3"),
    "UserMetadataV1": ("UserMetadataDeleteV1", "UserMetadataV1"),
    "AssetMetadataV1": ("AssetMetadataDeleteV1", "AssetMetadataV1"),
    "AssetEditsV1": ("AssetEditDeleteV1", "AssetEditV1"),
}
REQUEST_TYPES: Final = tuple(_REQUESTS)

# Form -> payload of its upserts, payload of its delete marker, attributes the marker's id is made of (None: the same).
_PAYLOADS: Final[dict[str, tuple[type[Payload], type[Payload] | None, tuple[str, ...] | None]]] = {
    "auth_user": (users.AuthUserV1, None, None),
    "user": (users.UserV1, users.UserDeleteV1, ("user_id",)),
    "partner": (users.PartnerV1, users.PartnerDeleteV1, None),
    "asset": (assets.AssetV2, assets.AssetDeleteV1, ("asset_id",)),
    "stack": (assets.StackV1, assets.StackDeleteV1, ("stack_id",)),
    "partner_asset": (assets.AssetV2, assets.AssetDeleteV1, ("asset_id",)),
    "partner_stack": (assets.StackV1, assets.StackDeleteV1, ("stack_id",)),
    "album_asset": (assets.AssetV2, None, None),
    "album": (albums.AlbumV2, albums.AlbumDeleteV1, ("album_id",)),
    "album_user": (albums.AlbumUserV1, albums.AlbumUserDeleteV1, None),
    "album_to_asset": (albums.AlbumToAssetV1, albums.AlbumToAssetDeleteV1, None),
    "exif": (assets.AssetExifV1, None, None),
    "album_exif": (assets.AssetExifV1, None, None),
    "partner_exif": (assets.AssetExifV1, None, None),
    "ocr": (assets.AssetOcrV1, assets.AssetOcrDeleteV1, None),
    "memory": (memories.MemoryV1, memories.MemoryDeleteV1, ("memory_id",)),
    "memory_to_asset": (memories.MemoryToAssetV1, memories.MemoryToAssetDeleteV1, None),
    "person": (people.PersonV1, people.PersonDeleteV1, ("person_id",)),
    "face": (people.AssetFaceV2, people.AssetFaceDeleteV1, ("asset_face_id",)),
    "user_metadata": (users.UserMetadataV1, users.UserMetadataDeleteV1, None),
    "asset_metadata": (assets.AssetMetadataV1, assets.AssetMetadataDeleteV1, None),
    "edit": (assets.AssetEditV1, assets.AssetEditDeleteV1, ("edit_id",)),
}


class _Version(NamedTuple):
    """How an entity type is served from the rows of another; see `EntityTypeRow`."""

    stored: str
    payload: type[Payload]
    to_stored: Callable[[Any], Payload] | None = None
    from_stored: Callable[..., Payload | None] | None = None
    served_with: tuple[str, str] | None = None


# A version that came later keeps its rows under the name they had before: catalogs hold them.
_OTHER_VERSIONS: Final[dict[str, _Version]] = {
    **{
        f"{name}V1": _Version(f"{name}V2", assets.AssetV1, versions.asset_to_v2, versions.asset_to_v1)
        for name in (
            "Asset", "PartnerAsset", "PartnerAssetBackfill",
            "AlbumAssetCreate", "AlbumAssetUpdate", "AlbumAssetBackfill",
        )
    },
    "AlbumV1": _Version("AlbumV2", albums.AlbumV1, versions.album_to_v2, versions.album_to_v1),
    "AssetFaceV1": _Version("AssetFaceV2", people.AssetFaceV1, versions.face_to_v2, versions.face_to_v1),
    "AssetFaceV3": _Version("AssetFaceV2", people.AssetFaceV2),
    "AuthUserV2": _Version("AuthUserV1", users.AuthUserV2, versions.auth_user_to_v1, versions.auth_user_to_v2),
    "MemoryV2": _Version("MemoryV1", memories.MemoryV2),
    "MemoryToAssetV2": _Version("MemoryToAssetV1", memories.MemoryToAssetV1, served_with=("memory_id", "MemoryV2")),
}  # fmt: skip

# Stored rows that older devices get only some of.
_NARROWED: Final[dict[str, dict[str, Any]]] = {
    "MemoryV1": {
        "stored_payload": memories.MemoryV2, "exported_as": "MemoryV2", "from_stored": versions.memory_to_v1,
    },
    "MemoryToAssetV1": {"served_with": ("memory_id", "MemoryV1")},
}  # fmt: skip

_UNBOUND: Final = frozenset({"AssetFaceV3"})
"""What devices keep whether or not they have what it refers to: the app of 3.3 has faces of assets that it has not."""


def _stored_rows() -> Iterator[EntityTypeRow]:
    for form in FORMS:
        upsert, delete, delete_key = _PAYLOADS[form.name]
        for letter, name in form.variants:
            payload, key = upsert, form.key
            if letter == DELETE:
                assert delete is not None, name
                payload, key = delete, delete_key or form.key
            parents = () if letter == DELETE else form.parents
            narrowed = _NARROWED.get(name, {})
            yield EntityTypeRow(name, payload, _asking_for(name), form, letter, name, key, parents, **narrowed)


def _asking_for(entity_type: str) -> tuple[str, ...]:
    return tuple(request for request, sent in _REQUESTS.items() if entity_type in sent)


def _all_rows() -> dict[str, EntityTypeRow]:
    rows = {row.name: row for row in _stored_rows()}
    for name, version in _OTHER_VERSIONS.items():
        of = rows[version.stored]
        parents = () if name in _UNBOUND else of.parents
        rows[name] = EntityTypeRow(
            name, version.payload, _asking_for(name), of.form, of.letter, version.stored, of.key, parents,
            to_stored=version.to_stored, from_stored=version.from_stored, needs_owner=name == "AlbumV1",
            served_with=version.served_with,
        )  # fmt: skip
    for name in ("SyncAckV1", RESET, COMPLETE):
        rows[name] = EntityTypeRow(name, Nothing)
    return rows


_ROWS: Final = _all_rows()
_ORDER: Final = {name: at for at, name in enumerate(dict.fromkeys(n for sent in _REQUESTS.values() for n in sent))}

ROWS: Final = tuple(sorted(_ROWS.values(), key=lambda row: _ORDER.get(row.name, len(_ORDER))))
"""All rows in the order of the stream; the three that no request type asks for come last."""

STORED_TYPES: Final = tuple(row.name for row in ROWS if row.form is not None and row.stored == row.name)
"""The entity types that rows are stored as, in the order of the stream."""


def row(name: str) -> EntityTypeRow:
    """Look up an entity type; raises KeyError."""
    return _ROWS[name]


def entity_types_for(request_types: Collection[str]) -> tuple[EntityTypeRow, ...]:
    """Tell what a stream of these request types sends, in order, each entity type once; raises KeyError if unknown."""
    return _entity_types_for(frozenset(request_types))


@lru_cache(maxsize=1024)
def _entity_types_for(request_types: frozenset[str]) -> tuple[EntityTypeRow, ...]:
    for name in request_types:
        _REQUESTS[name]
    return tuple(found for found in ROWS if not request_types.isdisjoint(found.request_types))


def upserts_of(delete_type: str) -> tuple[str, ...]:
    """Name the entity types whose rows a delete marker removes, all versions; empty for other types.

    Who receives the deletes again must receive these again too, or rows re-created since would be missing.
    """
    marker = _ROWS[delete_type]
    if not marker.is_delete:
        return ()
    return tuple(found.name for found in ROWS if found.form is marker.form and not found.is_delete)
