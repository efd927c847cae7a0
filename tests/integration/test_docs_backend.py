"""The page on backends of one's own: its programs and its proxy run as they stand there, but for ports."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from msgspec.structs import replace

from endpoints.accounts.identity.oidc.logout import EVENT
from endpoints.services import HttpSettings
from ops.settings.settings import read_settings
from tests.support.phones.http import Live
from tests.support.processes.proxies import plain_nginx
from tests.support.processes.running import RunningService
from tests.support.sign_in.provider import ANN, MemoryProvider
from tests.support.sign_in.sign_ins import SignIn
from tests.support.stores.servers import die_with_parent, free_port, wait_until

PAGE: Final = (Path(__file__).parents[2] / "ops/docs/backend.md").read_text(encoding="utf-8")
LEDGER, PHOTOS, TOKENS, PROXY = "2283", "8000", "8001", "8080"
PASSWORD: Final = "Ann's own"
PICTURE: Final = b"\xff\xd8\xff a picture"


def blocks(language: str, beginning: str = "") -> list[str]:
    """Find the blocks of a language that begin so."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return [text for kind, text in found if kind == language and text.startswith(beginning)]


def block(language: str, beginning: str = "") -> str:
    """Find the one block of a language that begins so."""
    [found] = blocks(language, beginning)
    return found


def with_ports(text: str, ports: dict[str, int]) -> str:
    """Put free ports in the place of the page's."""
    return re.sub(r"\b(2283|8000|8001|8080)\b", lambda match: str(ports[match[0]]), text)


def settings_of(text: str) -> dict[str, Any]:
    """Read a block of settings as RunningService takes them."""
    pairs = (line.split("=", 1) for line in text.splitlines())
    return {name.removeprefix("LEDGER_").lower(): value for name, value in pairs}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Start a program of the page in the test's folder; all are ended behind it."""
    started = []

    def run(name: str, ports: dict[str, int], **environment: str) -> None:
        (tmp_path / name).write_text(with_ports(block("python", f"# {name}\n"), ports))
        with (tmp_path / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, name],
                cwd=tmp_path,
                env={"PATH": os.environ["PATH"], "LEDGER_URL": f"http://127.0.0.1:{ports[LEDGER]}", **environment},
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
            )
        started.append(process)
        port = ports[PHOTOS if name == "photos.py" else TOKENS]

        def answers() -> bool:
            assert process.poll() is None, (tmp_path / f"{name}.log").read_text()
            try:
                httpx.get(f"http://127.0.0.1:{port}/", trust_env=False)
            except httpx.TransportError:
                return False
            return True

        wait_until(answers, name)

    yield run
    for process in started:
        process.kill()
        process.wait()


class Phone:
    """A device behind the proxy, with one token for all."""

    def __init__(self, url: str, token: str = "", **headers: str) -> None:
        given = {"Authorization": f"Bearer {token}"} if token else {}
        self.http = httpx.Client(base_url=url, headers=given | headers, timeout=30, trust_env=False)

    def upload(self, picture: bytes = PICTURE) -> httpx.Response:
        files = {"assetData": ("a picture.jpg", picture, "image/jpeg")}
        return self.http.post("/api/assets", files=files, data={"deviceAssetId": "1"})

    def picture(self, asset: str) -> httpx.Response:
        return self.http.get(f"/api/assets/{asset}/thumbnail")

    def sync(self) -> int:
        return self.http.get("/api/sync/ack").status_code

    def logout(self) -> int:
        return self.http.post("/api/auth/logout").status_code


def lives_as_told(url: str, ann: str, bob: str, simulate: Callable[[str], str]) -> str:
    """Hold what the page says of a token against what becomes of it, up to its end; returns the picture's id."""
    phone = Phone(url, ann)
    sent = phone.upload()
    assert sent.status_code == 201, sent.text
    asset: str = sent.json()["id"]
    assert phone.upload().json()["id"] == asset, "an upload that broke off is repeated"
    assert (phone.picture(asset).status_code, phone.picture(asset).content) == (200, PICTURE)
    assert Phone(url, bob).picture(asset).status_code == 404
    lies = {"X-Ledger-User": "ann", "X-Ledger-Library": "ann"}
    assert Phone(url, **lies).picture(asset).status_code == 401
    assert Phone(url, bob, **lies).picture(asset).status_code == 404
    assert Phone(url).http.get(f"/api/assets/{asset}/thumbnail", params={"sessionKey": ann}).content == PICTURE
    cookie = Phone(url, Cookie=f"immich_access_token={ann}")
    assert cookie.picture(asset).content == PICTURE
    assert re.search(r"^ *AssetV2 +1 *$", simulate(ann), re.MULTILINE)
    assert phone.logout() == 200
    assert [phone.picture(asset).status_code, phone.upload().status_code, phone.sync()] == [401, 401, 401]
    assert cookie.picture(asset).status_code == 401
    assert Phone(url, bob).sync() == 200
    return asset


@pytest.fixture
def simulate(tmp_path: Path) -> Callable[[str, str], str]:
    """Sync through an address with a token, as the command does."""
    anywhere = RunningService(tmp_path / "anywhere")
    return lambda url, token: anywhere.command("simulate", "--url", url, "--token", token).stdout


async def test_beside_a_provider(
    valkey_url: str, tmp_path: Path, running: Callable[..., None], simulate: Callable[[str, str], str]
) -> None:
    provider = MemoryProvider()
    with Live(valkey_url, HttpSettings(), provider=provider) as live:
        ports = {LEDGER: live.port, PHOTOS: free_port(), TOKENS: free_port(), PROXY: free_port()}
        made = live.service.api_keys.create(("entities.write",), name="photos", now_us=live.service.clock())
        key, _ = live.run(made)
        running("photos.py", ports, LEDGER_API_KEY=key)
        with plain_nginx(tmp_path / "nginx", with_ports(block("nginx"), ports), ports[PROXY]) as proxy:
            tokens = []
            for name in ("ann", "bob"):
                async with httpx.AsyncClient(base_url=proxy, trust_env=False) as http:
                    signed_in = await SignIn(http, provider, by_app=True).complete(
                        replace(ANN, subject=name, email=f"{name}@example.test", provider_session=name)
                    )
                assert signed_in.status_code == 201, signed_in.text
                tokens.append(signed_in.json()["accessToken"])
            lives_as_told(proxy, tokens[0], tokens[1], lambda token: simulate(proxy, token))


def test_beside_a_backend_that_signs_tokens_itself(
    tmp_path: Path, running: Callable[..., None], simulate: Callable[[str, str], str]
) -> None:
    ports = {LEDGER: free_port(), PHOTOS: free_port(), TOKENS: free_port(), PROXY: free_port()}
    settings = settings_of(with_ports(block("env", "LEDGER_IDENTITY=jwt"), ports))
    with ExitStack() as stack:
        service = RunningService(tmp_path / "ledger", **settings)
        ports[LEDGER] = service.port
        running("tokens.py", ports, ANNS_PASSWORD=PASSWORD)  # first: keys that did not come are not asked for at once
        service = stack.enter_context(service)
        running("photos.py", ports, LEDGER_API_KEY=service.entities_key)
        conf = with_ports(block("nginx").replace("#jwt ", ""), ports)
        proxy = stack.enter_context(plain_nginx(tmp_path / "nginx", conf, ports[PROXY]))

        def token(password: str = PASSWORD) -> str:
            login = {"email": "ann@example.org", "password": password}
            answer = httpx.post(f"{proxy}/api/auth/login", json=login, trust_env=False)
            assert answer.status_code == (201 if password == PASSWORD else 401), answer.text
            return str(answer.json().get("accessToken", ""))

        features = httpx.get(f"{proxy}/api/server/features", trust_env=False).json()
        assert (features["passwordLogin"], features["oauth"]) == (True, False), "by which the app shows its form"
        assert token("a guess") == ""
        phone, tablet = Phone(proxy, token()), Phone(proxy, token())
        asset = phone.upload().json()["id"]
        assert tablet.picture(asset).content == PICTURE, "both are Ann's"
        ready = httpx.get(f"{service.url}/readyz", trust_env=False).json()
        assert (ready["identity"]["kind"], ready["identity"]["ok"]) == ("jwt", True)
        listed = service.command("session", "list", "--user", "ann").stdout
        [first, _] = re.findall(r"^  ([0-9a-f]{64})$", listed, re.MULTILINE)
        assert listed.count("  jwt") == 2
        assert re.search(r"^signed in .* jwt$", service.command("explain", first).stdout, re.MULTILINE)
        assert re.search(r"^ *AssetV2 +1 *$", simulate(proxy, token()), re.MULTILINE)
        made = service.command("session", "create", "--user", "ann", "--library", "ann", check=False)
        assert (made.returncode, "https://photos.example.org" in made.stderr) == (2, True)

        assert phone.logout() == 200
        assert [phone.picture(asset).status_code, phone.sync(), tablet.sync()] == [401, 401, 200]
        out = httpx.post(f"{proxy}/sign-out", json={"email": "ann@example.org", "password": PASSWORD}, trust_env=False)
        assert (out.status_code, EVENT in PAGE) == (200, True), out.text
        assert [tablet.picture(asset).status_code, tablet.sync()] == [401, 401]
        again = Phone(proxy, token())
        assert again.picture(asset).content == PICTURE
        service.verify()
        assert service.faults() == []
        service.kill_all()
        later = again.picture(asset)
        assert (later.status_code, later.headers.get("retry-after")) == (503, "5")


def test_settings_of_the_page_are_settings() -> None:
    told = blocks("env")
    assert len(told) == 2
    for text in told:
        settings = dict(line.split("=", 1) for line in text.splitlines())
        settings.pop("LEDGER_OIDC_CLIENT_SECRET_FILE", None)
        assert read_settings(settings).identity in {"oidc", "jwt"}


def test_the_programs_are_as_short_as_is_said() -> None:
    for name in ("photos.py", "tokens.py"):
        lines = [line for line in block("python", f"# {name}\n").splitlines() if line and not line.startswith("#")]
        assert len(lines) <= 40
        assert max(map(len, lines)) <= 120
