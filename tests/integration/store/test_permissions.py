"""What a user whom an access control list bounds lacks, by name, on both kinds of servers; what is listed suffices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.errors import LayoutError
from ledger.store.error_replies import NotPermitted
from ops.opening.ledger import begin_ledger
from ops.settings.settings import read_settings
from tests.support.stores.as_run import documented_rules
from tests.support.stores.replicated import binary_of
from tests.support.stores.servers import RedisServer


@pytest.fixture(params=["valkey", "redis7"], scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(binary_of(request.param), tmp_path_factory.mktemp("acl")) as server:
        yield server


async def begin_as(server: RedisServer, folder: Path, *rules: str) -> str:
    """Begin a ledger as a user with these rules."""
    server.flush()
    server.command("ACL", "SETUSER", "app", "reset", "on", ">pw", *rules)
    url = f"redis://app:pw@127.0.0.1:{server.port}"
    settings = read_settings({"LEDGER_REDIS": url, "LEDGER_DATA_DIR": str(folder), "LEDGER_PARTITIONS": "4"})
    return await begin_ledger(url, settings)


@pytest.mark.parametrize(
    ("rules", "lacks"),
    [
        (("~*", "+@all", "-@dangerous"), ["+info"]),
        (("~*", "+@all", "-@scripting"), ["+eval", "+evalsha"]),
        (("~*", "+@all", "-xadd", "-zadd", "-hset"), ["+hset", "+xadd", "+zadd"]),
        (("~{p*", "~ledger:*", "+@all"), ["~{l*"]),
        (("~{p*", "~{l*", "+@all", "-del", "-info"), ["+del", "+info", "~ledger:*"]),
    ],
)
async def test_what_is_lacking_is_named_at_once(
    server: RedisServer, tmp_path: Path, rules: tuple[str, ...], lacks: list[str]
) -> None:
    with pytest.raises(LayoutError) as refused:
        await begin_as(server, tmp_path, *rules)
    told = str(refused.value).partition("ACL SETUSER app ")[2].partition(";")[0]
    assert sorted(told.replace("'", "").split()) == lacks
    assert not server.command("DBSIZE"), "nothing is left of what was tried"


async def test_what_the_documentation_lists_is_enough(server: RedisServer, tmp_path: Path) -> None:
    assert await begin_as(server, tmp_path, *documented_rules())


async def test_a_wrong_password_is_no_lack_of_rules(server: RedisServer, tmp_path: Path) -> None:
    settings = read_settings({"LEDGER_DATA_DIR": str(tmp_path)})
    with pytest.raises(NotPermitted, match="username-password"):
        await begin_ledger(f"redis://app:guessed@127.0.0.1:{server.port}", settings)
