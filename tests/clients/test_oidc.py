"""Signing in at a real OpenID provider, as the app (a native client) and as a web page do."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest

from endpoints.accounts.identity.oidc.config import OidcConfig
from endpoints.accounts.identity.oidc.oauth import challenge_of
from endpoints.accounts.identity.oidc.provider import OidcProvider
from endpoints.accounts.identity.port import Answer, Identity, ProviderUnavailable, SignInRefused
from tests.clients.oidc import NATIVE, WEB, Browser, Client, Oidc, oidc_process
from tests.support.sign_in.oidc_flow import assert_tells_nothing, query_of


@pytest.fixture(scope="module")
def running() -> Iterator[Oidc]:
    with oidc_process() as provider:
        yield provider


@pytest.fixture
def at(running: Oidc) -> Oidc:
    running.reset()
    return running


@pytest.fixture(autouse=True)
def _nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Let no log record of any library hold what a sign-in is made of."""
    caplog.set_level(logging.DEBUG)
    SignIn.hidden = {NATIVE.client_secret, WEB.client_secret, "@example.test"}
    yield
    own = [record for record in caplog.get_records("call") if record.threadName == "MainThread"]  # not the browser's
    logged = "\n".join(record.getMessage() for record in own)
    assert "HTTP Request: GET" in logged
    assert not [text for text in SignIn.hidden if text in logged]


class SignIn:
    """One sign-in in three steps, so that a test can change something between them."""

    hidden: set[str] = set()  # noqa: RUF012 - set anew for each test

    def __init__(self, at: Oidc, client: Client = NATIVE, **changes: Any) -> None:
        fitting: dict[str, Any] = {
            "issuer": at.issuer,
            "client_id": client.client_id,
            "client_secret": client.client_secret,
            "token_auth": client.token_auth,
        }
        self.at = at
        self.client = client
        self.provider = OidcProvider(OidcConfig(**{**fitting, **changes}))
        self.verifier = secrets.token_urlsafe(48)
        self.state = secrets.token_urlsafe()

    async def page(self) -> str:
        challenge = challenge_of(self.verifier)
        return (await self.provider.authorize(self.client.redirect_uri, self.state, challenge)).url

    async def answer(self, login: str = "ann", browser: Browser | None = None) -> Answer:
        page = await self.page()
        sent_to = await asyncio.to_thread(browser.sign_in if browser else lambda url: self.at.sign_in(url, login), page)
        assert sent_to.startswith(f"{self.client.redirect_uri}?")
        answer = Answer(**query_of(sent_to))
        self.hidden.update((answer.code, self.verifier))
        return answer

    async def finish(self, answer: Answer) -> Identity:
        identity = await self.provider.sign_in(answer, self.client.redirect_uri, self.verifier)
        assert identity.credential
        self.hidden.add(identity.credential)
        return identity

    async def refused(self, answer: Answer) -> SignInRefused:
        with pytest.raises(SignInRefused) as caught:
            await self.provider.sign_in(answer, self.client.redirect_uri, self.verifier)
        assert_tells_nothing(self.hidden, caught.value)
        return caught.value

    async def __aenter__(self) -> SignIn:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.provider.close()


@pytest.fixture
async def app(at: Oidc) -> AsyncIterator[SignIn]:
    """A sign-in of the app."""
    async with SignIn(at) as sign_in:
        yield sign_in


@pytest.mark.parametrize("client", [NATIVE, WEB], ids=["native", "web"])
async def test_a_user_signs_in(at: Oidc, client: Client) -> None:
    async with SignIn(at, client) as sign_in:
        answer = await sign_in.answer("ann")
        assert (answer.state, answer.iss) == (sign_in.state, at.issuer)
        identity = await sign_in.finish(answer)
    assert (identity.issuer, identity.subject) == (at.issuer, "ann")
    assert (identity.email, identity.name) == ("ann@example.test", "The User ann")
    assert (identity.user, identity.library, identity.admin, identity.provider_session) == (None, None, None, None)


async def test_a_browser_that_is_signed_in_does_it_again_without_a_password(at: Oidc) -> None:
    with at.browser("ben") as browser:
        for client in (NATIVE, WEB, NATIVE):
            async with SignIn(at, client) as sign_in:
                assert (await sign_in.finish(await sign_in.answer(browser=browser))).subject == "ben"


async def test_a_user_who_changes_their_mind_is_not_signed_in(app: SignIn) -> None:
    with app.at.browser() as browser:
        sent_to = await asyncio.to_thread(browser.cancel, await app.page())
    query = query_of(sent_to)
    answer = Answer(error=query["error"], state=query["state"], iss=query["iss"])
    error = await app.refused(answer)
    assert (error.reason, str(error)) == ("provider_refused", "The identity provider did not sign in: access_denied")


@pytest.mark.parametrize(
    ("login", "email", "name", "admin"),
    [
        ("userinfo-email", "userinfo-email@example.test", "The User userinfo-email", None),
        ("upper-email", "upper.email@example.test", "The User upper-email", None),
        ("no-name", "no-name@example.test", "no-name", None),
        ("with-role", "with-role@example.test", "The User with-role", True),
    ],
)
async def test_what_is_told_of_users(app: SignIn, login: str, email: str, name: str, admin: bool | None) -> None:
    identity = await app.finish(await app.answer(login))
    assert (identity.email, identity.name, identity.admin) == (email, name, admin)


async def test_claims_of_the_settings_are_read(at: Oidc) -> None:
    at.account("eve", id_token={"ledger_user": "user-eve"}, userinfo={"ledger_library": "family"})
    async with SignIn(at, user_claim="ledger_user", library_claim="ledger_library") as sign_in:
        identity = await sign_in.finish(await sign_in.answer("eve"))
    assert (identity.user, identity.library) == ("user-eve", "family")


async def test_a_user_without_an_address_is_refused(app: SignIn) -> None:
    error = await app.refused(await app.answer("no-email"))
    assert (error.reason, str(error)) == ("email_missing", "OAuth profile does not have an email address")


async def test_signed_userinfo_is_read(at: Oidc) -> None:
    at.client(NATIVE.client_id, userinfo_signed_response_alg="RS256")
    async with SignIn(at) as sign_in:
        assert (await sign_in.finish(await sign_in.answer("userinfo-email"))).email == "userinfo-email@example.test"


async def test_an_algorithm_must_be_configured(at: Oidc) -> None:
    at.client(NATIVE.client_id, id_token_signed_response_alg="ES256")
    async with SignIn(at) as sign_in:
        error = await sign_in.refused(await sign_in.answer())
    assert error.reason == "id_token_invalid"
    assert "LEDGER_OIDC_ALGORITHMS" in str(error)
    async with SignIn(at, algorithms=("RS256", "ES256")) as sign_in:
        assert (await sign_in.finish(await sign_in.answer())).subject == "ann"


async def test_a_wrong_verifier_is_refused(app: SignIn) -> None:
    answer = await app.answer()
    app.verifier = secrets.token_urlsafe(48)
    assert (await app.refused(answer)).reason == "code_refused"


async def test_another_state_does_not_fit_the_nonce(app: SignIn) -> None:
    answer = await app.answer()
    assert (await app.refused(answer._replace(state="another"))).reason == "nonce_mismatch"


async def test_a_page_asked_with_another_nonce_signs_nobody_in(app: SignIn) -> None:
    page = await app.page()
    wrong = page.replace(query_of(page)["nonce"], "n" * 43)
    answer = Answer(**query_of(await asyncio.to_thread(app.at.sign_in, wrong)))
    app.hidden.add(answer.code)
    assert (await app.refused(answer)).reason == "nonce_mismatch"


async def test_a_replayed_code_is_refused(app: SignIn) -> None:
    answer = await app.answer()
    await app.finish(answer)
    error = await app.refused(answer)
    assert (error.reason, str(error)) == ("code_refused", "The identity provider refused the code: invalid_grant")


async def test_a_code_of_another_redirect_address_is_refused(app: SignIn) -> None:
    answer = await app.answer()
    app.client = app.client._replace(redirect_uri="app.immich:///another")
    assert (await app.refused(answer)).reason == "code_refused"


async def test_a_wrong_secret_is_refused(at: Oidc) -> None:
    async with SignIn(at, client_secret="another-secret") as sign_in:
        sign_in.hidden.add("another-secret")
        error = await sign_in.refused(await sign_in.answer())
    assert (error.reason, str(error)) == ("code_refused", "The identity provider refused the code: invalid_client")


@pytest.mark.parametrize("iss", ["https://other.example", ""], ids=["another", "none"])
async def test_an_answer_that_does_not_name_its_provider_is_refused(app: SignIn, iss: str) -> None:
    answer = await app.answer()
    assert (await app.refused(answer._replace(iss=iss))).reason == "issuer_mismatch"


async def test_a_provider_known_by_another_name_is_not_used(at: Oidc) -> None:
    async with SignIn(at, issuer=at.issuer.replace("127.0.0.1", "localhost")) as sign_in:
        with pytest.raises(ProviderUnavailable, match="LEDGER_OIDC_ISSUER must be exactly that"):
            await sign_in.page()


@pytest.mark.parametrize(
    ("ahead_s", "reason"), [(-7200, "id_token_expired"), (50, "id_token_invalid")], ids=["expired", "future"]
)
async def test_tokens_of_another_time_are_refused(app: SignIn, ahead_s: float, reason: str) -> None:
    answer = await app.answer()
    app.at.clock(ahead_s)
    assert (await app.refused(answer)).reason == reason


async def test_a_clock_that_differs_a_little_is_fine(app: SignIn) -> None:
    app.at.clock(20)
    assert (await app.finish(await app.answer())).subject == "ann"


@pytest.mark.parametrize("keep_old", [True, False])
async def test_rotated_keys_are_found(app: SignIn, keep_old: bool) -> None:
    await app.finish(await app.answer())
    app.at.rotate_keys(keep_old=keep_old)
    assert (await app.finish(await app.answer())).subject == "ann"


async def test_keys_rotated_during_a_sign_in_are_found(app: SignIn) -> None:
    await app.finish(await app.answer())
    answer = await app.answer()
    app.at.rotate_keys()
    assert (await app.finish(answer)).subject == "ann"


@contextmanager
def back_channel() -> Iterator[tuple[str, list[str]]]:
    """Listen for logout tokens; yields the address and those that came."""
    tokens: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
            tokens.extend(form["logout_token"])
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    listener = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.server_port}/backchannel", tokens
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


async def test_a_logout_at_the_provider_is_told_through_the_back_channel(at: Oidc) -> None:
    with back_channel() as (address, tokens), at.browser("cat") as browser:
        at.back_channel(NATIVE.client_id, address)
        at.client(NATIVE.client_id, post_logout_redirect_uris=["app.immich:///bye"])
        async with SignIn(at) as app:
            identity = await app.finish(await app.answer(browser=browser))
            assert identity.provider_session
            page = await app.provider.logout_url(identity.credential, "app.immich:///bye")
            assert page is not None
            assert await asyncio.to_thread(browser.sign_out, page) == "app.immich:///bye"
            assert len(tokens) == 1
            app.hidden.update(tokens)
            ended = await app.provider.logged_out(tokens[0])
            assert ended[:3] == (at.issuer, "cat", identity.provider_session)
            at.rotate_keys()
            await app.finish(await app.answer())  # with the new keys known, the old one's token is none
            with pytest.raises(SignInRefused) as caught:
                await app.provider.logged_out(tokens[0])
    assert caught.value.reason == "logout_token_invalid"


async def test_sign_ins_of_one_browser_are_one_session_at_the_provider_for_each_client(at: Oidc) -> None:
    with back_channel() as (address, _), at.browser() as browser:
        at.back_channel(NATIVE.client_id, address)
        found = set()
        for _ in range(2):
            async with SignIn(at) as app:
                found.add((await app.finish(await app.answer(browser=browser))).provider_session)
        async with SignIn(at) as app:
            found.add((await app.finish(await app.answer())).provider_session)
    assert len(found) == 2
