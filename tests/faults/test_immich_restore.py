"""Immich's restore, played: its tables dropped, a dump of before put back, and its migrations run over that."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from hashlib import sha256
from pathlib import Path
from typing import Final

import httpx
import pytest

from ops.simulate.api import Server
from tests.immich.both import BothPhone
from tests.immich.database import ImmichDatabase
from tests.immich.schemas import CHANGES
from tests.support.processes.running import RunningService
from tests.support.stores.postgres_server import PostgresServer, dumped
from tests.support.stores.servers import wait_until

RECHECK_S: Final = 1.0


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[ImmichDatabase]:
    """A database of the test's own, of 3.2."""
    url = postgres.create_database()
    with ImmichDatabase(url) as database:
        yield database.build("3.2")
    postgres.drop_database(url)


def is_ready(service: RunningService) -> bool:
    """Tell whether it says that all can be read."""
    ready = httpx.get(f"{service.url}/readyz", trust_env=False).json()
    return bool(ready["identity"]["ok"] and ready["source"]["ok"])


@pytest.mark.soak
def test_every_phone_syncs_on_behind_a_restore_and_an_upgrade(
    postgres: PostgresServer, database: ImmichDatabase, tmp_path: Path
) -> None:
    name = database.url.rpartition("/")[2]
    ann, bob = database.user("ann"), database.user("bob")
    kept = [database.asset(ann) for _ in range(20)]
    database.partner(bob, ann)
    database.album(bob, [ann], [database.asset(bob) for _ in range(5)])
    with (
        RunningService(tmp_path / "service", identity="immich", postgres=database.url, immich_recheck="1s") as service,
        ExitStack() as stack,
    ):
        here, adopted, cut, silent = (
            stack.enter_context(BothPhone(database, ann, tmp_path / f"{number}.db")) for number in range(4)
        )
        servers = {
            phone: stack.enter_context(closing(Server(service.url, phone.token)))
            for phone in (here, adopted, cut, silent)
        }

        def sync(phone: BothPhone, runs: int | None = None) -> set[str]:
            def stream() -> bytes:
                with servers[phone].stream(phone.types) as pieces:
                    return b"".join(pieces)

            return set(phone.sync(stream, servers[phone].ack, runs))

        adopted.at_immich()
        silent.at_immich()
        database.settle()
        sync(here)
        sync(adopted)
        sync(cut, 4)
        dump = dumped(postgres, name)
        database.delete("asset", id=kept[0])
        late = [database.asset(ann) for _ in range(3)]
        database.settle()
        for phone in (here, adopted):  # they have what the dump has not, and not what it has
            sync(phone)
            assert phone.differences() == []

        postgres.psql("DROP SCHEMA public CASCADE; CREATE SCHEMA public", name)
        time.sleep(RECHECK_S + 0.2)
        for phone in servers:
            headers = {"Authorization": f"Bearer {phone.token}"}
            answer = httpx.get(f"{service.url}/api/sync/ack", headers=headers, trust_env=False)
            assert (answer.status_code, "retry-after" in answer.headers) == (503, True), answer.text
        postgres.psql(dump, name)
        postgres.psql("SET search_path = public;" + CHANGES["3.3"], name)
        database.connect()
        database.insert("version_history", version="3.3.0")
        again = database.asset(ann)
        database.settle()
        service.command("source", "accept")  # or a minute later by itself
        wait_until(lambda: is_ready(service), "the database to be believed")
        for phone in servers:
            sync(phone)
            assert phone.differences() == []
            assets = {row[0] for row in phone.copy.db.execute("SELECT id FROM asset")}
            assert assets >= {str(kept[0]), str(again)}
            assert not assets & set(map(str, late))
            assert sync(phone) == {"SyncCompleteV1"}
        for phone in servers:
            with service.client(phone.token) as client:
                answer = client.get(f"/ledger/sessions/{sha256(phone.token.encode()).hexdigest()}/events?limit=1000")
            told = [event["event"] for event in answer.json()["events"]]
            assert not {"session_ended", "session_resumed"} & set(told)
        service.verify()
        assert service.faults() == []
