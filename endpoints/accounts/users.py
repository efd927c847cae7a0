"""The signed-in user, from the library's own `AuthUserV1` row where the source has one, else from their identity."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any, Final

import falcon.asgi
import msgspec

from endpoints.accounts.device_descriptions import Device, device_of
from endpoints.http.operations import Operation, Route
from endpoints.http.replies import iso_ms, send
from endpoints.http.request import Request
from endpoints.services import Services
from ledger.admission import Caller
from ledger.commands import DescribeDevice
from ledger.personal import plain, text_of
from ledger.state import State
from projections.accounts.person import Profile, shown_email, shown_name
from projections.archive.errors import ArchiveUnavailable
from projections.entities.source import SourceUnavailable

log = logging.getLogger(__name__)

NO_CLUSTER: Final = "00000000-0000-0000-0000-000000000000"
ARCHIVE_BYTES: Final = 4 << 30  # upstream's default


class UserLicense(msgspec.Struct, frozen=True, rename="camel"):
    """A licence of upstream's."""

    activated_at: str
    activation_key: str
    license_key: str


class UserAdminResponseDto(msgspec.Struct, frozen=True, rename="camel"):
    """A user as the user themself sees it."""

    id: str
    email: str
    name: str
    created_at: str
    updated_at: str
    profile_changed_at: str
    avatar_color: str = "primary"
    cluster_group_id: str = NO_CLUSTER
    deleted_at: str | None = None
    is_admin: bool = False
    license: UserLicense | None = None
    oauth_id: str = ""
    profile_image_path: str = ""
    quota_size_in_bytes: int | None = None
    quota_usage_in_bytes: int | None = None
    should_change_password: bool = False
    status: str = "active"
    storage_label: str | None = None


class AlbumsResponse(msgspec.Struct, frozen=True, rename="camel"):
    """Preferences of albums."""

    default_asset_order: str = "desc"


class CastResponse(msgspec.Struct, frozen=True):
    """Preferences of casting."""

    g_cast_enabled: bool = msgspec.field(default=False, name="gCastEnabled")


class DownloadResponse(msgspec.Struct, frozen=True, rename="camel"):
    """Preferences of downloads."""

    archive_size: int = ARCHIVE_BYTES
    include_embedded_videos: bool = False


class EmailNotificationsResponse(msgspec.Struct, frozen=True, rename="camel"):
    """Preferences of notifications."""

    album_invite: bool = True
    album_update: bool = True
    enabled: bool = True


class FoldersResponse(msgspec.Struct, frozen=True, rename="camel"):
    """Preferences of the folder view."""

    enabled: bool = False
    sidebar_web: bool = False


class MemoriesResponse(msgspec.Struct, frozen=True, rename="camel"):
    """Preferences of memories; `duration` in seconds."""

    duration: int = 5
    enabled: bool = True
    sidebar_web: bool = False


class PeopleResponse(msgspec.Struct, frozen=True, rename="camel"):
    """Preferences of the people view."""

    enabled: bool = True
    sidebar_web: bool = False


class PurchaseResponse(msgspec.Struct, frozen=True, rename="camel"):
    """Preferences of the purchase view."""

    hide_buy_button_until: str = "2022-02-12T00:00:00.000Z"
    show_support_badge: bool = True


class RatingsResponse(msgspec.Struct, frozen=True):
    """Preferences of star ratings."""

    enabled: bool = False


class RecentlyAddedResponse(msgspec.Struct, frozen=True, rename="camel"):
    """Preferences of the recently added view."""

    sidebar_web: bool = False


class SharedLinksResponse(msgspec.Struct, frozen=True, rename="camel"):
    """Preferences of shared links."""

    enabled: bool = True
    sidebar_web: bool = False


class TagsResponse(msgspec.Struct, frozen=True, rename="camel"):
    """Preferences of tags."""

    enabled: bool = False
    sidebar_web: bool = False


class UserPreferencesResponseDto(msgspec.Struct, frozen=True, rename="camel"):
    """All preferences; the values are upstream's defaults."""

    albums: AlbumsResponse = AlbumsResponse()
    cast: CastResponse = CastResponse()
    download: DownloadResponse = DownloadResponse()
    email_notifications: EmailNotificationsResponse = EmailNotificationsResponse()
    folders: FoldersResponse = FoldersResponse()
    memories: MemoriesResponse = MemoriesResponse()
    people: PeopleResponse = PeopleResponse()
    purchase: PurchaseResponse = PurchaseResponse()
    ratings: RatingsResponse = RatingsResponse()
    recently_added: RecentlyAddedResponse = RecentlyAddedResponse()
    shared_links: SharedLinksResponse = SharedLinksResponse()
    tags: TagsResponse = TagsResponse()


class Me:
    """The signed-in user."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        """Answer what an app asks first when it starts; what it says of itself is noted if it changed."""
        ledger = self._services.ledger
        caller = await self._services.auth.session(req, "user.read")
        known = ledger.admissions.remembered(caller)
        looked = None if known is None else asyncio.ensure_future(_told(self._services, known.user, known.library))
        try:
            state = await ledger.admit(caller)
            device = device_of(req)
            if device.is_app:
                state = await self._described(caller, state, device, req)
            if looked is None or known is None or known.library != state.library:
                told = await _told(self._services, state.user, state.library)
            else:
                told = await looked
        finally:
            if looked is not None and not looked.cancel() and not looked.cancelled():
                looked.exception()  # who is not admitted is told nothing of it
        send(resp, user_of(state.user, iso_ms(state.created_at_us), *told))

    async def _described(self, caller: Caller, state: State, device: Device, req: Request) -> State:
        """Note what an app says of itself if it changed; it starts also while no key of its user can be had."""
        ledger = self._services.ledger
        try:
            known = await ledger.sealing.opened(state)
            if device != tuple(map(text_of, (known.device_type, known.device_os, known.app_version))):
                return await ledger.act(caller, DescribeDevice(*map(plain, device)))
        except ArchiveUnavailable as error:
            log.warning("what a device says of itself is not noted: %s [%s]", error, req.correlation_id)
        return state

    async def on_get_preferences(self, req: Request, resp: falcon.asgi.Response) -> None:
        await self._services.ledger.admit(await self._services.auth.session(req, "userPreference.read"))
        send(resp, UserPreferencesResponseDto())


async def describe(services: Services, user: str, library: str, since: str) -> UserAdminResponseDto:
    """Describe a user by the library's row of them, without one by what their identity provider told.

    So a sign-in goes on while the source is down, if it was by a provider; else SourceUnavailable is raised.
    """
    return user_of(user, since, *await _told(services, user, library))


async def _told(services: Services, user: str, library: str) -> tuple[dict[str, Any], Profile | None]:
    """Read what a user is described by: the library's row of them, and without one their profile."""
    try:
        row = await services.auth_user(library, user)
    except SourceUnavailable as error:
        profile = await services.identities.profile(user)
        if profile is None:
            raise
        log.warning("a user is described by their identity: %s", error)
        return {}, profile
    return row or {}, None if row else await services.identities.profile(user)


def user_of(user: str, since: str, row: dict[str, Any], profile: Profile | None) -> UserAdminResponseDto:
    """Describe a user by a row or a profile; without both by what a session knows: the id, and `since` when."""
    changed = row.get("profileChangedAt") or since
    return UserAdminResponseDto(
        id=user,
        email=row.get("email") or shown_email(user, profile),
        name=row.get("name") or shown_name(user, profile),
        created_at=since,
        updated_at=changed,
        profile_changed_at=changed,
        avatar_color=row.get("avatarColor") or "primary",
        deleted_at=row.get("deletedAt"),
        is_admin=bool(row.get("isAdmin", profile is not None and profile.admin)),
        oauth_id=row.get("oauthId") or "",
        quota_size_in_bytes=row.get("quotaSizeInBytes"),
        quota_usage_in_bytes=row.get("quotaUsageInBytes"),
        storage_label=row.get("storageLabel"),
    )


def routes(services: Services) -> Iterator[Route]:
    """List the routes under /api/users."""
    me = Me(services)
    read = Operation("GET", "getMyUser", "Tell who is signed in", {200: UserAdminResponseDto})
    yield Route("/api/users/me", me, (read,))
    preferences = Operation("GET", "getMyPreferences", "Tell the user's preferences", {200: UserPreferencesResponseDto})
    yield Route("/api/users/me/preferences", me, (preferences,), suffix="preferences")
