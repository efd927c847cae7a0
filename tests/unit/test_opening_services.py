"""What the settings become: the provider's configuration, and what clients see."""

from __future__ import annotations

import msgspec
import pytest

from endpoints.accounts.identity.oidc.provider import OidcProvider
from endpoints.http.limits import LimitRules
from endpoints.services import HttpSettings
from ops.opening.identity_provider import make_provider, oidc_config
from ops.opening.services import http_settings
from ops.settings.identity import OidcSettings
from ops.settings.settings import LimitSettings, Settings, read_settings

OIDC = OidcSettings(
    issuer="https://id.example.org",
    client_id="ledger",
    client_secret="hunter2",
    scope="openid email",
    prompt="consent",
    algorithms=("ES256",),
    token_auth="client_secret_post",
    clock_skew_s=5,
    end_session="https://id.example.org/out",
    user_claim="u",
    library_claim="l",
    role_claim="r",
    mobile_redirect_uri="https://photos.example.org/m",
    auto_register=False,
    auto_launch=True,
    button_text="Come in",
)
SETTINGS = Settings(
    identity="oidc",
    oidc=OIDC,
    external_domain="https://photos.example.org",
    secure_cookies="always",
    token_ttl_s=1.5,
)


def test_all_that_is_set_of_a_provider_reaches_it() -> None:
    config = msgspec.structs.asdict(oidc_config(SETTINGS))
    default = msgspec.structs.asdict(
        oidc_config(
            read_settings({"LEDGER_OIDC_ISSUER": "https://other.example.org", "LEDGER_OIDC_CLIENT_ID": "other"})
        )
    )
    assert config.pop("end_session_endpoint") == OIDC.end_session
    assert config.pop("timeout_s") == default.pop("timeout_s")
    assert default.pop("end_session_endpoint") is None
    assert config == {name: getattr(OIDC, name) for name in config}
    assert [name for name in config if config[name] == default[name]] == []


def test_all_that_clients_see_reaches_them() -> None:
    assert http_settings(SETTINGS) == HttpSettings(
        external_domain="https://photos.example.org",
        oauth_auto_launch=True,
        oauth_button_text="Come in",
        mobile_redirect_uri="https://photos.example.org/m",
        auto_register=False,
        secure_cookies=True,
        token_ttl_us=1_500_000,
    )
    assert http_settings(Settings()) == HttpSettings()


def test_the_limits_are_the_same_everywhere() -> None:
    settings, rules = msgspec.structs.asdict(LimitSettings()), msgspec.structs.asdict(LimitRules())
    assert {name: rule.replace(" ", "") for name, rule in settings.items()} == rules


@pytest.mark.parametrize(("identity", "name"), [("none", None), ("oidc", "oidc"), ("gumnut", "gumnut")])
async def test_a_provider_is_made_without_asking_anybody(identity: str, name: str | None) -> None:
    provider = make_provider(msgspec.structs.replace(SETTINGS, identity=identity))
    assert (provider and provider.name) == name
    assert isinstance(provider, OidcProvider) == (identity == "oidc")
    if provider is not None:
        await provider.close()
