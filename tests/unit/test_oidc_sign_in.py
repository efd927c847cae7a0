"""The way of a sign-in: the page, the answer, the exchange of the code, the userinfo."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from endpoints.accounts.identity.oidc.oauth import challenge_of, nonce_of
from endpoints.accounts.identity.port import Answer, Authorization
from ledger.errors import InvalidInput
from projections.counters import COUNTERS
from tests.support.sign_in.oidc_flow import config_of, provider_of, query_of, refused, sign_in, try_in, unavailable
from tests.support.sign_in.oidc_server import (
    CLIENT_ID,
    CLIENT_SECRET,
    EMAIL,
    REDIRECT_URI,
    SUBJECT,
    OidcServer,
    rsa_key,
    signer,
)
from tests.unit.oidc_fixtures import server

__all__ = ["server"]


async def test_the_page_is_asked_for_a_code_with_all_that_ties_it_to_this_sign_in(server: OidcServer) -> None:
    verifier = secrets.token_urlsafe(48)
    async with provider_of(config_of(server, prompt="select_account", scope="openid email")) as provider:
        authorization = await provider.authorize(REDIRECT_URI, "the state", challenge_of(verifier))
    assert authorization == Authorization(authorization.url, "the state")
    assert authorization.url.startswith(f"{server.issuer}/authorize?")
    assert query_of(authorization.url) == {
        "tenant": "1",
        "response_type": "code",
        "client_id": CLIENT_ID,
        "redirect_uri": REDIRECT_URI,
        "scope": "openid email",
        "state": "the state",
        "nonce": nonce_of("the state", challenge_of(verifier)),
        "code_challenge": challenge_of(verifier),
        "code_challenge_method": "S256",
        "prompt": "select_account",
    }
    assert CLIENT_SECRET not in authorization.url
    assert verifier not in authorization.url


async def test_without_a_prompt_the_page_is_asked_for_none(server: OidcServer) -> None:
    async with provider_of(config_of(server)) as provider:
        url = (await provider.authorize(REDIRECT_URI, "s", challenge_of("v" * 43))).url
    assert "prompt" not in query_of(url)


@pytest.mark.parametrize("challenge", ["", "short", "a" * 42, "a" * 44, "a" * 42 + "+", "a" * 42 + "=", "é" * 43])
async def test_a_challenge_that_is_no_sha256_is_refused(server: OidcServer, challenge: str) -> None:
    async with provider_of(config_of(server)) as provider:
        with pytest.raises(InvalidInput) as caught:
            await provider.authorize(REDIRECT_URI, "s", challenge)
    assert caught.value.problems[0][0] == ("codeChallenge",)


def test_a_nonce_is_another_for_each_state_and_challenge() -> None:
    challenges = [challenge_of("a" * 43), challenge_of("b" * 43)]
    nonces = {nonce_of(state, challenge) for state in ("s", "t", "") for challenge in challenges}
    assert len(nonces) == 6
    assert all(len(nonce) == 43 for nonce in nonces)


@pytest.mark.parametrize("token_auth", ["client_secret_post", "client_secret_basic", "none"])
async def test_a_user_signs_in_however_the_client_proves_itself(server: OidcServer, token_auth: str) -> None:
    server.token_auth = token_auth
    secret = None if token_auth == "none" else CLIENT_SECRET
    identity = await try_in(server, token_auth=token_auth, client_secret=secret)
    assert (identity.issuer, identity.subject) == (server.issuer, SUBJECT)
    assert (identity.email, identity.name) == (EMAIL, "Ann")
    assert (identity.user, identity.library, identity.admin, identity.provider_session) == (None, None, None, None)
    assert identity.credential in server.secrets
    assert EMAIL not in repr(identity)
    assert [asked.path for asked in server.asked] == ["/.well-known/openid-configuration", "/token", "/jwks"]


@pytest.mark.parametrize(
    ("supported", "secret", "chosen"),
    [
        (["client_secret_basic", "client_secret_post"], CLIENT_SECRET, "client_secret_post"),
        (["client_secret_basic"], CLIENT_SECRET, "client_secret_basic"),
        (None, CLIENT_SECRET, "client_secret_basic"),
        (["client_secret_post", "none"], None, "none"),
    ],
)
async def test_how_the_client_proves_itself_is_taken_from_the_provider(
    server: OidcServer, supported: list[str] | None, secret: str | None, chosen: str
) -> None:
    server.metadata["token_endpoint_auth_methods_supported"] = supported
    server.token_auth = chosen
    assert (await try_in(server, client_secret=secret)).subject == SUBJECT


async def test_a_wrong_secret_of_the_client_is_told_apart_but_never_shown(server: OidcServer) -> None:
    error = await refused(server, try_in(server, client_secret="not-the-right-one"))
    assert (error.reason, str(error)) == ("code_refused", "The identity provider refused the code: invalid_client")
    server.secrets.append("not-the-right-one")


@pytest.mark.parametrize(
    ("instead", "reason"),
    [
        ({"error": "access_denied"}, "provider_refused"),
        ({"error": "access_denied", "code": ""}, "provider_refused"),
        ({"iss": "https://other.example"}, "issuer_mismatch"),
        ({"iss": "https://other.example", "error": "access_denied"}, "issuer_mismatch"),
        ({"code": ""}, "answer_invalid"),
        ({"code": "a\nb"}, "answer_invalid"),
        ({"code": "é"}, "answer_invalid"),
        ({"code": "\ud800"}, "answer_invalid"),
        ({"code": "c" * 4097}, "answer_invalid"),
        ({"code": "made-up"}, "code_refused"),
        ({"verifier": "v" * 43}, "code_refused"),
        ({"verifier": ""}, "code_refused"),
        ({"verifier": "é" * 43}, "code_refused"),
        ({"verifier": "v" * 129}, "code_refused"),
        ({"redirect_uri": "http://127.0.0.1/elsewhere"}, "code_refused"),
        ({"state": "another"}, "nonce_mismatch"),
    ],
)
async def test_an_answer_that_is_not_the_one_is_refused(
    server: OidcServer, instead: dict[str, str], reason: str
) -> None:
    async with provider_of(config_of(server)) as provider:
        error = await refused(server, sign_in(server, provider, **instead))
    assert error.reason == reason


async def test_only_known_words_of_a_provider_are_repeated(server: OidcServer) -> None:
    async with provider_of(config_of(server)) as provider:
        known = await refused(server, provider.sign_in(Answer(error="access_denied"), REDIRECT_URI, "v" * 43))
        other = await refused(server, provider.sign_in(Answer(error=f"no {EMAIL}"), REDIRECT_URI, "v" * 43))
    assert str(known) == "The identity provider did not sign in: access_denied"
    assert str(other) == "The identity provider did not sign in"
    assert {known.reason, other.reason} == {"provider_refused"}


async def test_a_code_is_good_once(server: OidcServer) -> None:
    async with provider_of(config_of(server)) as provider:
        verifier = secrets.token_urlsafe(48)
        url = (await provider.authorize(REDIRECT_URI, "s", challenge_of(verifier))).url
        answer = Answer(server.approve(url), "s")
        assert (await provider.sign_in(answer, REDIRECT_URI, verifier)).subject == SUBJECT
        error = await refused(server, provider.sign_in(answer, REDIRECT_URI, verifier))
    assert (error.reason, str(error)) == ("code_refused", "The identity provider refused the code: invalid_grant")


async def test_a_provider_that_names_itself_in_answers_must_do_so(server: OidcServer) -> None:
    server.metadata["authorization_response_iss_parameter_supported"] = True
    async with provider_of(config_of(server)) as provider:
        assert (await sign_in(server, provider, iss=server.issuer)).subject == SUBJECT
        error = await refused(server, sign_in(server, provider))
    assert error.reason == "issuer_mismatch"


async def test_without_the_name_being_due_it_may_still_come(server: OidcServer) -> None:
    async with provider_of(config_of(server)) as provider:
        assert (await sign_in(server, provider, iss=server.issuer)).subject == SUBJECT


async def test_an_address_that_is_only_in_the_userinfo_is_found_there(server: OidcServer) -> None:
    server.claims = {"email": None, "name": None}
    server.userinfo |= {"email": f" {EMAIL.upper()} ", "sid": "not from here", "iss": "nor this"}
    identity = await try_in(server)
    assert (identity.email, identity.name, identity.provider_session) == (EMAIL, "Ann", None)
    assert server.times("/userinfo") == 1


async def test_claims_that_the_settings_name_are_found_in_the_userinfo_too(server: OidcServer) -> None:
    server.userinfo |= {"uid": "user-7", "lib": "library-7", "immich_role": "admin", "name": "Not Ann"}
    identity = await try_in(server, user_claim="uid", library_claim="lib")
    assert (identity.user, identity.library, identity.admin, identity.name) == ("user-7", "library-7", True, "Ann")


PATHS: dict[str, dict[str, Any]] = {
    "immich_id": {"immich_id": "user-7"},
    "realm_access.user": {"realm_access": {"user": "user-7", "roles": ["admin"]}},
    "https://photos.example/user": {"https://photos.example/user": "user-7"},
    r"https://photos\.example/ids.user": {"https://photos.example/ids": {"user": "user-7"}},
    r"a\\b.c": {"a\\b": {"c": "user-7"}},
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("where", ["ID token", "userinfo"])
async def test_a_claim_is_found_by_its_path(server: OidcServer, path: str, where: str) -> None:
    if where == "userinfo":
        server.userinfo |= PATHS[path]
    else:
        server.claims = PATHS[path]
    identity = await try_in(server, user_claim=path, role_claim="realm_access.roles")
    assert identity.user == "user-7"
    assert identity.admin is (True if path == "realm_access.user" else None)


@pytest.mark.parametrize("setting", ["user_claim", "library_claim"])
@pytest.mark.parametrize(
    "there", [{}, {"realm_access": "x"}, {"realm_access": {}}, {"realm_access": {"user": ""}}, {"realm_access": None}]
)
async def test_without_a_claim_that_the_settings_name_nobody_signs_in(
    server: OidcServer, setting: str, there: dict[str, Any]
) -> None:
    server.claims = there
    changes: dict[str, Any] = {setting: "realm_access.user"}
    error = await refused(server, try_in(server, **changes))
    assert error.reason == "claim_missing"
    assert f"realm_access.user, which LEDGER_OIDC_{setting.upper()} names" in str(error)
    assert "claim_missing" in COUNTERS["sign_in_refused"].values


TENANT = "7eba4a7f-c34a-4022-a539-395d468be7e0"
ELSEWHERE = "9188040d-6c67-4c5b-b112-36a304b66dad"


def tenants(server: OidcServer, tenant: str = "{tenantid}") -> str:
    return f"{server.issuer}/{tenant}/v2.0"


@pytest.fixture
def shared_by_tenants(server: OidcServer) -> OidcServer:
    """Have the provider be as Microsoft's for all tenants: a place in the issuer, and keys that say whose they are."""
    server.metadata = {"issuer": tenants(server)}
    server.claims = {"iss": tenants(server, TENANT), "tid": TENANT}
    server.keys = [rsa_key("k2")]
    server.jwks_members = [{**rsa_key().as_dict(private=False), "issuer": tenants(server)}]
    server.moved = {"/common/v2.0": ""}
    return server


async def test_a_token_of_any_tenant_signs_in_as_of_that_tenant(shared_by_tenants: OidcServer) -> None:
    server = shared_by_tenants
    identity = await try_in(server, issuer=tenants(server, "common"))
    assert identity.issuer == tenants(server, TENANT)
    server.jwks_members[0]["issuer"] = tenants(server, TENANT)
    assert (await try_in(server, issuer=tenants(server, "common"))).issuer == tenants(server, TENANT)
    async with provider_of(config_of(server, issuer=tenants(server, "common"))) as provider:
        assert (await sign_in(server, provider, iss=tenants(server, TENANT))).subject == SUBJECT
        assert (await refused(server, sign_in(server, provider, iss=tenants(server, ELSEWHERE)))).reason == (
            "issuer_mismatch"
        )


@pytest.mark.parametrize(
    "claims",
    [
        {"tid": ELSEWHERE},
        {"tid": None},
        {"tid": "common", "iss": "common"},
        {"tid": ".*"},
        {"tid": [TENANT]},
        {"iss": ELSEWHERE},
        {"iss": "{tenantid}"},
        {"iss": "{tenantid}", "tid": None},
        {"iss": "{tenantid}", "tid": "{tenantid}"},
    ],
)
async def test_a_token_that_is_not_of_its_tenant_is_refused(
    shared_by_tenants: OidcServer, claims: dict[str, Any]
) -> None:
    server = shared_by_tenants
    if "iss" in claims:
        claims = {**claims, "iss": tenants(server, claims["iss"])}
    server.claims |= claims
    error = await refused(server, try_in(server, issuer=tenants(server, "common")))
    assert error.reason == "issuer_mismatch"


async def test_a_key_of_another_tenant_signs_nobody_in(shared_by_tenants: OidcServer) -> None:
    server = shared_by_tenants
    server.jwks_members[0]["issuer"] = tenants(server, ELSEWHERE)
    error = await refused(server, try_in(server, issuer=tenants(server, "common")))
    assert str(error) == "The ID token is signed with a key of another tenant"


@pytest.mark.parametrize(
    "issuer",
    ["{}/common", "{}/a/b/v2.0", "{}/common/v2.0/", "{}/common/v3.0", f"{{}}/{TENANT}/v2.0", "{}/contoso.example/v2.0"],
)
async def test_a_place_for_the_tenant_stands_for_several_tenants_alone(
    shared_by_tenants: OidcServer, issuer: str
) -> None:
    server = shared_by_tenants
    written = issuer.format(server.issuer)
    server.moved = {written.removeprefix(server.issuer).rstrip("/"): ""}
    await unavailable(server, try_in(server, issuer=written))


async def test_signed_userinfo_is_verified(server: OidcServer) -> None:
    server.claims = {"email": None}
    server.userinfo_sign = signer(rsa_key())
    assert (await try_in(server)).email == EMAIL
    server.userinfo |= {"iss": server.issuer, "aud": [CLIENT_ID]}
    assert (await try_in(server)).email == EMAIL


@pytest.mark.parametrize(
    "wrong",
    [
        {"sub": "somebody-else"},
        {"sub": None},
        {"iss": "https://other.example"},
        {"aud": "another-client"},
        {"exp": 1},
    ],
)
async def test_userinfo_that_is_not_for_this_user_and_service_is_refused(
    server: OidcServer, wrong: dict[str, Any]
) -> None:
    server.claims = {"email": None}
    server.userinfo_sign = signer(rsa_key())
    server.userinfo |= wrong
    error = await refused(server, try_in(server))
    assert error.reason == "id_token_invalid"


async def test_unsigned_userinfo_of_another_user_is_refused(server: OidcServer) -> None:
    server.claims = {"email": None}
    server.userinfo["sub"] = "somebody-else"
    error = await refused(server, try_in(server))
    assert (error.reason, str(error)) == ("id_token_invalid", "The userinfo is about somebody else")


async def test_userinfo_signed_by_another_is_refused(server: OidcServer) -> None:
    server.claims = {"email": None}
    server.userinfo_sign = signer(rsa_key("other"), kid="k1")
    assert (await refused(server, try_in(server))).reason == "id_token_invalid"


@pytest.mark.parametrize(
    "email", [None, "", "  ", "no-at-sign", "a@b@c", "a b@c", "a@b\x07", 5, ["a@b"], "a@" + "b" * 253]
)
async def test_without_an_address_nobody_signs_in(server: OidcServer, email: object) -> None:
    server.claims = server.userinfo = {"sub": SUBJECT, "email": email}
    error = await refused(server, try_in(server))
    assert (error.reason, str(error)) == ("email_missing", "OAuth profile does not have an email address")
    assert server.times("/userinfo") == 1


async def test_a_provider_without_userinfo_is_not_asked_for_it(server: OidcServer) -> None:
    server.claims, server.metadata = {"email": None}, {"userinfo_endpoint": None}
    assert (await refused(server, try_in(server))).reason == "email_missing"


async def test_an_access_token_that_no_header_can_carry_is_not_used(server: OidcServer) -> None:
    server.claims = {"email": None, "at_hash": None}
    for wrong in ({"access_token": "a\r\nx: y"}, {"access_token": "é"}, {"token_type": "DPoP"}):
        server.tokens = wrong
        await unavailable(server, try_in(server))


async def test_a_provider_that_sends_no_id_token_signs_nobody_in(server: OidcServer) -> None:
    server.tokens = {"id_token": None}
    assert (await refused(server, try_in(server))).reason == "id_token_invalid"


@pytest.mark.parametrize("claim", ["user_claim", "library_claim"])
@pytest.mark.parametrize("value", ["a b", "x|y", "{p1}", "a" * 129, "\ud800", 7, ["a"], {"a": 1}])
async def test_a_claim_that_can_be_no_id_is_refused_by_name(server: OidcServer, claim: str, value: object) -> None:
    server.claims = {"the_claim": value}
    settings: dict[str, Any] = {claim: "the_claim"}
    error = await refused(server, try_in(server, **settings))
    assert error.reason == "id_token_invalid"
    assert str(error).startswith("The claim the_claim cannot be used: it must ")


async def test_claims_become_ids_and_a_role(server: OidcServer) -> None:
    server.claims = {"uid": "user-1", "lib": "library-1", "role": "admin", "sid": "provider-session"}
    identity = await try_in(server, user_claim="uid", library_claim="lib", role_claim="role")
    assert (identity.user, identity.library, identity.admin) == ("user-1", "library-1", True)
    assert identity.provider_session == "provider-session"


@pytest.mark.parametrize(
    ("role", "admin"),
    [
        ("admin", True),
        ("user", False),
        (["user", "admin"], True),
        (["administrator"], False),
        ([], False),
        (True, False),
    ],
)
async def test_who_is_an_admin(server: OidcServer, role: object, admin: bool) -> None:
    server.claims = {"immich_role": role}
    assert (await try_in(server)).admin is admin


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"name": "Ann\n Lee\x00"}, "Ann Lee"),
        ({"name": "", "preferred_username": "ann"}, "ann"),
        ({"name": 5, "preferred_username": ["x"]}, None),
        ({"name": "x" * 500}, "x" * 200),
    ],
)
async def test_a_name_is_made_fit(server: OidcServer, claims: dict[str, Any], name: str | None) -> None:
    server.claims = claims
    assert (await try_in(server)).name == name
