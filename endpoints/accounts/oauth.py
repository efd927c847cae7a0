"""Signing in at an identity provider: /oauth/*, under /api and at the root."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, TypeVar
from urllib.parse import parse_qs

import falcon
import falcon.asgi
import msgspec

from endpoints.accounts import cookies
from endpoints.accounts.device_descriptions import device_of
from endpoints.accounts.identity.port import Identity, SignInRefused
from endpoints.accounts.provider_logout import end_sessions
from endpoints.accounts.redirects import MAX_REDIRECT_URI_CHARS, MAX_URL_CHARS, app_location
from endpoints.accounts.sign_in import MAX_STATE_CHARS, Kept, SignIn, check_wishes, counted
from endpoints.accounts.users import UserAdminResponseDto, describe
from endpoints.http import bodies
from endpoints.http.operations import NOBODY, Operation, Route, Text
from endpoints.http.replies import iso_ms, send
from endpoints.http.request import Request
from endpoints.services import Services

MAX_BODY_BYTES: Final = 32 << 10
FORM: Final = "application/x-www-form-urlencoded"
T = TypeVar("T")
RedirectUri = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_REDIRECT_URI_CHARS)]
Url = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_URL_CHARS)]
State = Annotated[str, msgspec.Meta(max_length=MAX_STATE_CHARS)]
Verifier = Annotated[str, msgspec.Meta(max_length=128)]


class OAuthConfigDto(msgspec.Struct, frozen=True, rename="camel"):
    """A sign-in to begin; a client that keeps state and verifier itself gives the state and the S256 challenge."""

    redirect_uri: RedirectUri
    state: State | None = None
    code_challenge: str | None = None


class OAuthAuthorizeResponseDto(msgspec.Struct, frozen=True):
    """The provider's page to send the user to."""

    url: str


class OAuthCallbackDto(msgspec.Struct, frozen=True, rename="camel"):
    """The address the user came back to, with what the client kept; without that the cookies are looked at."""

    url: Url
    state: State | None = None
    code_verifier: Verifier | None = None


class LoginResponseDto(msgspec.Struct, frozen=True, rename="camel"):
    """Who signed in, and the token of the session."""

    access_token: str
    user_id: str
    user_email: str
    name: str
    profile_image_path: str
    is_admin: bool
    should_change_password: bool
    is_onboarded: bool = True


_decode_config: Final = msgspec.json.Decoder(OAuthConfigDto)
_decode_callback: Final = msgspec.json.Decoder(OAuthCallbackDto)


class OAuth:
    """Sign-ins from their beginning to their session."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._sign_in = SignIn(services)

    async def on_post_authorize(self, req: Request, resp: falcon.asgi.Response) -> None:
        """Send the user to the provider."""
        await self._enter(req, resp)
        body = await _body(req, _decode_config)
        check_wishes(body.redirect_uri, body.state, body.code_challenge)
        services = self._services
        async with counted(services, req, resp):
            begun = await self._sign_in.begin(body.redirect_uri, body.state, body.code_challenge)
        cookies.set_oauth(
            resp, req, begun.state, begun.verifier, services.settings.secure_cookies, services.ledger.clock()
        )
        send(resp, OAuthAuthorizeResponseDto(begun.url), falcon.HTTP_201)

    async def on_post_callback(self, req: Request, resp: falcon.asgi.Response) -> None:
        """Sign in whom the provider sent back."""
        await self._enter(req, resp)
        services = self._services
        async with counted(services, req, resp):
            identity = await self._identify(req)
            profile = await self._sign_in.profile_of(identity)
            user = await describe(services, profile.user, profile.library, iso_ms(services.ledger.clock()))
            issued = await self._sign_in.open_session(identity, profile, device_of(req))
        cookies.clear(resp, *cookies.OAUTH)
        cookies.set_access(
            resp, req, issued.token, cookies.OAUTH_SIGN_IN, services.settings.secure_cookies, services.ledger.clock()
        )
        send(resp, _login(issued.token, user), falcon.HTTP_201)

    async def on_post_link(self, req: Request, resp: falcon.asgi.Response) -> None:
        """Let the user who is signed in also sign in with the identity that comes back."""
        await self._enter(req, resp)
        services = self._services
        state = await services.ledger.admit(await services.auth.session(req, "user.update"))
        async with counted(services, req, resp):
            identity = await self._identify(req)
            await self._sign_in.link(identity, state.user, state.library)
        cookies.clear(resp, *cookies.OAUTH)
        send(resp, await describe(services, state.user, state.library, iso_ms(state.created_at_us)))

    async def on_post_unlink(self, req: Request, resp: falcon.asgi.Response) -> None:
        """Let the user who is signed in no longer sign in with any identity linked to them."""
        services = self._services
        state = await services.ledger.admit(await services.auth.session(req, "user.update"))
        async with counted(services, req):
            self._sign_in.provider()
        await services.identities.unlink(state.user)
        await services.claim_conflicts.forget(state.user)
        send(resp, await describe(services, state.user, state.library, iso_ms(state.created_at_us)))

    async def on_get_mobile_redirect(self, req: Request, resp: falcon.asgi.Response) -> None:
        """Hand what an https redirect URI got on to the app, as it is."""
        resp.set_headers({"location": app_location(req.scope["query_string"]), "referrer-policy": "no-referrer"})
        resp.set_header("cache-control", "no-store")
        resp.status = falcon.HTTP_307

    async def on_post_backchannel_logout(self, req: Request, resp: falcon.asgi.Response) -> None:
        """End what the provider says is over: OpenID Connect Back-Channel Logout 1.0."""
        resp.set_header("cache-control", "no-store")
        services = self._services
        form = await bodies.read(req, limit=MAX_BODY_BYTES)
        async with counted(services, req):
            sender = self._services.backend_logout or self._sign_in.provider()
            try:
                over = await sender.logged_out(_logout_token(form))
            except SignInRefused:
                await services.limits.bad_token(req, None)
                raise
        await end_sessions(services, sender, over)

    async def _enter(self, req: Request, resp: falcon.asgi.Response) -> None:
        """Look at who asks before anything is read: answers are secrets here, and cookies are trusted for the state."""
        resp.set_header("cache-control", "no-store")
        self._services.auth.origins.check(req)
        await self._services.limits.sign_in(req)

    async def _identify(self, req: Request) -> Identity:
        kept = Kept(cookies.read(req, cookies.OAUTH_STATE), cookies.read(req, cookies.OAUTH_VERIFIER))
        body = await _body(req, _decode_callback)
        return await self._sign_in.identify(body.url, Kept(body.state or "", body.code_verifier or ""), kept)


async def _body(req: Request, decoder: msgspec.json.Decoder[T]) -> T:
    return bodies.parse(await bodies.read(req, limit=MAX_BODY_BYTES), decoder)


def _logout_token(form: bytes) -> str:
    try:
        given = parse_qs(form.decode("ascii"), max_num_fields=16).get("logout_token", [])
    except ValueError:
        given = []
    if len(given) != 1:
        raise SignInRefused("logout_token_invalid", "A form with one logout_token is expected")
    return given[0]


def _login(token: str, user: UserAdminResponseDto) -> LoginResponseDto:
    return LoginResponseDto(
        access_token=token,
        user_id=user.id,
        user_email=user.email,
        name=user.name,
        profile_image_path=user.profile_image_path,
        is_admin=user.is_admin,
        should_change_password=user.should_change_password,
    )


def routes(services: Services) -> Iterator[Route]:
    """List the routes, under /api and at the root."""
    oauth = OAuth(services)
    logout = Text(FORM, "logout_token=…, a logout token of the provider's")
    for prefix, ending in (("/api/oauth", ""), ("/oauth", "AtRoot")):
        for name, operation in (
            (
                "authorize",
                Operation(
                    "POST",
                    "startOAuth",
                    "Begin to sign in at the identity provider",
                    {201: OAuthAuthorizeResponseDto},
                    NOBODY,
                    body=OAuthConfigDto,
                    refusals=(403, 429, 503),
                ),
            ),
            (
                "callback",
                Operation(
                    "POST",
                    "finishOAuth",
                    "Sign in whom the identity provider sent back",
                    {201: LoginResponseDto},
                    NOBODY,
                    body=OAuthCallbackDto,
                    refusals=(403, 429, 431, 503),
                ),
            ),
            (
                "link",
                Operation(
                    "POST",
                    "linkOAuthAccount",
                    "Sign in with another identity, too",
                    {200: UserAdminResponseDto},
                    body=OAuthCallbackDto,
                    refusals=(429,),
                ),
            ),
            (
                "unlink",
                Operation(
                    "POST",
                    "unlinkOAuthAccount",
                    "Sign in with no identity any more",
                    {200: UserAdminResponseDto},
                ),
            ),
            (
                "mobile-redirect",
                Operation(
                    "GET", "redirectOAuthToMobile", "Hand the provider's answer on to the app", {307: None}, NOBODY
                ),
            ),
            (
                "backchannel-logout",
                Operation(
                    "POST",
                    "logoutOAuth",
                    "End what the identity provider says is over",
                    {200: None},
                    NOBODY,
                    body=logout,
                    refusals=(429, 503),
                ),
            ),
        ):
            described = msgspec.structs.replace(operation, id=operation.id + ending)
            yield Route(f"{prefix}/{name}", oauth, (described,), suffix=name.replace("-", "_"))
