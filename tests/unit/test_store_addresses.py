"""How a store's URL is read: hosts, credentials, database, and what is refused without being repeated."""

from __future__ import annotations

import pytest
from redis.asyncio.connection import SSLConnection

from ledger.errors import InvalidInput, LayoutError
from ledger.store.addresses import MAX_HOSTS, read_url, with_sentinel_password
from ledger.store.sentinel import SentinelTarget
from ops.settings.settings import read_settings


@pytest.mark.parametrize(
    ("url", "hosts", "cluster"),
    [
        ("redis://db", [("db", 6379)], False),
        ("redis://u:p%40x@db:1/3", [("db", 1)], False),
        ("redis+cluster://a,b:7,[::1]:8", [("a", 6379), ("b", 7), ("::1", 8)], True),
        ("rediss+cluster://:p@[::1],a", [("::1", 6379), ("a", 6379)], True),
        ("redis+cluster://a,a,b", [("a", 6379), ("b", 6379)], True),
        ("redis://a?cluster=true", [("a", 6379)], True),
        ("unix:///run/a,b.sock", [], False),
    ],
)
def test_hosts_are_read(url: str, hosts: list[tuple[str, int]], cluster: bool) -> None:
    target = read_url(url)
    assert list(target.addresses) == hosts
    assert target.wants_cluster is cluster
    assert target.options.get("path") == ("/run/a,b.sock" if url.startswith("unix") else None)


def test_sentinels_are_read_with_both_passwords() -> None:
    url = with_sentinel_password("rediss+sentinel://app:p%40ss@a,b:1/my%20master/3?socket_timeout=2", "s&p=%")
    target = read_url(url)
    assert isinstance(target, SentinelTarget)
    assert target.connection_class is SSLConnection
    assert target.addresses == (("a", 26379), ("b", 1))
    assert (target.options["username"], target.options["password"], target.options["db"]) == ("app", "p@ss", 3)
    assert target._sentinel_options["password"] == "s&p=%"
    assert "username" not in target._sentinel_options
    assert target._sentinel_options["ssl"] is True
    assert target.name == "'my master' of the Sentinels a:26379, b:1"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://:hidden@a,b", "several hosts"),
        ("redis+cluster://:hidden@a,,b", "is empty"),
        ("redis+cluster://:hidden@a:port", "Port could not be cast"),
        ("redis+cluster://:hidden@a/1", "number 0 alone"),
        ("redis+sentinel://:hidden@a,b", "the name of the primary"),
        ("redis+sentinel://:hidden@a/name/x", "the name of the primary"),
        ("redis://:hidden@a?nonsense=1", "unusable option"),
        ("redis+cluster://" + ",".join(f"h{n}" for n in range(MAX_HOSTS + 1)), "more than 100 hosts"),
    ],
)
def test_what_cannot_be_used_is_told_without_its_password(url: str, told: str) -> None:
    with pytest.raises(LayoutError, match=told) as refused:
        read_url(url)
    assert "hidden" not in str(refused.value)


def test_the_sentinels_password_comes_from_a_variable_of_its_own() -> None:
    environ = {"LEDGER_REDIS": "redis+sentinel://a/m", "LEDGER_REDIS_SENTINEL_PASSWORD": "hunter2"}
    settings = read_settings(environ)
    assert settings.redis_url == "redis+sentinel://a/m?sentinel_password=hunter2"
    assert "hunter2" not in repr(settings)
    for url in ("redis://a", "", "redis+sentinel://a/m?sentinel_password=x"):
        with pytest.raises(InvalidInput) as refused:
            read_settings(environ | {"LEDGER_REDIS": url})
        assert [path for path, _ in refused.value.problems] == [("LEDGER_REDIS_SENTINEL_PASSWORD",)]


def test_a_request_waits_for_all_of_its_questions_no_longer_than_is_set() -> None:
    """A reply that does not come, and on the next connection the question what became of the write."""
    from ledger.store.shared_connection import HELD_SHARE, WATCH_S

    settings = read_settings({})
    assert settings.reply_timeout_s * (1 + HELD_SHARE) + WATCH_S <= settings.redis_timeout_s <= 5
