"""Ways to reach a server: password, ACL user, database number, unix socket, TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ledger.errors import LayoutError, StoreUnavailable
from ledger.store.interface import open_store
from ledger.store.standalone import StandaloneStore
from tests.integration.store.proxy import Proxy
from tests.support.stores.certificates import write_certificate
from tests.support.stores.servers import RedisServer, free_port, valkey_binary

Open = Callable[..., Awaitable[StandaloneStore]]
KEY = b"{p1}:a"


async def test_password(tmp_path: Path, open_standalone: Open) -> None:
    with RedisServer(valkey_binary(), tmp_path / "server") as server:
        server.command("CONFIG", "SET", "requirepass", "p@ss w/rd")
        store = await open_standalone(f"redis://:p%40ss%20w%2Frd@127.0.0.1:{server.port}")
        assert await store.command("PING", key=KEY) == b"PONG"
        for wrong in (f"redis://:guessed@127.0.0.1:{server.port}", f"redis://nobody:guessed@127.0.0.1:{server.port}"):
            with pytest.raises(StoreUnavailable, match=r"WRONGPASS|username-password") as caught:
                await open_store(wrong)
            assert "guessed" not in str(caught.value)
        with pytest.raises(StoreUnavailable, match=r"Authentication required.*redis://USER:PASSWORD@HOST"):
            await open_store(server.url)


async def test_what_keeps_it_from_being_reached_is_told_without_its_address_twice() -> None:
    port = free_port()
    with pytest.raises(StoreUnavailable) as caught:
        await open_store(f"redis://127.0.0.1:{port}")
    assert str(caught.value) == f"the store at 127.0.0.1:{port} cannot be reached: Connection refused"
    missing = "/nowhere/valkey.sock"
    with pytest.raises(StoreUnavailable, match=f"^the store at {missing} cannot be reached: No such file"):
        await open_store(f"unix://{missing}")


async def test_tls_towards_a_port_that_speaks_none_is_told(valkey_url: str) -> None:
    with pytest.raises(StoreUnavailable, match=r"over TLS.*does it speak that"):
        await open_store(valkey_url.replace("redis://", "rediss://"), timeout_s=1.0)


async def test_acl_user(tmp_path: Path, open_standalone: Open) -> None:
    with RedisServer(valkey_binary(), tmp_path / "server") as server:
        server.command("ACL", "SETUSER", "ledger", "on", ">secret", "~{p*", "+@all", "-flushall")
        store = await open_standalone(f"redis://ledger:secret@127.0.0.1:{server.port}")
        assert await store.command("ACL", "WHOAMI", key=KEY) == b"ledger"
        assert await store.command("SET", KEY, 1, key=KEY) == b"OK"
        with pytest.raises(StoreUnavailable, match="NOPERM"):
            await store.command("FLUSHALL", key=KEY)
        with pytest.raises(StoreUnavailable, match="NOPERM"):
            await store.command("SET", "other", 1, key=KEY)


async def test_database_number_and_client_name(valkey_url: str, open_standalone: Open) -> None:
    third = await open_standalone(valkey_url.removesuffix("/0") + "/3?client_name=ledger-test")
    first = await open_standalone(valkey_url)
    await third.command("SET", KEY, "third", key=KEY)
    assert await first.command("GET", KEY, key=KEY) is None
    assert await third.command("CLIENT", "GETNAME", key=KEY) == b"ledger-test"


async def test_unix_socket(tmp_path: Path, open_standalone: Open) -> None:
    with RedisServer(valkey_binary(), tmp_path / "server", unix=True) as server:
        store = await open_standalone(server.url)
        assert await store.command("SET", KEY, 1, key=KEY) == b"OK"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of 127.0.0.1 with its key, in one file."""
    return write_certificate(tmp_path_factory.mktemp("tls") / "store.pem")


async def test_tls(valkey_server: RedisServer, certificate: Path, open_standalone: Open) -> None:
    valkey_server.command("CONFIG", "SET", "requirepass", "secret")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    large = bytes(range(256)) * 4096
    async with Proxy(valkey_server.port, context) as proxy:
        address = f"rediss://:secret@127.0.0.1:{proxy.port}"
        store = await open_standalone(f"{address}?ssl_ca_certs={certificate}")
        for _ in range(2):
            assert await store.command("SET", KEY, large, key=KEY) == b"OK"
            assert await store.command("GET", KEY, key=KEY) == large
            proxy.cut()
            await asyncio.sleep(0.05)
            assert await store.command("GET", KEY, key=KEY) == large, "connected again"
        with pytest.raises(StoreUnavailable, match=r"(?i)certificate") as caught:
            await open_store(address)
        assert "secret" not in str(caught.value)
        await store.close()


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1", "127.0.0.1:6379", "redis://:hidden@127.0.0.1?no_such_option=1", "redis://h:hidden@x:port", ""],
)
async def test_an_unusable_url_is_a_layout_error(url: str) -> None:
    with pytest.raises(LayoutError) as caught:
        await open_store(url)
    assert "hidden" not in str(caught.value)
