"""Which credential decides."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import falcon
import falcon.testing
import pytest

from endpoints.accounts.auth import Auth, Kind, Presented, presented
from endpoints.accounts.cookies import MAX_HEADER_BYTES
from endpoints.http.errors import Forbidden, Unauthenticated
from endpoints.http.request import Request
from ledger.admission import Caller
from ledger.errors import SessionEnded
from projections.accounts.api_keys import ApiKeys
from projections.accounts.tokens import (
    MAX_TOKEN_CHARS,
    TokenIssuer,
    digest,
    make_key,
    read_keyring,
    read_token,
    session_id,
)
from tests.support.stores.fake_store import FakeStore


def request(query: str = "", method: str = "GET", **headers: str) -> Request:
    """A request with headers given as `x_api_key="..."`."""
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
    scope = falcon.testing.create_scope(method=method, headers=pairs, query_string=query)
    if "host" in headers:  # in place of Falcon's own
        own = [(name, value) for name, value in scope["headers"] if name != b"host"]
        scope["headers"] = [*own, (b"host", headers["host"].encode())]
    event = {"type": "http.request", "body": b"", "more_body": False}

    async def receive() -> dict[str, Any]:
        return event

    return Request(scope, receive, first_event=event)


def new_token(user: str = "ann") -> str:
    keyring = read_keyring(make_key())
    return TokenIssuer(lambda: keyring).issue(user, 1).token


ORDER = [
    {"x_immich_user_token": "first"},
    {"x_immich_session_token": "second"},
    {"query": "sessionKey=third"},
    {"authorization": "Bearer fourth"},
    {"cookie": "immich_access_token=fifth"},
]


@pytest.mark.parametrize("position", range(len(ORDER)))
def test_a_token_goes_before_all_that_is_below_it_in_the_order(position: int) -> None:
    given: dict[str, str] = {"x_api_key": "key"}
    for way in reversed(ORDER[position:]):
        given |= way
    expected = next(iter(ORDER[position].values())).split("=")[-1].removeprefix("Bearer ")
    kind = Kind.COOKIE if "cookie" in ORDER[position] else Kind.TOKEN
    assert presented(request(**given)) == Presented(kind, expected)


@pytest.mark.parametrize(
    "share", [{"x_immich_share_key": "k"}, {"x_immich_share_slug": "s"}, {"query": "key=k"}, {"query": "slug=s"}]
)
def test_a_share_link_goes_before_a_token(share: dict[str, str]) -> None:
    assert presented(request(x_immich_user_token="t", x_api_key="key", **share)).kind is Kind.SHARE


def test_an_api_key_comes_from_its_header_before_the_query() -> None:
    assert presented(request(x_api_key="header", query="apiKey=query")) == Presented(Kind.KEY, "header")
    assert presented(request(query="apiKey=query")) == Presented(Kind.KEY, "query")


def test_without_a_credential_nothing_is_presented() -> None:
    assert presented(request()).kind is Kind.NOTHING
    assert presented(request(query="limit=3", cookie="other=1", authorization="Basic abc")).kind is Kind.NOTHING


def test_an_empty_value_is_no_credential() -> None:
    given = request(x_immich_user_token="", authorization="Bearer ", cookie="immich_access_token=", x_api_key="key")
    assert presented(given) == Presented(Kind.KEY, "key")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_read_in_any_case(scheme: str) -> None:
    assert presented(request(authorization=f"{scheme} abc.def")).value == "abc.def"


@pytest.mark.parametrize(
    "cookie",
    [
        "immich_access_token=T; immich_is_authenticated=true; immich_auth_type=password",
        "a=b;immich_access_token=T",
        'other_immich_access_token=X; immich_access_token="T"',
    ],
)
def test_the_cookie_is_found_among_others(cookie: str) -> None:
    assert presented(request(cookie=cookie)) == Presented(Kind.COOKIE, "T")
    assert presented(request(cookie=cookie, query="limit=1")) == Presented(Kind.COOKIE, "T")


def test_a_cookie_header_that_is_too_long_is_refused_where_it_would_be_read() -> None:
    long = "a=" + "x" * MAX_HEADER_BYTES + "; immich_access_token=T"
    assert presented(request(cookie=long, authorization="Bearer t")) == Presented(Kind.TOKEN, "t")
    with pytest.raises(falcon.HTTPRequestHeaderFieldsTooLarge):
        presented(request(cookie=long, x_api_key="key"))


async def test_a_token_of_ours_names_its_user_and_session() -> None:
    token = new_token()
    auth = Auth(read_token, ApiKeys(FakeStore()))
    caller = Caller("ann", session_id(token), digest(token))
    for _ in range(2):
        assert await auth.device(request(authorization=f"Bearer {token}"), "sync.stream") == caller
        assert await auth.device(request(cookie=f"immich_access_token={token}"), "sync.stream") == caller


async def test_a_cookie_admits_no_change_that_another_origins_page_asks_for() -> None:
    token, auth = new_token(), Auth(read_token, ApiKeys(FakeStore()))
    cookie, foreign = f"immich_access_token={token}", {"sec_fetch_site": "cross-site", "origin": "https://evil.example"}
    asks: tuple[Callable[[Request], Awaitable[object]], ...] = (
        lambda req: auth.session(req, "p"),
        lambda req: auth.device(req, "p"),
        lambda req: auth.scoped(req, "p"),
        lambda req: auth.key(req, "p"),
    )
    for ask in asks:
        with pytest.raises(Forbidden, match=r"^Cross-origin request refused$"):
            await ask(request(method="POST", cookie=cookie, **foreign))
    assert (await auth.device(request(method="POST", cookie=cookie), "sync.stream")).user == "ann"
    assert (await auth.device(request(method="GET", cookie=cookie, **foreign), "sync.stream")).user == "ann"
    assert (
        await auth.device(request(method="POST", authorization=f"Bearer {token}", **foreign), "sync.stream")
    ).user == "ann"


async def test_pages_of_the_external_domain_are_our_own() -> None:
    auth = Auth(read_token, ApiKeys(FakeStore()), "https://photos.example")
    given = {"cookie": f"immich_access_token={new_token()}", "host": "10.0.0.7:2283"}
    assert (
        await auth.device(request(method="POST", origin="https://photos.example", **given), "sync.stream")
    ).user == "ann"
    with pytest.raises(Forbidden):
        await auth.device(request(method="POST", origin="https://other.example", **given), "sync.stream")


@pytest.mark.parametrize("token", ["x", "a.b.c", "a.e30.c", "é.e30.x", "a." + "A" * MAX_TOKEN_CHARS + ".c"])
async def test_what_is_no_token_of_ours_admits_nobody(token: str) -> None:
    with pytest.raises(SessionEnded):
        await Auth(read_token, ApiKeys(FakeStore())).device(request(x_immich_user_token=token), "sync.stream")


async def test_a_bad_token_does_not_fall_through_to_a_good_key() -> None:
    keys = ApiKeys(FakeStore())
    key, _ = await keys.create(["audit.read"], name="", now_us=1)
    auth = Auth(read_token, keys)
    with pytest.raises(SessionEnded):
        await auth.scoped(request(authorization="Bearer bad", x_api_key=key), "audit.read")


async def test_a_key_is_admitted_for_its_scopes_only() -> None:
    keys = ApiKeys(FakeStore())
    text, key = await keys.create(["audit.read"], name="", now_us=1)
    auth = Auth(read_token, keys)
    assert await auth.key(request(x_api_key=text), "audit.read") == key
    with pytest.raises(Forbidden, match=r"^Missing required permission: entities\.write$"):
        await auth.key(request(x_api_key=text), "entities.write")
    with pytest.raises(Forbidden, match=r"^Missing required permission: session\.read$"):
        await auth.session(request(x_api_key=text), "session.read")
    with pytest.raises(Forbidden, match=r"^Sync endpoints cannot be used with API keys$"):
        await auth.device(request(x_api_key=text), "sync.stream")


async def test_a_key_is_admitted_as_a_bearer_too() -> None:
    keys = ApiKeys(FakeStore())
    text, key = await keys.create(["metrics.read"], name="", now_us=1)
    auth = Auth(read_token, keys)
    assert presented(request(authorization=f"Bearer {text}")) == Presented(Kind.KEY, text)
    assert presented(request(query="x=1", authorization=f"bearer {text}")) == Presented(Kind.KEY, text)
    assert await auth.key(request(authorization=f"Bearer {text}"), "metrics.read") == key
    with pytest.raises(Unauthenticated, match=r"^Invalid API key$"):
        await auth.key(request(authorization=f"Bearer {text}x"), "metrics.read")
    with pytest.raises(Forbidden, match=r"^Sync endpoints cannot be used with API keys$"):
        await auth.device(request(authorization=f"Bearer {text}"), "sync.stream")


async def test_a_key_of_one_library_opens_no_other_and_nothing_beside_libraries() -> None:
    keys = ApiKeys(FakeStore())
    text, key = await keys.create(["entities.write"], name="", now_us=1, library="photos")
    auth = Auth(read_token, keys)
    asked = request(x_api_key=text)
    assert await auth.key(asked, "entities.write", "photos") == key
    for library in ("others", "", None):
        with pytest.raises(Forbidden, match=r"^This API key is for another library$"):
            await auth.key(asked, "entities.write", library)
    for scope in ("entities.read", "audit.read", "metrics.read"):
        with pytest.raises(Forbidden, match=f"^Missing required permission: {scope}$"):
            await auth.scoped(asked, scope, "photos")
    everywhere, all_of_them = await keys.create(["entities.write"], name="", now_us=1)
    assert await auth.key(request(x_api_key=everywhere), "entities.write", "others") == all_of_them


async def test_nothing_and_unknown_keys_are_refused() -> None:
    auth = Auth(read_token, ApiKeys(FakeStore()))
    for given, message in (({}, "Authentication required"), ({"x_api_key": "x"}, "Invalid API key")):
        with pytest.raises(Unauthenticated, match=f"^{message}$"):
            await auth.device(request(**given), "sync.stream")
        with pytest.raises(Unauthenticated, match=f"^{message}$"):
            await auth.session(request(**given), "p")
        with pytest.raises(Unauthenticated, match=f"^{message}$"):
            await auth.scoped(request(**given), "p")


async def test_share_links_open_nothing_here() -> None:
    auth = Auth(read_token, ApiKeys(FakeStore()))
    with pytest.raises(Forbidden, match=r"^Forbidden$"):
        await auth.session(request(query="key=abc"), "session.read")
    with pytest.raises(Forbidden, match=r"^Sync endpoints cannot"):
        await auth.device(request(query="slug=abc"), "sync.stream")


async def test_a_token_is_not_an_api_key() -> None:
    auth = Auth(read_token, ApiKeys(FakeStore()))
    token = new_token()
    with pytest.raises(Forbidden):
        await auth.key(request(authorization=f"Bearer {token}"), "entities.write")
