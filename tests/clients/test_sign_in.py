"""From a sign-in at a real OpenID provider to a full sync: as the app does it, and as a browser does it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from ops.demo_library import DemoLibrary
from ops.simulate.api import Presentation
from ops.simulate.device import Device
from tests.clients.oidc import NATIVE, Browser, Oidc, oidc_process
from tests.clients.sdk import Sdk, SdkError, sdk_process
from tests.support.processes.running import RunningService
from tests.support.stores.servers import wait_until

LIBRARY = "photos-of-ann"
APP = {"User-Agent": "immich-ios/3.2.0", "deviceModel": "iPhone 17", "deviceType": "iOS"}
BROWSER = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0"}
Json = dict[str, Any]


@pytest.fixture(scope="module")
def provider() -> Iterator[Oidc]:
    with oidc_process() as provider:
        yield provider


@pytest.fixture(scope="module")
def service(provider: Oidc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with two workers, a library, and one client for the app and for browsers."""
    with RunningService(
        tmp_path_factory.mktemp("sign-in"),
        workers=2,
        oidc_issuer=provider.issuer,
        oidc_client_id=NATIVE.client_id,
        oidc_client_secret=NATIVE.client_secret,
        oidc_library_claim="ledger_library",
        sign_in_limit="1000/minute",
        account_limit="1000/minute",
        external_domain="",
    ) as service:
        web = f"{service.url}/auth/login"
        provider.client(NATIVE.client_id, redirect_uris=[NATIVE.redirect_uri, web], post_logout_redirect_uris=[web])
        provider.back_channel(NATIVE.client_id, f"{service.url}/api/oauth/backchannel-logout")
        for login in ("ann", "with-role", "userinfo-email"):
            claims = {"ledger_library": LIBRARY} | ({"immich_role": "admin"} if login == "with-role" else {})
            if login == "userinfo-email":
                provider.account(login, id_token={**claims, "email": None}, userinfo=claims)
            else:
                provider.account(login, id_token=claims, userinfo=claims)
        provider.account("bob", id_token={"ledger_library": "photos-of-bob"})
        upper = {"ledger_library": LIBRARY, "email": "  Upper.Email@Example.TEST "}
        provider.account("upper-email", id_token=upper)
        service.put(LIBRARY, DemoLibrary(user="ann", name="Ann", assets=300))
        yield service


@pytest.fixture
def sdk() -> Iterator[Sdk]:
    with sdk_process() as sdk:
        yield sdk


class App:
    """The app's half of a sign-in: it makes state and verifier itself and sends them along."""

    def __init__(self, sdk: Sdk, service: RunningService) -> None:
        self.state, self.verifier = secrets.token_urlsafe(24), secrets.token_urlsafe(48)
        self._sdk = sdk
        sdk.present(service.url, **{name.replace("-", "_"): value for name, value in APP.items()})

    def begin(self) -> str:
        challenge = create_s256_code_challenge(self.verifier)
        body = {"redirectUri": NATIVE.redirect_uri, "state": self.state, "codeChallenge": challenge}
        return str(self._sdk("startOAuth", {"oAuthConfigDto": body})["url"])

    def finish(self, url: str, **instead: str) -> Json:
        body = {"url": url, "state": self.state, "codeVerifier": self.verifier, **instead}
        answer: Json = self._sdk("finishOAuth", {"oAuthCallbackDto": body})
        return answer


def sessions(service: RunningService) -> int:
    """Count the living sessions there are."""
    with service.store() as store:
        return sum(1 for _ in store.scan_iter("{p*}:session:*", count=1000))


def sync(service: RunningService, token: str, folder: Path, present: Presentation) -> None:
    """Sync a device to its end, and find that there is nothing more."""
    with Device(service.url, token, folder / "device.db", present=present) as device:
        first = device.sync()
        assert first.complete
        assert first.by_type["AssetV2"] == 300
        assert first.duplicates == 0
        assert device.sync().lines == 1


def browser_of(service: RunningService) -> httpx.Client:
    origin = {"Origin": service.url, "Sec-Fetch-Site": "same-origin"}
    return httpx.Client(base_url=service.url, headers={**BROWSER, **origin}, timeout=30, trust_env=False)


@contextmanager
def signed_in_browser(service: RunningService, provider: Oidc, login: str) -> Iterator[tuple[httpx.Client, Browser]]:
    """Sign in as the web client does, state and verifier in cookies; gives it and the same browser at the provider."""
    with browser_of(service) as web, provider.browser(login) as at_provider:
        begun = web.post("/api/oauth/authorize", json={"redirectUri": f"{service.url}/auth/login"})
        assert begun.status_code == 201, begun.text
        answer = web.post("/api/oauth/callback", json={"url": at_provider.sign_in(begun.json()["url"])})
        assert answer.status_code == 201, answer.text
        yield web, at_provider


def test_the_app_signs_in_and_syncs(service: RunningService, provider: Oidc, sdk: Sdk, tmp_path: Path) -> None:
    app = App(sdk, service)
    assert sdk("getServerFeatures")["oauth"] is True
    answer = app.finish(provider.sign_in(app.begin(), login="ann"))
    assert answer["userEmail"] == "ann@example.test"
    assert answer["name"] == "The User ann"
    assert answer["isAdmin"] is False
    sdk.present(service.url, Authorization=f"Bearer {answer['accessToken']}")
    (device,) = [row for row in sdk("getSessions") if row["current"]]
    assert (device["deviceType"], device["deviceOS"], device["appVersion"]) == ("iPhone 17", "iOS", "3.2.0")
    assert "expiresAt" not in device, "the app cannot refresh"
    assert sdk("getMyUser")["email"] == "ann@example.test"
    sync(service, answer["accessToken"], tmp_path, "cookie")
    assert sdk("logout")["successful"] is True
    with pytest.raises(SdkError) as ended:
        sdk("getSessions")
    assert ended.value.status == 401
    service.verify()


def test_a_browser_signs_in_syncs_and_signs_out_at_the_provider(
    service: RunningService, provider: Oidc, tmp_path: Path
) -> None:
    with signed_in_browser(service, provider, "with-role") as (web, at_provider):
        assert web.get("/api/users/me").json()["isAdmin"] is True
        assert {cookie.name for cookie in web.cookies.jar} == {
            "immich_access_token",
            "immich_auth_type",
            "immich_is_authenticated",
        }
        sync(service, web.cookies["immich_access_token"], tmp_path, "cookie")
        out = web.post("/api/auth/logout").json()["redirectUri"]
        assert out.startswith(f"{provider.issuer}/session/end?")
        assert "id_token_hint" in parse_qs(urlsplit(out).query)
        assert not web.cookies
        assert web.get("/api/users/me").status_code == 401
        at_provider.sign_out(out)
    service.verify()


def test_a_logout_at_the_provider_ends_the_session_here(service: RunningService, provider: Oidc) -> None:
    with (
        signed_in_browser(service, provider, "ann") as (web, at_provider),
        signed_in_browser(service, provider, "ann") as (other, _),
    ):
        assert web.get("/api/users/me").status_code == 200
        at_provider.sign_out(f"{provider.issuer}/session/end")
        wait_until(lambda: web.get("/api/users/me").status_code == 401, "the back-channel logout")
        assert other.get("/api/users/me").status_code == 200, "that is another session at the provider"
    told = service.command("history", session_of(service, "provider_logout"), "--event", "session_ended", "--json")
    assert '"reason":"provider_logout"' in told.stdout


def session_of(service: RunningService, reason: str) -> str:
    """Find the session that ended for a reason."""
    with service.store() as store:
        for name in store.scan_iter("{p*}:stream"):
            for _, fields in store.xrange(name):
                if reason.encode() in fields[b"event"]:
                    return str(fields[b"sid"].hex())
    raise AssertionError(f"no session ended with {reason}")


def test_one_identity_is_one_user_on_all_devices(service: RunningService, provider: Oidc, sdk: Sdk) -> None:
    users = set()
    for _ in range(3):
        app = App(sdk, service)
        users.add(app.finish(provider.sign_in(app.begin(), login="ann"))["userId"])
    assert len(users) == 1
    sdk.present(service.url)
    app = App(sdk, service)
    assert app.finish(provider.sign_in(app.begin(), login="bob"))["userId"] not in users


def test_an_address_that_only_the_userinfo_tells_is_taken(service: RunningService, provider: Oidc, sdk: Sdk) -> None:
    app = App(sdk, service)
    assert app.finish(provider.sign_in(app.begin(), login="userinfo-email"))["userEmail"] == (
        "userinfo-email@example.test"
    )
    app = App(sdk, service)
    answer = app.finish(provider.sign_in(app.begin(), login="upper-email"))
    assert answer["userEmail"] == "upper.email@example.test"


def test_a_provider_s_new_keys_are_taken(service: RunningService, provider: Oidc, sdk: Sdk) -> None:
    for _ in range(2):
        provider.rotate_keys()
        app = App(sdk, service)
        assert app.finish(provider.sign_in(app.begin(), login="ann"))["userEmail"] == "ann@example.test"


@pytest.fixture(scope="module")
def scraper(service: RunningService) -> Iterator[httpx.Client]:
    """Who reads the counters."""
    key = service.command("key", "create", "--scope=metrics.read").stdout.strip()
    with service.client(**{"x-api-key": key}) as client:
        yield client


def counted(scraper: httpx.Client, reason: str) -> int:
    text = scraper.get("/metrics").text
    line = f'syncledger_sign_in_refused_total{{reason="{reason}"}} '
    return sum(int(float(row.removeprefix(line))) for row in text.splitlines() if row.startswith(line))


@pytest.mark.parametrize(
    ("what", "reason", "message"),
    [
        ("wrong state", "state_mismatch", "OAuth authentication failed"),
        ("no state", "state_missing", "OAuth state is missing"),
        ("wrong verifier", "code_refused", ""),
        ("no verifier", "verifier_missing", "OAuth code verifier is missing"),
        ("replayed code", "code_refused", ""),
        ("expired ID token", "id_token_expired", ""),
        ("no address", "email_missing", "OAuth profile does not have an email address"),
        ("another issuer", "issuer_mismatch", ""),
        ("refused by the user", "provider_refused", ""),
    ],
)
def test_what_is_wrong_signs_nobody_in(
    service: RunningService,
    provider: Oidc,
    sdk: Sdk,
    scraper: httpx.Client,
    what: str,
    reason: str,
    message: str,
) -> None:
    app = App(sdk, service)
    login = "no-email" if what == "no address" else "ann"
    url = provider.sign_in(app.begin(), login=login)
    instead: dict[str, str] = {}
    match what:
        case "wrong state":
            instead = {"state": secrets.token_urlsafe(24)}
        case "no state":
            instead = {"state": ""}
        case "wrong verifier":
            instead = {"codeVerifier": secrets.token_urlsafe(48)}
        case "no verifier":
            instead = {"codeVerifier": ""}
        case "replayed code":
            app.finish(url)
        case "expired ID token":
            provider.clock(-7200)
        case "another issuer":
            url = url.replace("iss=http", "iss=https")
        case "refused by the user":
            url = f"{NATIVE.redirect_uri}?error=access_denied&state={app.state}"
    before, count, logged = sessions(service), counted(scraper, reason), service.log.stat().st_size
    try:
        with pytest.raises(SdkError) as refused:
            app.finish(url, **instead)
    finally:
        provider.clock(0)
    assert refused.value.status == 400
    assert refused.value.name == "HttpError"
    assert message in refused.value.data["message"]
    assert sessions(service) == before
    assert counted(scraper, reason) == count + 1
    told = service.log.read_text()[logged:]
    assert f"sign-in refused: {reason}" in told
    code = parse_qs(urlsplit(url).query).get("code", ["no code"])[0]
    for secret in (code, app.state, app.verifier, "example.test", NATIVE.client_secret, "eyJ"):
        assert secret not in told


def test_nothing_personal_and_no_secret_is_in_the_log_or_the_events(service: RunningService) -> None:
    text = service.log.read_text()
    for secret in ("example.test", "The User", NATIVE.client_secret, "eyJ", "code="):
        assert secret not in text
    with service.store() as store:
        for name in store.scan_iter("{p*}:stream"):
            stored = b"".join(value for _, fields in store.xrange(name) for value in fields.values())
            assert b"example.test" not in stored
            assert b"The User" not in stored
            assert b"eyJ" not in stored
    assert service.faults() == []
