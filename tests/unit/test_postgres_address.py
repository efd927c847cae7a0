"""A database's URL as hosters and other drivers write it."""

from __future__ import annotations

import pytest

from projections.entities.postgres.connections.address import Address, AddressError, Keepalive, read_address

HOSTED = {
    "postgresql://u:p@ep-x-pooler.eu.aws.neon.tech/db?sslmode=require&channel_binding=require": {},
    "postgres://u:p@aws-0.pooler.supabase.com:6543/postgres?pgbouncer=true&connect_timeout=10": {
        "pooled": True,
        "statement_cache_size": 0,
        "connect_timeout_s": 10.0,
    },
    "postgresql://u:p@db:5432/immich?sslmode=no-verify&uselibpqcompat=true": {},
    "postgresql://u:p@db/immich?schema=photos": {"search_path": '"photos"'},
    "postgresql://u:p@db/immich?search_path=photos,public": {"search_path": "photos,public"},
    "postgresql://u:p@db/immich?statement_cache_size=0": {"statement_cache_size": 0},
    "postgresql://u:p@db/immich?keepalives_idle=30&keepalives_interval=5&keepalives_count=2&tcp_user_timeout=9000": {
        "keepalive": Keepalive(30, 5, 2, 9.0)
    },
    "postgresql://u:p@db/immich?keepalives=0": {"keepalive": None},
    "postgresql://u:p@db/immich?application_name=x&gssencmode=disable&sslsni=1": {},
    "postgresql://u:p@a,b:5433,[::1]:5434/db?target_session_attrs=read-write": {
        "hosts": (("a", 5432), ("b", 5433), ("::1", 5434)),
        "primary": True,
    },
    "postgresql://u:p@/db?host=/run/a,b&port=6000": {"hosts": (("/run/a", 6000), ("b", 6000)), "primary": True},
    "postgresql://u:p@a,b/db?port=1,2": {"hosts": (("a", 1), ("b", 2)), "primary": True},
    "postgresql://u:p@db/immich?target_session_attrs=primary": {"primary": True},
    "postgresql://u@/db?host=/run/postgresql": {},
}


@pytest.mark.parametrize("url", HOSTED)
def test_what_hosters_write_is_read(url: str) -> None:
    found = read_address(url)
    plain = Address(found.dsn)
    differs = {
        name: getattr(found, name)
        for name in Address.__struct_fields__
        if name not in ("dsn", "notes") and getattr(found, name) != getattr(plain, name)
    }
    assert differs == HOSTED[url]
    query = found.dsn.partition("?")[2]
    kept = {part.partition("=")[0] for part in query.split("&") if part}
    assert kept <= {"sslmode", "host", "port"}, "the driver would hand all else to the server"
    assert found.dsn.partition("?")[0] == url.partition("?")[0]


def test_ssl_modes_of_other_drivers() -> None:
    for query, mode in (
        ("ssl=true", "require"),
        ("sslmode=no-verify", "require"),
        ("sslmode=verify-full", "verify-full"),
    ):
        assert read_address(f"postgresql://db/x?{query}").dsn.endswith(f"?sslmode={mode}")


def test_what_the_driver_cannot_do_is_said() -> None:
    (note,) = read_address("postgresql://db/x?channel_binding=require").notes
    assert "verify-full" in note
    assert read_address("postgresql://db/x?channel_binding=require&sslmode=verify-full").notes == ()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://u:hidden@db/x?frobnicate=hidden", "frobnicate .* not known"),
        ("postgresql://u:hidden@db/x?connection_limit=5", "connection_limit .*LEDGER_POSTGRES_POOL"),
        ("postgresql://u:hidden@db/x?statement_timeout=5", "statement_timeout .*LEDGER_POSTGRES_TIMEOUT"),
        ("postgresql://u:hidden@db/x?pa%20ss=hidden", r"\(not shown\)"),
        ("postgresql://u:hidden@db/x?target_session_attrs=standby", "target_session_attrs must be primary"),
        ("postgresql://u:hidden@db/x?sslmode=hidden", "sslmode must be one of"),
        ("postgresql://u:hidden@db/x?pgbouncer=hidden", "pgbouncer must be true or false"),
        ("postgresql://u:hidden@db/x?connect_timeout=hidden", "connect_timeout must be a whole number"),
        ("postgresql://u:hidden@db/x?channel_binding=hidden", "channel_binding must be one of"),
        ("postgresql://u:hidden@db/x?gssencmode=require", "gssencmode must be prefer or disable"),
        ("postgresql://u:hidden@a,b,c/x?port=1,2", "port must name one port"),
        ("postgresql://u:hidden@a,,c/x", "empty"),
        ("postgresql://u:hidden@a:0/x", "host or port"),
        ("postgresql://u:hidden@a:99999/x", "host or port"),
        ("postgresql://u:hidden@a:x/x", "host or port"),
        ("postgresql://u:hidden@[::1/x", "cannot be read"),
        ("postgresql://u:hidden@a/x?novalue", "cannot be read"),
        ("mysql://u:hidden@db/x", "begins with"),
        ("postgresql://", "begins with"),
        ("postgresql://u:hidden@db/x y", "begins with"),
    ],
)
def test_what_cannot_be_used_is_named_without_its_value(url: str, says: str) -> None:
    with pytest.raises(AddressError, match=says) as refused:
        read_address(url)
    assert "hidden" not in str(refused.value)
    assert refused.value.__cause__ is None
