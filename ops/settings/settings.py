"""All that can be configured, read once: `LEDGER_*` in the environment, overridden by the command line.

Secrets (keys, the client's secret, a Redis URL with a password) come from the environment or from a file named by the
variable with `_FILE` behind it, never from the command line, where every user of the machine can read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import msgspec

from ledger.errors import InvalidInput
from ledger.events import IMMICH
from ops.settings.identity import (
    GumnutSettings,
    Identity,
    ImmichSettings,
    JwtSettings,
    OidcSettings,
    default_identity,
    missing,
    shown,
)
from ops.settings.places import StoragePlace, place_from
from ops.settings.proof import ProofSettings
from ops.settings.proof import place_of as proof_place
from ops.settings.source import PostgresSettings, Source, default_source, source_problems
from ops.settings.variables import VARIABLES, Durability, LogFormat, LogLevel, SecureCookies, from_environment
from projections.entities.protocol_version import ProtocolVersion

REPLY_SHARE: Final = 0.7


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How often somebody may try, in the notation of the `limits` library; `endpoints/http/limits.py` tells what of."""

    sign_in: str = "120/minute"
    account: str = "60/10 minutes"
    bad_token: str = "120/minute"  # noqa: S105 - no secret
    refresh: str = "30/minute"
    session: str = "60/10 minutes"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What one service runs with; nothing else reads the environment."""

    host: tuple[str, ...] = ("127.0.0.1",)
    """Addresses or names to listen on; `::` is every address."""
    port: int = 2283
    workers: int = 1
    data_dir: Path = Path("var")
    redis_url: str | None = None
    """None: the embedded server in `data_dir`."""
    partitions: int = 256
    durability: Durability = "default"
    replicas: int = 0
    """How many replicas must have what must not be lost before it is answered; 0 unless `durability` is `replica`."""
    replica_timeout_s: float = 1.0
    source: Source = "catalog"
    stall_s: float = 600.0
    """How long a reader of a stream may take nothing before its connection is broken."""
    feed_followers: int = 100
    """How many readers of the feed a worker may have at the same time."""
    sockets: int = 5000
    """How many web sockets a worker may have; 0: there are none."""
    grace_s: float = 10.0
    """How long open streams may go on after SIGTERM."""
    drain_s: float = 600.0
    """How long they may go on after others have come to serve."""
    idle_s: float = 90 * 86400.0
    max_sessions: int = 1000
    """How many living sessions a user may have."""
    tombstones_s: float = 30 * 86400.0
    expire_interval_s: float = 300.0
    redis_timeout_s: float = 5.0
    """How long a request that waits for the store is held, at most."""
    log: LogLevel = "info"
    log_format: LogFormat = "logfmt"
    log_requests: bool = False
    """Whether there is a line for each request."""
    traces: bool = False
    """Whether requests are traced; where to, the environment's OTEL_* say."""
    token_key: str | None = None
    """Key or keys that sign tokens; None: made on first start and kept in `data_dir`."""
    token_key_file: Path | None = None
    """The file `token_key` was read from; a service reads it again when it changes."""
    token_ttl_s: float | None = None
    """How long a token is good for; None: as long as its session."""
    token_grace_s: float = 60.0
    """How long a token is good for after the one that replaces it was first used."""
    credential_keys: tuple[str, ...] = ()
    """Keys that encrypt what providers entrust, newest first; empty: made on first start and kept in `data_dir`."""
    protocol_version: ProtocolVersion | None = None
    """The version of Immich that is announced; None: that of the backend whose database is read, or the default."""
    external_domain: str = ""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks of proxies whose word on the client's address and scheme is taken."""
    secure_cookies: SecureCookies = "auto"
    identity: Identity = "none"
    oidc: OidcSettings = OidcSettings()
    gumnut: GumnutSettings = GumnutSettings()
    immich: ImmichSettings = ImmichSettings()
    jwt: JwtSettings = JwtSettings()
    postgres: PostgresSettings = PostgresSettings()
    limits: LimitSettings = LimitSettings()
    archive: StoragePlace | None = None
    retention_s: float | None = None
    """How long archived events are kept, by whom `syncledger archive` runs; None: for ever."""
    proof: ProofSettings = ProofSettings()
    user_keys: StoragePlace | None = None
    """Where the keys of users' personal texts are; None: in `data_dir`."""

    @property
    def reply_timeout_s(self) -> float:
        """How long one reply of the store is waited for.

        Of a connection that went silent a request still asks, on the next one, what became of its write.
        """
        return self.redis_timeout_s * REPLY_SHARE

    @property
    def has_sockets(self) -> bool:
        """Whether the app finds a socket here: beside Immich it has Immich's own."""
        return self.sockets > 0 and self.identity != IMMICH

    @property
    def user_keys_place(self) -> StoragePlace:
        """Where the keys of users' personal texts are, by default the folder `user-keys` in the data folder."""
        return self.user_keys or StoragePlace(url=(self.data_dir.absolute() / "user-keys").as_uri())

    @property
    def proof_place(self) -> StoragePlace | None:
        """Where the transparency log is; None where there is none."""
        return proof_place(self.proof.place, self.archive, self.data_dir, embedded=self.redis_url is None)

    @property
    def proof_tries(self) -> bool:
        """Whether the log lies with the store, for want of another place: who holds that can change both."""
        return self.proof.place is None and self.archive is None

    def __repr__(self) -> str:
        """Show everything but secrets."""
        return shown(
            self,
            token_key="hidden" if self.token_key else None,
            credential_keys=f"{len(self.credential_keys)} hidden",
            redis_url=without_password(self.redis_url) if self.redis_url else None,
        )

    def __rich_repr__(self) -> Any:
        """Show the same as `repr`."""
        yield repr(self)


def without_password(url: str) -> str:
    """Return `url` with its password masked."""
    try:
        parts = urlsplit(url)
        has_password = parts.password is not None
    except ValueError:
        return "(unreadable)"
    if not has_password and "password=" not in parts.query:
        return url
    host = parts.netloc.rpartition("@")[2]
    query = "&".join(map(_masked, parts.query.split("&")))
    user = f"{parts.username or ''}:***@" if has_password else ""
    return urlunsplit((parts.scheme, user + host, parts.path, query, parts.fragment))


def _masked(item: str) -> str:
    name, equals, _ = item.partition("=")
    return f"{name}=***" if equals and name.endswith("password") else item


def read_settings(environ: Mapping[str, str], **overrides: object) -> Settings:
    """Build the settings from `environ` and the command line's `overrides` (by field; None: not given).

    A string, wherever it comes from, is parsed; an empty variable counts as not set. Raises InvalidInput with one
    problem for each variable or option that does not fit or is missing; none of them shows a secret.
    """
    problems: list[tuple[tuple[str], str]] = []
    values: dict[str, Any] = {}
    given: dict[str, object] = {}
    for field, variable in VARIABLES.items():
        override = overrides.pop(field, None)
        name = variable.name if override is None else "--" + field.removesuffix("_url").replace("_", "-")
        try:
            value = from_environment(variable, environ) if override is None else override
            if field == "redis_url" and isinstance(override, str):
                _refuse_password(override)
            if value is not None:
                given[variable.name] = value
                values[field] = variable.parse(value) if isinstance(value, str) else value
        except (ValueError, OSError) as error:
            given[variable.name] = None
            problems.append(((name,), str(error)))
    if overrides:
        raise TypeError(f"no such settings: {', '.join(overrides)}")
    oidc = OidcSettings(**_part("oidc", values))
    identity = values.setdefault("identity", default_identity(oidc))
    problems += missing(identity, oidc, given)
    source = values.setdefault("source", default_source(given))
    problems += source_problems(source, identity, given)
    if (values.get("durability") == "replica") != ("replicas" in values):
        problems.append((("LEDGER_REPLICAS",), "goes with LEDGER_DURABILITY=replica, and is needed there"))
    sentinel_password = values.pop("redis_sentinel_password", None)
    if sentinel_password is not None:
        from ledger.store.addresses import with_sentinel_password  # PERF: with it comes the store's client

        try:
            values["redis_url"] = with_sentinel_password(values.get("redis_url", ""), sentinel_password)
        except ValueError as error:
            problems.append((("LEDGER_REDIS_SENTINEL_PASSWORD",), str(error)))
    archive = user_keys = proof = None
    try:
        archive, user_keys = place_from(environ), place_from(environ, "LEDGER_USER_KEYS")
        proof = place_from(environ, "LEDGER_PROOF")
    except InvalidInput as error:
        problems += error.problems  # type: ignore[arg-type] # each path has one part
    if problems:
        raise InvalidInput(problems)
    gumnut, limits = GumnutSettings(**_part("gumnut", values)), LimitSettings(**_part("limits", values))
    postgres = PostgresSettings(**_part("postgres", values))
    immich, jwt = ImmichSettings(**_part("immich", values)), JwtSettings(**_part("jwt", values))
    proof_settings = ProofSettings(place=proof, **_part("proof", values))
    key_file = environ.get("LEDGER_TOKEN_KEY_FILE")
    return Settings(
        **values,
        oidc=oidc,
        gumnut=gumnut,
        immich=immich,
        jwt=jwt,
        limits=limits,
        postgres=postgres,
        archive=archive,
        proof=proof_settings,
        user_keys=user_keys,
        token_key_file=Path(key_file) if key_file else None,
    )


def _part(group: str, values: dict[str, Any]) -> dict[str, Any]:
    """Take the values of one part of the settings out of all."""
    names = [name for name in values if name.startswith(f"{group}.")]
    return {name.removeprefix(f"{group}."): values.pop(name) for name in names}


def _refuse_password(url: str) -> None:
    if without_password(url) != url:
        raise ValueError("everybody on this machine can read a password here: set LEDGER_REDIS or LEDGER_REDIS_FILE")
