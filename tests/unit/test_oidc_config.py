"""What the settings of a provider may be."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from endpoints.accounts.identity.oidc.config import OidcConfig
from endpoints.accounts.identity.oidc.exchange import Tokens
from endpoints.accounts.identity.oidc.http import Reply
from endpoints.accounts.identity.oidc.oauth import TokenRequest
from endpoints.accounts.identity.oidc.signatures import Signed
from ledger.errors import InvalidInput


def config(**changes: Any) -> OidcConfig:
    return OidcConfig(**{"issuer": "https://id.example", "client_id": "c", "client_secret": "hush-hush", **changes})


@pytest.mark.parametrize(
    "issuer",
    [
        "https://id.example",
        "https://id.example/",
        "https://id.example:8443/realms/photos",
        "http://127.0.0.1:9000",
        "http://127.8.9.1",
        "http://localhost:9000/application/o/photos/",
        "http://[::1]:9000",
    ],
)
def test_an_issuer_is_https_or_on_this_machine(issuer: str) -> None:
    assert config(issuer=issuer).issuer == issuer
    assert config(issuer=issuer).plain is issuer.startswith("http:")


@pytest.mark.parametrize(
    "issuer",
    [
        "", "id.example", "http://id.example", "http://127.0.0.1.id.example", "http://localhost.id.example",
        "http://0.0.0.0", "http://10.0.0.1", "http://[::2]", "http://2130706433", "ftp://127.0.0.1", "https://",
        "https:///x", "https://user:password@id.example", "http://127.0.0.1@id.example", "https://id.example?x=1",
        "https://id.example#x", "https://id.example/ x", "https://id.exämple", "https://id.example:port",
        "https://[x", "https://id.example/\n", "https://id.example/" + "x" * 2048,
    ],
)  # fmt: skip
def test_an_issuer_that_must_not_be_used_is_named_by_its_setting(issuer: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        config(issuer=issuer)
    ((path, problem),) = caught.value.problems
    assert path == ("LEDGER_OIDC_ISSUER",)
    assert problem
    assert "password" not in problem.replace("user, password", "")


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"client_id": ""}, "CLIENT_ID"),
        ({"client_secret": None, "token_auth": "client_secret_post"}, "CLIENT_SECRET"),
        ({"client_secret": "", "token_auth": "client_secret_basic"}, "CLIENT_SECRET"),
        ({"scope": "email profile"}, "SCOPE"),
        ({"scope": "openid_connect"}, "SCOPE"),
        ({"algorithms": ()}, "ALGORITHMS"),
        ({"algorithms": ("RS256", "none")}, "ALGORITHMS"),
        ({"algorithms": ("RS256", "HS256")}, "CLIENT_SECRET"),
        ({"algorithms": ("HS256",), "client_secret": "x" * 31}, "CLIENT_SECRET"),
        ({"algorithms": ("HS512",), "client_secret": "x" * 63}, "CLIENT_SECRET"),
        ({"algorithms": ("HS1",), "client_secret": "x" * 64}, "ALGORITHMS"),
        ({"user_claim": "realm_access..user"}, "USER_CLAIM"),
        ({"library_claim": ".library"}, "LIBRARY_CLAIM"),
        ({"role_claim": "a\\b"}, "ROLE_CLAIM"),
        ({"role_claim": "a\\"}, "ROLE_CLAIM"),
        ({"user_claim": ".".join("a" * 17)}, "USER_CLAIM"),
        ({"token_auth": "private_key_jwt"}, "TOKEN_AUTH"),
        ({"clock_skew_s": -1}, "CLOCK_SKEW"),
        ({"clock_skew_s": 86400}, "CLOCK_SKEW"),
        ({"end_session_endpoint": "http://id.example/bye"}, "END_SESSION"),
    ],
)
def test_each_setting_that_does_not_fit_is_named(changes: dict[str, Any], setting: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        config(**changes)
    assert [path for path, _ in caught.value.problems] == [(f"LEDGER_OIDC_{setting}",)]
    assert "hush-hush" not in str(caught.value.problems)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        config(issuer="", client_id="", algorithms=("none",))
    assert len(caught.value.problems) == 3


def test_the_secret_is_shown_by_nothing_that_prints_the_settings() -> None:
    out = StringIO()
    Console(file=out, width=500).print(config(), {"config": config()})
    for shown in (repr(config()), str(config()), f"{config()}", repr([config()]), out.getvalue()):
        assert "hush-hush" not in shown
        assert "https://id.example" in shown


def test_what_carries_secrets_inside_shows_none() -> None:
    out = StringIO()
    holders = (
        TokenRequest({"authorization": "hush"}, "code=hush"),
        Tokens("hush", "hush"),
        Reply("token endpoint", 200, "application/json", b"hush"),
        Signed("RS256", "JWT", {"email": "hush"}),
    )
    for holder in holders:
        Console(file=out, width=500).print(holder)
        assert "hush" not in f"{holder!r}{holder}{out.getvalue()}"
