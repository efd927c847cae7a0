"""A service with an identity provider: wrong settings keep it from starting, a provider that is down does not."""

from __future__ import annotations

import json
import secrets
import subprocess
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from ops.opening.ledger import Opened, open_credentials
from projections.accounts.credentials import Cipher
from projections.accounts.tokens import make_key
from projections.entities.gumnut.config import GumnutConfig
from projections.entities.gumnut.session_calls import GumnutSessions
from tests.support.gumnut.flow import challenge_of
from tests.support.gumnut.server import EMAIL, REDIRECT_URI, GumnutServer
from tests.support.processes.running import COMMAND, RunningService
from tests.support.stores.dump import bytes_of, values_of
from tests.support.stores.servers import free_port, wait_until

OIDC = {"LEDGER_OIDC_ISSUER": "https://id.example.org", "LEDGER_OIDC_CLIENT_ID": "ledger"}


def tokens_of(server: GumnutServer) -> list[str]:
    """List the tokens that Gumnut made, oldest first."""
    return [text for text in server.secrets if text.count(".") == 2]


def refused(folder: Path, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `serve` with settings that must keep it from starting."""
    service = RunningService(folder)
    environment = service.environment | settings
    return subprocess.run(
        [*COMMAND, "serve"], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (OIDC | {"LEDGER_OIDC_ISSUER": "http://id.example.org"}, "LEDGER_OIDC_ISSUER"),
        ({"LEDGER_CREDENTIAL_KEY": "hunter2"}, "LEDGER_CREDENTIAL_KEY"),
        *(
            pytest.param(settings, named, marks=pytest.mark.soak)
            for settings, named in (
                ({"LEDGER_OIDC_ISSUER": "https://id.example.org"}, "LEDGER_OIDC_CLIENT_ID"),
                (OIDC | {"LEDGER_OIDC_ALGORITHMS": "HS256"}, "LEDGER_OIDC_CLIENT_SECRET"),
                ({"LEDGER_TOKEN_KEY": "hunter2"}, "LEDGER_TOKEN_KEY"),
                ({"LEDGER_TRUSTED_PROXIES": "*"}, "LEDGER_TRUSTED_PROXIES"),
            )
        ),
    ],
)
def test_wrong_settings_keep_a_service_from_starting(tmp_path: Path, settings: dict[str, str], named: str) -> None:
    done = refused(tmp_path, settings)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {named}: ")
    assert "hunter2" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_spoilt_key_in_the_data_folder_keeps_a_service_from_starting(tmp_path: Path) -> None:
    file = tmp_path / "data" / "token-key.json"
    file.parent.mkdir()
    file.write_text("hunter2")
    done = refused(tmp_path, {})
    assert (done.returncode, str(file) in done.stderr, "hunter2" in done.stderr) == (2, True, False)


def test_a_service_starts_while_its_provider_is_down(tmp_path: Path, valkey_url: str) -> None:
    service = RunningService(
        tmp_path,
        redis_url=valkey_url,
        oidc_issuer=f"http://127.0.0.1:{free_port()}",
        oidc_client_id="ledger",
        oidc_client_secret="hunter2",
        oidc_auto_launch="true",
        oidc_button_text="Come in",
        external_domain="https://photos.example.org",
        credential_key=Fernet.generate_key().decode(),
        token_key=make_key(),
    )
    service.command("store", "begin")  # else the key may be one of a ledger that was lost
    with service, service.client() as client:
        features = client.get("/api/server/features").json()
        assert (features["oauth"], features["oauthAutoLaunch"]) == (True, True)
        config = client.get("/api/server/config").json()
        assert (config["oauthButtonText"], config["externalDomain"]) == ("Come in", "https://photos.example.org")
        refused = client.post("/api/oauth/authorize", json={"redirectUri": "app.immich:///oauth-callback"})
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        with service.client(service.sign_in()) as device:
            assert device.get("/api/sessions").status_code == 200
        wait_until(lambda: "identity" in client.get("/readyz").json(), "the provider to be looked at")
        identity = client.get("/readyz").json()["identity"]
        assert (identity["kind"], identity["ok"]) == ("oidc", False)
        assert "nobody can sign in: The provider's discovery document did not answer" in identity["text"]
        assert service.faults() == []
    assert "hunter2" not in service.log.read_text()
    assert not list(service.data_dir.rglob("*key*")), "no keys of its own"


def test_without_a_provider_nobody_signs_in_over_http(tmp_path: Path, valkey_url: str) -> None:
    with RunningService(tmp_path, redis_url=valkey_url) as service, service.client() as client:
        assert client.get("/api/server/features").json()["oauth"] is False
        refused = client.post("/api/oauth/authorize", json={"redirectUri": "app.immich:///oauth-callback"})
        assert (refused.status_code, refused.json()["message"]) == (400, "OAuth is not enabled")


def test_a_key_rotated_by_the_command_signs_in_a_running_service(tmp_path: Path, valkey_url: str) -> None:
    with RunningService(tmp_path, workers=2, redis_url=valkey_url) as service:
        token = service.sign_in()
        with service.client() as client:
            (before,) = client.get("/.well-known/jwks.json").json()["keys"]
        new = service.command("signing-key", "rotate").stdout.strip()
        for _ in range(8):  # whichever worker answers
            with service.client(token) as client:
                assert [key["kid"] for key in client.get("/.well-known/jwks.json").json()["keys"]] == [
                    new,
                    before["kid"],
                ]
                assert client.get("/api/sessions").status_code == 200


def test_a_user_of_gumnut_signs_in_and_the_token_held_for_them_is_renewed(tmp_path: Path, valkey_url: str) -> None:
    old_key, new_key = Cipher.make_key(), Cipher.make_key()
    server = GumnutServer()
    settings = {"identity": "gumnut", "gumnut_url": server.url, "credential_key": old_key}
    app = {"user-agent": "immich-ios/3.2.0", "deviceModel": "iPhone15,2", "deviceType": "iOS"}
    with server.running(), RunningService(tmp_path, workers=2, redis_url=valkey_url, **settings) as service:
        verifier = secrets.token_urlsafe(48)
        with service.client(**app) as client:
            begun = client.post(
                "/api/oauth/authorize", json={"redirectUri": REDIRECT_URI, "codeChallenge": challenge_of(verifier)}
            )
            assert begun.status_code == 201, begun.text
            back = {"url": server.sign_in(begun.json()["url"]), "codeVerifier": verifier}
            signed_in = client.post("/api/oauth/callback", json=back)
            assert signed_in.status_code == 201, signed_in.text
        token, user = signed_in.json()["accessToken"], signed_in.json()["userId"]
        (held,) = tokens_of(server)
        (session,) = json.loads(service.command("session", "list", "--user", user, "--json").stdout)
        assert (session["deviceType"], session["deviceOS"], session["appVersion"]) == ("iPhone15,2", "iOS", "3.2.0")
        assert session["authenticatedBy"] == "gumnut"
        shown = json.loads(service.command("user", "show", user, "--json").stdout)
        assert (shown["email"], shown["sessions"]) == (EMAIL.lower(), 1)

        server.refresh = 1

        async def ask(found: Opened) -> str | None:
            credentials = open_credentials(found, service.settings)
            sessions = GumnutSessions(GumnutConfig(server.url), credentials)
            try:
                assert await credentials.read(user, session["id"]) == held
                assert (await sessions.profile(user, session["id"])).email == EMAIL
            finally:
                await sessions.close()
            stored = [bytes_of(value) for value in (await values_of(found.store)).values()]
            assert not [value for value in stored if any(text.encode() in value for text in server.secrets)]
            return await credentials.read(user, session["id"])

        renewed = service.inside(ask)
        assert renewed == tokens_of(server)[-1] != held
        with service.client(token) as client:
            assert [listed["id"] for listed in client.get("/api/sessions").json()] == [session["id"]]

        service.environment["LEDGER_CREDENTIAL_KEY"] = f"{new_key} {old_key}"
        assert service.command("credentials", "rekey").stdout == "2 encrypted with the newest key\n"
        service.command("user", "erase", user, "--yes")
        with service.client(token) as client:
            assert client.get("/api/sessions").status_code == 401
        assert service.verify()["ended"] == 1
        assert service.faults() == []
        said = service.log.read_text()
    assert not [text for text in (*server.secrets, verifier, EMAIL, old_key) if text in said]
