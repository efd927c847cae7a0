"""The state of entities, read in bulk and to the last page: what a library holds of the ids that were asked for.

Every read is scoped to the library, which alone decides what belongs to it. Whatever is not read whole is an error, so
what is left out of an answer is not there. Nor is what no entity could be called: nobody is asked for that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Final, Protocol, TypeVar

from gumnut import AsyncGumnut, omit
from gumnut.pagination import AsyncCursorPage
from gumnut.types import (
    AlbumAssetResponse,
    AlbumResponse,
    AssetResponse,
    FaceResponse,
    LibraryResponse,
    PersonResponse,
    StackListStacksResponse,
    UserResponse,
)

from ledger.errors import InvalidInput
from ledger.positions import check_id
from projections.entities.gumnut.client import Declined, GumnutUnavailable
from projections.entities.gumnut.stream_client import Speaker

MAX_IDS: Final = 200
KEPT_ASSETS: Final = 600


def is_id(value: object) -> bool:
    """Tell whether something can be asked for: an id that a device can hold, and no list of several."""
    if not isinstance(value, str) or "," in value:
        return False
    try:
        check_id("id", value)
    except InvalidInput:
        return False
    return True


class _Item(Protocol):
    id: str


I = TypeVar("I", bound=_Item)  # noqa: E741
List = Callable[..., Awaitable[AsyncCursorPage[Any]]]


class Reads:
    """Reads for one stream. Assets read last are kept: their deletes, rows and camera data come from one reading."""

    def __init__(self, speaker: Speaker, library: str) -> None:
        self._speaker = speaker
        self._library = library
        self._assets: OrderedDict[str, AssetResponse | None] = OrderedDict()
        self._me: UserResponse | None = None
        self._about: LibraryResponse | None = None

    async def me(self) -> UserResponse:
        """Tell whom this stream speaks for."""
        if self._me is None:
            self._me = await self._asked("user", lambda client: client.users.me(), UserResponse)
        return self._me

    async def about(self) -> LibraryResponse:
        """Tell of the library itself: whose it is."""
        if self._about is None:
            ask = lambda client: client.libraries.retrieve(self._library)  # noqa: E731
            self._about = await self._asked("library", ask, LibraryResponse)
        return self._about

    async def assets(self, ids: Iterable[str]) -> dict[str, AssetResponse]:
        """Read assets with metadata and file data, those in the trash too."""
        wanted = list(dict.fromkeys(filter(is_id, ids)))
        lacking = [asset_id for asset_id in wanted if asset_id not in self._assets]
        read = await self._by_ids(
            "assets", _assets, lacking, AssetResponse, state="all", include=["metadata", "file_data"]
        )
        found = {asset_id: read.get(asset_id) or self._assets.get(asset_id) for asset_id in wanted}
        for asset_id in lacking:
            self._assets[asset_id] = read.get(asset_id)
        while len(self._assets) > KEPT_ASSETS:
            self._assets.popitem(last=False)
        return {asset_id: asset for asset_id, asset in found.items() if asset is not None}

    async def faces_in(self, assets: Sequence[str]) -> dict[str, list[FaceResponse]]:
        """Read all faces that assets have now, by asset; those of assets in the trash are hidden."""
        found = await self._by_ids("assets", _assets, assets, AssetResponse, state="all", include=["faces"])
        told: dict[str, Any] = {asset_id: asset.faces for asset_id, asset in found.items()}
        return {
            asset_id: [face for face in faces if isinstance(face, FaceResponse)]
            for asset_id, faces in told.items()
            if isinstance(faces, list)
        }

    async def in_album(self, album: str, assets: Sequence[str]) -> set[str]:
        """Tell which of some assets are in an album now."""
        return set(await self._by_ids("assets", _assets, assets, AssetResponse, state="all", album_id=album))

    async def albums(self, ids: Iterable[str]) -> dict[str, AlbumResponse]:
        """Read albums."""
        return await self._by_ids("albums", lambda client: client.albums.list, ids, AlbumResponse)

    async def links(self, ids: Iterable[str]) -> dict[str, AlbumAssetResponse]:
        """Read which asset is in which album, by the id of that; what is in the trash is hidden."""
        return await self._by_ids("album assets", _links, ids, AlbumAssetResponse)

    async def links_of(self, asset: str) -> list[AlbumAssetResponse]:
        """Read in which albums an asset is now."""
        return await self._all("album assets", _links, AlbumAssetResponse, asset_id=asset)

    async def links_in(self, album: str) -> list[AlbumAssetResponse]:
        """Read which assets are in an album now."""
        return await self._all("album assets", _links, AlbumAssetResponse, album_id=album)

    async def people(self, ids: Iterable[str]) -> dict[str, PersonResponse]:
        """Read people, unnamed and hidden ones too."""
        return await self._by_ids(
            "people", lambda client: client.people.list, ids, PersonResponse, include_hidden=True, name_filter="all"
        )

    async def faces(self, ids: Iterable[str]) -> dict[str, FaceResponse]:
        """Read faces; those of assets in the trash are hidden."""
        return await self._by_ids("faces", lambda client: client.faces.list, ids, FaceResponse)

    async def faces_of(self, person: str) -> list[FaceResponse]:
        """Read which faces are a person's now."""
        return await self._all("faces", lambda client: client.faces.list, FaceResponse, person_id=person)

    async def stacks(self, ids: Iterable[str]) -> dict[str, StackListStacksResponse]:
        """Read stacks with their living members."""
        return await self._by_ids(
            "stacks", lambda client: client.stacks.list_stacks, ids, StackListStacksResponse, include=["asset_ids"]
        )

    async def all_stacks(self) -> list[StackListStacksResponse]:
        """Read all stacks."""
        return await self._all("stacks", lambda client: client.stacks.list_stacks, StackListStacksResponse)

    async def _by_ids(
        self, what: str, of: Callable[[AsyncGumnut], List], ids: Iterable[str], kind: type[I], **filters: Any
    ) -> dict[str, I]:
        found: dict[str, I] = {}
        left = iter(dict.fromkeys(filter(is_id, ids)))
        while part := list(islice(left, MAX_IDS)):
            asked = set(part)
            for item in await self._all(what, of, kind, ids=part, **filters):
                if item.id not in asked:
                    raise GumnutUnavailable(f"Gumnut's {what} are not those that were asked for")
                found[item.id] = item
        return found

    async def _all(self, what: str, of: Callable[[AsyncGumnut], List], kind: type[I], **filters: Any) -> list[I]:
        """Read all pages; raises GumnutUnavailable where one does not lead on to the next."""
        found: dict[str, I] = {}
        after: Any = omit
        while True:
            asked = {"library_id": self._library, "limit": MAX_IDS, "starting_after_id": after, **filters}
            page = await self._asked(what, lambda client, asked=asked: of(client)(**asked), AsyncCursorPage)
            if not isinstance(page.data, list):
                raise GumnutUnavailable(f"Gumnut's {what} are not what they should be")
            before = len(found)
            for item in page.data:
                if not isinstance(item, kind) or not isinstance(item.id, str):
                    raise GumnutUnavailable(f"Gumnut's {what} are not what they should be")
                found[item.id] = item
            if page.has_more is False or (page.has_more is None and not page.data):
                return list(found.values())
            if len(found) == before:
                raise GumnutUnavailable(f"Gumnut's {what} go on without an end")
            after = page.data[-1].id

    async def _asked(self, what: str, call: Callable[..., Awaitable[Any]], kind: type[Any]) -> Any:
        try:
            return await self._speaker.ask(what, call, kind)
        except Declined as no:
            raise GumnutUnavailable(f"Gumnut's {what} answered with {no}") from None


def _assets(client: AsyncGumnut) -> List:
    return client.assets.list


def _links(client: AsyncGumnut) -> List:
    return client.album_assets.list
