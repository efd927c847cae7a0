"""What each entity type is made of at Gumnut: which events matter to it, which ids they name, and how those are read.

A row whose parent no device could read is held back with it, and sent once an event of the parent comes behind which
that fits: the parent is noted until then. Where the reference may be empty the row goes without it meanwhile.

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
from typing import Any, Final, NamedTuple, TypeVar

from gumnut.types import AlbumAssetResponse, AlbumResponse, AssetResponse, PersonResponse

from projections.entities.gumnut import payloads
from projections.entities.gumnut.bulk_reads import Reads, is_id
from projections.entities.gumnut.feed import Event, Filter
from projections.entities.gumnut.held_back import PARENTS, Notes
from projections.entities.gumnut.payloads import Unfit
from projections.entities.gumnut.stream_library import EVENTS_OF, Ref, View, changed_us, made_us
from projections.entities.payloads.albums import AlbumDeleteV1, AlbumToAssetDeleteV1
from projections.entities.payloads.assets import AssetDeleteV1, StackDeleteV1
from projections.entities.payloads.base import Payload
from projections.entities.payloads.people import AssetFaceDeleteV1, PersonDeleteV1

T = TypeVar("T")

AT_ONCE: Final = 8
_ASSETS: Final = ("asset", "metadata")
_ALBUMS: Final = ("album", "album_asset")
_LINKS: Final = ("album_asset", "asset")
_STACKS: Final = ("stack", "asset")
_PEOPLE: Final = ("person",)
_FACES: Final = ("face", "asset")
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
    """A row, or why there is none yet; the parents it refers to; when its entity last changed.

    `lacks` are parents that it goes without, because they do not fit.
    """

    data: Payload | Unfit
    refs: tuple[Ref, ...] = ()
    stamp_us: int = 0
    lacks: tuple[Ref, ...] = ()


class Kind(NamedTuple):
    """One stored entity type: its feed, the table its rows are in, and the ways from events to rows.

    `names` gives the ids that each of some events names, `read` the rows of those that are there. `hangs_on` are the
    tables of its parents: where some of a library's were noted, their events are read too, and theirs name its rows.
    """

    of: Filter
    table: str
    matters: Callable[[Event], bool]
    names: Callable[[View, Sequence[Event]], Awaitable[list[list[str]]]]
    read: Callable[[View, Sequence[str]], Awaitable[dict[str, Made]]]
    hangs_on: tuple[str, ...] = ()

    def feed(self, notes: Notes) -> Filter:
        """Tell which entities' events it is made of in a library with these notes."""
        more = (EVENTS_OF[table] for table in self.hangs_on if notes.has(PARENTS[table]))
        return tuple(dict.fromkeys((*self.of, *(entity for entities in more for entity in entities))))

    def mattering(self, notes: Notes, events: Sequence[Event]) -> list[Event]:
        """Pick the events that may lead to rows."""
        return [event for event in events if self.matters(event) or self._is_of_noted(notes, event)]

    def _is_of_noted(self, notes: Notes, event: Event) -> bool:
        return not event.tells_of_gone and any(
            event.entity in EVENTS_OF[table] and notes.began_with(PARENTS[table], event.id) for table in self.hangs_on
        )


def kind_of(entity_type: str) -> Kind | None:
    """Look up a stored entity type; None for what Gumnut has not got, and for users, who have no feed."""
    return _KINDS.get(entity_type)


# Which events matter


def _is_gone(entity: str) -> Callable[[Event], bool]:
    return lambda event: event.entity == entity and (event.tells_of_gone or event.type not in _KNOWN)


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
    """Name albums, and those that assets are in; what no album could be called is odd only of what names it."""
    told = [event.id if event.entity == "album" else event.payload.get("album_id") for event in events]
    links = await view.reads.links(
        event.id for event, album in zip(events, told, strict=True) if event.entity == "album_asset" and not album
    )
    found = (album or _album_of(links.get(event.id)) for event, album in zip(events, told, strict=True))
    names = [
        [album] if isinstance(album, str) and (event.entity == "album" or is_id(album)) else []
        for event, album in zip(events, found, strict=True)
    ]
    for index, placed in (await _placed_in(view, events)).items():
        names[index] = [link.album_id for link in placed if is_id(link.album_id)]
    return names


def _album_of(link: Any) -> str | None:
    return None if link is None else link.album_id


async def _links_of(view: View, events: Sequence[Event]) -> list[list[str]]:
    names = [[event.id] if event.entity == "album_asset" else [] for event in events]
    for index, links in (await _placed_in(view, events)).items():
        names[index] = [link.id for link in links]
    for index, event in enumerate(events):
        if event.entity == "album" and is_id(event.id):
            names[index] = [link.id for link in await view.reads.links_in(event.id)]
    return names


async def _placed_in(view: View, events: Sequence[Event]) -> dict[int, list[AlbumAssetResponse]]:
    """Read in which albums the assets are that events tell of, by the index of the event."""
    asked = [index for index, event in enumerate(events) if event.entity in _ASSETS and is_id(event.id)]
    placed: dict[int, list[AlbumAssetResponse]] = {}
    for at in range(0, len(asked), AT_ONCE):
        part = asked[at : at + AT_ONCE]
        placed.update(
            zip(part, await asyncio.gather(*(view.reads.links_of(events[index].id) for index in part)), strict=True)
        )
    return placed


async def _stacks_of(view: View, events: Sequence[Event]) -> list[list[str]]:
    """Name stacks, and those of assets: of one that left nobody knows it any more, so it may be any without a cover."""
    told = [event for event in events if event.entity in _ASSETS]
    assets = await view.reads.assets(event.id for event in told)
    left = any(event.type in _LEAVING or event.id not in assets for event in told)
    coverless = await view.coverless_stacks() if left else []
    names = []
    for event in events:
        if event.entity == "stack":
            names.append([event.id])
        elif event.type in _LEAVING or event.id not in assets:
            names.append(coverless)
        else:
            stack = assets[event.id].stack_id
            names.append([stack] if stack and is_id(stack) else [])
    return names


async def _faces_of(view: View, events: Sequence[Event]) -> list[list[str]]:
    assets = list(dict.fromkeys(event.id for event in events if event.entity in _ASSETS))
    seen = await view.reads.faces_in(assets) if assets else {}
    names = []
    for event in events:
        if event.entity == "person" and is_id(event.id):
            names.append([face.id for face in await view.reads.faces_of(event.id)])
        else:
            names.append([event.id] if event.entity == "face" else [face.id for face in seen.get(event.id, ())])
    return names


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
    owner = (await view.owner()).id
    found = await view.reads.assets(ids)
    return {key: Made(_fits(lambda a=a: payloads.exif_of(a)), (_asset_ref(a, owner),)) for key, a in found.items()}  # type: ignore[misc]


async def _albums(view: View, ids: Sequence[str]) -> dict[str, Made]:
    owner = (await view.owner()).id
    found = await view.reads.albums(ids)
    chosen = {key: album.album_cover_asset_id or "" for key, album in found.items()}
    covers = await view.reads.assets(chosen.values())
    made = {}
    for key, album in found.items():
        cover = _held(covers, chosen[key])
        refs, lacks = _sorted(() if cover is None else (_asset_ref(cover, owner),))
        cover_id = refs[0].id if refs else None
        data = _fits(lambda album=album, cover_id=cover_id: payloads.album_of(album, cover_id))  # type: ignore[misc]
        made[key] = Made(data, refs, changed_us(album), lacks)
    return made


async def _owners(view: View, ids: Sequence[str]) -> dict[str, Made]:
    """Make the owner's membership of albums; the app hides an album that has none."""
    owner = (await view.owner()).id
    found = await view.reads.albums(ids)
    return {
        key: Made(_fits(lambda key=key: payloads.album_user_of(key, owner)), (_album_ref(album),))  # type: ignore[misc]
        for key, album in found.items()
    }


async def _links(view: View, ids: Sequence[str]) -> dict[str, Made]:
    """Make what is in albums, as far as both are in the library."""
    owner = (await view.owner()).id
    found = await view.reads.links(ids)
    albums = await view.reads.albums(link.album_id for link in found.values())
    assets = await view.reads.assets(link.asset_id for link in found.values())
    made = {}
    for key, link in found.items():
        data = _fits(lambda link=link: payloads.link_of(link.album_id, link.asset_id))  # type: ignore[misc]
        if isinstance(data, Unfit):
            made[key] = Made(data)
        elif link.album_id in albums and link.asset_id in assets:  # which are ids, as they fit
            made[key] = Made(data, (_album_ref(albums[link.album_id]), _asset_ref(assets[link.asset_id], owner)))
    return made


async def _stacks(view: View, ids: Sequence[str]) -> dict[str, Made]:
    """Make stacks; one whose cover does not fit waits for it: the app would hide all of its photos."""
    owner = (await view.owner()).id
    found = await view.reads.stacks(ids)
    chosen = {key: payloads.cover_of(stack) or "" for key, stack in found.items()}
    covers = await view.reads.assets(chosen.values())
    made = {}
    for key, stack in found.items():
        data = _fits(lambda stack=stack: payloads.stack_of(stack, owner))  # type: ignore[misc]
        cover = _held(covers, chosen[key])
        _, lacks = _sorted(() if cover is None else (_asset_ref(cover, owner),))
        made[key] = Made(data, lacks)
    return made


async def _people(view: View, ids: Sequence[str]) -> dict[str, Made]:
    owner = (await view.owner()).id
    found = await view.reads.people(ids)
    return {key: Made(_fits(lambda p=p: payloads.person_of(p, owner)), (), changed_us(p)) for key, p in found.items()}  # type: ignore[misc]


async def _faces(view: View, ids: Sequence[str]) -> dict[str, Made]:
    """Make faces; one whose person is gone is nobody's until its own event says whose it is now."""
    owner = (await view.owner()).id
    found = await view.reads.faces(ids)
    assets = await view.reads.assets(face.asset_id for face in found.values())
    people = await view.reads.people(face.person_id for face in found.values() if face.person_id)
    made = {}
    for key, face in found.items():
        asset, person = _held(assets, face.asset_id), _held(people, face.person_id)
        if asset is None:
            if not is_id(face.asset_id):
                made[key] = Made(Unfit("assetId"))
            continue
        refs, lacks = _sorted(() if person is None else (_person_ref(person, owner),))
        person_id = refs[0].id if refs else None
        data = _fits(lambda f=face, a=asset, p=person_id: payloads.face_of(f, a, p))  # type: ignore[misc]
        made[key] = Made(data, (_asset_ref(asset, owner), *refs), 0, lacks)
    return made


def _held(found: Mapping[str, T], entity_id: object) -> T | None:
    """Look up what was found; nothing for what is no id."""
    return found.get(entity_id) if isinstance(entity_id, str) else None


def _sorted(refs: Sequence[Ref]) -> tuple[tuple[Ref, ...], tuple[Ref, ...]]:
    """Part parents into those that fit and those that do not."""
    return tuple(ref for ref in refs if not ref.unfit), tuple(ref for ref in refs if ref.unfit)


def _asset_ref(asset: AssetResponse, owner: str) -> Ref:
    data = _fits(lambda: payloads.asset_of(asset, owner))
    return Ref("asset", asset.id, made_us(asset), changed_us(asset), _field_in(data))


def _album_ref(album: AlbumResponse) -> Ref:
    data = _fits(lambda: payloads.album_of(album, None))
    return Ref("album", album.id, made_us(album), changed_us(album), _field_in(data))


def _person_ref(person: PersonResponse, owner: str) -> Ref:
    data = _fits(lambda: payloads.person_of(person, owner))
    return Ref("person", person.id, made_us(person), changed_us(person), _field_in(data))


def _field_in(data: Payload | Unfit) -> str:
    return str(data) if isinstance(data, Unfit) else ""


def _without(
    read: Callable[[Reads, Sequence[str]], Awaitable[Mapping[str, Any]]], make: Callable[[str], Payload]
) -> Callable[[View, Sequence[str]], Awaitable[dict[str, Made]]]:
    """Make markers of what the library does not hold."""

    async def gone(view: View, ids: Sequence[str]) -> dict[str, Made]:
        held = await read(view.reads, ids)
        return {key: Made(make(key)) for key in ids if key not in held and is_id(key)}

    return gone


async def _left_albums(view: View, ids: Sequence[str]) -> dict[str, Made]:
    albums: dict[str, list[str]] = {}
    for key in ids:
        album, _, asset = key.partition("\n")
        albums.setdefault(album, []).append(asset)
    made = {}
    for album, assets in albums.items():
        told = [asset for asset in assets if is_id(album) and is_id(asset)]
        held = await view.reads.in_album(album, told) if told else set()
        for asset in assets:
            if not (is_id(album) and is_id(asset)):
                made[f"{album}\n{asset}"] = Made(Unfit("payload"))
            elif asset not in held:
                made[f"{album}\n{asset}"] = Made(AlbumToAssetDeleteV1(album, asset))
    return made


_KINDS: Final[dict[str, Kind]] = {
    "AssetDeleteV1": Kind(_ASSETS, "", _is_gone("asset"), _own, _without(Reads.assets, AssetDeleteV1)),
    "AssetV2": Kind(_ASSETS, "asset", _may_be_there(*_ASSETS), _own, _assets),
    "StackDeleteV1": Kind(_STACKS, "", _is_gone("stack"), _own, _without(Reads.stacks, StackDeleteV1)),
    "StackV1": Kind(_STACKS, "stack", _or_asset("stack", _HIDING, _LEAVING), _stacks_of, _stacks, ("asset",)),
    "AlbumDeleteV1": Kind(_ALBUMS, "", _is_gone("album"), _own, _without(Reads.albums, AlbumDeleteV1)),
    "AlbumV2": Kind(_ALBUMS, "album", _album_or_its_assets, _albums_of, _albums, ("asset",)),
    "AlbumUserV1": Kind(_ALBUMS, "album_user", _may_be_there("album"), _own, _owners, ("album",)),
    "AlbumToAssetDeleteV1": Kind(_LINKS, "", _is_gone("album_asset"), _pairs, _left_albums),
    "AlbumToAssetV1": Kind(
        _LINKS, "album_to_asset", _or_asset("album_asset", _SEEN_AGAIN), _links_of, _links, ("album", "asset")
    ),
    "AssetExifV1": Kind(_ASSETS, "exif", _has_new_exif, _own, _exifs, ("asset",)),
    "PersonDeleteV1": Kind(_PEOPLE, "", _is_gone("person"), _own, _without(Reads.people, PersonDeleteV1)),
    "PersonV1": Kind(_PEOPLE, "person", _may_be_there("person"), _own, _people),
    "AssetFaceDeleteV1": Kind(_FACES, "", _is_gone("face"), _own, _without(Reads.faces, AssetFaceDeleteV1)),
    "AssetFaceV2": Kind(_FACES, "face", _or_asset("face", _SEEN_AGAIN), _faces_of, _faces, ("asset", "person")),
}
