"""What each entity type is made of at Gumnut: which events matter to it, which ids they name, and how those are read.

An event only says that something changed. What is sent is the state read afterwards; a delete is sent where an event
says that something went and the library, asked anew, does not hold it. Four things have no events of their own:

- what an asset in the trash hides: when it comes back its faces and its places in albums are sent again. A device that
  had them keeps them meanwhile, as Immich does: the app hides them with the asset.
- the faces that come along with a moved asset: they are sent with the move.
- the cover of an album where nobody chose one: the album is sent again when its assets change.
- the cover of a stack where nobody chose one, which is its earliest asset: the stack is sent again when that may have
  changed. A stack whose cover the app lacks would hide all of its photos.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from gumnut.types import AlbumResponse, AssetResponse

from projections.entities.gumnut import payloads
from projections.entities.gumnut.feed import Event, Filter
from projections.entities.gumnut.payloads import Unfit
from projections.entities.gumnut.reads import Reads
from projections.entities.gumnut.view import Ref, View, changed_us, made_us
from projections.entities.payloads.albums import AlbumDeleteV1, AlbumToAssetDeleteV1, AlbumToAssetV1, AlbumUserV1
from projections.entities.payloads.assets import AssetDeleteV1, StackDeleteV1
from projections.entities.payloads.base import Payload
from projections.entities.payloads.people import AssetFaceDeleteV1, PersonDeleteV1

AT_ONCE: Final = 8
_ASSETS: Final = ("asset", "metadata")
_ALBUMS: Final = ("album", "album_asset")
_LINKS: Final = ("album_asset", "asset")
_STACKS: Final = ("stack", "asset")
_PEOPLE: Final = ("person",)
_FACES: Final = ("face", "asset")
_GONE: Final = ("_deleted", "_removed", "_moved_out")
_SEEN_AGAIN: Final = frozenset(("asset_restored", "asset_moved_in", "asset_moved_out"))
_HIDING: Final = frozenset(("asset_trashed", "asset_restored"))
_LEAVING: Final = frozenset(("asset_deleted", "asset_moved_out"))
_KNOWN: Final = frozenset(
    (
        "asset_created", "asset_updated", "asset_trashed", "asset_restored", "asset_deleted", "asset_moved_out",
        "asset_moved_in", "album_created", "album_updated", "album_deleted", "person_created", "person_updated",
        "person_deleted", "face_created", "face_updated", "face_deleted", "album_asset_added", "album_asset_removed",
        "metadata_updated", "stack_created", "stack_updated", "stack_deleted",
    )
)  # fmt: skip


class Made(NamedTuple):
    """A row, or why there is none yet; the parents it refers to; when its entity last changed."""

    data: Payload | Unfit
    refs: tuple[Ref, ...] = ()
    stamp_us: int = 0


class Kind(NamedTuple):
    """One stored entity type: its feed, the table its rows are in, and the ways from events to rows.

    `names` gives the ids that each of some events names, `read` the rows of those that are there.
    """

    of: Filter
    table: str
    matters: Callable[[Event], bool]
    names: Callable[[View, Sequence[Event]], Awaitable[list[list[str]]]]
    read: Callable[[View, Sequence[str]], Awaitable[dict[str, Made]]]


def kind_of(entity_type: str) -> Kind | None:
    """Look up a stored entity type; None for what Gumnut has not got, and for users, who have no feed."""
    return _KINDS.get(entity_type)


# Which events matter


def _is_gone(entity: str) -> Callable[[Event], bool]:
    return lambda event: event.entity == entity and (event.type.endswith(_GONE) or event.type not in _KNOWN)


def _may_be_there(*entities: str) -> Callable[[Event], bool]:
    return lambda event: event.entity in entities and not event.type.endswith(("_deleted", "_removed"))


def _or_asset(entity: str, *types: Iterable[str]) -> Callable[[Event], bool]:
    own, others = _may_be_there(entity), frozenset().union(*types)
    return lambda event: own(event) or (
        event.entity == "asset" and (event.type in others or event.type not in _KNOWN)
    )  # fmt: skip


def _album_or_its_assets(event: Event) -> bool:
    return event.entity == "album_asset" or _may_be_there("album")(event)


def _has_new_exif(event: Event) -> bool:
    return _may_be_there(*_ASSETS)(event) and event.type not in _HIDING


# Which ids they name


async def _own(view: View, events: Sequence[Event]) -> list[list[str]]:
    return [[event.id] for event in events]


async def _pairs(view: View, events: Sequence[Event]) -> list[list[str]]:
    """Name what went out of albums by album and asset: the link itself is gone, only the payload tells."""
    return [[f"{event.payload.get('album_id', '')}\n{event.payload.get('asset_id', '')}"] for event in events]


async def _albums_of(view: View, events: Sequence[Event]) -> list[list[str]]:
    told = [event.id if event.entity == "album" else event.payload.get("album_id") for event in events]
    links = await view.reads.links(event.id for event, album in zip(events, told, strict=True) if not album)
    found = (album or _album_of(links.get(event.id)) for event, album in zip(events, told, strict=True))
    return [[album] if isinstance(album, str) else [] for album in found]


def _album_of(link: Any) -> str | None:
    return None if link is None else link.album_id


async def _links_of(view: View, events: Sequence[Event]) -> list[list[str]]:
    names = [[event.id] if event.entity == "album_asset" else [] for event in events]
    asked = [index for index, event in enumerate(events) if event.entity == "asset"]
    for at in range(0, len(asked), AT_ONCE):
        part = asked[at : at + AT_ONCE]
        found = await asyncio.gather(*(view.reads.links_of(events[index].id) for index in part))
        for index, links in zip(part, found, strict=True):
            names[index] = [link.id for link in links]
    return names


async def _stacks_of(view: View, events: Sequence[Event]) -> list[list[str]]:
    """Name stacks, and those of assets: of one that left nobody knows it any more, so it may be any without a cover."""
    assets = await view.reads.assets(event.id for event in events if event.entity == "asset")
    left = any(event.type in _LEAVING or event.id not in assets for event in events if event.entity == "asset")
    coverless = await view.coverless_stacks() if left else []
    names = []
    for event in events:
        if event.entity == "stack":
            names.append([event.id])
        elif event.type in _LEAVING or event.id not in assets:
            names.append(coverless)
        else:
            stack = assets[event.id].stack_id
            names.append([stack] if stack else [])
    return names


async def _faces_of(view: View, events: Sequence[Event]) -> list[list[str]]:
    assets = list(dict.fromkeys(event.id for event in events if event.entity == "asset"))
    seen: dict[str, list[str]] = {}
    for face in await view.reads.faces_in(assets) if assets else ():
        seen.setdefault(face.asset_id, []).append(face.id)
    return [[event.id] if event.entity == "face" else seen.get(event.id, []) for event in events]


# How they are read


def _fits(make: Callable[[], Payload]) -> Payload | Unfit:
    try:
        return make()
    except Unfit as unfit:
        return unfit
    except (AttributeError, TypeError, ValueError, OverflowError):  # the SDK passes on whatever it is sent
        return Unfit("a field")


async def _assets(view: View, ids: Sequence[str]) -> dict[str, Made]:
    owner = (await view.owner()).id
    found = await view.reads.assets(ids)
    return {key: Made(_fits(lambda a=a: payloads.asset_of(a, owner)), (), changed_us(a)) for key, a in found.items()}  # type: ignore[misc]


async def _exifs(view: View, ids: Sequence[str]) -> dict[str, Made]:
    found = await view.reads.assets(ids)
    return {key: Made(_fits(lambda a=a: payloads.exif_of(a)), (_asset_ref(a),)) for key, a in found.items()}  # type: ignore[misc]


async def _albums(view: View, ids: Sequence[str]) -> dict[str, Made]:
    found = await view.reads.albums(ids)
    covers = await view.reads.assets(
        album.album_cover_asset_id for album in found.values() if album.album_cover_asset_id
    )
    made = {}
    for key, album in found.items():
        cover = covers.get(album.album_cover_asset_id or "")
        refs = () if cover is None else (_asset_ref(cover),)
        cover_id = None if cover is None else cover.id
        data = _fits(lambda album=album, cover_id=cover_id: payloads.album_of(album, cover_id))  # type: ignore[misc]
        made[key] = Made(data, refs, changed_us(album))
    return made


async def _owners(view: View, ids: Sequence[str]) -> dict[str, Made]:
    """Make the owner's membership of albums; the app hides an album that has none."""
    owner = (await view.owner()).id
    found = await view.reads.albums(ids)
    return {key: Made(AlbumUserV1(key, owner, "owner"), (_album_ref(album),)) for key, album in found.items()}


async def _links(view: View, ids: Sequence[str]) -> dict[str, Made]:
    """Make what is in albums, as far as both are in the library."""
    found = await view.reads.links(ids)
    albums = await view.reads.albums(link.album_id for link in found.values())
    assets = await view.reads.assets(link.asset_id for link in found.values())
    return {
        key: Made(
            AlbumToAssetV1(link.album_id, link.asset_id),
            (_album_ref(albums[link.album_id]), _asset_ref(assets[link.asset_id])),
        )
        for key, link in found.items()
        if link.album_id in albums and link.asset_id in assets
    }


async def _stacks(view: View, ids: Sequence[str]) -> dict[str, Made]:
    owner = (await view.owner()).id
    found = await view.reads.stacks(ids)
    return {key: Made(_fits(lambda s=s: payloads.stack_of(s, owner))) for key, s in found.items()}  # type: ignore[misc]


async def _people(view: View, ids: Sequence[str]) -> dict[str, Made]:
    owner = (await view.owner()).id
    found = await view.reads.people(ids)
    return {key: Made(_fits(lambda p=p: payloads.person_of(p, owner)), (), changed_us(p)) for key, p in found.items()}  # type: ignore[misc]


async def _faces(view: View, ids: Sequence[str]) -> dict[str, Made]:
    """Make faces; one whose person is gone is nobody's until its own event says whose it is now."""
    found = await view.reads.faces(ids)
    assets = await view.reads.assets(face.asset_id for face in found.values())
    people = await view.reads.people(face.person_id for face in found.values() if face.person_id)
    made = {}
    for key, face in found.items():
        asset, person = assets.get(face.asset_id), people.get(face.person_id or "")
        if asset is None:
            continue
        refs = [_asset_ref(asset)]
        if person is not None:
            refs.append(Ref("person", person.id, made_us(person), changed_us(person)))
        person_id = None if person is None else person.id
        data = _fits(lambda f=face, a=asset, p=person_id: payloads.face_of(f, a, p))  # type: ignore[misc]
        made[key] = Made(data, tuple(refs))
    return made


def _asset_ref(asset: AssetResponse) -> Ref:
    return Ref("asset", asset.id, made_us(asset), changed_us(asset))


def _album_ref(album: AlbumResponse) -> Ref:
    return Ref("album", album.id, made_us(album), changed_us(album))


def _without(
    read: Callable[[Reads, Sequence[str]], Awaitable[Mapping[str, Any]]], make: Callable[[str], Payload]
) -> Callable[[View, Sequence[str]], Awaitable[dict[str, Made]]]:
    """Make markers of what the library does not hold."""

    async def gone(view: View, ids: Sequence[str]) -> dict[str, Made]:
        held = await read(view.reads, ids)
        return {key: Made(make(key)) for key in ids if key not in held}

    return gone


async def _left_albums(view: View, ids: Sequence[str]) -> dict[str, Made]:
    albums: dict[str, list[str]] = {}
    for key in ids:
        album, _, asset = key.partition("\n")
        albums.setdefault(album, []).append(asset)
    made = {}
    for album, assets in albums.items():
        told = [asset for asset in assets if album and asset]
        held = await view.reads.in_album(album, told) if told else set()
        for asset in assets:
            if not (album and asset):
                made[f"{album}\n{asset}"] = Made(Unfit("payload"))
            elif asset not in held:
                made[f"{album}\n{asset}"] = Made(AlbumToAssetDeleteV1(album, asset))
    return made


_KINDS: Final[dict[str, Kind]] = {
    "AssetDeleteV1": Kind(_ASSETS, "", _is_gone("asset"), _own, _without(Reads.assets, AssetDeleteV1)),
    "AssetV2": Kind(_ASSETS, "asset", _may_be_there(*_ASSETS), _own, _assets),
    "StackDeleteV1": Kind(_STACKS, "", _is_gone("stack"), _own, _without(Reads.stacks, StackDeleteV1)),
    "StackV1": Kind(_STACKS, "stack", _or_asset("stack", _HIDING, _LEAVING), _stacks_of, _stacks),
    "AlbumDeleteV1": Kind(_ALBUMS, "", _is_gone("album"), _own, _without(Reads.albums, AlbumDeleteV1)),
    "AlbumV2": Kind(_ALBUMS, "album", _album_or_its_assets, _albums_of, _albums),
    "AlbumUserV1": Kind(_ALBUMS, "album_user", _may_be_there("album"), _own, _owners),
    "AlbumToAssetDeleteV1": Kind(_LINKS, "", _is_gone("album_asset"), _pairs, _left_albums),
    "AlbumToAssetV1": Kind(_LINKS, "album_to_asset", _or_asset("album_asset", _SEEN_AGAIN), _links_of, _links),
    "AssetExifV1": Kind(_ASSETS, "exif", _has_new_exif, _own, _exifs),
    "PersonDeleteV1": Kind(_PEOPLE, "", _is_gone("person"), _own, _without(Reads.people, PersonDeleteV1)),
    "PersonV1": Kind(_PEOPLE, "person", _may_be_there("person"), _own, _people),
    "AssetFaceDeleteV1": Kind(_FACES, "", _is_gone("face"), _own, _without(Reads.faces, AssetFaceDeleteV1)),
    "AssetFaceV2": Kind(_FACES, "face", _or_asset("face", _SEEN_AGAIN), _faces_of, _faces),
}
