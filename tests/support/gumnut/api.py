"""Gumnut's answers about its photos, made with the SDK's models, which check them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from gumnut.types import (
    AlbumAssetResponse,
    AlbumResponse,
    AssetResponse,
    EventsResponse,
    FaceResponse,
    FileDataResponse,
    MetadataResponse,
    PersonResponse,
    StackListStacksResponse,
)
from gumnut.types.events_response import Data
from pydantic import BaseModel

from tests.support.gumnut.photos import Photos, Recorded, Row

ENTITIES: Final = frozenset(("asset", "album", "person", "face", "album_asset", "metadata", "stack"))
PATHS: Final = {
    "/api/assets": "assets",
    "/api/albums": "albums",
    "/api/album-assets": "links",
    "/api/people": "people",
    "/api/faces": "faces",
    "/api/stacks": "stacks",
}


class BadRequest(Exception):
    """A 400."""


class Api:
    """Reads of photos. `max_events` and `max_rows` make pages smaller than asked for.

    `odd` puts something else into the answers' entities: by their id, the path of a field and its value.
    """

    def __init__(self, photos: Photos) -> None:
        self.photos = photos
        self.max_events = 200
        self.max_rows = 200
        self.odd: dict[str, tuple[tuple[str, ...], Any]] = {}

    def events(self, asked: Mapping[str, Any]) -> EventsResponse:
        """Answer a read of the feed; raises BadRequest."""
        photos = self.photos
        types = asked.get("entity_types", ENTITIES)
        if not ENTITIES.issuperset(types):
            raise BadRequest
        bound = photos.ready
        if "as_of" in asked:
            bound = int(_told("as_of", asked["as_of"])[0])
            if bound > photos.ready:
                raise BadRequest
        after = (0, 0)
        if "after_cursor" in asked:
            number, order = _told("cursor", asked["after_cursor"])
            after = (int(number), int(order))
            if after[0] >= photos.ready:
                raise BadRequest
        since = datetime.fromisoformat(asked["created_at_gte"]) if "created_at_gte" in asked else None
        fit = [
            event
            for event in photos.events
            if event.library == asked["library_id"]
            and event.entity in types
            and after < (event.number, event.order)
            and event.number < bound
            and (since is None or event.at >= since)
        ]
        page = fit[: min(int(asked.get("limit", 20)), self.max_events)]
        cursor = _cursor(page[-1]) if page else asked.get("after_cursor")
        return EventsResponse(
            as_of=_opaque("as_of", bound),
            data=[_event(event) for event in page],
            has_more=len(fit) > len(page),
            next_cursor=cursor,
        )

    def rows(self, path: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a read of entities: a page of them, as the SDK's cursor pages are."""
        of = PATHS[path]
        rows: Mapping[str, Row] = getattr(self.photos, of)
        wanted = {key: rows[key] for key in asked["ids"] if key in rows} if "ids" in asked else rows
        asset_ids = {row["asset_id"] for row in self.photos.links.values() if row["album_id"] == asked.get("album_id")}
        fit = [
            (row_id, row)
            for row_id, row in sorted(wanted.items(), reverse=True)
            if self.photos.library_of(row) == asked["library_id"]
            and (of != "assets" or "album_id" not in asked or row_id in asset_ids)
            and (of != "assets" or asked.get("state") == "all" or row["trashed_at"] is None)
            and (of != "links" or "asset_id" not in asked or row["asset_id"] == asked["asset_id"])
            and (of != "links" or "album_id" not in asked or row["album_id"] == asked["album_id"])
            and (of != "faces" or "person_id" not in asked or row["person_id"] == asked["person_id"])
            and self.photos.is_shown(row)
        ]
        if "starting_after_id" in asked:
            fit = [(row_id, row) for row_id, row in fit if row_id < asked["starting_after_id"]]
        page = fit[: min(int(asked.get("limit", 20)), self.max_rows)]
        make: Callable[[str, Row, Iterable[str]], BaseModel] = getattr(self, f"_{of}")
        data = [make(row_id, row, asked.get("include", ())).model_dump(mode="json") for row_id, row in page]
        for item in data:
            if item["id"] in self.odd:
                (*steps, name), value = self.odd[item["id"]]
                part: Row = item
                for step in steps:
                    part = part.get(step) or {}
                part[name] = value
        return {"data": data, "has_more": len(fit) > len(page)}

    def _assets(self, asset: str, row: Row, include: Iterable[str]) -> AssetResponse:
        made: dict[str, Any] = {}
        dates = {"created_at": row["created_at"], "updated_at": row["updated_at"]}
        if "metadata" in include:
            made["metadata"] = MetadataResponse(asset_id=asset, rating=row["rating"], make="Canon", iso=100, **dates)
        if "file_data" in include:
            made["file_data"] = FileDataResponse(
                checksum=f"sha256-{asset}",
                checksum_sha1=row["sha1"],
                device_asset_id=asset,
                device_id="phone",
                file_created_at=row["created_at"],
                file_modified_at=row["created_at"],
                file_size_bytes=1000,
            )
        if "faces" in include:
            faces = self.photos.faces.items()
            shown = [(face, of) for face, of in faces if of["asset_id"] == asset and self.photos.is_shown(of)]
            made["faces"] = [self._faces(face, of, ()) for face, of in shown]
        return AssetResponse(
            id=asset,
            current_version_id=f"version_{asset}",
            file_size_bytes=1000,
            kind="original",
            local_datetime=row["created_at"] + timedelta(hours=2),
            mime_type=row["mime_type"],
            original_file_name=f"{asset}.jpg",
            stack_id=row["stack_id"],
            trashed_at=row["trashed_at"],
            width=4000,
            height=3000,
            **dates,
            **made,
        )

    def _albums(self, album: str, row: Row, _: Iterable[str]) -> AlbumResponse:
        fields = {name: value for name, value in row.items() if name != "library"}
        return AlbumResponse(id=album, asset_count=0, album_cover_asset_id=self.photos.cover_of(album), **fields)

    def _links(self, link: str, row: Row, _: Iterable[str]) -> AlbumAssetResponse:
        return AlbumAssetResponse(id=link, **row)

    def _people(self, person: str, row: Row, _: Iterable[str]) -> PersonResponse:
        fields = {name: value for name, value in row.items() if name != "library"}
        return PersonResponse(id=person, is_favorite=False, is_hidden=False, **fields)

    def _faces(self, face: str, row: Row, _: Iterable[str]) -> FaceResponse:
        return FaceResponse(id=face, bounding_box={"x": 10, "y": 20, "w": 100, "h": 200}, source="automatic", **row)

    def _stacks(self, stack: str, row: Row, include: Iterable[str]) -> StackListStacksResponse:
        living = self.photos.living_in(stack)
        fields = {name: value for name, value in row.items() if name != "library"}
        members = living if "asset_ids" in include else None
        return StackListStacksResponse(id=stack, asset_count=len(living), origin="user", asset_ids=members, **fields)


def _event(event: Recorded) -> Data:
    return Data(
        created_at=event.at,
        cursor=_cursor(event),
        entity_id=event.id,
        entity_type=event.entity,
        event_type=event.type,
        payload=event.payload,
    )


def _cursor(event: Recorded) -> str:
    return _opaque("cursor", event.number, event.order)


def _opaque(*parts: object) -> str:
    return base64.urlsafe_b64encode(":".join(map(str, parts)).encode()).decode()


def _told(kind: str, text: str) -> list[str]:
    try:
        found, *parts = base64.urlsafe_b64decode(text).decode().split(":")
    except ValueError:
        raise BadRequest from None
    if found != kind or not all(part.isdigit() for part in parts):
        raise BadRequest
    return parts
