"""Settings: what the environment and the command line may say."""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from pathlib import Path

import msgspec
import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import InvalidInput
from ops.settings.durations import LONGEST_MS, format_duration, parse_duration
from ops.settings.identity import JwtSettings, OidcSettings
from ops.settings.parsers import rate
from ops.settings.places import PLACE_VARIABLES, StoragePlace
from ops.settings.settings import LimitSettings, Settings, read_settings, without_password
from ops.settings.source import PostgresSettings
from ops.settings.variables import VARIABLES, told_unknown, unknown_variables
from projections.accounts.tokens import make_key
from projections.entities.postgres.mapping.from_toml import read_mapping

DOCS = Path(__file__).parents[2] / "ops/docs"
KEY = make_key()
FERNET = urlsafe_b64encode(b"k" * 32).decode()
OIDC = {"LEDGER_OIDC_ISSUER": "https://id.example.org/realms/photos", "LEDGER_OIDC_CLIENT_ID": "ledger"}


def problem(environ: dict[str, str], **overrides: object) -> tuple[tuple[str | int, ...], str]:
    with pytest.raises(InvalidInput) as caught:
        read_settings(environ, **overrides)
    (only,) = caught.value.problems
    return only


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("1s", 1),
        ("1.5s", 1.5),
        ("15m", 900),
        ("2h", 7200),
        ("30d", 2_592_000),
        (" 10s ", 10),
        ("0s", 0),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "10", "s", "-1s", "1 s", "1w", "1h30m", "1e3s", "0.5ms", "99999999d", "\u0661s", "1S"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|finer|longer"):
        parse_duration(text)


@given(st.integers(0, LONGEST_MS))
def test_durations_round_trip(duration_ms: int) -> None:
    assert parse_duration(format_duration(duration_ms / 1000)) == duration_ms / 1000


def test_an_empty_environment_gives_the_defaults() -> None:
    assert read_settings({}) == Settings()
    assert read_settings({variable.name: "" for variable in VARIABLES.values()}) == Settings()


def test_every_setting_is_a_variable_of_its_own() -> None:
    parts = ("oidc", "gumnut", "immich", "jwt", "limits", "postgres", "proof")
    fields = set(Settings.__struct_fields__) - {*parts, "archive", "user_keys", "token_key_file"}
    fields |= {f"{part}.{field}" for part in parts for field in getattr(Settings(), part).__struct_fields__}
    fields -= {"proof.place"}  # read with the archive's
    assert set(VARIABLES) == fields | {"redis_sentinel_password"}  # which becomes a part of the store's URL
    assert len({variable.name for variable in VARIABLES.values()}) == len(VARIABLES)
    assert all(variable.name.startswith("LEDGER_") for variable in VARIABLES.values())


def test_the_environment_is_read() -> None:
    environ = {
        "LEDGER_HOST": "[::1]",
        "LEDGER_PORT": "0",
        "LEDGER_WORKERS": "4",
        "LEDGER_DATA_DIR": "/srv/ledger",
        "LEDGER_REDIS": "rediss://user:secret@db:6380/0",
        "LEDGER_DURABILITY": "FSYNC",
        "LEDGER_STALL": "2m",
        "LEDGER_GRACE": "250ms",
        "LEDGER_TOKEN_KEY": KEY,
    }
    assert read_settings(environ) == Settings(
        host=("::1",),
        port=0,
        workers=4,
        data_dir=Path("/srv/ledger"),
        redis_url="rediss://user:secret@db:6380/0",
        durability="fsync",
        stall_s=120,
        grace_s=0.25,
        token_key=KEY,
    )


def test_the_command_line_goes_before_the_environment() -> None:
    environ = {"LEDGER_PORT": "1", "LEDGER_HOST": "a", "LEDGER_STALL": "nonsense"}
    settings = read_settings(environ, port=2, host=None, data_dir="x", stall_s="5s")
    assert (settings.port, settings.host, settings.data_dir, settings.stall_s) == (2, ("a",), Path("x"), 5)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("LEDGER_STALL", "10"),
        ("LEDGER_STALL", "1ms"),
        ("LEDGER_GRACE", "soon"),
        ("LEDGER_PORT", "65536"),
        ("LEDGER_PORT", "²"),
        ("LEDGER_WORKERS", "0"),
        ("LEDGER_PARTITIONS", "-1"),
        ("LEDGER_HOST", "a b"),
        ("LEDGER_HOST", "a,,b"),
        ("LEDGER_HOST", ",".join(f"h{at}" for at in range(17))),
        ("LEDGER_HOST", "1:2"),
        ("LEDGER_REDIS", "localhost:6379"),
        ("LEDGER_REDIS", "http://localhost"),
        ("LEDGER_DURABILITY", "some"),
        ("LEDGER_SOURCE", "files"),
        ("LEDGER_LOG", "loud"),
        ("LEDGER_PROTOCOL_VERSION", "3"),
        ("LEDGER_PROTOCOL_VERSION", "newest"),
        ("LEDGER_PROTOCOL_VERSION", "3.4.0"),
        ("LEDGER_PROTOCOL_VERSION", "4.0.0"),
        ("LEDGER_PROTOCOL_VERSION", "2.9.9"),
        ("LEDGER_TOKEN_KEY", "short"),
        ("LEDGER_TOKEN_KEY", "k" * 40),
        ("LEDGER_TOKEN_KEY", '{"kty":"oct","k":"c2VjcmV0"}'),
        ("LEDGER_TOKEN_KEY", '{"keys":[]}'),
        ("LEDGER_TOKEN_TTL", "never"),
        ("LEDGER_TOKEN_TTL", "0s"),
        ("LEDGER_TOKEN_GRACE", "60"),
        ("LEDGER_CREDENTIAL_KEY", "short"),
        ("LEDGER_CREDENTIAL_KEY", ","),
        ("LEDGER_CREDENTIAL_KEY", f"{FERNET},é"),
        ("LEDGER_IDENTITY", "ldap"),
        ("LEDGER_GUMNUT_URL", "http://api.gumnut.ai"),
        ("LEDGER_GUMNUT_LIBRARY", "a b"),
        ("LEDGER_POSTGRES", "localhost:5432"),
        ("LEDGER_POSTGRES", "mysql://db/immich"),
        ("LEDGER_POSTGRES", "postgresql://"),
        ("LEDGER_POSTGRES", "postgresql://db:x/immich"),
        ("LEDGER_POSTGRES", "postgresql://[::1/immich"),
        ("LEDGER_POSTGRES", "postgresql://db/im mich"),
        ("LEDGER_TRUSTED_PROXIES", "*"),
        ("LEDGER_TRUSTED_PROXIES", "proxy.example.org"),
        ("LEDGER_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("LEDGER_SECURE_COOKIES", "never"),
        ("LEDGER_EXTERNAL_DOMAIN", "photos.example.org"),
        ("LEDGER_EXTERNAL_DOMAIN", "https://photos.example.org/app"),
        ("LEDGER_EXTERNAL_DOMAIN", "https://a@photos.example.org"),
        ("LEDGER_EXTERNAL_DOMAIN", "https://photos.example.org?x"),
        ("LEDGER_EXTERNAL_DOMAIN", "https://photos.example.org:port"),
        ("LEDGER_EXTERNAL_DOMAIN", "https://"),
        ("LEDGER_EXTERNAL_DOMAIN", "https://photos.example.org:70000"),
        ("LEDGER_EXTERNAL_DOMAIN", "https://grüße.example.org"),
        ("LEDGER_SIGN_IN_LIMIT", "30"),
        ("LEDGER_SIGN_IN_LIMIT", "0/minute"),
        ("LEDGER_ACCOUNT_LIMIT", "1/second;5/minute"),
        ("LEDGER_BAD_TOKEN_LIMIT", "30/fortnight"),
        ("LEDGER_REFRESH_LIMIT", "99999999999/minute"),
        ("LEDGER_TOKEN_KEY_FILE", "/does/not/exist"),
    ],
)
def test_a_bad_value_names_its_variable(name: str, text: str) -> None:
    path, message = problem({name: text})
    assert path == (name.removesuffix("_FILE"),)
    assert message


def test_a_bad_option_names_the_option() -> None:
    assert problem({}, workers="many")[0] == ("--workers",)
    assert problem({}, redis_url="x")[0] == ("--redis",)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        read_settings({"LEDGER_STALL": "x", "LEDGER_PORT": "y"})
    assert {path for path, _ in caught.value.problems} == {("LEDGER_STALL",), ("LEDGER_PORT",)}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("LEDGER_OIDC_ISSUER", "http://id.example.org"),
        ("LEDGER_OIDC_ISSUER", "http://127.0.0.1.example.org"),
        ("LEDGER_OIDC_ISSUER", "http://127.0.0.1@example.org"),
        ("LEDGER_OIDC_ISSUER", "id.example.org"),
        ("LEDGER_OIDC_ISSUER", "https://"),
        ("LEDGER_OIDC_ISSUER", "https://id.example.org/?tenant=a"),
        ("LEDGER_OIDC_ISSUER", "https://id.example.org/#a"),
        ("LEDGER_OIDC_ISSUER", "https://user:secret@id.example.org"),
        ("LEDGER_OIDC_ISSUER", "https://id.example.org\nx"),
        ("LEDGER_OIDC_ISSUER", "https://id.example.org:x"),
        ("LEDGER_OIDC_ISSUER", "https://[::1"),
        ("LEDGER_OIDC_CLIENT_ID", "a\nb"),
        ("LEDGER_OIDC_CLIENT_SECRET", "a\nb"),
        ("LEDGER_OIDC_SCOPE", "email profile"),
        ("LEDGER_OIDC_ALGORITHMS", "none"),
        ("LEDGER_OIDC_ALGORITHMS", "RS256,HS1"),
        ("LEDGER_OIDC_ALGORITHMS", " , "),
        ("LEDGER_OIDC_TOKEN_AUTH", "private_key_jwt"),
        ("LEDGER_OIDC_CLOCK_SKEW", "30"),
        ("LEDGER_OIDC_CLOCK_SKEW", "11m"),
        ("LEDGER_OIDC_MOBILE_REDIRECT_URI", "app.immich:///oauth-callback"),
        ("LEDGER_OIDC_MOBILE_REDIRECT_URI", "http://photos.example.org/api/oauth/mobile-redirect"),
        ("LEDGER_OIDC_END_SESSION", "/logout"),
        ("LEDGER_OIDC_AUTO_REGISTER", "perhaps"),
        ("LEDGER_OIDC_AUTO_LAUNCH", "2"),
        ("LEDGER_OIDC_BUTTON_TEXT", "a\nb"),
    ],
)
def test_a_bad_value_of_the_provider_names_its_variable(name: str, text: str) -> None:
    path, message = problem(OIDC | {name: text})
    assert path == (name,)
    assert message


def test_a_provider_is_read() -> None:
    settings = read_settings(
        OIDC
        | {
            "LEDGER_OIDC_CLIENT_SECRET": "secret",
            "LEDGER_OIDC_SCOPE": "openid  email",
            "LEDGER_OIDC_PROMPT": "select_account",
            "LEDGER_OIDC_ALGORITHMS": "RS256, ES256,RS256",
            "LEDGER_OIDC_TOKEN_AUTH": "client_secret_basic",
            "LEDGER_OIDC_CLOCK_SKEW": "1m",
            "LEDGER_OIDC_END_SESSION": "https://id.example.org/logout",
            "LEDGER_OIDC_USER_CLAIM": "immich_id",
            "LEDGER_OIDC_LIBRARY_CLAIM": "library",
            "LEDGER_OIDC_ROLE_CLAIM": "role",
            "LEDGER_OIDC_MOBILE_REDIRECT_URI": "https://photos.example.org/api/oauth/mobile-redirect",
            "LEDGER_OIDC_AUTO_REGISTER": "no",
            "LEDGER_OIDC_AUTO_LAUNCH": "True",
            "LEDGER_OIDC_BUTTON_TEXT": "Sign in — Grüße",
        }
    )
    assert settings.identity == "oidc"
    assert settings.oidc == OidcSettings(
        issuer="https://id.example.org/realms/photos",
        client_id="ledger",
        client_secret="secret",
        scope="openid email",
        prompt="select_account",
        algorithms=("RS256", "ES256"),
        token_auth="client_secret_basic",
        clock_skew_s=60,
        end_session="https://id.example.org/logout",
        user_claim="immich_id",
        library_claim="library",
        role_claim="role",
        mobile_redirect_uri="https://photos.example.org/api/oauth/mobile-redirect",
        auto_register=False,
        auto_launch=True,
        button_text="Sign in — Grüße",
    )


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "127.1.2.3", "localhost:1", "[::1]:8080"])
def test_an_issuer_on_this_machine_may_use_http(host: str) -> None:
    assert read_settings(OIDC | {"LEDGER_OIDC_ISSUER": f"http://{host}"}).oidc.issuer == f"http://{host}"


@pytest.mark.parametrize(
    ("environ", "identity"),
    [
        ({}, "none"),
        (OIDC, "oidc"),
        (OIDC | {"LEDGER_IDENTITY": "none"}, "none"),
        (OIDC | {"LEDGER_IDENTITY": "gumnut"}, "gumnut"),
        ({"LEDGER_IDENTITY": "GUMNUT"}, "gumnut"),
        ({"LEDGER_IDENTITY": "immich", "LEDGER_POSTGRES": "postgresql://ledger@db/immich"}, "immich"),
    ],
)
def test_the_provider_follows_from_what_is_set(environ: dict[str, str], identity: str) -> None:
    assert read_settings(environ).identity == identity


@pytest.mark.parametrize(
    ("environ", "lacking"),
    [
        ({"LEDGER_OIDC_ISSUER": "https://id.example.org"}, ["LEDGER_OIDC_CLIENT_ID"]),
        ({"LEDGER_OIDC_CLIENT_ID": "ledger"}, ["LEDGER_OIDC_ISSUER"]),
        ({"LEDGER_IDENTITY": "oidc"}, ["LEDGER_OIDC_ISSUER", "LEDGER_OIDC_CLIENT_ID"]),
        (OIDC | {"LEDGER_OIDC_TOKEN_AUTH": "client_secret_post"}, ["LEDGER_OIDC_CLIENT_SECRET"]),
    ],
)
def test_what_a_half_configured_provider_lacks_is_named(environ: dict[str, str], lacking: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_settings(environ)
    assert [path for path, _ in caught.value.problems] == [(name,) for name in lacking]
    assert all("is not set" in message for _, message in caught.value.problems)


def test_a_malformed_issuer_is_not_also_called_missing() -> None:
    assert problem(OIDC | {"LEDGER_OIDC_ISSUER": "id.example.org"})[0] == ("LEDGER_OIDC_ISSUER",)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://photos.example.org", "https://photos.example.org"),
        ("https://Photos.example.org:443/", "https://photos.example.org"),
        ("http://photos.lan:8080", "http://photos.lan:8080"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
    ],
)
def test_an_origin_is_written_as_browsers_do(text: str, origin: str) -> None:
    assert read_settings({"LEDGER_EXTERNAL_DOMAIN": text}).external_domain == origin


def test_proxies_limits_and_credential_keys_are_read() -> None:
    other = Fernet.generate_key().decode()
    settings = read_settings(
        {
            "LEDGER_TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/8,fd00::/8",
            "LEDGER_SECURE_COOKIES": "always",
            "LEDGER_SIGN_IN_LIMIT": "5/minute",
            "LEDGER_ACCOUNT_LIMIT": "1 per 10 seconds",
            "LEDGER_CREDENTIAL_KEY": f"{FERNET}, {other}",
            "LEDGER_TOKEN_TTL": "30d",
            "LEDGER_TOKEN_GRACE": "0s",
        }
    )
    assert settings.trusted_proxies == ("127.0.0.1", "10.0.0.0/8", "fd00::/8")
    assert settings.secure_cookies == "always"
    assert settings.limits == LimitSettings(sign_in="5/minute", account="1 per 10 seconds")
    assert settings.credential_keys == (FERNET, other)
    assert (settings.token_ttl_s, settings.token_grace_s) == (30 * 86400, 0)


def test_the_default_limits_are_limits() -> None:
    assert all(rate(text) == text for text in msgspec.structs.astuple(LimitSettings()))


def test_secrets_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    (tmp_path / "redis").write_text("redis://:secret@db\n")
    environ = {"LEDGER_TOKEN_KEY_FILE": str(tmp_path / "key"), "LEDGER_REDIS_FILE": str(tmp_path / "redis")}
    settings = read_settings(environ)
    assert (settings.token_key, settings.redis_url) == (KEY, "redis://:secret@db")
    assert settings.token_key_file == tmp_path / "key"
    assert "either" in problem(environ | {"LEDGER_TOKEN_KEY": KEY})[1]


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    settings = Settings(
        token_key="hunter2",
        redis_url="redis://user:hunter2@db:1/0?password=hunter2&x=1",
        credential_keys=("hunter2",),
        oidc=OidcSettings(client_id="ledger", client_secret="hunter2"),
    )
    for shown in (repr(settings), str(settings), f"{settings!r}", str(list(settings.__rich_repr__()))):
        assert "hunter2" not in shown
    assert "db:1" in repr(settings)
    assert "ledger" in repr(settings)
    (tmp_path / "key").write_text("hunter2")
    for name in ("LEDGER_TOKEN_KEY", "LEDGER_CREDENTIAL_KEY"):
        assert "hunter2" not in str(problem({name: "hunter2"}))
        assert "hunter2" not in str(problem({f"{name}_FILE": str(tmp_path / "key")}))
    for url in ("hunter2://x", "hunter2"):
        assert "hunter2" not in str(problem({"LEDGER_REDIS": url}))
    assert "hunter2" not in str(problem(OIDC | {"LEDGER_OIDC_CLIENT_SECRET": "hunter2\x00"}))
    assert "hunter2" not in str(problem(OIDC | {"LEDGER_OIDC_ISSUER": "https://ann:hunter2@id.example.org"}))


def test_a_password_on_the_command_line_is_refused_and_not_repeated() -> None:
    path, message = problem({}, redis_url="redis://:hunter2@db")
    assert (path, "LEDGER_REDIS" in message, "hunter2" in message) == (("--redis",), True, False)
    assert read_settings({}, redis_url="redis://db:1").redis_url == "redis://db:1"


def test_a_version_is_announced_whose_types_are_known() -> None:
    assert read_settings({}).protocol_version is None
    for text, version in (("3.2.2", (3, 2, 2)), ("v3.3.9", (3, 3, 9)), (" 3.0.0 ", (3, 0, 0))):
        assert read_settings({"LEDGER_PROTOCOL_VERSION": text}).protocol_version == version
    with pytest.raises(InvalidInput) as caught:
        read_settings({"LEDGER_PROTOCOL_VERSION": "3.4.0"})
    assert "types that are not known here" in caught.value.problems[0][1]


def test_passwords_are_masked_in_urls() -> None:
    assert without_password("redis://db:1/0") == "redis://db:1/0"
    assert without_password("redis://:p@db:1/0") == "redis://:***@db:1/0"
    assert without_password("redis+sentinel://:p@a,b:1/m?db=0&sentinel_password=q&password=r") == (
        "redis+sentinel://:***@a,b:1/m?db=0&sentinel_password=***&password=***"
    )
    assert without_password("redis://[:p") == "(unreadable)"


def test_every_setting_is_in_the_tables_and_nothing_else_is() -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    first = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `LEDGER_")]
    rows = [name for cell in first for name in re.findall("LEDGER_[A-Z_]+", cell)]
    assert len(rows) == len(set(rows))
    assert set(rows) == {variable.name for variable in VARIABLES.values()} | PLACE_VARIABLES
    starred = {re.findall("LEDGER_[A-Z_]+", cell)[-1] for cell in first if "*" in cell}
    assert starred == {variable.name for variable in VARIABLES.values() if variable.secret}


def test_a_misspelt_variable_is_told_with_the_one_that_may_be_meant() -> None:
    assert told_unknown({"LEDGER_REDIS": "", "LEDGER_TOKEN": ""}) == []
    assert told_unknown({"LEDGER_TOMBSTONE": "", "LEDGER_XYZ": ""}) == [
        "no such setting, ignored: LEDGER_TOMBSTONE; is LEDGER_TOMBSTONES meant?",
        "no such setting, ignored: LEDGER_XYZ",
    ]


def test_misspelt_variables_are_found() -> None:
    environ = {
        "LEDGER_STAL": "1s",
        "LEDGER_TOKEN": "x",
        "LEDGER_STALL": "1s",
        "LEDGER_TOKEN_KEY_FILE": "x",
        "PATH": "y",
    }
    assert unknown_variables(environ) == ["LEDGER_STAL"]


DATABASE = "postgresql://ledger:hunter2@db:5433/immich?sslmode=verify-full&sslpassword=hunter2"


def test_immich_beside_is_read() -> None:
    environ = {"LEDGER_IDENTITY": "immich", "LEDGER_POSTGRES": DATABASE}
    assert read_settings(environ).immich.recheck_s == 10
    assert read_settings(environ | {"LEDGER_IMMICH_RECHECK": "1m"}).immich.recheck_s == 60
    assert problem(environ | {"LEDGER_IMMICH_RECHECK": "100ms"})[0] == ("LEDGER_IMMICH_RECHECK",)


JWT = {
    "LEDGER_IDENTITY": "jwt",
    "LEDGER_JWT_ISSUER": "https://photos.example.org",
    "LEDGER_JWT_AUDIENCE": "ledger",
    "LEDGER_JWT_JWKS": "https://photos.example.org/jwks",
}


def test_a_backend_of_signed_tokens_is_read() -> None:
    settings = read_settings(
        JWT | {"LEDGER_JWT_SESSION_CLAIM": "device", "LEDGER_JWT_USER_CLAIM": "uid", "LEDGER_JWT_LIBRARY_CLAIM": "lib"}
    )
    assert settings.jwt == JwtSettings(
        issuer="https://photos.example.org",
        audience="ledger",
        jwks="https://photos.example.org/jwks",
        session_claim="device",
        user_claim="uid",
        library_claim="lib",
    )
    assert (read_settings(JWT).jwt.session_claim, read_settings(JWT).jwt.user_claim) == ("sid", "sub")
    assert problem(JWT | {"LEDGER_JWT_SESSION_CLAIM": " "})[0] == ("LEDGER_JWT_SESSION_CLAIM",)


@pytest.mark.parametrize("name", ["LEDGER_JWT_ISSUER", "LEDGER_JWT_AUDIENCE", "LEDGER_JWT_JWKS"])
def test_what_signed_tokens_need_is_named(name: str) -> None:
    (named,), says = problem({key: value for key, value in JWT.items() if key != name})
    assert (named, "is not set" in says) == (name, True)
    (named,), says = problem({name: JWT[name]})
    assert (named, "LEDGER_IDENTITY=jwt" in says) == (name, True)


@pytest.mark.parametrize("jwks", ["http://photos.example.org/jwks", "file:///etc/passwd", "jwks.json"])
def test_keys_come_by_https_or_from_this_machine(jwks: str) -> None:
    assert problem(JWT | {"LEDGER_JWT_JWKS": jwks})[0] == ("LEDGER_JWT_JWKS",)


@pytest.mark.parametrize("algorithms", ["none", "HS256", "RS256, HS512", ""])
def test_tokens_are_signed_with_keys_that_can_be_told(algorithms: str) -> None:
    if algorithms:
        assert problem(JWT | {"LEDGER_JWT_ALGORITHMS": algorithms})[0] == ("LEDGER_JWT_ALGORITHMS",)
    else:
        assert read_settings(JWT | {"LEDGER_JWT_ALGORITHMS": ""}).jwt.algorithms == ("RS256", "ES256")


def test_a_source_is_read() -> None:
    settings = read_settings(
        {
            "LEDGER_SOURCE": "postgres",
            "LEDGER_POSTGRES": f" {DATABASE}\n",
            "LEDGER_POSTGRES_MAPPING": "/etc/ledger/photos.toml",
            "LEDGER_POSTGRES_POOL": "3",
            "LEDGER_POSTGRES_WAIT": "500ms",
            "LEDGER_POSTGRES_TIMEOUT": "1m",
        }
    )
    assert (settings.source, settings.postgres) == (
        "postgres",
        PostgresSettings(url=DATABASE, mapping="/etc/ledger/photos.toml", pool=3, wait_s=0.5, timeout_s=60),
    )
    assert read_settings({"LEDGER_POSTGRES": DATABASE}).postgres == PostgresSettings(url=DATABASE)
    settings = read_settings({"LEDGER_SOURCE": "gumnut", "LEDGER_GUMNUT_API_KEY": "hunter2"})
    assert (settings.source, settings.gumnut.api_key) == ("gumnut", "hunter2")


@pytest.mark.parametrize(
    ("environ", "source"),
    [
        ({}, "catalog"),
        ({"LEDGER_POSTGRES": DATABASE}, "postgres"),
        ({"LEDGER_SOURCE": "CATALOG"}, "catalog"),
        ({"LEDGER_SOURCE": "gumnut", "LEDGER_IDENTITY": "gumnut"}, "gumnut"),
        ({"LEDGER_IDENTITY": "gumnut"}, "catalog"),
    ],
)
def test_the_source_follows_from_what_is_set(environ: dict[str, str], source: str) -> None:
    assert read_settings(environ).source == source


@pytest.mark.parametrize(
    ("environ", "named", "says"),
    [
        ({"LEDGER_SOURCE": "postgres"}, ["LEDGER_POSTGRES"], "LEDGER_POSTGRES_FILE"),
        ({"LEDGER_SOURCE": "gumnut"}, ["LEDGER_GUMNUT_API_KEY"], "LEDGER_IDENTITY=gumnut"),
        ({"LEDGER_SOURCE": "catalog", "LEDGER_POSTGRES": DATABASE}, ["LEDGER_POSTGRES"], "LEDGER_SOURCE=postgres"),
        ({"LEDGER_POSTGRES_POOL": "8"}, ["LEDGER_POSTGRES_POOL"], "LEDGER_SOURCE=postgres"),
        ({"LEDGER_IDENTITY": "immich"}, ["LEDGER_SOURCE"], "set LEDGER_SOURCE=postgres, and LEDGER_POSTGRES"),
        (
            {"LEDGER_IDENTITY": "immich", "LEDGER_POSTGRES": DATABASE, "LEDGER_POSTGRES_MAPPING": "photos.toml"},
            ["LEDGER_POSTGRES_MAPPING"],
            "the preset immich",
        ),
        ({"LEDGER_IMMICH_RECHECK": "5s"}, ["LEDGER_IMMICH_RECHECK"], "LEDGER_IDENTITY=immich"),
        ({"LEDGER_GUMNUT_API_KEY": "hunter2"}, ["LEDGER_GUMNUT_API_KEY"], "LEDGER_SOURCE=gumnut"),
        (
            {"LEDGER_SOURCE": "gumnut", "LEDGER_IDENTITY": "gumnut", "LEDGER_POSTGRES": DATABASE}
            | {"LEDGER_POSTGRES_MAPPING": "immich"},
            ["LEDGER_POSTGRES", "LEDGER_POSTGRES_MAPPING"],
            "LEDGER_SOURCE=postgres",
        ),
        ({"LEDGER_SOURCE": "postgres", "LEDGER_POSTGRES": "hunter2"}, ["LEDGER_POSTGRES"], "postgresql://"),
    ],
)
def test_what_a_source_lacks_or_cannot_use_is_named(environ: dict[str, str], named: list[str], says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_settings(environ)
    assert [path for path, _ in caught.value.problems] == [(name,) for name in named]
    assert all(says in message and "hunter2" not in message for _, message in caught.value.problems)


def test_secrets_of_sources_are_never_shown(tmp_path: Path) -> None:
    (tmp_path / "database").write_text(DATABASE)
    (tmp_path / "key").write_text("hunter2")
    for settings in (
        read_settings({"LEDGER_POSTGRES_FILE": str(tmp_path / "database")}),
        read_settings({"LEDGER_SOURCE": "gumnut", "LEDGER_GUMNUT_API_KEY_FILE": str(tmp_path / "key")}),
    ):
        assert "hunter2" in str(msgspec.json.encode(settings, enc_hook=str))
        assert "hunter2" not in repr(settings) + str(list(settings.__rich_repr__()))
    for url in ("postgresql://ann:hunter2@db:x/photos", "postgresql://ann:hunter2@[::1/photos", "hunter2"):
        assert "hunter2" not in str(problem({"LEDGER_POSTGRES": url}))


def test_the_documentation_shows_a_mapping_that_fits() -> None:
    page = (DOCS / "library.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    mapping = read_mapping(example, "library.md")
    assert set(mapping.entities) == {"AlbumV2", "AlbumDeleteV1"}


def test_settings_travel_as_json() -> None:
    settings = read_settings(
        OIDC | {"LEDGER_DATA_DIR": "a b", "LEDGER_TRUSTED_PROXIES": "::1", "LEDGER_CREDENTIAL_KEY": FERNET}
    )
    assert settings.oidc.issuer
    settings = msgspec.structs.replace(settings, token_key=KEY, token_key_file=Path("c d"), redis_url="redis://:p@db")
    encoded = msgspec.json.encode(settings, enc_hook=str)
    assert msgspec.json.decode(encoded, type=Settings, dec_hook=lambda kind, value: kind(value)) == settings


def test_replicas_are_waited_for_only_with_their_number() -> None:
    for environ in ({"LEDGER_DURABILITY": "replica"}, {"LEDGER_REPLICAS": "2"}):
        with pytest.raises(InvalidInput) as wrong:
            read_settings(environ)
        assert [path for path, _ in wrong.value.problems] == [("LEDGER_REPLICAS",)]
    settings = read_settings({"LEDGER_DURABILITY": "replica", "LEDGER_REPLICAS": "2", "LEDGER_REPLICA_TIMEOUT": "3s"})
    assert (settings.durability, settings.replicas, settings.replica_timeout_s) == ("replica", 2, 3.0)


def test_the_archive_is_a_setting() -> None:
    assert read_settings({}).archive is None
    settings = read_settings({"LEDGER_ARCHIVE": "s3://bucket/ledger", "LEDGER_ARCHIVE_PATH_STYLE": "true"})
    assert settings.archive == StoragePlace(url="s3://bucket/ledger", path_style=True)
    with pytest.raises(InvalidInput) as wrong:
        read_settings({"LEDGER_ARCHIVE": "s3://bucket", "LEDGER_ARCHIVE_PATH_STYLE": "perhaps"})
    assert [path for path, _ in wrong.value.problems] == [("LEDGER_ARCHIVE_PATH_STYLE",)]
    assert unknown_variables({"LEDGER_ARCHIVE_ENDPOINT": "x", "LEDGER_ARCHIV": "y"}) == ["LEDGER_ARCHIV"]
