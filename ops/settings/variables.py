"""Every variable of the environment that is read: its name, the setting it sets, and how its text is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NamedTuple

from endpoints.accounts.identity.oidc.config import ALGORITHMS, ALL_ALGORITHMS, TokenAuth
from ops.settings import parsers as read
from ops.settings import proof
from ops.settings.identity import Identity
from ops.settings.places import PLACE_VARIABLES
from ops.settings.source import Source
from projections.accounts.tokens import read_keyring
from projections.entities.protocol_version import announceable

Durability = Literal["default", "fsync", "replica"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["logfmt", "json"]
SecureCookies = Literal["auto", "always"]


class Variable(NamedTuple):
    """How one setting is read: its variable, its parser (raises ValueError), and whether it is secret."""

    name: str
    parse: Callable[[str], Any]
    secret: bool = False


def _token_key(text: str) -> str:
    read_keyring(text)
    return text


VARIABLES: dict[str, Variable] = {
    "host": Variable("LEDGER_HOST", read.hosts),
    "port": Variable("LEDGER_PORT", read.integer(0, 65535)),
    "workers": Variable("LEDGER_WORKERS", read.integer(1, 256)),
    "data_dir": Variable("LEDGER_DATA_DIR", read.path),
    "redis_url": Variable("LEDGER_REDIS", read.redis_url, secret=True),
    "redis_sentinel_password": Variable("LEDGER_REDIS_SENTINEL_PASSWORD", read.secret, secret=True),
    "partitions": Variable("LEDGER_PARTITIONS", read.integer(1, 4096)),
    "durability": Variable("LEDGER_DURABILITY", read.choice(Durability)),
    "replicas": Variable("LEDGER_REPLICAS", read.integer(1, 100)),
    "replica_timeout_s": Variable("LEDGER_REPLICA_TIMEOUT", read.duration(0.01, 60)),
    "source": Variable("LEDGER_SOURCE", read.choice(Source)),
    "stall_s": Variable("LEDGER_STALL", read.duration(1)),
    "feed_followers": Variable("LEDGER_FEED_FOLLOWERS", read.integer(1, 10_000)),
    "sockets": Variable("LEDGER_SOCKETS", read.integer(0, 100_000)),
    "grace_s": Variable("LEDGER_GRACE", read.duration(0)),
    "drain_s": Variable("LEDGER_DRAIN", read.duration(0)),
    "idle_s": Variable("LEDGER_IDLE", read.duration(0)),
    "max_sessions": Variable("LEDGER_MAX_SESSIONS", read.integer(1, 100_000)),
    "tombstones_s": Variable("LEDGER_TOMBSTONES", read.duration(0)),
    "expire_interval_s": Variable("LEDGER_EXPIRE_INTERVAL", read.duration(1)),
    "redis_timeout_s": Variable("LEDGER_REDIS_TIMEOUT", read.duration(0.05)),
    "log": Variable("LEDGER_LOG", read.choice(LogLevel)),
    "log_format": Variable("LEDGER_LOG_FORMAT", read.choice(LogFormat)),
    "log_requests": Variable("LEDGER_LOG_REQUESTS", read.flag),
    "traces": Variable("LEDGER_TRACES", read.flag),
    "token_key": Variable("LEDGER_TOKEN_KEY", _token_key, secret=True),
    "token_ttl_s": Variable("LEDGER_TOKEN_TTL", read.duration(1)),
    "token_grace_s": Variable("LEDGER_TOKEN_GRACE", read.duration(0)),
    "credential_keys": Variable("LEDGER_CREDENTIAL_KEY", read.fernet_keys, secret=True),
    "protocol_version": Variable("LEDGER_PROTOCOL_VERSION", announceable),
    "external_domain": Variable("LEDGER_EXTERNAL_DOMAIN", read.origin),
    "trusted_proxies": Variable("LEDGER_TRUSTED_PROXIES", read.networks),
    "secure_cookies": Variable("LEDGER_SECURE_COOKIES", read.choice(SecureCookies)),
    "identity": Variable("LEDGER_IDENTITY", read.choice(Identity)),
    "oidc.issuer": Variable("LEDGER_OIDC_ISSUER", read.https_address),
    "oidc.client_id": Variable("LEDGER_OIDC_CLIENT_ID", read.line),
    "oidc.client_secret": Variable("LEDGER_OIDC_CLIENT_SECRET", read.secret, secret=True),
    "oidc.scope": Variable("LEDGER_OIDC_SCOPE", read.scope),
    "oidc.prompt": Variable("LEDGER_OIDC_PROMPT", read.line),
    "oidc.algorithms": Variable("LEDGER_OIDC_ALGORITHMS", read.choices(*sorted(ALL_ALGORITHMS))),
    "oidc.token_auth": Variable("LEDGER_OIDC_TOKEN_AUTH", read.choice(TokenAuth)),
    "oidc.clock_skew_s": Variable("LEDGER_OIDC_CLOCK_SKEW", read.duration(0, 600)),
    "oidc.end_session": Variable("LEDGER_OIDC_END_SESSION", read.https_url),
    "oidc.user_claim": Variable("LEDGER_OIDC_USER_CLAIM", read.claim),
    "oidc.library_claim": Variable("LEDGER_OIDC_LIBRARY_CLAIM", read.claim),
    "oidc.role_claim": Variable("LEDGER_OIDC_ROLE_CLAIM", read.claim),
    "oidc.mobile_redirect_uri": Variable("LEDGER_OIDC_MOBILE_REDIRECT_URI", read.https_address),
    "oidc.auto_register": Variable("LEDGER_OIDC_AUTO_REGISTER", read.flag),
    "oidc.auto_launch": Variable("LEDGER_OIDC_AUTO_LAUNCH", read.flag),
    "oidc.button_text": Variable("LEDGER_OIDC_BUTTON_TEXT", read.line),
    "proof.origin": Variable("LEDGER_PROOF_ORIGIN", proof.origin),
    "proof.interval_s": Variable("LEDGER_PROOF_INTERVAL", read.duration(1, 86400)),
    "proof.key": Variable("LEDGER_PROOF_KEY", proof.keys, secret=True),
    "proof.witnesses": Variable("LEDGER_WITNESSES", proof.witnesses),
    "proof.retention_s": Variable("LEDGER_PROOF_RETENTION", read.duration(86400)),
    "retention_s": Variable("LEDGER_RETENTION", read.duration(86400)),
    "proof.open": Variable("LEDGER_PROOF_OPEN", read.flag),
    "postgres.url": Variable("LEDGER_POSTGRES", read.postgres_url, secret=True),
    "postgres.mapping": Variable("LEDGER_POSTGRES_MAPPING", read.line),
    "postgres.pool": Variable("LEDGER_POSTGRES_POOL", read.integer(1, 1000)),
    "postgres.wait_s": Variable("LEDGER_POSTGRES_WAIT", read.duration(0.05, 600)),
    "postgres.timeout_s": Variable("LEDGER_POSTGRES_TIMEOUT", read.duration(0.05, 3600)),
    "immich.recheck_s": Variable("LEDGER_IMMICH_RECHECK", read.duration(1, 3600)),
    "jwt.issuer": Variable("LEDGER_JWT_ISSUER", read.line),
    "jwt.audience": Variable("LEDGER_JWT_AUDIENCE", read.line),
    "jwt.jwks": Variable("LEDGER_JWT_JWKS", read.https_url),
    "jwt.session_claim": Variable("LEDGER_JWT_SESSION_CLAIM", read.needed_claim),
    "jwt.user_claim": Variable("LEDGER_JWT_USER_CLAIM", read.needed_claim),
    "jwt.library_claim": Variable("LEDGER_JWT_LIBRARY_CLAIM", read.needed_claim),
    "jwt.algorithms": Variable("LEDGER_JWT_ALGORITHMS", read.choices(*sorted(ALGORITHMS))),
    "jwt.clock_skew_s": Variable("LEDGER_JWT_CLOCK_SKEW", read.duration(0, 600)),
    "gumnut.url": Variable("LEDGER_GUMNUT_URL", read.https_url),
    "gumnut.library": Variable("LEDGER_GUMNUT_LIBRARY", read.name),
    "gumnut.api_key": Variable("LEDGER_GUMNUT_API_KEY", read.secret, secret=True),
    "limits.sign_in": Variable("LEDGER_SIGN_IN_LIMIT", read.rate),
    "limits.account": Variable("LEDGER_ACCOUNT_LIMIT", read.rate),
    "limits.bad_token": Variable("LEDGER_BAD_TOKEN_LIMIT", read.rate),
    "limits.refresh": Variable("LEDGER_REFRESH_LIMIT", read.rate),
    "limits.session": Variable("LEDGER_SESSION_LIMIT", read.rate),
}
"""By the field a variable sets; `group.field` is a field of one of the settings' parts."""

CLIENT_VARIABLES = {"LEDGER_TOKEN", "LEDGER_API_KEY", "LEDGER_API_KEY_FILE"}
"""What commands that talk to a service read themselves; a shell may have them set when it serves."""


def from_environment(variable: Variable, environ: Mapping[str, str]) -> str | None:
    """Take a variable's text, or that of the file it names; None without one. Raises ValueError, OSError."""
    text = environ.get(variable.name) or None
    file = environ.get(f"{variable.name}_FILE") if variable.secret else None
    if not file:
        return text
    if text is not None:
        raise ValueError(f"set either {variable.name} or {variable.name}_FILE")
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not a text file") from None


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return the `LEDGER_*` variables that no setting reads: misspelt ones, most likely."""
    known = _known_variables()
    return sorted(name for name in environ if name.startswith("LEDGER_") and name not in known)


def told_unknown(environ: Mapping[str, str]) -> list[str]:
    """Say of each variable that no setting reads that it is ignored, and which one may be meant."""
    told = []
    for name in unknown_variables(environ):
        close = get_close_matches(name, sorted(_known_variables()), 1, 0.8)
        told.append(f"no such setting, ignored: {name}" + (f"; is {close[0]} meant?" if close else ""))
    return told


def _known_variables() -> set[str]:
    return (
        CLIENT_VARIABLES
        | PLACE_VARIABLES
        | {v.name for v in VARIABLES.values()}
        | {f"{v.name}_FILE" for v in VARIABLES.values() if v.secret}
    )
