"""Signing in at the console, by API key, by a link that works once, or at the identity provider; and out again."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import Final

import falcon
import falcon.asgi

from endpoints.accounts.device_descriptions import Device, device_of
from endpoints.accounts.identity.port import SignInRefused
from endpoints.accounts.sign_in import Kept, SignIn, counted
from endpoints.console.pages import PLACE, SIGN_IN, go_on, safe_next, show
from endpoints.console.visitors import SEE, STATE, NotSignedIn, Visitor, Visitors, one
from endpoints.http.errors import Forbidden
from endpoints.http.request import Request
from endpoints.services import Services
from ledger.commands import EndSession
from ledger.errors import SessionEnded
from ledger.personal import plain
from projections.accounts.api_keys import ApiKeys
from projections.accounts.console_access import SESSION_US, Holder

CALLBACK: Final = f"{PLACE}/callback"
_NO_KEY: Final = "That is no API key of this ledger. Make one: syncledger key create --scope audit.read"
_NO_SCOPE: Final = f"This API key lacks the scope {SEE}. Make another: syncledger key create --scope {SEE}"
_NO_LINK: Final = "This link was used before, or is older than five minutes. Make another: syncledger console link"


class SignInPage:
    """The form for an API key, with the other ways beside it."""

    def __init__(self, services: Services, visitors: Visitors) -> None:
        self._services = services
        self._visitors = visitors
        self._keys = ApiKeys(services.ledger.store)

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        self._show(req, resp, safe_next(req.get_param("next") or ""))

    async def on_post(self, req: Request, resp: falcon.asgi.Response) -> None:
        fields = await self._visitors.first_form(req)
        place, text = safe_next(one(fields, "next")), one(fields, "key").strip()
        key = await self._keys.find(text) if text else None
        if key is None:
            await self._services.limits.bad_token(req, None)
            await self._services.counters.note("bad_tokens")
            self._show(req, resp, place, _NO_KEY)
        elif not key.may(SEE):
            self._show(req, resp, place, _NO_SCOPE)
        else:
            digest = hashlib.sha256(text.encode()).hexdigest()
            await self._visitors.sign_in(req, resp, Holder("key", key_hash=digest))
            go_on(resp, place)

    def _show(self, req: Request, resp: falcon.asgi.Response, place: str, wrong: str = "") -> None:
        show(
            resp,
            "sign_in.html",
            None,
            status=falcon.HTTP_403 if wrong else falcon.HTTP_200,
            next=place,
            wrong=wrong,
            form_token=self._visitors.first_token(req, resp),
            elsewhere=self._services.settings.sessions_elsewhere,
            provider=self._services.settings.oauth_button_text if self._services.provider is not None else "",
        )


class Link:
    """A link whose fragment holds the secret: browsers send that to nobody, so no log and no proxy has it."""

    def __init__(self, services: Services, visitors: Visitors) -> None:
        self._services = services
        self._visitors = visitors

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        show(resp, "link.html", None, form_token=self._visitors.first_token(req, resp), wrong="")

    async def on_post(self, req: Request, resp: falcon.asgi.Response) -> None:
        fields = await self._visitors.first_form(req)
        secret = one(fields, "secret").strip().rpartition("#")[2]
        with suppress(NotSignedIn):
            here = await self._visitors.of(req)
            if one(fields, "instead") != here.form_token:
                self._ask(req, resp, here, secret)
                return
        holder = await self._visitors.access.take_link(secret, self._services.ledger.clock()) if secret else None
        if holder is not None and await self._visitors.sign_in(req, resp, holder):
            go_on(resp, PLACE)
            return
        await self._services.limits.bad_token(req, None)
        token = self._visitors.first_token(req, resp)
        show(resp, "link.html", None, status=falcon.HTTP_403, form_token=token, wrong=_NO_LINK)

    def _ask(self, req: Request, resp: falcon.asgi.Response, here: Visitor, secret: str) -> None:
        """Ask who is signed in already whether they mean to be somebody else; the link is not used by that."""
        token = self._visitors.first_token(req, resp)
        show(resp, "link_instead.html", None, here=here, secret=secret, form_token=token)


class Provider:
    """The way to the identity provider and back: two requests, tied together by a cookie."""

    def __init__(self, services: Services, visitors: Visitors) -> None:
        self._services = services
        self._visitors = visitors
        self._sign_in = SignIn(services)

    async def on_get(self, req: Request, resp: falcon.asgi.Response) -> None:
        """Send the user to the provider."""
        self._check(req)
        await self._services.limits.sign_in(req)
        async with counted(self._services, req):
            begun = await self._sign_in.begin(self._address(req), None, None)
        self._visitors.keep_state(req, resp, f"{begun.state}.{begun.verifier or ''}")
        go_on(resp, "")
        resp.set_header("location", begun.url)

    async def on_get_callback(self, req: Request, resp: falcon.asgi.Response) -> None:
        """Sign in whom the provider sent back.

        The answer is a page that goes on by itself: a redirect would still be the provider's, and the cookie that is
        set here would not be sent with it.
        """
        self._check(req)
        await self._services.limits.sign_in(req)
        state, _, verifier = self._visitors.state(req).rpartition(".")
        self._visitors.forget(req, resp, STATE)
        services = self._services
        try:
            async with counted(services, req):
                url = f"{self._address(req)}?{req.query_string}"
                identity = await self._sign_in.identify(url, Kept(), Kept(state, verifier))
                profile = await self._sign_in.profile_of(identity)
                device = device_of(req)
                issued = await self._sign_in.open_session(
                    identity, profile, Device(device.type, device.os), lasts_us=SESSION_US
                )
        except SignInRefused as refused:
            raise Forbidden(str(refused)) from refused
        await self._visitors.sign_in(req, resp, Holder("user", user=profile.user, sid=issued.sid))
        show(resp, "signed_in.html", None, place=PLACE)

    def _check(self, req: Request) -> None:
        if self._services.provider is None:
            raise falcon.HTTPNotFound(description="No identity provider is set up here: sign in with an API key")

    def _address(self, req: Request) -> str:
        """Tell the address to come back to, which must be registered at the provider."""
        origin = self._services.settings.external_domain or f"{req.scheme}://{req.netloc}"
        return origin.rstrip("/") + CALLBACK


class SignOut:
    """The end of a session of the console, in the store and on every worker."""

    def __init__(self, services: Services, visitors: Visitors) -> None:
        self._services = services
        self._visitors = visitors

    async def on_post(self, req: Request, resp: falcon.asgi.Response) -> None:
        try:
            await self._visitors.form(req)
        except NotSignedIn:
            go_on(resp, SIGN_IN)
            return
        holder = await self._visitors.sign_out(req, resp)
        if holder is not None and holder.kind == "user":
            await self._end(holder)
        go_on(resp, SIGN_IN)
        resp.set_header("clear-site-data", '"cache"')

    async def _end(self, holder: Holder) -> None:
        """End the session that the user began by signing in here."""
        with suppress(SessionEnded):
            command = EndSession("logout", by=plain(holder.user))
            await self._services.ledger.execute(holder.user, holder.sid, command)
