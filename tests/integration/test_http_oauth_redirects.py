"""Where a sign-in can lead to: to the app, to the provider, and nowhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from endpoints.accounts.redirects import MAX_REDIRECT_URI_CHARS, MAX_URL_CHARS
from endpoints.services import HttpSettings
from ledger.store.interface import open_store
from tests.support.phones.http import Service, serving
from tests.support.sign_in.provider import MemoryProvider
from tests.support.sign_in.sign_ins import APP_URI, client, living, refused


@pytest.fixture
async def service(valkey_url: str) -> AsyncIterator[Service]:
    store = await open_store(valkey_url)
    async with serving(store, provider=MemoryProvider()) as service:
        yield service
    await store.close()


async def handed_on(service: Service, query: bytes, path: str = "/api/oauth/mobile-redirect") -> tuple[int, Any]:
    """GET the redirect with a query as it stands; returns the status, and where it leads or what was said."""
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": path, "raw_path": path.encode(), "root_path": "", "query_string": query,
        "headers": [(b"host", b"photos.example")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(event: dict[str, Any]) -> None:
        sent.append(event)

    await service.app(scope, receive, send)
    headers = dict(sent[0]["headers"])
    if sent[0]["status"] == 307:
        assert headers[b"cache-control"] == b"no-store"
        assert headers[b"referrer-policy"] == b"no-referrer"
        return 307, headers[b"location"].decode("latin-1")
    return sent[0]["status"], b"".join(event.get("body", b"") for event in sent[1:])


@pytest.mark.parametrize("path", ["/api/oauth/mobile-redirect", "/oauth/mobile-redirect"])
@pytest.mark.parametrize(
    "query",
    [
        b"",
        b"code=abc&state=x-y_z&iss=https%3A%2F%2Fid.example",
        b"error=access_denied&error_description=no%0d%0aX-Evil:%201",
        b"code=a?b=c&d",
        b"//evil.example/",
        b"https://evil.example",
        b"@evil.example",
        b"#fragment",
        b"code=" + b"x" * (MAX_URL_CHARS - 5),
    ],
)
async def test_the_query_is_handed_to_the_app_as_it_is(service: Service, path: str, query: bytes) -> None:
    assert await handed_on(service, query, path) == (307, f"app.immich:///oauth-callback?{query.decode()}")


@pytest.mark.parametrize(
    "query",
    [
        b"a\r\nSet-Cookie: x=y",
        b"a\nb",
        b"a\rb",
        b"a\0b",
        b"a\tb",
        b"a b",
        b"\x7f",
        "ü".encode(),
        b"x" * (MAX_URL_CHARS + 1),
    ],
)
async def test_what_no_header_may_hold_leads_nowhere(service: Service, query: bytes) -> None:
    status, said = await handed_on(service, query)
    assert status == 400
    assert b"Validation failed" in said


async def test_the_redirect_needs_no_sign_in_and_answers_head_too(service: Service) -> None:
    async with client(service) as http:
        for method in ("GET", "HEAD"):
            answer = await http.request(method, "/api/oauth/mobile-redirect?code=x")
            assert (answer.status_code, answer.content) == (307, b"")
            assert answer.headers["location"] == "app.immich:///oauth-callback?code=x"


@pytest.mark.parametrize(
    "uri", [APP_URI, "app.immich:/oauth-callback", "http://127.0.0.1:2283/auth/login", "https://photos.example"]
)
async def test_addresses_to_come_back_to(service: Service, uri: str) -> None:
    async with client(service) as http:
        answer = await http.post("/api/oauth/authorize", json={"redirectUri": uri})
    assert (answer.status_code, set(answer.json())) == (201, {"url"})


@pytest.mark.parametrize(
    "uri",
    [
        None,
        5,
        "",
        "/auth/login",
        "//evil.example/",
        "evil.example",
        "javascript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "app.immich.evil:///oauth-callback",
        "https:///x",
        "https://",
        "https://user@photos.example/",
        "https://photos.example@evil.example/",
        "https://photos.example/#x",
        "https://photos.example/?next=https://evil.example",
        "https:\\\\evil.example",
        "https://photos.example\\@evil.example/",
        "https://photos.example/\r\nX: y",
        "java\tscript:alert(1)",
        " https://photos.example/",
        "https://photos.exämple/",
        "https://photos.example:port/",
        "https://photos.example/" + "x" * MAX_REDIRECT_URI_CHARS,
    ],
)
async def test_addresses_nobody_comes_back_to(service: Service, uri: object) -> None:
    async with client(service) as http:
        answer = await http.post("/api/oauth/authorize", json={} if uri is None else {"redirectUri": uri})
    assert (answer.status_code, answer.json()["message"]) == (400, "Validation failed")
    assert [problem["path"] for problem in answer.json()["errors"]] == [["redirectUri"]]
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("state", "x" * 513),
        ("state", "a; Domain=evil.example"),
        ("state", "a\r\nSet-Cookie: b"),
        ("state", "a\n"),
        ("state", 5),
        ("codeChallenge", "x" * 42),
        ("codeChallenge", "x" * 44),
        ("codeChallenge", "x" * 42 + "="),
        ("codeChallenge", "x" * 43 + "\n"),
    ],
)
async def test_a_state_or_challenge_that_is_none(service: Service, field: str, value: object) -> None:
    async with client(service) as http:
        answer = await http.post("/api/oauth/authorize", json={"redirectUri": APP_URI, field: value})
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (400, [field])
    assert "set-cookie" not in answer.headers
    assert await living(service) == []
    assert await refused(service) == {}, "nobody came back"


@pytest.mark.parametrize("host", ["evil.example", "photos.example.evil.example"])
async def test_no_address_of_the_clients_choice_is_told_at_logout(service: Service, host: str) -> None:
    device = await service.sign_in()
    headers = {"authorization": f"Bearer {device.token}", "host": host, "referer": f"https://{host}/"}
    async with client(service) as http:
        query = f"?redirectUri=https://{host}&post_logout_redirect_uri=https://{host}"
        body = {"redirectUri": f"https://{host}", "post_logout_redirect_uri": f"https://{host}"}
        answer = await http.post(f"/api/auth/logout{query}", headers=headers, json=body)
    assert answer.json() == {"successful": True, "redirectUri": "/auth/login?autoLaunch=0"}


async def test_the_app_gets_no_mobile_redirect_of_its_own_making(service: Service) -> None:
    """The address that stands in for the app's is the configured one, whatever the request says."""
    settings = HttpSettings(mobile_redirect_uri="https://photos.example/m")
    async with serving(service.store, settings, provider=MemoryProvider()) as other, client(other) as http:
        answer = await http.post(
            "/api/oauth/authorize",
            json={"redirectUri": APP_URI, "mobileRedirectUri": "https://evil.example"},
            headers={"host": "evil.example", "x-forwarded-host": "evil.example"},
        )
    assert "evil" not in answer.json()["url"]
    assert "https%3A%2F%2Fphotos.example%2Fm" in answer.json()["url"]
