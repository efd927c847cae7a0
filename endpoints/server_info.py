"""What a client asks before it signs in: is this a server, which version, what can it do."""

from __future__ import annotations

from collections.abc import Iterator

import falcon.asgi
import msgspec

from endpoints.http.operations import NOBODY, Operation, Route
from endpoints.http.replies import send
from endpoints.http.request import Request
from endpoints.services import Services


class ServerPingResponse(msgspec.Struct, frozen=True):
    """The answer to a ping."""

    res: str = "pong"


class ServerVersionResponseDto(msgspec.Struct, frozen=True):
    """The version of the protocol that is spoken: the app asks for its types, and refuses another major version."""

    major: int
    minor: int
    patch: int
    prerelease: int | None = None


class ServerFeaturesDto(msgspec.Struct, frozen=True, rename="camel"):
    """What the app may offer: nothing that needs more than accounts and sync."""

    config_file: bool = False
    duplicate_detection: bool = False
    email: bool = False
    facial_recognition: bool = False
    import_faces: bool = False
    map: bool = False
    oauth: bool = False
    oauth_auto_launch: bool = False
    ocr: bool = False
    password_login: bool = False
    realtime_transcoding: bool = False
    reverse_geocoding: bool = False
    search: bool = False
    sidecar: bool = False
    smart_search: bool = False
    trash: bool = False


class ServerConfigDto(msgspec.Struct, frozen=True, rename="camel"):
    """What the app shows; numbers are upstream's defaults."""

    external_domain: str = ""
    is_initialized: bool = True
    is_onboarded: bool = True
    login_page_message: str = ""
    maintenance_mode: bool = False
    map_dark_style_url: str = "https://tiles.immich.cloud/v1/style/dark.json"
    map_light_style_url: str = "https://tiles.immich.cloud/v1/style/light.json"
    min_faces: int = 3
    oauth_button_text: str = "Login with OAuth"
    public_users: bool = True
    trash_days: int = 30
    user_delete_delay: int = 7


class ServerAboutResponseDto(msgspec.Struct, frozen=True, rename="camel"):
    """What this server is."""

    version: str
    version_url: str = ""
    licensed: bool = False
    build: str = "syncledger"


class Fixed:
    """A resource whose answer never changes while the service runs."""

    def __init__(self, body: msgspec.Struct) -> None:
        self._body = body

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        send(resp, self._body)


class Version:
    """The version that is announced; beside a backend it follows that one's."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        send(resp, ServerVersionResponseDto(*await self._services.protocol_version()))


class About:
    """The version, for those who are signed in."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        await self._services.ledger.admit(await self._services.auth.session(req, "server.about"))
        send(resp, ServerAboutResponseDto(f"v{await self._services.protocol_version()}"))


def routes(services: Services) -> Iterator[Route]:
    """List the routes under /api/server."""
    settings = services.settings
    features = ServerFeaturesDto(
        oauth=services.provider is not None,
        oauth_auto_launch=settings.oauth_auto_launch,
        password_login=bool(settings.tokens_elsewhere),  # at the backend that gives tokens out
    )
    config = ServerConfigDto(
        external_domain=settings.external_domain,
        login_page_message=settings.login_page_message,
        oauth_button_text=settings.oauth_button_text,
    )
    fixed = (
        ("ping", "pingServer", "Tell that this is a server", ServerPingResponse()),
        ("features", "getServerFeatures", "Tell what the server offers", features),
        ("config", "getServerConfig", "Tell what the app shows", config),
    )
    for name, operation, summary, body in fixed:
        yield Route(
            f"/api/server/{name}",
            Fixed(body),
            (Operation("GET", operation, summary, {200: type(body)}, NOBODY),),
        )
    version = Operation(
        "GET", "getServerVersion", "Tell the version of the protocol", {200: ServerVersionResponseDto}, NOBODY
    )
    yield Route("/api/server/version", Version(services), (version,))
    about = Operation("GET", "getAboutInfo", "Tell what this server is", {200: ServerAboutResponseDto})
    yield Route("/api/server/about", About(services), (about,))
